"""Healing goes through the same gates as any training, keeps the old version when the new is no better, and tells."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mainspring.core.clock import FixedClock
from mainspring.core.errors import Invalid
from mainspring.loop.heal import HealReport, heal, list_actions
from mainspring.loop.watch import watch_once
from mainspring.monitoring.alerts import list_alerts
from mainspring.registry.models import live
from mainspring.store.events import read_events
from mainspring.store.workspace import Workspace
from production import START, Production, World


@dataclass(frozen=True)
class Training:
    outcome: str
    version: int | None
    run_id: str = "run-x"


@pytest.fixture
def production(local_workspace: Workspace, clock: FixedClock, tmp_path: Path) -> Production:
    made = Production(local_workspace, clock, tmp_path, {"score": "roc_auc >= 0.75"})
    made.release()
    return made


def trainer(production: Production, outcome: str) -> Any:
    """Return a training that ends in `outcome`, and for a release puts a version live that knows the world as it is."""

    def train(ws: Workspace, spec: Any, name: str, *, trigger: str) -> Training:
        assert trigger == "heal"
        if outcome == "broken":
            raise Invalid("the data breaks its contract")
        version = production.release(slope=production.world.slope).version if outcome == "released" else 7
        return Training(outcome, version)

    return train


def days(production: Production, count: int, outcome: str = "released") -> list[HealReport]:
    found = []
    for _ in range(count):
        production.live_a_day()
        report = watch_once(production.ws, production.spec, "scorer")
        found.append(heal(production.ws, production.spec, "scorer", report, retrain=trainer(production, outcome)))
    return found


def keys(production: Production) -> dict[str, str]:
    return {alert.key: alert.severity for alert in list_alerts(production.ws, "shop", "open")}


def test_a_world_that_changes_is_learned_once_its_outcomes_are_ripe(production: Production) -> None:
    assert {done.action for done in days(production, 3)} == {"wait"}
    production.world = World(slope=-1.5)
    done = days(production, 12)
    # Three days until the first bad outcomes have matured; a training holds three more days out, so it learns from
    # the new world from the sixth day on.
    assert [report.action for report in done] == ["wait"] * 5 + ["retrain"] + ["wait"] * 6
    assert "not ripe to learn from: a training sees the first at 2026-01-10" in done[4].reasons[0]
    assert (done[5].version, done[5].outcome) == (
        2, "released: scorer@2 passed its gates and is live in place of 1",
    )  # fmt: skip
    assert keys(production) == {}
    [action] = list_actions(production.ws, "shop", "scorer", since=START)
    assert (action["action"], action["facts"]["made"], action["run_id"]) == ("retrain", 2, "run-x")
    with production.ws.read() as tx:
        kinds = [event.type for event in read_events(tx, "shop", types=("heal.decided", "heal.ended"))]
    assert kinds == ["heal.decided", "heal.ended"]


def test_a_retraining_that_is_no_better_keeps_the_old_version_and_tells_the_owner(production: Production) -> None:
    days(production, 3)
    production.world = World(slope=-1.5)
    done = days(production, 7, "kept")[-2:]
    assert [(report.action, report.version) for report in done] == [("retrain", None)] * 2
    assert done[0].outcome == "kept: scorer@7 did not pass its gates, scorer@1 stays live"
    found = live(production.ws, "shop", "scorer")
    assert found is not None
    assert found.version == 1
    [alert] = [a for a in list_alerts(production.ws, "shop", "open") if a.key == "heal/scorer"]
    assert "retrain did not help" in alert.title
    assert alert.body["owner"] == "ann"


def test_a_training_that_fails_is_an_outcome_and_no_crash(production: Production) -> None:
    days(production, 3)
    production.world = World(slope=-1.5)
    done = days(production, 6, "broken")[-1]
    assert (done.action, done.outcome) == ("retrain", "failed: the data breaks its contract")
    assert keys(production)["heal/scorer"] == "warning"


def test_a_new_version_that_was_never_well_goes_back(production: Production) -> None:
    days(production, 3)
    production.release(slope=-2.0)
    done = days(production, 3)
    assert [report.action for report in done] == ["wait", "wait", "rollback"]
    assert (done[-1].version, done[-1].outcome) == (1, "scorer@1 is live again in place of 2")
    found = live(production.ws, "shop", "scorer")
    assert found is not None
    assert found.version == 1


def test_a_broken_feed_is_not_learned_from_and_pages_once(production: Production) -> None:
    days(production, 3)
    production.world = World(missing=0.6)
    done = days(production, 3)
    assert [report.action for report in done] == ["wait", "page", "page"]
    assert "a model trained on it would learn the fault" in done[1].reasons
    assert done[1].outcome == "#ops was told; scorer@1 stays live"
    assert keys(production)["heal/scorer"] == "critical"
    assert len(list_actions(production.ws, "shop", "scorer", since=START)) == 1
    production.world = World()
    days(production, 6)
    assert keys(production) == {}


def test_without_a_watch_nothing_is_done(production: Production) -> None:
    production.watch = {"heal": ""}
    days(production, 2)
    production.world = World(shift=1.5)
    assert [report.action for report in days(production, 2)] == ["wait", "page"]
