"""The data plane as one ASGI application: an exact table of paths, and one short way from request to answer."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib import metadata
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec

from mainspring.core.clock import Clock, new_id
from mainspring.core.errors import Forbidden, Invalid, MainspringError, NotFound, Unavailable
from mainspring.monitoring.capture import Failed
from mainspring.monitoring.labels import Label, append_labels
from mainspring.serving.answers import describe_inputs, describe_outputs, predictions, tensors
from mainspring.serving.metrics import Metrics
from mainspring.serving.openapi import docs_page, openapi
from mainspring.serving.protocol import BadRequest, RequestParser
from mainspring.serving.runtime import QUICK_BYTES, Answer, Endpoint, Endpoints, Request

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

POLL_S = 0.2
MAX_BODY = 1 << 20
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_LOGGER = logging.getLogger("mainspring.serving")
_JSON = (b"content-type", b"application/json")
_SAFE = [
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'none'; style-src 'unsafe-inline'"),
]
# A client that names no content type (curl -d among them) means JSON.
_JSON_TYPES = ("", "application/json", "application/x-www-form-urlencoded")


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may ask of the server.

    Args:
        body: Bytes of a request body.
        durable: Whether every answer waits for the disk; a client asks for one with `?durable=true`.
        hosts: Host names that clients may address, beside loopback; `*` is any.
        default_model: The model of `/invocations` when several are served.
    """

    body: int = MAX_BODY
    durable: bool = False
    hosts: tuple[str, ...] = ()
    default_model: str = ""


class _Gone(Exception):
    """The client left before its request was complete."""


@dataclass(frozen=True, slots=True)
class _Predict:
    """A path that predicts: the model (the default one when empty), the version asked for, and the protocol."""

    model: str
    version: str
    read: Callable[[RequestParser, bytes, str], Any]
    render: Callable[..., Any]


