"""The operations from Python: in this process, or over HTTP; the same call, the same results, the same errors."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from mainspring.api.declared import declared_name
from mainspring.core import errors
from mainspring.core.errors import Forbidden, Invalid, MainspringError, NotFound, Unavailable
from mainspring.core.settings import FILE, Settings, load_settings

_TIMEOUT_S = 60.0
_KINDS: dict[str, type[MainspringError]] = {
    kind.code: kind for kind in (Invalid, NotFound, errors.Conflict, Forbidden, Unavailable, errors.Refused)
}


class Client(Protocol):
    """Runs operations by name; arguments and results are JSON data."""

    def call(self, operation: str, on_event: Callable[[Any], None] | None = None, /, **arguments: Any) -> Any:
        """Run an operation; `on_event` hears of progress where the operation happens in this process."""
        ...

    def project(self) -> str:
        """Return the project that is meant when none is named.

        Raises:
            Invalid: there are several.
            NotFound: there is none.
        """
        ...

    def close(self) -> None:
        """Let go of what is open."""
        ...


class LocalClient:
    """Operations in this process, on the workspace of a folder.

    Whoever can read and write the files needs no token; with `token` the call acts as its bearer instead.
    """

    def __init__(self, directory: Path, *, token: str = "", settings: Settings | None = None) -> None:
        self.settings = settings or load_settings(directory)
        self._token = token
        self._workspace: Any = None

    def call(self, operation: str, on_event: Callable[[Any], None] | None = None, /, **arguments: Any) -> Any:
        from mainspring.api.call import call
        from mainspring.governance.access import local_actor
        from mainspring.governance.tokens import authenticate

        ws = self.workspace()
        actor = authenticate(ws, self._token) if self._token else local_actor(ws.actor)
        if actor is None:
            raise Forbidden("the token is not valid here, or has expired", hint="check MAINSPRING_TOKEN")
        return call(ws, actor, operation, arguments, on_event=on_event)

    def workspace(self) -> Any:
        """Return the workspace, opened on first use."""
        if self._workspace is None:
            from mainspring.store.workspace import open_workspace

            self._require_project()
            self._workspace = open_workspace(self.settings)
        return self._workspace

    def _require_project(self) -> None:
        # Reading in the wrong folder must not leave an empty workspace behind in it.
        settings = self.settings
        told = os.environ.keys() & {"MAINSPRING_HOME", "MAINSPRING_DATABASE"}
        if not (settings.home.exists() or settings.project_file or told or (settings.directory / FILE).is_file()):
            raise NotFound(
                f"there is no project in {settings.directory}",
                hint="mainspring init NAME --from data.csv --target column, or -C DIR",
            )

    def project(self) -> str:
        if self.settings.project_file is not None and self.settings.project_file.is_file():
            return declared_name(self.settings.project_file)
        return _only([project["name"] for project in self.call("project.list")])

    def close(self) -> None:
        if self._workspace is not None:
            self._workspace.close()


class HttpClient:
    """Operations on a control plane elsewhere."""

    def __init__(self, url: str, token: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise Invalid(f"{url!r} is not the URL of a control plane", hint="write http://127.0.0.1:8000")
        if parts.scheme == "http" and parts.hostname not in ("127.0.0.1", "localhost", "::1"):
            raise Invalid("a token is not sent over plain HTTP to another machine", hint=f"use https://{parts.netloc}")
        self.url = url.rstrip("/")
        self._token = token
        self._opener = urllib.request.build_opener(_NoRedirect())

    def call(self, operation: str, on_event: Callable[[Any], None] | None = None, /, **arguments: Any) -> Any:
        path = "/api/v1/" + operation.replace(".", "/")
        given = {key: value for key, value in arguments.items() if value is not None}
        return self._send(path, given)

    def login(self, code: str) -> dict[str, Any]:
        """Turn a one-time login code into a token."""
        answer: dict[str, Any] = self._send("/api/v1/login", {"code": code})
        return answer

    def project(self) -> str:
        return _only([project["name"] for project in self.call("project.list")])

    def close(self) -> None:
        pass

    def _send(self, path: str, arguments: Mapping[str, Any]) -> Any:
        body = json.dumps(arguments).encode()
        headers = {"content-type": "application/json", "authorization": f"Bearer {self._token}"}
        request = urllib.request.Request(self.url + path, data=body, headers=headers, method="POST")
        try:
            with self._opener.open(request, timeout=_TIMEOUT_S) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            raise _as_error(error) from None
        except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
            reason = getattr(error, "reason", error)
            raise Unavailable(f"no control plane answers at {self.url}: {reason}", hint="mainspring up") from error


def connect(directory: Path, *, url: str = "", environment: Mapping[str, str] = os.environ) -> Client:
    """Return the client that the environment asks for.

    Args:
        directory: Folder of the project, when nothing points elsewhere.
        url: Control plane to use; `MAINSPRING_URL` when empty, and this process when that is empty too.
        environment: Where `MAINSPRING_URL` and `MAINSPRING_TOKEN` come from.
    """
    token = environment.get("MAINSPRING_TOKEN", "")
    url = url or environment.get("MAINSPRING_URL", "")
    if not url:
        return LocalClient(directory, token=token)
    token = token or _stored_tokens(environment).get(url.rstrip("/"), "")
    if not token:
        raise Forbidden(f"there is no token for {url}", hint="set MAINSPRING_TOKEN, or mainspring login use LINK")
    return HttpClient(url, token)


def error_kind(code: str, otherwise: type[MainspringError] = Invalid) -> type[MainspringError]:
    """Return the class of an error's code."""
    return _KINDS.get(code, otherwise)


def store_token(url: str, token: str, environment: Mapping[str, str] = os.environ) -> Path:
    """Keep a token for `url` in the user's own folder, readable by the user alone."""
    path = _credentials(environment)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    content = {**_stored_tokens(environment), url.rstrip("/"): token}
    fresh = path.with_suffix(".new")
    descriptor = os.open(fresh, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as out:
        json.dump(content, out)
    fresh.rename(path)
    return path


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    # A redirect would carry the token to whoever the answer names.
    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


def _as_error(error: urllib.error.HTTPError) -> MainspringError:
    try:
        body = json.load(error)
    except ValueError:
        body = {}
    if error.code == 401:
        return Forbidden("the token is not valid there, or has expired", hint="mainspring login use LINK")
    if error.code == 404 and "code" not in body:
        return Invalid("that control plane offers no such operation over HTTP", hint="run it where the project is")
    kind = error_kind(str(body.get("code")), Unavailable if error.code >= 500 else Invalid)
    return kind(str(body.get("detail", f"HTTP {error.code}")), hint=str(body.get("hint", "")))


def _credentials(environment: Mapping[str, str]) -> Path:
    root = environment.get("XDG_CONFIG_HOME") or str(Path(environment.get("HOME", "~")).expanduser() / ".config")
    return Path(root) / "mainspring" / "credentials.json"


def _stored_tokens(environment: Mapping[str, str]) -> dict[str, str]:
    try:
        found: dict[str, str] = json.loads(_credentials(environment).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found


def _only(names: list[str]) -> str:
    if len(names) == 1:
        return names[0]
    if names:
        raise Invalid(f"there are {len(names)} projects", hint=f"say which with --project: {', '.join(names)}")
    raise NotFound("there is no project here", hint="mainspring init NAME --from data.csv --target column")
