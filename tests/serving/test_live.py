"""A serving process keeps answering: through kills, swaps, and the loss of everything but its own disk."""

import contextlib
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from mainspring.core.schema import Column, Schema, Signature
from mainspring.monitoring.capture import read_predictions
from mainspring.packaging.bundle import Packed, pack
from mainspring.serving.split import SplitFile, bundle_directory, write_split
from mainspring.store.workspace import Workspace

INPUTS = Schema((Column("x", "float64", nullable=False), Column("z", "float64", nullable=False)))
SIGNATURE = Signature(INPUTS, "binary", (0, 1), 1)
SERVER = """
import sys
from pathlib import Path
from mainspring.core.settings import load_settings
from mainspring.serving.process import serve
serve(load_settings(Path(sys.argv[1]), environment={}), "p", port=int(sys.argv[2]), environment={})
"""


def packed(ws: Workspace, seed: int) -> Packed:
    from sklearn.linear_model import LogisticRegression

    random = np.random.default_rng(seed)
    rows = pl.DataFrame({"x": random.normal(size=200), "z": random.normal(size=200)})
    y = (rows["x"] + rows["z"] * seed > 0).to_numpy().astype(int)
    fitted = LogisticRegression().fit(rows.to_pandas(), y)
    return pack(
        ws, estimator=fitted, signature=SIGNATURE, model_inputs=INPUTS, sample=rows, test=rows,
        environment_lock="numpy==2", data={"d": "sha256:0"}, code="sha256:1", params={}, seed=seed,
    )  # fmt: skip


def release(ws: Workspace, version: int, bundle: str) -> None:
    split = SplitFile("p", "m", version, bundle, ws.clock.now().isoformat(), "ann", "bob")
    write_split(ws.home, "p", "m", split)


class Server:
    """A serving process of its own, on a port of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> "Server":
        import socket

        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = self.port or free.getsockname()[1]
        source = Path(sys.modules["mainspring.serving.split"].__file__ or "").parents[2]
        environment = {**os.environ, "PYTHONPATH": str(source)}
        command = [sys.executable, "-c", SERVER, str(self.directory), str(self.port)]
        self.process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
        self.wait_for(lambda: self.get("/health/live")[0] == 200)
        return self

    def stop(self, how: int = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(how)
        return self.process.wait(15)

    def get(self, path: str) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        except OSError:
            return 0, None
        finally:
            connection.close()

    def version(self) -> str:
        models = (self.get("/health")[1] or {}).get("models", {})
        return str(models.get("m", {}).get("version", ""))

    def wait_for(self, is_true: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 15
        while not is_true():
            assert time.monotonic() < deadline
            time.sleep(0.02)


class Client:
    """Sends one request after another on one connection and keeps what was acknowledged."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.answers: list[tuple[str, str]] = []
        self.failures: list[object] = []
        self._connection: http.client.HTTPConnection | None = None

    def send(self) -> bool:
        try:
            if self._connection is None:
                self._connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
            self._connection.request("POST", "/v1/models/m:predict", b'{"instances":[{"x":0.5,"z":1.5}]}')
            response = self._connection.getresponse()
            body = response.read()
        except (OSError, http.client.HTTPException) as error:
            self.failures.append(error)
            self.close()
            return False
        if response.status != 200:
            self.failures.append(body)
            return False
        data = json.loads(body)
        self.answers.append((data["prediction_id"], data["model_version"]))
        return True

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def work(self, done: threading.Event) -> None:
        while not done.is_set():
            if not self.send():
                time.sleep(0.02)
        self.close()


@contextlib.contextmanager
def load(port: int) -> Iterator[list[Client]]:
    """Send from four connections until the block ends."""
    clients, done = [Client(port) for _ in range(4)], threading.Event()
    threads = [threading.Thread(target=client.work, args=(done,)) for client in clients]
    for thread in threads:
        thread.start()
    try:
        yield clients
    finally:
        done.set()
        for thread in threads:
            thread.join()


def answers(server: Server) -> bool:
    with contextlib.closing(Client(server.port)) as client:
        return client.send()


@pytest.fixture
def server(local_workspace: Workspace) -> Iterator[Server]:
    server = Server(local_workspace.settings.directory)
    yield server
    if server.process is not None and server.process.poll() is None:
        server.stop(signal.SIGKILL)


