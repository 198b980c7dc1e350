"""What every command shares: where it acts, as whom, and whether it answers people or programs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from mainspring.api.client import Client


@dataclass
class Session:
    """One invocation of the program.

    Args:
        directory: Folder of the project.
        named: The project asked for, empty for the one there is.
        url: Control plane to talk to, empty for this process.
        as_json: Whether to print JSON.
    """

    directory: Path = field(default_factory=Path.cwd)
    named: str = ""
    url: str = ""
    as_json: bool = False
    _client: Client | None = None

    @property
    def client(self) -> Client:
        """The client, opened on first use."""
        if self._client is None:
            from mainspring.api.client import connect

            self._client = connect(self.directory, url=self.url)
        return self._client

    @property
    def is_remote(self) -> bool:
        """Whether the operations happen on another machine."""
        from mainspring.api.client import LocalClient

        return not isinstance(self.client, LocalClient)

    @property
    def project(self) -> str:
        """The project that is meant."""
        return self.named or self.client.project()

    def call(self, operation: str, on_event: Callable[[Any], None] | None = None, /, **arguments: Any) -> Any:
        """Run an operation; arguments that are None are left out."""
        given = {key: value for key, value in arguments.items() if value is not None}
        return self.client.call(operation, on_event, **given)

    def show(self, result: Any, text: Callable[[Any], str]) -> None:
        """Print a result: as JSON when asked for, otherwise as `text` puts it."""
        if self.as_json:
            print_json(result)
        else:
            typer.echo(text(result))

    def close(self) -> None:
        """Let go of what is open."""
        if self._client is not None:
            self._client.close()


def session(context: typer.Context) -> Session:
    """Return the invocation's session."""
    found: Session = context.obj
    return found


def print_json(value: Any) -> None:
    """Print JSON, indented for a terminal."""
    import json

    typer.echo(json.dumps(value, indent=2 if sys.stdout.isatty() else None, ensure_ascii=False, default=str))


def local_workspace(where: Session) -> Any:
    """Return the workspace of commands that run on this machine.

    Raises:
        Invalid: the session talks to another machine.
    """
    from mainspring.api.client import LocalClient
    from mainspring.core.errors import Invalid

    if not isinstance(where.client, LocalClient):
        raise Invalid("this command acts on this machine and takes no --url", hint="run it where the project is")
    return where.client.workspace()


def split_ref(text: str, otherwise: str = "") -> tuple[str, str]:
    """Return the name and version of `model`, `model@3`, `model:name@production`."""
    from mainspring.core.ref import parse_ref

    kind = text.partition(":")[0] if ":" in text else "model"
    ref = parse_ref(text, kind)
    return ref.name, ref.version or otherwise
