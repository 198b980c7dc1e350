"""Fixtures that play a user: a copy of an example, its command line, and its endpoint over HTTP."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


class Place:
    """A folder with a project, and the commands that a user gives in it."""

    def __init__(self, folder: Path, mainspring: Callable[..., subprocess.CompletedProcess[str]]) -> None:
        self.folder = folder
        self.environment: dict[str, str] = {}
        self._mainspring = mainspring

    def within(self, name: str) -> Place:
        """Return the place of a folder inside this one."""
        return Place(self.folder / name, self._mainspring)

    def script(self, name: str, *arguments: str) -> str:
        """Run a script of the folder and return what it prints."""
        return subprocess.run(
            [sys.executable, name, *arguments], cwd=self.folder, capture_output=True, text=True, check=True, timeout=120
        ).stdout

    def say(self, *arguments: str, code: int = 0, **environment: str) -> str:
        """Run a command as people do and return what it prints, on either stream."""
        done = self._mainspring(self.folder, *arguments, **self.environment, **environment)
        assert done.returncode == code, done.stderr + done.stdout
        return done.stdout + done.stderr

    def ask(self, *arguments: str, code: int = 0, **environment: str) -> Any:
        """Run a command with `--json` and return its answer; of one that fails, the error."""
        done = self._mainspring(self.folder, "--json", *arguments, **self.environment, **environment)
        assert done.returncode == code, done.stderr + done.stdout
        return json.loads(done.stdout or done.stderr)

    def set_clock(self, instant: str) -> None:
        """Let every command and process of this place take it to be `instant`."""
        fresh = self.folder / ".clock.new"
        fresh.write_text(instant)
        fresh.replace(self.folder / ".clock")
        self.environment["MAINSPRING_CLOCK"] = str(self.folder / ".clock")

    @contextmanager
    def served(self) -> Iterator[Endpoint]:
        """Run `mainspring serve` on a free port while the block lasts."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = int(free.getsockname()[1])
        with self._running("serve", "--port", str(port)) as process:
            endpoint = Endpoint(port)
            endpoint.wait_until(lambda: endpoint.get("/health/ready")[0] == 200, process)
            yield endpoint

    @contextmanager
    def working(self) -> Iterator[subprocess.Popen[bytes]]:
        """Run `mainspring worker` while the block lasts."""
        with self._running("worker") as process:
            yield process

    @contextmanager
    def _running(self, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
        known = {name: value for name, value in os.environ.items() if not name.startswith("MAINSPRING_")}
        command = [sys.executable, "-m", "mainspring.cli.main", "-C", str(self.folder), *arguments]
        with (self.folder / f"{arguments[0]}.log").open("w+") as log:
            process = subprocess.Popen(command, env=known | self.environment, stdout=log, stderr=subprocess.STDOUT)
            try:
                yield process
            finally:
                process.terminate()
                code = process.wait(30)
                log.seek(0)
                assert code in (0, -signal.SIGTERM), log.read()


class Endpoint:
    """The data plane, as a client sees it."""

    def __init__(self, port: int) -> None:
        self.port = port

    def get(self, path: str) -> tuple[int, Any]:
        return self._send("GET", path, None)

    def post(self, path: str, document: Any) -> tuple[int, Any]:
        return self._send("POST", path, json.dumps(document))

    def predict(self, model: str, *rows: dict[str, Any]) -> Any:
        """Return the answer to some rows, which must be given."""
        status, answer = self.post(f"/v1/models/{model}:predict", {"instances": rows})
        assert status == 200, answer
        return answer

    def wait_until(self, holds: Callable[[], bool], process: subprocess.Popen[bytes] | None = None) -> None:
        ends = time.monotonic() + 90
        while not holds():
            assert process is None or process.poll() is None, "the endpoint ended"
            assert time.monotonic() < ends, "the endpoint did not come so far in 90 s"
            time.sleep(0.05)

    def version_of(self, model: str) -> str:
        """Return the version that answers now."""
        return str(self.get(f"/v1/models/{model}")[1]["model_version_status"][0]["version"])

    def _send(self, method: str, path: str, body: str | None) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, {"content-type": "application/json"} if body else {})
            answer = connection.getresponse()
            content = answer.read()
            is_json = "json" in (answer.headers.get("content-type") or "")
            return answer.status, json.loads(content) if is_json else content.decode()
        except OSError:
            return 0, None
        finally:
            connection.close()


@pytest.fixture
def place(tmp_path: Path, mainspring: Callable[..., subprocess.CompletedProcess[str]]) -> Place:
    """Give an empty folder and its commands."""
    return Place(tmp_path, mainspring)


@pytest.fixture
def example(tmp_path: Path, mainspring: Callable[..., subprocess.CompletedProcess[str]]) -> Callable[[str], Place]:
    """Give a function that copies an example, without what an earlier use of it left behind."""

    def copy(name: str) -> Place:
        left = shutil.ignore_patterns("data", "raw", "scores", ".mainspring", "__pycache__")
        return Place(Path(shutil.copytree(EXAMPLES / name, tmp_path / name, ignore=left)), mainspring)

    return copy
