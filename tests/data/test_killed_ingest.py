"""A killed ingest leaves nothing or a whole version, and the next one ends where an undisturbed one would."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from mainspring.core.settings import load_settings
from mainspring.data.datasets import history, latest, read, table_path
from mainspring.store.events import read_events, verify_chain
from mainspring.store.workspace import Workspace, open_workspace

SCRIPT = """
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
import polars as pl
from data.tables import TableSource, WindowSource
from mainspring.core.settings import load_settings
from mainspring.core.windows import Day
from mainspring.data.datasets import Dataset, ingest
from mainspring.data.retention import apply_retention
from mainspring.store.workspace import open_workspace

ws = open_workspace(load_settings(Path(sys.argv[1]), environment={}), actor="alice")
now = datetime(2026, 1, 1, tzinfo=UTC)
def rows(window):
    at = pl.datetime_range(window.start, window.end, "1m", closed="left", eager=True)
    return pl.DataFrame({"at": at, "x": range(1440), "who": ["a@x.org", "b@x.org"] * 720})
windows = Dataset("w", WindowSource(rows), time="at", window_kind=Day, start=datetime(2025, 12, 22, tzinfo=UTC),
                  pii={"who": "hash"}, retain=timedelta(days=int(sys.argv[2])))
whole = Dataset("t", TableSource(pl.DataFrame({"x": range(200_000)})))
print("started", flush=True)
for spec in (whole, windows):
    ingest(ws, "p", spec, now=now)
    apply_retention(ws, "p", spec, now)
print("done", flush=True)
"""
ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


def start(directory: Path, retain_days: int = 400) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT / 'tests'}"}
    return subprocess.Popen([sys.executable, "-c", SCRIPT, str(directory), str(retain_days)], stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True, env=environment)  # fmt: skip


def finish(directory: Path, retain_days: int = 400) -> Workspace:
    output, errors = start(directory, retain_days).communicate(timeout=120)
    assert output.splitlines()[-1:] == ["done"], errors
    return open_workspace(load_settings(directory, environment={}))


def kill(process: subprocess.Popen[str]) -> bool:
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return process.returncode == -signal.SIGKILL


def state(ws: Workspace) -> dict[str, object]:
    """Return all that must not depend on whether somebody was killed."""
    found: dict[str, object] = {}
    for name in ("t", "w"):
        newest = latest(ws, "p", name)
        assert newest is not None
        found[name] = (newest.rows, read(ws, "p", name).height, newest.digest if name == "t" else "")
        found[f"{name} versions"] = [version.window for version in history(ws, "p", name)]
    with ws.read() as connection:
        assert verify_chain(connection, "p") == []
        told = [(event.type, event.subject.partition("@")[0]) for event in read_events(connection, "p")]
        assert len({event.subject for event in read_events(connection, "p")}) == len(told), "an effect was doubled"
    found["events"] = sorted(told)
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    return state(finish(tmp_path_factory.mktemp("undisturbed")))


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 60
    while not path.exists():
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        assert time.monotonic() < until
        time.sleep(0.002)


@pytest.mark.parametrize(("table", "version"), [("t", 1), ("w", 1), ("w", 4)])
def test_a_kill_between_the_tables_commit_and_its_row_is_mended(
    tmp_path: Path, undisturbed: dict[str, object], table: str, version: int
) -> None:
    ws = open_workspace(load_settings(tmp_path, environment={}))
    log = table_path(ws, "p", table) / "_delta_log"
    process = start(tmp_path)
    if version > 1:
        wait_for(log / f"{version - 1:020d}.json", process)
    # While this transaction is open the killed process can commit to the table, but not write the row that tells so.
    with closing(sqlite3.connect(ws.home / "mainspring.db", timeout=30, isolation_level=None)) as database:
        if table == "w" and version == 1:
            wait_for(table_path(ws, "p", "t") / "_delta_log" / f"{1:020d}.json", process)
            while latest(ws, "p", "t") is None:
                time.sleep(0.002)
        database.execute("BEGIN IMMEDIATE")
        recorded = len(history(ws, "p", table)) if latest(ws, "p", table) else 0
        wait_for(log / f"{recorded + 1:020d}.json", process)
        time.sleep(0.05)
        kill(process)
        database.execute("ROLLBACK")
    assert (len(history(ws, "p", table)) if latest(ws, "p", table) else 0) == recorded
    ws.close()
    assert state(finish(tmp_path)) == undisturbed


def test_kills_at_any_moment_end_where_an_undisturbed_ingest_does(
    tmp_path: Path, undisturbed: dict[str, object]
) -> None:
    kills = 0
    for wait in (0.0, 0.02, 0.05, 0.08, 0.12, 0.16, 0.2, 0.25):
        process = start(tmp_path)
        assert process.stdout is not None
        process.stdout.readline()  # "started"
        time.sleep(wait)
        kills += kill(process)
    assert kills >= 4
    assert state(finish(tmp_path)) == undisturbed


def test_retention_that_is_killed_is_completed_and_what_it_deleted_is_gone(tmp_path: Path) -> None:
    finish(tmp_path).close()
    ws = open_workspace(load_settings(tmp_path, environment={}))
    before = latest(ws, "p", "w")
    assert before is not None
    log = table_path(ws, "p", "w") / "_delta_log"
    with closing(sqlite3.connect(ws.home / "mainspring.db", timeout=30, isolation_level=None)) as database:
        database.execute("BEGIN IMMEDIATE")
        process = start(tmp_path, retain_days=3)
        wait_for(log / f"{before.version + 1:020d}.json", process)
        kill(process)
        database.execute("ROLLBACK")
    assert latest(ws, "p", "w") == before
    ws.close()
    ws = finish(tmp_path, retain_days=3)
    after = latest(ws, "p", "w")
    assert after is not None
    assert after.rows == 3 * 1440 == read(ws, "p", "w").height
    assert len(list(table_path(ws, "p", "w").glob("*/*.parquet"))) == 3
    with ws.read() as connection:
        assert [event.type for event in read_events(connection, "p")].count("dataset.expired") == 1
