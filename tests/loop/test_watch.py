"""A look judges what is over, alarms of what is wrong and of nothing else, and is the same when it is repeated."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from mainspring.core.clock import FixedClock
from mainspring.loop.watch import WatchReport, watch_once
from mainspring.monitoring.alerts import list_alerts
from mainspring.monitoring.labels import Label, append_labels
from mainspring.monitoring.windows import list_windows
from mainspring.store.workspace import Workspace
from production import Production, World


@pytest.fixture
def production(local_workspace: Workspace, clock: FixedClock, tmp_path: Path) -> Production:
    made = Production(local_workspace, clock, tmp_path, {"score": "roc_auc >= 0.75"})
    made.release()
    return made


def look(production: Production, days: int = 1) -> WatchReport:
    for _ in range(days):
        production.live_a_day()
        report = watch_once(production.ws, production.spec, "scorer")
    return report


def states(production: Production, monitor: str) -> list[str]:
    return [window.state for window in list_windows(production.ws, "shop", "scorer", monitor)]


def test_a_quiet_week_is_quiet_on_either_database(workspace: Workspace, clock: FixedClock, tmp_path: Path) -> None:
    production = Production(workspace, clock, tmp_path, {"score": "roc_auc >= 0.75"})
    production.release()
    for _ in range(7):
        assert look(production).alarms == ()
    assert states(production, "drift") == ["ok"] * 7
    assert states(production, "performance") == ["ok"] * 5, "outcomes of the last two days have not matured"
    assert list_alerts(workspace, "shop") == []
    last = list_windows(workspace, "shop", "scorer", "performance")[-1]
    assert last.result["coverage"] == 1.0
    assert 0.8 < last.result["metrics"]["roc_auc"]["value"] < 0.95


def test_a_drift_of_the_inputs_is_found_in_two_days_and_resolved_when_it_is_over(production: Production) -> None:
    look(production, 3)
    production.world = World(shift=0.8)
    assert look(production).alarms == ()
    report = look(production)
    assert any("x has shifted" in text for text in report.alarms)
    assert report.onset["drift"].day == 4
    assert {drift.column for drift in report.drift} == {"x", "(score)"}
    [alert] = list_alerts(production.ws, "shop", "open")
    assert (alert.key, alert.severity) == ("drift/scorer", "warning")
    production.world = World()
    look(production, 4)
    assert list_alerts(production.ws, "shop", "open") == []


def test_a_drift_is_no_alarm_once_outcomes_show_that_the_answers_are_good(production: Production) -> None:
    look(production, 3)
    production.world = World(shift=0.8)
    report = look(production, 5)
    assert report.alarms == ()
    assert any("the outcomes since then are good" in note for note in report.notes)


def test_a_change_that_the_model_does_not_look_at_is_news_and_no_alarm(production: Production) -> None:
    look(production, 2)
    production.world = World(noise=0.8)
    report = look(production, 2)
    assert report.alarms == ()
    assert any("noise has shifted" in note and "hardly uses it" in note for note in report.notes)
    assert [alert.severity for alert in list_alerts(production.ws, "shop", "open")] == ["info"]


def test_what_only_the_outcomes_show_is_found_as_soon_as_they_mature(production: Production) -> None:
    look(production, 3)
    production.world = World(slope=-1.0)
    assert look(production, 2).alarms == (), "the outcomes of the first bad day mature two days after it"
    report = look(production)
    assert report.drift == ()
    assert any("roc_auc >= 0.75 must hold" in text for text in report.alarms)
    assert any("the evidence adds up" in text for text in look(production).alarms)


def test_a_slow_loss_of_quality_is_found_without_a_rule(production: Production) -> None:
    production.watch = {}
    look(production, 3)
    production.world = World(slope=0.9)
    report = look(production, 7)
    assert any("log_loss has been" in text for text in report.alarms)
    assert report.onset["performance"].day in (3, 4, 5)


def test_outcomes_that_are_young_or_few_never_alarm(production: Production) -> None:
    production.world, production.labelled = World(slope=-1.0), 0.1
    assert look(production, 5).alarms == ()
    assert states(production, "performance") == []
    for _ in range(16):
        production.live_a_day()
    assert look(production).alarms == ()
    assert states(production, "performance")[0] == "no-labels"


def test_no_data_is_a_state_of_its_own(production: Production) -> None:
    look(production)
    production.live_a_day(0)
    report = watch_once(production.ws, production.spec, "scorer")
    assert report.alarms == ()
    assert "drift: no-data in the window from 2026-01-02T00:00Z" in report.notes
    production.live_a_day(20)
    watch_once(production.ws, production.spec, "scorer")
    assert states(production, "drift") == ["ok", "no-data", "ok"], "twenty rows are judged with the windows before"
    assert states(production, "endpoint") == ["ok", "no-data", "ok"]


def test_looking_again_changes_nothing(production: Production) -> None:
    production.world = World(missing=0.2)
    report = look(production, 3)
    assert any("x is missing in" in text and "more rows" in text for text in report.alarms)
    again = watch_once(production.ws, production.spec, "scorer")
    assert again.windows == ()
    assert (again.alarms, again.onset) == (report.alarms, report.onset)
    assert [alert.count for alert in list_alerts(production.ws, "shop")] == [2]


def test_days_without_a_look_are_caught_up_with(production: Production) -> None:
    for day in range(6):
        production.world = World(shift=0.8 if day >= 4 else 0.0)
        production.live_a_day()
    report = watch_once(production.ws, production.spec, "scorer")
    assert len(report.windows) == 6 + 6 + 4
    assert any("x has shifted" in text for text in report.alarms)


def test_a_failing_endpoint_is_critical_with_and_without_a_rule(production: Production) -> None:
    production.live_a_day(failed=40)
    assert "error_rate is 0.09" in watch_once(production.ws, production.spec, "scorer").alarms[0]
    assert list_alerts(production.ws, "shop", "open")[0].severity == "critical"
    production.watch = {"alert_if": ["error_rate > 20%", "p99 > 1ms"]}
    production.live_a_day(failed=40)
    [alarm] = watch_once(production.ws, production.spec, "scorer").alarms
    assert alarm.startswith("p99 is 0.0015")


def test_a_plain_rule_is_kept_as_it_is_written(production: Production) -> None:
    production.watch = {"drift": "psi > 0.0001"}
    report = look(production)
    assert len(report.alarms) == 4
    assert all(
        "(psi > 0.0001) on 400 rows; chance alone gives 0.02" in text for text in report.alarms if "kind" not in text
    )


def test_outcomes_sent_to_the_endpoint_count_before_the_declared_ones(production: Production) -> None:
    production.labelled = 0.0
    production.live_a_day()
    production.live_a_day()
    production.live_a_day()
    watch_once(production.ws, production.spec, "scorer")
    assert states(production, "performance") == []
    told = [Label(True, prediction_id=f"p-0-{i}") for i in range(200)]
    told += [Label(False, key={"tx_id": f"tx-0-{i}"}) for i in range(150, 400)]
    append_labels(production.ws.home, "shop", "scorer", told, now=production.clock.now())
    watch_once(production.ws, production.spec, "scorer")
    [window] = list_windows(production.ws, "shop", "scorer", "performance")
    assert (window.rows, window.result["coverage"], window.start.day) == (400, 1.0, 1)
    assert window.result["metrics"]["roc_auc"]["value"] == pytest.approx(0.5, abs=0.1)


def test_labels_that_cannot_be_read_are_told_and_stop_nothing(production: Production) -> None:
    look(production, 2)
    production.live_a_day()
    (production.folder / "outcomes.parquet").write_bytes(b"PAR1 not really")
    report = watch_once(production.ws, production.spec, "scorer")
    assert any("the labels 'outcomes' could not be read" in note for note in report.notes)
    assert states(production, "drift") == ["ok"] * 3


def test_a_model_that_is_not_live_is_not_watched(local_workspace: Workspace, clock: FixedClock, tmp_path: Path) -> None:
    report = watch_once(local_workspace, Production(local_workspace, clock, tmp_path).spec, None)
    assert (report.version, report.notes) == (None, ("scorer has no live version",))


def test_short_windows_start_on_the_clock(production: Production) -> None:
    production.watch = {"every": "15m"}
    production.live_a_day()
    watch_once(production.ws, production.spec, "scorer")
    found = list_windows(production.ws, "shop", "scorer", "endpoint", limit=500)
    assert len(found) == 96
    assert sum(window.rows for window in found) == 400
    assert found[1].start - found[0].start == timedelta(minutes=15)
    assert all(not window.start.minute % 15 for window in found)