def test_of_10000_predictions_none_is_lost_when_the_server_is_killed(
    local_workspace: Workspace, server: Server
) -> None:
    release(local_workspace, 1, packed(local_workspace, 1).digest)
    server.start()
    with load(server.port) as clients:
        for acknowledged in (3_000, 6_500, 10_000):
            server.wait_for(lambda n=acknowledged: sum(len(c.answers) for c in clients) >= n)  # type: ignore[misc]
            server.stop(signal.SIGKILL)
            server.start()
    ids = [name for client in clients for name, _ in client.answers]
    logged = read_predictions(local_workspace.home, "p", "m")
    assert len(ids) == len(set(ids)) >= 10_000
    assert set(ids) <= set(logged["prediction_id"].to_list())
    assert logged["prediction_id"].is_unique().all()
    assert all(client.failures for client in clients)


def test_a_swap_under_load_fails_no_request(local_workspace: Workspace, server: Server) -> None:
    bundles = [packed(local_workspace, seed).digest for seed in (1, 2)]
    release(local_workspace, 1, bundles[0])
    server.start()
    with load(server.port) as clients:
        for version in range(2, 8):
            release(local_workspace, version, bundles[version % 2])
            server.wait_for(lambda v=version: server.version() == str(v))  # type: ignore[misc]
    assert [client.failures for client in clients] == [[]] * 4
    seen = {version for client in clients for _, version in client.answers}
    assert seen >= {str(version) for version in range(1, 7)}
    for client in clients:
        versions = [int(version) for _, version in client.answers]
        assert versions == sorted(versions)


def test_the_server_starts_with_nothing_but_its_own_copies(local_workspace: Workspace, server: Server) -> None:
    release(local_workspace, 1, packed(local_workspace, 1).digest)
    server.start().stop()
    for path in local_workspace.home.iterdir():
        if path.name not in ("serving", "log"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    server.start()
    assert answers(server)


def test_a_version_that_does_not_load_leaves_the_one_before(local_workspace: Workspace, server: Server) -> None:
    ws = local_workspace
    release(ws, 1, packed(ws, 1).digest)
    server.start()
    release(ws, 2, "sha256:" + "0" * 64)
    server.wait_for(lambda: server.get("/health")[1]["status"] == "degraded")
    assert server.get("/health")[1]["models"]["m"] == {"version": "1", "status": "stale"}
    assert server.get("/health/ready")[0] == 200
    server.stop()
    server.start()
    assert server.version() == "1"
    release(ws, 3, packed(ws, 2).digest)
    server.wait_for(lambda: server.version() == "3")
    server.wait_for(lambda: server.get("/health")[1]["status"] == "ok")  # told a moment after the swap


def test_a_tampered_copy_is_fetched_again_or_refused(local_workspace: Workspace, server: Server) -> None:
    ws = local_workspace
    bundle = packed(ws, 1)
    release(ws, 1, bundle.digest)
    server.start().stop()
    signature = bundle_directory(ws.home, bundle.digest) / "signature.json"
    signature.write_bytes(signature.read_bytes().replace(b"binary", b"binarx"))
    server.start()
    assert server.version() == "1"
    server.stop()
    assert b"binarx" not in signature.read_bytes()
    signature.write_bytes(signature.read_bytes().replace(b"binary", b"binarx"))
    shutil.rmtree(ws.home / "objects")
    server.start()
    assert server.get("/health/ready")[0] == 503
    assert not answers(server)


def test_sigterm_lets_what_is_under_way_finish(local_workspace: Workspace, server: Server) -> None:
    release(local_workspace, 1, packed(local_workspace, 1).digest)
    server.start()
    body = b'{"instances":[{"x":0.5,"z":1.5}]}'
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.putrequest("POST", "/v1/models/m:predict")
    connection.putheader("content-length", str(len(body)))
    connection.endheaders(body[:10])
    time.sleep(0.2)
    assert server.process is not None
    server.process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    connection.send(body[10:])
    response = connection.getresponse()
    assert response.status == 200
    prediction = json.loads(response.read())["prediction_id"]
    connection.close()
    assert server.process.wait(10) in (0, -signal.SIGTERM)
    assert prediction in read_predictions(local_workspace.home, "p", "m")["prediction_id"].to_list()


def test_one_model_is_served_in_less_than_200_megabytes(local_workspace: Workspace, server: Server) -> None:
    release(local_workspace, 1, packed(local_workspace, 1).digest)
    server.start()
    with contextlib.closing(Client(server.port)) as client:
        assert all(client.send() for _ in range(2_000))
    assert server.process is not None
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    resident_mb = int(status.split("VmRSS:")[1].split()[0]) / 1024
    print(f"serving one model: {resident_mb:.0f} MB")
    assert resident_mb < 200
