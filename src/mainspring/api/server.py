"""The control plane over HTTP: one route per operation, behind one gate."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import msgspec

from mainspring import __version__
from mainspring.api.auth import Gate, Policy, Scope, Send, Throttle, answer, answer_error, refusal
from mainspring.api.call import call
from mainspring.api.operations import OPERATIONS
from mainspring.api.spec import Operation
from mainspring.core.errors import Forbidden, Invalid, MainspringError, Refused
from mainspring.governance import tokens
from mainspring.store.workspace import Workspace

Handler = Callable[[Scope, Send], Awaitable[None]]
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_THREADS = 8
_MAX_FIELDS = 50


@dataclass(frozen=True, slots=True)
class Route:
    """One method and path, who may come, and what answers; without a policy the server does not start."""

    method: str
    path: str
    handler: Handler
    policy: Policy | None = None


def make_app(ws: Workspace, extra: Iterable[Route] = ()) -> Gate:
    """Return the ASGI application of the control plane.

    Args:
        ws: The workspace; every call acts in it as the bearer of the token.
        extra: Routes of surfaces that stand on the same server.

    Raises:
        Invalid: a route has no policy, or two have one path.
    """
    throttle = Throttle(ws.clock)
    pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="api")
    handlers: dict[tuple[str, str], Handler] = {}
    policies: dict[tuple[str, str], Policy] = {}
    for route in (*_routes(ws, pool, throttle), *extra):
        place = (route.method, route.path)
        if route.policy is None:
            raise Invalid(f"the route {route.method} {route.path} has no policy", hint='give it "public" or "token"')
        if place in handlers:
            raise Invalid(f"the route {route.method} {route.path} is there twice", hint="rename one of them")
        handlers[place], policies[place] = route.handler, route.policy

    async def app(scope: Scope, receive: Any, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
        else:
            await handlers[scope["method"], scope["path"]](scope, send)

    names = {str(name).lower() for name in ws.settings.api.get("allowed_hosts", ())}
    return Gate(app, policies, lambda token: tokens.authenticate(ws, token), LOOPBACK | names, throttle)


def route_table() -> list[dict[str, str]]:
    """Return every route there is with its policy, for people and for the tests that call each one."""
    fixed = [
        {"method": method, "path": path, "policy": policy, "permission": "", "summary": summary}
        for method, path, policy, summary in _FIXED
    ]
    return fixed + [
        {
            "method": method,
            "path": operation.path,
            "policy": "token",
            "permission": operation.permission,
            "summary": operation.summary,
        }
        for operation in _on_the_network()
        for method in operation.methods
    ]


def openapi() -> dict[str, Any]:
    """Return the OpenAPI 3.1 description of every operation."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "Mainspring control plane", "version": __version__},
        "components": {"securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}}},
        "security": [{"bearer": []}],
        "paths": {
            operation.path: {method.lower(): _describe(operation, method) for method in operation.methods}
            for operation in _on_the_network()
        },
    }


def check_bind(host: str, *, insecure: bool) -> None:
    """Refuse to listen where others can hear what is said, unless that was asked for.

    Raises:
        Refused: the host is not this machine alone, and `insecure` was not given.
    """
    if host not in LOOPBACK and not insecure:
        raise Refused(
            f"listening on {host} without TLS would send tokens and data in the clear",
            hint="keep 127.0.0.1 and put a TLS proxy in front, or say --insecure when one is in front already",
        )


_FIXED: tuple[tuple[str, str, Policy, str], ...] = (
    ("GET", "/health", "public", "Whether the control plane and its database answer."),
    ("GET", "/login", "public", "The page behind a one-time login link."),
    ("POST", "/api/v1/login", "public", "Turn a one-time login code into a token."),
    ("GET", "/openapi.json", "token", "This API, described."),
)


