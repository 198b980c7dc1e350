"""What the command line does on this machine without an operation: make a project, serve it, show the demo."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mainspring.api.client import LocalClient
from mainspring.api.spec import as_data
from mainspring.core.errors import MainspringError, NotFound
from mainspring.core.settings import load_settings


def create_project(
    directory: Path,
    *,
    name: str,
    data: Path | None,
    target: str | None,
    columns: Sequence[str] | None,
    time: str | None,
    read: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Write a project that runs on the first try; see `project.template.create_project`."""
    from mainspring.project.template import create_project as create

    return create(directory, name=name, data=data, target=target, columns=columns, time=time, read=read)


def serve_project(directory: Path, project: str, *, host: str = "", port: int = 0, model: str = "") -> None:
    """Answer predictions for the project of a folder until SIGTERM.

    Neither the database nor the project file is needed: without the file, the one project that was ever released here
    is served.
    """
    from mainspring.serving.process import serve

    settings = load_settings(directory)
    if not project and settings.project_file is not None and settings.project_file.is_file():
        project = LocalClient(directory, settings=settings).project()
    if not project:
        released = [
            path.name for path in (settings.home / "serving").glob("*") if path.name != "bundles" and path.is_dir()
        ]
        if not released:
            raise NotFound(f"nothing was released in {settings.directory}", hint="mainspring run, or -C DIR")
        if len(released) != 1:
            raise NotFound(f"{len(released)} projects were released here", hint="say which with --project")
        project = released[0]
    serve(settings, project, host=host, port=port, model=model)


def run_demo(directory: Path, *, say: Callable[[str], None]) -> Any:
    """Run the whole loop on generated card payments and return what happened."""
    from mainspring.loop.demo import run_demo as play

    return as_data(play(directory, say=say))


def examine_closed(directory: Path, error: MainspringError) -> Any:
    """Return what can be said of an installation whose database does not open, for the reason in `error`."""
    from mainspring.api.doctor import examine_closed as examine

    return as_data(examine(load_settings(directory), error))