class DataPlane:
    """The ASGI application that answers predictions.

    Every path it knows stands in a dictionary, made anew when a model is swapped; nothing is matched by pattern.
    """

    def __init__(
        self, endpoints: Endpoints, metrics: Metrics, clock: Clock, *, limits: Limits, aliases: Mapping[str, str] = {}
    ) -> None:
        self.endpoints = endpoints
        self.metrics = metrics
        self._clock = clock
        self._limits = limits
        self._aliases = dict(aliases)
        self._hosts = {name.lower() for name in ("localhost", "127.0.0.1", "[::1]", *limits.hosts)}
        self._known_hosts: set[bytes] = set()
        self._predict: dict[str, _Predict] = {}
        self._get: dict[str, Callable[[], Any]] = {}
        self._watcher: asyncio.Task[None] | None = None
        self.reroute()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            await self._request(scope, receive, send)

    def reroute(self) -> None:
        """Make the table of paths from the models that are live or failing."""
        self._get = {
            "/health": self._health, "/health/live": lambda: {"status": "ok"}, "/health/ready": self._ready,
            "/ping": self._ready, "/version": self._version, "/v1/models": self._models, "/v2": _v2_server,
            "/v2/health/live": lambda: {"live": True}, "/v2/health/ready": self._ready,
            "/openapi.json": lambda: openapi(self.endpoints.live.values()),
        }  # fmt: skip
        self._predict = {"/invocations": _Predict("", "", RequestParser.invocations, predictions)}
        for name in {**self.endpoints.live, **self.endpoints.failures}:
            endpoint = self.endpoints.live.get(name)
            for version in ("", *([endpoint.version] if endpoint else [])):
                self._route_model(name, version)
        for path, target in self._aliases.items():
            if target in self._predict:
                self._predict[path] = self._predict[target]
            else:
                self._get[path] = self._get[target]

    def _route_model(self, name: str, version: str) -> None:
        pinned = f"/versions/{version}" if version else ""
        v1, v2 = f"/v1/models/{name}{pinned}", f"/v2/models/{name}{pinned}"
        self._predict[f"{v1}:predict"] = _Predict(name, version, lambda parser, body, _: parser.v1(body), predictions)
        self._predict[f"{v2}/infer"] = _Predict(name, version, lambda parser, body, _: parser.v2(body), tensors)
        self._get[v1] = lambda: self._model_status(name)
        self._get[v2] = lambda: self._model_tensors(name)
        self._get[f"{v2}/ready"] = lambda: {"name": name, "ready": bool(self._endpoint(name))}

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        path, method = scope["path"], scope["method"]
        route = self._predict.get(path)
        try:
            headers = self._check_headers(scope["headers"])
            if route is not None and method == "POST":
                await self._answer(route, scope, headers, receive, send, started)
            elif path == "/v1/labels" and method == "POST":
                await self._labels(headers, receive, send)
                self.metrics.other.count(200, time.perf_counter() - started)
            else:
                await self._page(path, method, send)
                self.metrics.other.count(200, time.perf_counter() - started)
        except _Gone:
            return
        except Exception as error:
            status = await _send_error(send, error, "")
            self.metrics.other.count(status, time.perf_counter() - started)

    async def _answer(
        self, route: _Predict, scope: Scope, headers: dict[bytes, bytes], receive: Receive, send: Send, started: float
    ) -> None:
        """Answer one prediction request: parse, score, log, send; in this order, whatever happens is logged."""
        endpoint = self._endpoint(route.model)
        at = self._clock.now()
        request = Request(
            new_id(self._clock), (at - _EPOCH) // _MICROSECOND, started, b"", "", route.read, route.render
        )
        try:
            request.content_type = headers.get(b"content-type", b"").decode("latin-1")
            if route.model and request.content_type.partition(";")[0].strip().lower() not in _JSON_TYPES:
                raise BadRequest("this content type is not read", status=415, hint="content-type: application/json")
            is_durable = self._limits.durable
            if scope["query_string"]:
                is_durable |= _asks_for_the_disk(scope["query_string"])
            request.body = await self._body(headers, receive)
            if endpoint.is_quick and len(request.body) <= QUICK_BYTES:
                answer = endpoint.answer(request)
            else:
                answer = await asyncio.to_thread(endpoint.answer, request)
            is_logged = endpoint.log.append(answer.record)
            if is_durable:
                if not is_logged:
                    raise Unavailable("the prediction log could not be written", hint="mainspring doctor")
                await asyncio.to_thread(endpoint.log.sync)
        except _Gone:
            raise
        except Exception as error:
            status = await _send_error(send, error, request.id)
            took = time.perf_counter() - started
            endpoint.meter.count(status, took)
            endpoint.log.append(Failed(endpoint.split.version, request.at, int(took * 1e6), request.id, status))
            return
        await send({"type": "http.response.start", "status": 200, "headers": _headers(answer)})
        await send({"type": "http.response.body", "body": answer.body})
        endpoint.meter.count(200, time.perf_counter() - started, answer.record.n)

    async def _body(self, headers: dict[bytes, bytes], receive: Receive) -> bytes:
        """Return the whole body; it is never held beyond the limit, however it comes."""
        if headers.get(b"content-encoding", b"identity") != b"identity":
            raise BadRequest("compressed bodies are not read", status=415, hint="send the body as it is")
        length = headers.get(b"content-length", b"")
        if length.isdigit() and int(length[:20]) > self._limits.body:
            raise BadRequest(f"the body is larger than {self._limits.body} bytes", status=413)
        parts, size = [], 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _Gone
            part: bytes = message.get("body", b"")
            size += len(part)
            if size > self._limits.body:
                raise BadRequest(f"the body is larger than {self._limits.body} bytes", status=413)
            parts.append(part)
            if not message.get("more_body"):
                return part if len(parts) == 1 else b"".join(parts)

    def _check_headers(self, pairs: Headers) -> dict[bytes, bytes]:
        """Return the headers; refuse a host this server is not (DNS rebinding) and a page of another origin."""
        headers = dict(pairs)
        host = headers.get(b"host", b"")
        if host not in self._known_hosts:
            if not self._is_known(f"//{host.decode('latin-1')}"):
                raise BadRequest("this server does not answer for that host", status=421, hint="serving.allowed_hosts")
            if len(self._known_hosts) < 100:
                self._known_hosts.add(host)
        origin = headers.get(b"origin")
        if origin is not None and not self._is_known(origin.decode("latin-1")):
            raise Forbidden("requests from pages of another origin are not answered")
        return headers

    def _is_known(self, url: str) -> bool:
        if "*" in self._hosts:
            return True
        try:
            name = urlsplit(url).hostname or ""
        except ValueError:
            return False
        return name in self._hosts or f"[{name}]" in self._hosts

    def _endpoint(self, name: str) -> Endpoint:
        live = self.endpoints.live
        if not name:
            name = self._limits.default_model or (next(iter(live)) if len(live) == 1 else "")
        endpoint = live.get(name)
        if endpoint is None and name in self.endpoints.failures:
            raise Unavailable(f"the model {name!r} does not load", hint="mainspring doctor")
        if endpoint is None and not live:
            raise Unavailable("no model is live", hint="mainspring models promote MODEL@VERSION")
        if endpoint is None:
            raise NotFound("which model is not said", hint=f"POST /v1/models/NAME:predict; models: {', '.join(live)}")
        return endpoint

    async def _labels(self, headers: dict[bytes, bytes], receive: Receive, send: Send) -> None:
        body = await self._body(headers, receive)
        try:
            request = msgspec.json.decode(body, type=_Labels)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            hint = 'send {"labels": [{"prediction_id": "...", "label": ...}]}'
            raise BadRequest("the body is not a list of labels", hint=hint) from None
        endpoint = self._endpoint(request.model)
        labels = [_checked_label(item, endpoint, request.source, i) for i, item in enumerate(request.labels)]
        home, project = self.endpoints.home, self.endpoints.project
        model = endpoint.split.model
        now = self._clock.now()
        count = await asyncio.to_thread(lambda: append_labels(home, project, model, labels, now=now))
        self.metrics.model(model).labels += count
        await _send_json(send, 200, {"accepted": count})

    async def _page(self, path: str, method: str, send: Send) -> None:
        if path in self._predict or path == "/v1/labels":
            raise BadRequest("this path takes another method", status=405, hint="POST")
        known = {"/metrics", "/docs", *self._get}
        if path not in known:
            raise NotFound("no such path", hint="GET /docs lists them")
        if method not in ("GET", "HEAD"):
            raise BadRequest("this path takes another method", status=405, hint="GET")
        if path == "/metrics":
            await _send(send, 200, self.metrics.render(), b"text/plain; version=0.0.4; charset=utf-8")
        elif path == "/docs":
            await _send(send, 200, docs_page(self.endpoints.live.values()), b"text/html; charset=utf-8")
        else:
            await _send_json(send, 200, self._get[path]())

    def _health(self) -> dict[str, Any]:
        live, failures = self.endpoints.live, self.endpoints.failures
        models = {name: {"version": endpoint.version, "status": "ok"} for name, endpoint in live.items()}
        for name in failures:
            models.setdefault(name, {"version": ""})["status"] = "stale" if name in live else "failed"
        return {"status": "ok" if self.endpoints.is_ready and not failures else "degraded", "models": models}

    def _ready(self) -> dict[str, Any]:
        if not self.endpoints.is_ready:
            raise Unavailable("no model is ready", hint="GET /health says which")
        return {"ready": True}

    def _version(self) -> dict[str, Any]:
        return {
            "mainspring": metadata.version("mainspring"),
            "project": self.endpoints.project,
            "models": [
                {
                    "model": endpoint.split.model, "version": endpoint.version, "bundle": endpoint.split.bundle_digest,
                    "since": endpoint.split.since, "released_by": endpoint.split.actor,
                    "approver": endpoint.split.approver, **endpoint.scorer.facts,
                }
                for endpoint in self.endpoints.live.values()
            ],
        }  # fmt: skip

    def _models(self) -> dict[str, Any]:
        return {"models": [{"name": n, "version": e.version} for n, e in self.endpoints.live.items()]}

    def _model_status(self, name: str) -> dict[str, Any]:
        endpoint = self._endpoint(name)
        status = {
            "version": endpoint.version,
            "state": "AVAILABLE",
            "status": {"error_code": "OK", "error_message": ""},
        }
        return {"name": name, "ready": True, "model_version_status": [status]}

    def _model_tensors(self, name: str) -> dict[str, Any]:
        endpoint = self._endpoint(name)
        signature = endpoint.scorer.signature
        return {
            "name": name, "versions": [endpoint.version], "platform": "mainspring",
            "inputs": describe_inputs(signature), "outputs": describe_outputs(signature),
        }  # fmt: skip

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        await asyncio.to_thread(self.endpoints.refresh)
        self.reroute()
        self._watcher = asyncio.create_task(self._watch())
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self._watcher.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._watcher
        await asyncio.to_thread(self.endpoints.close)
        await send({"type": "lifespan.shutdown.complete"})

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(POLL_S)
            try:
                if self.endpoints.has_news:
                    await asyncio.to_thread(self.endpoints.refresh)
                    self.reroute()
            except Exception as error:
                _log_error(error)