def _routes(ws: Workspace, pool: ThreadPoolExecutor, throttle: Throttle) -> list[Route]:
    async def health(scope: Scope, send: Send) -> None:
        def database_answers() -> None:
            with ws.read():
                pass

        try:
            await asyncio.wait_for(asyncio.get_running_loop().run_in_executor(pool, database_answers), 6)
        except (MainspringError, TimeoutError):
            await answer(send, 503, {"status": "unavailable", "database": "does not answer"})
        else:
            await answer(send, 200, {"status": "ok"})

    async def login_page(scope: Scope, send: Send) -> None:
        await _send_html(send, (Path(__file__).parent / "login.html").read_text(encoding="utf-8"))

    async def login(scope: Scope, send: Send) -> None:
        bucket = ((scope.get("client") or ("",))[0], "login")
        if not throttle.allows(bucket):
            await answer(send, 429, refusal(429, "too many failed attempts from this address"))
            return
        try:
            code = _read_json(scope["body"]).get("code", "")
            issued = await asyncio.to_thread(tokens.exchange, ws, code if isinstance(code, str) else "")
        except MainspringError as error:
            if isinstance(error, Forbidden):
                throttle.failed(bucket)
            await answer_error(send, error)
            return
        await answer(send, 200, {"token": issued.token, "actor": issued.info.actor, "role": issued.info.role,
                                 "expires_at": issued.info.expires_at})  # fmt: skip

    async def description(scope: Scope, send: Send) -> None:
        await answer(send, 200, await asyncio.get_running_loop().run_in_executor(pool, openapi))

    fixed = dict(zip([place[:2] for place in _FIXED], (health, login_page, login, description), strict=True))
    routes = [Route(method, path, fixed[method, path], policy) for method, path, policy, _ in _FIXED]
    return routes + [
        Route(method, operation.path, _handler(ws, operation, pool), "token")
        for operation in _on_the_network()
        for method in operation.methods
    ]


def _handler(ws: Workspace, operation: Operation, pool: ThreadPoolExecutor) -> Handler:
    async def handle(scope: Scope, send: Send) -> None:
        headers = dict(scope["headers"])
        key = headers.get(b"idempotency-key", b"").decode("latin-1")
        try:
            reads = scope["method"] == "GET"
            arguments = _read_query(scope["query_string"]) if reads else _read_json(scope["body"])

            def work() -> Any:
                return call(ws, scope["actor"], operation.name, arguments, key=key, from_text=reads)

            result = await asyncio.get_running_loop().run_in_executor(pool, work)
        except MainspringError as error:
            await answer_error(send, error)
        else:
            await answer(send, 202 if operation.effect == "run" else 200, result)

    return handle


def _read_query(query: bytes) -> dict[str, str]:
    try:
        pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True, max_num_fields=_MAX_FIELDS)
    except ValueError as error:
        raise Invalid(
            f"the query has more than {_MAX_FIELDS} fields", hint="give each argument once; long ones go in a POST"
        ) from error
    arguments = dict(pairs)
    if len(arguments) != len(pairs):
        raise Invalid("an argument is given twice in the query", hint="give each one once")
    return arguments


def _read_json(body: bytes) -> dict[str, Any]:
    try:
        arguments = msgspec.json.decode(body or b"{}")
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise Invalid(
            "the request body is not JSON", hint='send the arguments as one object: {"name": value}'
        ) from error
    if not isinstance(arguments, dict):
        raise Invalid("the request body is not a JSON object", hint='send the arguments as {"name": value}')
    return arguments


def _on_the_network() -> list[Operation]:
    return [operation for operation in OPERATIONS.values() if operation.effect != "local"]


def _describe(operation: Operation, method: str) -> dict[str, Any]:
    schema = operation.input_schema()
    described: dict[str, Any] = {
        "operationId": operation.name if method == "POST" else f"{operation.name}.get",
        "summary": operation.summary,
        "tags": [operation.name.partition(".")[0]],
        "x-permission": operation.permission,
        "responses": {
            "202" if operation.effect == "run" else "200": {
                "description": "The result.",
                "content": {"application/json": {"schema": operation.output_schema()}},
            },
            "default": {"description": "A problem report (RFC 9457) with a stable code and a hint."},
        },
    }
    if method == "GET":
        required = schema.get("required", ())
        described["parameters"] = [
            {"name": name, "in": "query", "required": name in required, "schema": shape}
            for name, shape in schema.get("properties", {}).items()
        ]
    else:
        described["requestBody"] = {"content": {"application/json": {"schema": schema}}}
        described["parameters"] = [{"name": "Idempotency-Key", "in": "header", "schema": {"type": "string"}}]
    return described


async def _send_html(send: Send, page: str) -> None:
    script = page.partition("<script>")[2].partition("</script>")[0]
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    rule = f"default-src 'none'; connect-src 'self'; script-src 'sha256-{allowed}'; frame-ancestors 'none'"
    headers = [(b"content-type", b"text/html; charset=utf-8"), (b"content-security-policy", rule.encode()),
               (b"referrer-policy", b"no-referrer"), (b"x-content-type-options", b"nosniff")]  # fmt: skip
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": page.encode()})


async def _lifespan(receive: Any, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
