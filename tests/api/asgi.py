"""Speaks ASGI to an application exactly as written: no client in between that would tidy a path or a header."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_to_bytes


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def ask(
    app: Any,
    method: str,
    target: str,
    *,
    token: str = "",
    headers: dict[str, str] | None = None,
    body: bytes | Any = b"",
    client: str = "127.0.0.1",
) -> Answer:
    raw, _, query = target.partition("?")
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    sent = {"host": "127.0.0.1:8000", "content-length": str(len(content)), "content-type": "application/json"}
    if token:
        sent["authorization"] = f"Bearer {token}"
    sent |= {name.lower(): value for name, value in (headers or {}).items()}
    scope = {
        "type": "http",
        "method": method,
        "path": unquote_to_bytes(raw).decode("utf-8", "surrogateescape"),
        "raw_path": raw.encode(),
        "query_string": query.encode(),
        "headers": [(name.encode(), value.encode()) for name, value in sent.items()],
        "client": (client, 40000),
    }
    incoming = [{"type": "http.request", "body": content, "more_body": False}]
    outgoing: list[dict[str, Any]] = []

    async def receive() -> Any:
        return incoming.pop(0) if incoming else await asyncio.Event().wait()

    async def send(message: Any) -> None:
        outgoing.append(message)

    asyncio.run(app(scope, receive, send))
    start = outgoing[0]
    found = {name.decode(): value.decode() for name, value in start["headers"]}
    return Answer(start["status"], found, b"".join(message.get("body", b"") for message in outgoing[1:]))