class _LabelItem(msgspec.Struct, forbid_unknown_fields=True):
    label: str | int | float | bool
    prediction_id: str | None = None
    key: dict[str, str | int | float | bool] = {}
    sequence: int | None = None
    observed_at: datetime | None = None


class _Labels(msgspec.Struct, forbid_unknown_fields=True):
    labels: list[_LabelItem]
    model: str = ""
    source: str = "api"


def _checked_label(item: _LabelItem, endpoint: Endpoint, source: str, i: int) -> Label:
    signature = endpoint.scorer.signature
    if signature.classes and not any(item.label == c and type(item.label) is type(c) for c in signature.classes):
        raise BadRequest("not one of the model's classes", pointer=f"/labels/{i}/label")
    if not signature.classes and (isinstance(item.label, (str, bool))):
        raise BadRequest("not a number", pointer=f"/labels/{i}/label")
    if not item.key.keys() <= {*signature.extras.names, *signature.inputs.names}:
        raise BadRequest("a key names a column that requests do not carry", pointer=f"/labels/{i}/key")
    observed = item.observed_at.isoformat() if item.observed_at else None
    try:
        return Label(item.label, item.prediction_id, dict(item.key), source, item.sequence, observed)
    except Invalid as error:
        raise BadRequest(error.message, pointer=f"/labels/{i}", hint=error.hint) from None


