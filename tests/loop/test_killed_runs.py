"""A run killed at any step goes on where it stopped, to the same bytes, and does nothing twice."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from mainspring.core.settings import load_settings
from mainspring.store import tables
from mainspring.store.events import read_events, verify_chain
from mainspring.store.workspace import open_workspace
from shop import PROJECT, visits

Run = Callable[..., subprocess.CompletedProcess[str]]
STEPS = ("ingest", "features", "train", "evaluate", "register", "gate", "release", "notify")


def _json(done: subprocess.CompletedProcess[str], code: int = 0) -> Any:
    assert done.returncode == code, done.stderr + done.stdout
    return json.loads(done.stdout)


def _split(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / ".mainspring" / "serving" / "shop" / "buyer.json").read_text())
    return found


def _happened(folder: Path) -> dict[str, int]:
    """Return how often each kind of event was recorded; the chain must be whole."""
    with closing(open_workspace(load_settings(folder, environment={}))) as ws, ws.read() as tx:
        assert verify_chain(tx, "shop") == []
        types = [event.type for event in read_events(tx, "shop") if not event.type.startswith("run.")]
        assert tx.execute(sa.select(sa.func.count()).select_from(tables.model_versions)).scalar() == 1
        return {kind: types.count(kind) for kind in types}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Give what a run that nobody disturbs comes to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "project.py").write_text(PROJECT)
    visits().write_csv(folder / "visits.csv")
    done = subprocess.run(
        [sys.executable, "-m", "mainspring.cli.main", "-C", str(folder), "--json", "run"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return {**_json(done), "events": _happened(folder)}


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["before", "during", "after"])
@pytest.mark.parametrize("step", STEPS)
def test_a_run_killed_anywhere_goes_on_to_the_same_bundle_and_does_nothing_twice(
    shop: Path, mainspring: Run, undisturbed: dict[str, Any], step: str, phase: str
) -> None:
    killed = mainspring(shop, "run", MAINSPRING_KILL_AT=f"{step}:{phase}")
    assert killed.returncode == -signal.SIGKILL, f"{step}:{phase} was never reached: {killed.stdout} {killed.stderr}"
    resumed = _json(mainspring(shop, "--json", "run"))
    assert resumed["bundle_digest"] == undisturbed["bundle_digest"]
    assert (resumed["version"], resumed["live_version"], resumed["outcome"]) == (1, 1, "released")
    assert _happened(shop) == undisturbed["events"]
    assert _split(shop)["version"] == 1
