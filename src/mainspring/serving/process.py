"""The serving process: the data plane on uvicorn, with the time limits that uvicorn leaves open."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Mapping
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from mainspring.core.clock import Clock, clock_from_env
from mainspring.core.errors import Invalid, Unavailable
from mainspring.core.ref import check_name
from mainspring.core.settings import Settings
from mainspring.serving.http import MAX_BODY, DataPlane, Limits
from mainspring.serving.metrics import Metrics
from mainspring.serving.protocol import MAX_ROWS
from mainspring.serving.runtime import Endpoints
from mainspring.store.objects import Objects

HOST = "127.0.0.1"
PORT = 8080
CONNECTIONS = 2048
BACKLOG = 2048
DRAIN_S = 10
BODY_BYTES_PER_S = 1024
HEADER_BYTES = 64 << 10


class TimedProtocol(HttpToolsProtocol):
    """HTTP/1.1 that hangs up on clients that trickle.

    A request must have its headers within 5 s and its body within 15 s, longer only while it brings 1 kB/s; headers are
    at most 64 kB. Without this a half-sent request holds its connection for ever.
    """

    header_s = 5.0
    body_s = 15.0
    _deadline: asyncio.TimerHandle | None = None
    _is_partial = True
    _in_headers = True
    _received = 0
    _began = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self._is_partial:
            if self._deadline is not None:
                self._disarm()
            return
        self._received += len(data)
        if self._in_headers and self._received > HEADER_BYTES:
            self.transport.close()
        elif self._deadline is None:
            self._arm()

    def on_message_begin(self) -> None:
        self._is_partial = self._in_headers = True
        self._received = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_headers = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._is_partial = False
        super().on_message_complete()

    def _arm(self) -> None:
        self._began = self.loop.time()
        self._deadline = self.loop.call_later(self.header_s, self._expire)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _expire(self) -> None:
        elapsed = self.loop.time() - self._began
        is_moving = elapsed < self.body_s or self._received > elapsed * BODY_BYTES_PER_S
        if self._is_partial and not self._in_headers and is_moving:
            self._deadline = self.loop.call_later(self.header_s, self._expire)
        elif self._is_partial and not self.transport.is_closing():
            self.transport.close()


def serve(
    settings: Settings,
    project: str,
    *,
    host: str = "",
    port: int = 0,
    model: str = "",
    allowed_hosts: tuple[str, ...] = (),
    clock: Clock | None = None,
    environment: Mapping[str, str] = os.environ,
) -> None:
    """Answer predictions for a project until SIGTERM, which lets requests that are under way finish (10 s at most).

    Args:
        settings: Home, object store and `serving` limits; the database is never opened.
        host: Address to bind; default the settings', then loopback.
        port: Port to bind; default `AIP_HTTP_PORT`, `PORT`, the settings', then 8080.
        model: The model of `/invocations` when the project has several.
        allowed_hosts: Names that clients address this server by, beside loopback and `host`; `*` is any.
        environment: Where `AIP_HEALTH_ROUTE` and `AIP_PREDICT_ROUTE` may add paths (Vertex AI).

    Raises:
        Unavailable: the port is taken.
    """
    os.umask(0o077)
    options = settings.serving
    host = host or str(options.get("host", HOST))
    port = port or _port(environment) or int(options.get("port", PORT))
    app = data_plane(settings, project, model=model, allowed_hosts=(host, *allowed_hosts), clock=clock,
                     environment=environment)  # fmt: skip
    config = uvicorn.Config(
        app,
        http=TimedProtocol,
        loop="uvloop",
        lifespan="on",
        interface="asgi3",
        ws="none",
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        log_level="warning",
        limit_concurrency=CONNECTIONS,
        backlog=BACKLOG,
        timeout_graceful_shutdown=DRAIN_S,
    )
    uvicorn.Server(config).run(sockets=[_bind(host, port)])


def data_plane(
    settings: Settings,
    project: str,
    *,
    model: str = "",
    allowed_hosts: tuple[str, ...] = (),
    clock: Clock | None = None,
    environment: Mapping[str, str] = os.environ,
) -> DataPlane:
    """Return the ASGI application of `serve`, to be run by any ASGI server."""
    check_name(project, "project")
    clock = clock or clock_from_env()
    options: dict[str, Any] = settings.serving
    # Vertex AI is the only door to its containers and addresses them by names of its own.
    platform = ("*",) if environment.get("AIP_HTTP_PORT") else ()
    metrics = Metrics()
    endpoints = Endpoints(
        settings.home,
        project,
        objects=Objects(settings.objects, settings.home / "objects"),
        clock=clock,
        metrics=metrics,
        trust_pickle=settings.trust_pickle,
        max_rows=int(options.get("max_rows", MAX_ROWS)),
    )
    limits = Limits(
        body=int(options.get("max_body", MAX_BODY)),
        durable=bool(options.get("durable", False)),
        hosts=(*allowed_hosts, *options.get("allowed_hosts", ()), *platform),
        default_model=model,
    )
    return DataPlane(endpoints, metrics, clock, limits=limits, aliases=_aliases(environment))


def _aliases(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the paths that Vertex AI asks a container to answer, and what they stand for."""
    aliases = {}
    for name, path in (("AIP_PREDICT_ROUTE", "/invocations"), ("AIP_HEALTH_ROUTE", "/health/ready")):
        if route := environment.get(name, ""):
            if not route.startswith("/"):
                raise Invalid(f"{name} is {route!r}, which is no path", hint="a path starts with /")
            aliases[route] = path
    return aliases


def _port(environment: Mapping[str, str]) -> int:
    for name in ("AIP_HTTP_PORT", "PORT"):
        text = environment.get(name, "")
        if text and not (text.isdigit() and 0 < int(text) < 65536):
            raise Invalid(f"{name} is {text!r}, which is no port", hint=f"set {name} to a number from 1 to 65535")
        if text:
            return int(text)
    return 0


def _bind(host: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        message = f"{host}:{port} cannot be bound: {error.strerror}"
        raise Unavailable(message, hint="choose another with --port") from error
    return listener