def _v2_server() -> dict[str, Any]:
    return {"name": "mainspring", "version": metadata.version("mainspring"), "extensions": []}


def _asks_for_the_disk(query: bytes) -> bool:
    """Return whether a query wants its answer on the disk; a wish half said would look granted."""
    wished = parse_qs(query.decode("latin-1"), keep_blank_values=True).get("durable", ["false"])
    if wished not in (["true"], ["false"]):
        raise BadRequest("the query's 'durable' is neither true nor false", status=400, hint="?durable=true")
    return wished == ["true"]


def _headers(answer: Answer) -> Headers:
    return [_JSON, (b"content-length", b"%d" % len(answer.body))]


async def _send(send: Send, status: int, body: bytes, content_type: bytes, extra: Headers | None = None) -> None:
    headers = [(b"content-type", content_type), (b"content-length", b"%d" % len(body)), *_SAFE, *(extra or ())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _send_json(send: Send, status: int, data: Any) -> None:
    await _send(send, status, msgspec.json.encode(data), b"application/json")


_STATUS: dict[type[Exception], int] = {Forbidden: 403, NotFound: 404, Unavailable: 503, Invalid: 422}


async def _send_error(send: Send, error: Exception, request_id: str) -> int:
    """Answer with what went wrong, as Problem JSON; what is the server's own fault stands in its log alone."""
    status = error.status if isinstance(error, BadRequest) else _STATUS.get(type(error), 500)
    problem: dict[str, Any] = {"code": "internal", "error": "the request could not be answered", "status": status}
    if status != 500 and isinstance(error, MainspringError):
        problem |= {"code": error.code, "error": error.message}
        if error.hint:
            problem["hint"] = error.hint
    if isinstance(error, BadRequest) and error.pointer:
        problem["pointer"] = error.pointer
    if request_id:
        problem["request_id"] = request_id
    if status == 500:
        _log_error(error)
    extra = {503: [(b"retry-after", b"1")], 413: [(b"connection", b"close")]}.get(status, [])
    if status == 405:
        extra = [(b"allow", problem["hint"].encode())]
    await _send(send, status, msgspec.json.encode(problem), b"application/problem+json", extra)
    return status


def _log_error(error: BaseException) -> None:
    """Log where an error came from; its text is left out, because it may hold values of a request."""
    cause = error.__cause__ or error
    frames = traceback.extract_tb(cause.__traceback__)[-5:]
    places = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
    _LOGGER.error("%s at %s", type(cause).__name__, " < ".join(reversed(places)))
