"""The server hangs up on clients that trickle, and finishes what it has begun."""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator

import pytest
import uvicorn

from mainspring.core.clock import FixedClock
from mainspring.core.errors import Invalid, Unavailable
from mainspring.core.settings import Settings
from mainspring.serving.process import TimedProtocol, data_plane, serve

from .conftest import Plane

BODY = json.dumps({"instances": [{"amount": 1.0, "city": None}]}).encode()
HEAD = b"POST /v1/models/churn:predict HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n" % len(BODY)


class Hasty(TimedProtocol):
    header_s = 0.3
    body_s = 0.8


@pytest.fixture
def port(plane: Plane) -> Iterator[int]:
    config = uvicorn.Config(plane.app, port=0, http=Hasty, loop="uvloop", log_level="error", ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    thread.join()


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=5)


def seconds_until_closed(connection: socket.socket, trickle: bytes = b"") -> float:
    started = time.monotonic()
    connection.settimeout(0.1)
    while time.monotonic() - started < 5:
        with contextlib.suppress(TimeoutError):
            try:
                if trickle:
                    connection.sendall(trickle)
                if not connection.recv(100):
                    break
            except ConnectionError:
                break
    return time.monotonic() - started


def ask(connection: socket.socket) -> bytes:
    connection.sendall(HEAD + BODY)
    return connection.recv(10_000)


@pytest.mark.parametrize(
    ("begin", "trickle", "limit"),
    [
        (b"", b"", 1.0),
        (b"POST /v1", b"", 1.0),
        (b"POST / HTTP/1.1\r\n", b"a", 1.0),
        (HEAD, b"", 2.0),
        (HEAD, b"x", 2.0),
    ],
)
def test_a_request_that_trickles_is_hung_up_on(port: int, begin: bytes, trickle: bytes, limit: float) -> None:
    with connect(port) as slow:
        slow.sendall(begin)
        with connect(port) as quick:
            assert b"200 OK" in ask(quick)
        assert seconds_until_closed(slow, trickle) < limit


def test_a_second_request_on_a_connection_has_its_own_deadline(port: int) -> None:
    with connect(port) as connection:
        assert b"200 OK" in ask(connection)
        connection.sendall(HEAD[:20])
        assert seconds_until_closed(connection) < 1.0


def test_a_request_in_two_parts_in_time_is_answered(port: int) -> None:
    with connect(port) as connection:
        connection.sendall(HEAD[:20])
        time.sleep(0.1)
        connection.sendall(HEAD[20:])
        time.sleep(0.4)
        connection.sendall(BODY)
        assert b"200 OK" in connection.recv(10_000)


def test_headers_without_end_are_hung_up_on(port: int) -> None:
    with connect(port) as connection, contextlib.suppress(ConnectionError):
        connection.sendall(b"GET /health HTTP/1.1\r\n" + b"x: %s\r\n" % (b"y" * 1000) * 200)
        assert seconds_until_closed(connection) < 0.25


def test_a_lying_or_endless_body_is_refused_at_once(port: int) -> None:
    with connect(port) as connection:
        connection.sendall(HEAD.replace(b"content-length: %d" % len(BODY), b"content-length: 300000000"))
        assert b"413" in connection.recv(1000)
    with connect(port) as connection, contextlib.suppress(ConnectionError):
        connection.sendall(HEAD.replace(b"content-length: %d" % len(BODY), b"transfer-encoding: chunked"))
        for _ in range(200):
            connection.sendall(b"2710\r\n" + b"x" * 10_000 + b"\r\n")
        assert b"413" in connection.recv(1000)


def test_pipelined_requests_are_answered_in_order(port: int) -> None:
    with connect(port) as connection:
        connection.sendall((HEAD + BODY) * 20)
        answers = b""
        while answers.count(b"200 OK") < 20:
            answers += connection.recv(100_000)


def test_the_port_comes_from_the_platform(local_settings: Settings) -> None:
    for name in ("PORT", "AIP_HTTP_PORT"):
        with pytest.raises(Invalid, match=name):
            serve(local_settings, "p", environment={name: "80a"})


def test_a_port_that_is_taken_is_said_plainly(local_settings: Settings) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(Unavailable, match="cannot be bound"):
            serve(local_settings, "p", port=taken.getsockname()[1], environment={})


def test_vertex_names_the_routes_and_the_host(local_settings: Settings, clock: FixedClock) -> None:
    environment = {"AIP_HEALTH_ROUTE": "/v", "AIP_PREDICT_ROUTE": "/v:predict", "AIP_HTTP_PORT": "8080"}
    app = data_plane(local_settings, "p", environment=environment)
    for path, status in (("/v", 503), ("/nowhere", 404)):
        assert (
            Plane(app, local_settings.home, clock).call("GET", path, headers={"host": "vertex"}).status_code == status
        )
    with pytest.raises(Invalid, match="AIP_HEALTH_ROUTE"):
        data_plane(local_settings, "p", environment={"AIP_HEALTH_ROUTE": "v"})
