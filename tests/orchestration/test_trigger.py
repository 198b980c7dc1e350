"""Slots and events start runs: once each, and none that came before the trigger was declared."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice

from mainspring.core.clock import FixedClock
from mainspring.orchestration import journal
from mainspring.orchestration.schedule import Cron, Firing
from mainspring.orchestration.trigger import Trigger, claim_slot, claim_trigger, due_triggers, last_slot, tick
from mainspring.store.tables import schedules
from mainspring.store.workspace import Workspace

NEW_DATA = Trigger("retrain", "train", ("dataset.version",), "dataset:payments*", {"model": "scorer"})
SLOT = Firing("2026-01-01T02:00", datetime(2026, 1, 1, 1, tzinfo=UTC))


def happen(ws: Workspace, *subjects: str, type: str = "dataset.version") -> None:
    with ws.change("shop") as change:
        for subject in subjects:
            change.event(type, subject)


def schedule(ws: Workspace, misfire: str, cron: str = "0 * * * *") -> None:
    with ws.change("shop") as change:
        change.execute(schedules.insert().values(
            project="shop", name="s", cron=cron, zone="UTC", misfire=misfire, created_at=ws.clock.now(),
            action={"pipeline": "train", "params": {"x": 1}},
        ))  # fmt: skip


def test_new_data_starts_one_run_however_much_of_it_came(workspace: Workspace) -> None:
    happen(workspace, "dataset:payments@1")
    assert due_triggers(workspace, "shop", (NEW_DATA,)) == []  # what is past when the trigger is new stays past
    happen(workspace, "dataset:payments@2", "dataset:cards@1", "dataset:payments@3")
    happen(workspace, "model:payments@1", type="model.version")
    (due,) = due_triggers(workspace, "shop", (NEW_DATA,))
    assert [event.subject for event in due.events] == ["dataset:payments@2", "dataset:payments@3"]
    run_id = claim_trigger(workspace, "shop", due)
    assert claim_trigger(workspace, "shop", due) == ""
    assert due_triggers(workspace, "shop", (NEW_DATA,)) == []
    run = journal.get_run(workspace, run_id)
    assert (run.status, run.pipeline, run.trigger) == ("PENDING", "train", "event")
    assert run.params == {"model": "scorer", "events": [event.id for event in due.events]}


def test_events_of_other_subjects_never_hide_a_later_one(local_workspace: Workspace) -> None:
    due_triggers(local_workspace, "shop", (NEW_DATA,))
    happen(local_workspace, *["dataset:cards@1"] * 1001, "dataset:payments@9")
    assert due_triggers(local_workspace, "shop", (NEW_DATA,)) == []  # a full page of others: looked past
    assert len(due_triggers(local_workspace, "shop", (NEW_DATA,))) == 1


def test_a_slot_is_claimed_once_and_its_run_is_asked_for(workspace: Workspace) -> None:
    run_id = claim_slot(workspace, "shop", "nightly", SLOT, pipeline="train")
    assert claim_slot(workspace, "shop", "nightly", SLOT, pipeline="train") == ""
    run = journal.get_run(workspace, run_id)
    assert (run.status, run.trigger) == ("PENDING", "schedule")
    assert journal.logical_instant(run.logical_time) == SLOT.instant
    assert last_slot(workspace, "shop", "nightly") == SLOT.instant
    assert last_slot(workspace, "shop", "other") is None


def test_two_slots_that_a_gap_pushes_together_share_their_run(workspace: Workspace) -> None:
    cron = Cron("0,30 2 * * *", "Europe/Berlin")
    gap = list(islice(cron.backwards(datetime(2026, 3, 29, 12, tzinfo=UTC)), 2))
    assert gap[0].instant == gap[1].instant
    ids = {claim_slot(workspace, "shop", "s", firing, pipeline="train") for firing in gap}
    assert len(ids) == 1
    assert len(journal.list_runs(workspace, "shop")) == 1


def test_a_scheduler_that_was_down_catches_up_as_its_policy_says(local_workspace: Workspace, clock: FixedClock) -> None:
    schedule(local_workspace, "latest")
    assert tick(local_workspace, "shop") == []
    clock.advance(timedelta(hours=26, minutes=5))
    (run_id,) = tick(local_workspace, "shop")
    assert tick(local_workspace, "shop") == []
    assert journal.get_run(local_workspace, run_id).logical_time == "2026-01-02T02:00:00+00:00"


def test_a_scheduler_that_was_down_runs_all_it_may(local_workspace: Workspace, clock: FixedClock) -> None:
    schedule(local_workspace, "all(10)")
    clock.advance(timedelta(hours=26, minutes=5))
    assert len(tick(local_workspace, "shop")) == 10


def test_a_paused_schedule_fires_nothing(local_workspace: Workspace, clock: FixedClock) -> None:
    schedule(local_workspace, "latest")
    with local_workspace.change("shop") as change:
        change.execute(schedules.update().values(paused_at=clock.now()))
    clock.advance(timedelta(hours=2))
    assert tick(local_workspace, "shop") == []


def test_a_clock_that_jumps_back_fires_no_slot_twice(local_workspace: Workspace, clock: FixedClock) -> None:
    schedule(local_workspace, "all(100)")
    clock.advance(timedelta(hours=3))
    assert len(tick(local_workspace, "shop")) == 3
    clock.advance(timedelta(hours=-2))
    assert tick(local_workspace, "shop") == []
    clock.advance(timedelta(hours=3))
    assert len(tick(local_workspace, "shop")) == 1
