import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

PROJECT = """
import mainspring as ms

shop = ms.Project("shop")
sales = shop.dataset("sales.csv", key="id")

@shop.model(predicts=sales["bought"])
def model(X, y):
    from sklearn.linear_model import LogisticRegression
    return LogisticRegression().fit(X, y)

model.serve()
"""
IDLE_MB = 400
pytestmark = pytest.mark.slow


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Installation:
    """A project in a folder, and the program run on it as a person would."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.api, self.serving = _free_port(), _free_port()
        self.process: subprocess.Popen[str] | None = None
        kept = {name: value for name, value in os.environ.items() if not name.startswith("MAINSPRING_")}
        self.environment = {**kept, "HOME": str(folder)}

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "mainspring.cli.main", "-C", str(self.folder), *words]

    def run(self, *words: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        given = {**self.environment, **environment}
        return subprocess.run(self.command(*words), env=given, capture_output=True, text=True, check=False)

    def up(self) -> None:
        words = ("up", "--port", str(self.api), "--serving-port", str(self.serving))
        with (self.folder / "up.log").open("a") as log:
            self.process = subprocess.Popen(
                self.command(*words), env=self.environment, stdout=log, stderr=log, text=True
            )
        self.wait_for(lambda: self.ask(self.api, "/health") == {"status": "ok"})
        self.wait_for(lambda: self.ask(self.serving, "/health/live") is not None)

    def down(self, number: signal.Signals = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(30)

    def ask(self, port: int, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, {"content-type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                return json.load(answer)
        except OSError:
            return None

    def wait_for(self, true: Any, seconds: float = 60) -> None:
        ends = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < ends, (self.folder / "up.log").read_text()
            time.sleep(0.1)

    def family(self) -> list[int]:
        """Return the processes that `up` started, itself included."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                try:
                    line = (entry / "cmdline").read_bytes().split(b"\0")
                except OSError:
                    continue
                if str(self.folder).encode() in line:
                    found.append(int(entry.name))
        return found


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Installation]:
    (tmp_path / "project.py").write_text(PROJECT)
    rows = "".join(f"{i},{i % 7},{'yes' if i % 7 > 3 else 'no'}\n" for i in range(300))
    (tmp_path / "sales.csv").write_text("id,visits,bought\n" + rows)
    installation = Installation(tmp_path)
    yield installation
    for pid in installation.family():
        os.kill(pid, signal.SIGKILL)
    if installation.process is not None:
        installation.process.wait()


def _resident_mb(pids: list[int]) -> float:
    pages = [int((Path("/proc") / str(pid) / "statm").read_text().split()[1]) for pid in pids]
    return sum(pages) * os.sysconf("SC_PAGE_SIZE") / 1e6


def test_up_serves_a_released_model_idles_small_and_leaves_nothing_behind(shop: Installation) -> None:
    done = shop.run("run", "--json")
    assert done.returncode == 0, done.stderr
    shop.up()
    shop.wait_for(lambda: shop.ask(shop.serving, "/health/ready") is not None)
    answer = shop.ask(shop.serving, "/v1/models/model:predict", {"instances": [{"visits": 6}]})
    assert answer["predictions"][0]["label"] == "yes"
    time.sleep(3)
    resident = _resident_mb(shop.family())
    print(f"idle up with one model served: {resident:.0f} MB in {len(shop.family())} processes")
    assert resident < IDLE_MB
    assert shop.down() == 0
    assert shop.family() == []
    assert "stopped" in (shop.folder / "up.log").read_text()


def test_a_run_asked_for_over_http_is_carried_out_and_released(shop: Installation) -> None:
    shop.up()
    token = shop.run("tokens", "create", "ann", "--role", "operator").stdout.splitlines()[0]
    there = {"MAINSPRING_URL": f"http://127.0.0.1:{shop.api}", "MAINSPRING_TOKEN": token}
    asked = shop.run("run", "model", "--json", **there)
    assert asked.returncode == 0, asked.stderr
    shop.wait_for(lambda: json.loads(shop.run("models", "list", "--json", **there).stdout))
    shop.wait_for(lambda: shop.ask(shop.serving, "/health/ready") is not None)
    versions = json.loads(shop.run("models", "list", "--json", **there).stdout)
    assert [(v["version"]["author"], v["aliases"]) for v in versions] == [("ann", ["production"])]
    assert shop.run("run", "model", **{**there, "MAINSPRING_TOKEN": "ms_wrong"}).returncode == 2


def test_predictions_go_on_while_the_control_plane_is_killed_and_the_next_one_takes_over(shop: Installation) -> None:
    assert shop.run("run", "--json").returncode == 0
    shop.up()
    shop.wait_for(lambda: shop.ask(shop.serving, "/health/ready") is not None)
    shop.down(signal.SIGKILL)
    assert shop.ask(shop.serving, "/v1/models/model:predict", {"instances": [{"visits": 6}]}) is not None
    (before,) = shop.family()
    shop.up()
    assert before in shop.family()
    os.kill(before, signal.SIGKILL)
    shop.wait_for(lambda: shop.ask(shop.serving, "/health/ready") is not None)
    assert shop.down(signal.SIGINT) == 0
    assert shop.family() == []


def test_two_of_them_do_not_run_on_one_folder(shop: Installation) -> None:
    shop.up()
    second = shop.run("up", "--port", str(_free_port()), "--serving-port", str(_free_port()))
    assert (second.returncode, "another `mainspring up`" in second.stderr) == (2, True)
    third = shop.run("up", "--port", str(shop.api))
    assert (third.returncode, "cannot be bound" in third.stderr) == (3, True)


def test_a_project_that_is_wrong_does_not_come_up(shop: Installation) -> None:
    (shop.folder / "project.py").write_text(
        PROJECT.replace("sales.csv", "nothing.csv").replace("shop.model", "shop.modle")
    )
    said = shop.run("up", "--port", str(shop.api), "--serving-port", str(shop.serving))
    assert said.returncode == 2
    assert "project.py:7" in said.stderr
    assert shop.family() == []
