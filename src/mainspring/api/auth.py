"""The one gate in front of everything that answers HTTP: host, path, policy, token, size, then the application."""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from mainspring.core.clock import Clock
from mainspring.core.errors import Conflict, Forbidden, Invalid, MainspringError, NotFound, Refused, Unavailable
from mainspring.governance.access import Actor
from mainspring.governance.tokens import token_prefix

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Policy = Literal["public", "token"]

MAX_BODY = 1_000_000
BODY_SECONDS = 15.0
# Failures allowed at once, and how many come back per second, for each address and token.
BURST, REFILL = 10, 0.2
_MAX_BUCKETS = 10_000
_STATUS: dict[type[MainspringError], int] = {
    Invalid: 422, NotFound: 404, Conflict: 409, Forbidden: 403, Refused: 409, Unavailable: 503,
}  # fmt: skip
# An absolute path keeps its last part only: where things lie on the server is nobody's business.
_PATH = re.compile(r"(?<![\w:/.])/(?:[^\s/'\"]+/)+([^\s/'\"]*)")
_TITLES = {400: "bad-request", 401: "unauthenticated", 404: "not-found", 405: "method-not-allowed", 408: "timeout",
           413: "too-large", 415: "unsupported-media-type", 429: "too-many-failures", 500: "internal"}  # fmt: skip

