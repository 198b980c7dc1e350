"""Where the control plane of an installation is reached."""

from __future__ import annotations

from mainspring.store.workspace import Workspace


def address(ws: Workspace) -> str:
    """Return where the control plane of this installation is reached: where it runs, else where it would."""
    note = ws.home / "locks" / "up"
    host = str(ws.settings.api.get("host", "127.0.0.1"))
    noted = note.read_text(encoding="utf-8") if note.is_file() else ""
    return noted or f"http://{in_url(host)}:{int(ws.settings.api.get('port', 8000))}"


def in_url(host: str) -> str:
    """Return a host as a URL has it."""
    return f"[{host}]" if ":" in host else host
