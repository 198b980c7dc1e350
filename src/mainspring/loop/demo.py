"""The whole loop in one sitting: generated payments, real training, a real server, a seeded drift and its healing."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from importlib import resources
from pathlib import Path
from typing import Any

from mainspring.core.clock import FileClock
from mainspring.core.errors import Invalid, Unavailable
from mainspring.core.settings import load_settings
from mainspring.loop.payments import Payments
from mainspring.store.workspace import Workspace, open_workspace

START = datetime(2026, 3, 1, tzinfo=UTC)
HISTORY_DAYS = 30
DRIFT_DAY = 36
LAST_DAY = 46
BATCH = 40
COLUMNS = ("amount", "usual_amount", "hour", "country", "merchant", "device_days")


@dataclass(slots=True)
class DemoReport:
    """What happened, for people and for tests."""

    directory: str
    seconds: float = 0.0
    predictions: int = 0
    drift_on: str = ""
    detected_on: str = ""
    healed_on: str = ""
    first_version: int | None = None
    healed_version: int | None = None
    auc: dict[str, float] = field(default_factory=dict)
    timeline: list[tuple[str, str]] = field(default_factory=list)
    why: dict[str, Any] = field(default_factory=dict)


def run_demo(directory: Path, say: Callable[[str], None] = lambda text: None) -> DemoReport:
    """Play the loop through in `directory`, which is emptied first; nothing is left running.

    The days are simulated (the clock stands in a file that every process reads); the training, the server, the
    requests, the tests of drift and the decision are not.

    Raises:
        Invalid: the folder holds something that is no demo.
        Unavailable: the server did not come up.
    """
    from mainspring.loop.heal import heal
    from mainspring.loop.train import raise_if_failed, run_model
    from mainspring.loop.watch import watch_once
    from mainspring.loop.why import why
    from mainspring.project.loading import load_project
    from mainspring.tracking.runs import Runs

    began = time.monotonic()
    directory = directory.resolve()
    _prepare(directory)
    os.chdir(directory)  # a project file's relative paths start at its folder
    report = DemoReport(str(directory))
    payments = Payments(START, drift_on=START + timedelta(days=DRIFT_DAY))
    report.drift_on = f"{START + timedelta(days=DRIFT_DAY):%Y-%m-%d}"
    clock = directory / ".clock"
    ws = _workspace(directory, clock, HISTORY_DAYS)

    def tell(day: int, text: str) -> None:
        report.timeline.append((f"{START + timedelta(days=day):%Y-%m-%d}", text))
        say(f"{START + timedelta(days=day):%Y-%m-%d}  {text}")

    payments.write(directory, START, START + timedelta(days=HISTORY_DAYS))
    spec = load_project(directory / "project.py")
    first = run_model(ws, spec, "scorer")
    raise_if_failed(first)
    report.first_version = first.version
    metric = first.metrics.get("roc_auc", float("nan"))
    tell(
        HISTORY_DAYS,
        f"trained scorer@{first.version} on {HISTORY_DAYS} days: roc_auc {metric:.3f}, "
        f"{sum(v.passed for v in first.verdicts)} of {len(first.verdicts)} gates passed, {first.outcome}",
    )
    last_id, told = "", set[str]()
    with _server(directory, clock) as port:
        tell(HISTORY_DAYS, "an endpoint answers on 127.0.0.1; payments come in, their outcomes 36 hours later")
        for day in range(HISTORY_DAYS, LAST_DAY):
            if day == DRIFT_DAY:
                tell(day, "(fraud changes its ways: small gift cards on new devices. The model is not told)")
            frame = payments.day(START + timedelta(days=day))
            last_id, auc = _send(port, clock, frame)
            report.auc[f"{START + timedelta(days=day):%Y-%m-%d}"] = auc
            report.predictions += frame.height
            _set(clock, START + timedelta(days=day + 1))
            payments.write(directory, START + timedelta(days=day), START + timedelta(days=day + 1))
            watched = watch_once(ws, spec, "scorer")
            for line in watched.alarms:
                kind = line.split(" ")[0]
                if kind not in told:
                    told.add(kind)
                    report.detected_on = report.detected_on or f"{ws.clock.now():%Y-%m-%d}"
                    tell(day + 1, f"alarm: {line}")
            healed = heal(ws, spec, "scorer", watched)
            if healed.action != "wait":
                tell(day + 1, f"decided to {healed.action}, because {healed.reasons[0]}")
                tell(day + 1, f"outcome: {healed.outcome}")
            elif watched.alarms and healed.reasons and healed.reasons[0] not in told:
                told.add(healed.reasons[0])
                tell(day + 1, f"waiting: {healed.reasons[0]}")
            if healed.version is not None and not report.healed_on:
                report.healed_on, report.healed_version = f"{ws.clock.now():%Y-%m-%d}", healed.version
                _wait_for_version(port, healed.version)
    dossier = why(ws, spec.name, last_id)
    report.why = {
        "prediction_id": last_id,
        "model": f"{dossier.model}@{dossier.version}",
        "recorded": dossier.recorded,
        "reexecuted": dossier.reexecuted,
        "agrees": dossier.agrees,
        "run": dossier.run_id,
        "datasets": dossier.datasets,
        "code": dossier.code_digest,
    }
    say("")
    for line in _figures(report):
        say(line)
    Runs(ws).flush(timeout_s=20)  # the run store is written by another process; leave nothing running
    ws.close()
    report.seconds = time.monotonic() - began
    return report


def _figures(report: DemoReport) -> list[str]:
    """Return what the demo showed, in a few lines."""
    days = sorted(report.auc)
    before = [report.auc[day] for day in days if day < report.drift_on]
    during = [report.auc[day] for day in days if report.drift_on <= day < (report.healed_on or "9")]
    after = [report.auc[day] for day in days if report.healed_on and day >= report.healed_on]
    means = [
        f"{name} {sum(part) / len(part):.3f}"
        for name, part in (("before the drift", before), ("from drift to healing", during), ("after", after))
        if part
    ]
    agrees = "the same number" if report.why["agrees"] else "ANOTHER NUMBER"
    return [
        f"roc_auc against the truth: {', '.join(means)}",
        f"drift on {report.drift_on}, alarm on {report.detected_on}, healed on {report.healed_on}",
        f"{report.predictions} predictions answered over HTTP; the last, {report.why['prediction_id']},",
        f"by {report.why['model']}, computed again from its record: {agrees}",
    ]


def _prepare(directory: Path) -> None:
    if directory.exists() and any(directory.iterdir()) and not (directory / ".clock").exists():
        raise Invalid(f"{directory} holds something that is not a demo", hint="mainspring demo --in NEW_FOLDER")
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    template = resources.files("mainspring.loop").joinpath("demo_project.py.txt").read_text(encoding="utf-8")
    (directory / "project.py").write_text(template, encoding="utf-8")


def _workspace(directory: Path, clock: Path, day: int) -> Workspace:
    _set(clock, START + timedelta(days=day))
    return open_workspace(load_settings(directory, environment={}), clock=FileClock(clock), actor="demo")


def _set(clock: Path, now: datetime) -> None:
    """Move the simulated time; readers see the old instant or the new one."""
    temporary = clock.with_suffix(".new")
    temporary.write_text(now.isoformat())
    temporary.replace(clock)


@contextmanager
def _server(directory: Path, clock: Path) -> Iterator[int]:
    """Run `mainspring serve` as a process of its own and give its port; it is gone when the block ends."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    environment = {**os.environ, "MAINSPRING_CLOCK": str(clock)}
    log = (directory / "serve.log").open("wb")
    process = subprocess.Popen(
        [sys.executable, "-m", "mainspring.cli.main", "-C", str(directory), "serve", "--port", str(port)],
        env=environment,
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    try:
        deadline = time.monotonic() + 30
        while _get(port, "/health/ready")[0] != 200:
            if process.poll() is not None or time.monotonic() > deadline:
                raise Unavailable("the endpoint did not come up", hint=f"see {directory / 'serve.log'}")
            time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        log.close()


def _get(port: int, path: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read()
        return answer.status, json.loads(body) if body[:1] in (b"{", b"[") else body
    except (OSError, ValueError):
        return 0, None
    finally:
        connection.close()


def _send(port: int, clock: Path, frame: Any) -> tuple[str, float]:
    """Send one day's payments as they come in; return the last prediction's id and the day's true roc_auc."""
    from mainspring.evaluation.metrics import compute_metrics

    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    scores: list[float] = []
    last = ""
    for part in frame.iter_slices(BATCH):
        _set(clock, part["at"][-1])
        rows = part.select("tx_id", "at", *COLUMNS).with_columns(at=part["at"].dt.strftime("%Y-%m-%dT%H:%M:%SZ"))
        body = json.dumps({"instances": rows.to_dicts()})
        connection.request("POST", "/v1/models/scorer:predict", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        document = json.loads(answer.read())
        if answer.status != 200:
            raise Unavailable(f"the endpoint answered {answer.status}: {document}")
        scores += [item["probability"] for item in document["predictions"]]
        last = document["prediction_ids"][-1]
    connection.close()
    import numpy as np

    found = compute_metrics(
        "binary", frame["is_fraud"].to_numpy(), np.array(scores), (False, True), intervals=False, only=["roc_auc"]
    )
    return last, found["roc_auc"].value


def _wait_for_version(port: int, version: int) -> None:
    """Wait until the endpoint answers with the new version; it looks several times a second."""
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        _, document = _get(port, "/version")
        if f'"{version}"' in json.dumps(document):
            return
        time.sleep(0.05)
    raise Unavailable(f"the endpoint did not take up version {version}")