_HINTS = {400: "add the name to api.allowed_hosts, or ask by 127.0.0.1",
          401: "mainspring tokens create, or mainspring login link", 404: "mainspring routes lists every path",
          405: "mainspring routes lists every path with its methods", 408: "send the body without a pause",
          413: "send less, or spread it over several requests", 415: "add the header content-type: application/json",
          429: "wait a minute, then send a valid token"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Gate:
    """Lets a request through to `app`, or answers it itself; nothing behind it is reached any other way.

    Args:
        app: What answers; it finds the actor in `scope["actor"]`, None on a public route, and the whole body in
            `scope["body"]`.
        policies: Every (method, path) there is and who may come; what is not here does not exist.
        authenticate: Returns who bears a token, or None.
        hosts: Names the server answers to, without a port.
    """

    app: App
    policies: Mapping[tuple[str, str], Policy]
    authenticate: Callable[[str], Actor | None]
    hosts: frozenset[str]
    throttle: Throttle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
        else:
            await self._http(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        try:
            status, why = await self._admit(scope, headers)
            if not status and scope["method"] != "GET":
                status, why = await self._read_body(scope, receive, headers)
            if status:
                await answer(send, status, refusal(status, why))
                return
        except MainspringError as error:
            await answer_error(send, error)
            return
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, receive, watched)
        except Exception:
            # The traceback is for the server's log; what is on the wire says nothing of the inside.
            if not started:
                await answer(send, 500, problem(500, "this is a mistake in the program; its log has the details"))
            raise

    async def _admit(self, scope: Scope, headers: Mapping[str, str]) -> tuple[int, str]:
        """Return a status and why not, or 0 when the request may pass."""
        host = re.sub(r":\d+$", "", headers.get("host", "")).strip("[]").lower()
        if host not in self.hosts:
            return 400, "this server does not answer to that host name"
        method, path = scope["method"], scope["path"]
        policy = self._policy(method, scope)
        if policy == "public":
            scope["actor"] = None
            return 0, ""
        status, why = await self._identify(scope, headers)
        if status:
            return status, why
        if policy is None:
            known = any(known_path == path for _, known_path in self.policies)
            return (405, f"{path[:128]} takes another method") if known else (404, "no such path")
        return 0, ""

    def _policy(self, method: str, scope: Scope) -> Policy | None:
        path, raw = scope["path"], scope.get("raw_path", b"")
        # One spelling per path: an escape or a second slash that a router reads otherwise is no path here.
        if raw and raw != path.encode():
            return None
        return self.policies.get((method, path))

    async def _identify(self, scope: Scope, headers: Mapping[str, str]) -> tuple[int, str]:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        client = (scope.get("client") or ("",))[0]
        bucket = (client, token_prefix(token) or "malformed")
        if not self.throttle.allows(bucket):
            return 429, "too many failed attempts from this address"
        bears = scheme.lower() == "bearer" and token_prefix(token) != ""
        actor = await asyncio.to_thread(self.authenticate, token) if bears else None
        if actor is None:
            if token:
                self.throttle.failed(bucket)
            return 401, "a valid bearer token is needed: Authorization: Bearer ms_..."
        site = headers.get("sec-fetch-site", "same-origin")
        if scope["method"] != "GET" and site not in ("same-origin", "none"):
            raise Forbidden("requests from other sites are refused", hint="call the API from its own origin")
        scope["actor"] = actor
        return 0, ""

    async def _read_body(self, scope: Scope, receive: Receive, headers: Mapping[str, str]) -> tuple[int, str]:
        declared = headers.get("content-length", "0")
        if not declared.isdecimal() or int(declared) > MAX_BODY:
            return 413, f"a request body is at most {MAX_BODY} bytes"
        body = b""
        try:
            async with asyncio.timeout(BODY_SECONDS):
                more = True
                while more:
                    message = await receive()
                    body += message.get("body", b"")
                    more = message.get("more_body", False) and message["type"] == "http.request"
                    if len(body) > MAX_BODY:
                        return 413, f"a request body is at most {MAX_BODY} bytes"
        except TimeoutError:
            return 408, "the request body did not arrive in time"
        media = headers.get("content-type", "").partition(";")[0].strip().lower()
        if body and media != "application/json":
            return 415, "send the arguments as application/json"
        scope["body"] = body
        return 0, ""


class Throttle:
    """A bucket of allowed failures per key; an empty bucket refuses before any work is done."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._buckets: OrderedDict[tuple[str, str], tuple[float, float]] = OrderedDict()

    def allows(self, key: tuple[str, str]) -> bool:
        """Whether the key has a failure left."""
        return self._left(key) >= 1

    def failed(self, key: tuple[str, str]) -> None:
        """Take one failure from the key's bucket."""
        self._buckets[key] = (self._left(key) - 1, self._clock.monotonic())
        self._buckets.move_to_end(key)
        if len(self._buckets) > _MAX_BUCKETS:
            self._buckets.popitem(last=False)

    def _left(self, key: tuple[str, str]) -> float:
        level, since = self._buckets.get(key, (float(BURST), 0.0))
        return min(BURST, level + (self._clock.monotonic() - since) * REFILL)


def problem(status: int, detail: str, **more: str) -> dict[str, Any]:
    """Return a problem report (RFC 9457) that says nothing of the inside."""
    return {"type": "about:blank", "title": _TITLES.get(status, "error"), "status": status, "detail": detail, **more}


def refusal(status: int, why: str) -> dict[str, Any]:
    """Return the problem report of a request that the gate does not let through, with the next step."""
    return problem(status, why, hint=_HINTS[status])


async def answer_error(send: Send, error: MainspringError) -> None:
    """Answer with the status of an error's class and its code, message and hint."""
    status = next((code for kind, code in _STATUS.items() if isinstance(error, kind)), 500)
    # A service's own words may name paths, hosts and SQL; its name is all a caller needs.
    message = error.message.split(":")[0] if isinstance(error, Unavailable) else error.message
    body = problem(status, _PATH.sub(r"\1", message), code=error.code)
    if error.hint:
        body["hint"] = _PATH.sub(r"\1", error.hint)
    if error.where:
        body["where"] = str(error.where)
    body["title"] = error.code
    await answer(send, status, body)


async def answer(send: Send, status: int, body: Any) -> None:
    """Answer with JSON."""
    content = body if isinstance(body, bytes) else msgspec.json.encode(body)
    kind = b"application/problem+json" if status >= 400 else b"application/json"
    length = str(len(content)).encode()
    headers = [(b"content-type", kind), (b"content-length", length), (b"cache-control", b"no-store")]
    headers.append((b"x-content-type-options", b"nosniff"))
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if status in (429, 503):
        headers.append((b"retry-after", b"5"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
