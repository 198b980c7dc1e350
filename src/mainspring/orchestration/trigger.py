"""What starts runs by itself: slots of schedules and events of the log, each claimed exactly once."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Any

import sqlalchemy as sa

from mainspring.core.errors import Conflict
from mainspring.orchestration.journal import logical_text, request_run
from mainspring.orchestration.schedule import Cron, Firing, due_firings
from mainspring.store.events import Event, read_events
from mainspring.store.tables import events, schedule_slots, schedules, trigger_cursors
from mainspring.store.workspace import Workspace

MAX_EVENTS = 1000


@dataclass(frozen=True, slots=True)
class Trigger:
    """Starts a pipeline when events of some types happen; what happens between two looks starts one run.

    Args:
        name: Unique in the project.
        pipeline: The pipeline to run.
        types: Event types, as in the log: `dataset.version`.
        subject: A pattern of the event's subject, as in `dataset:payments*`.
        params: The run's parameters.
    """

    name: str
    pipeline: str
    types: tuple[str, ...]
    subject: str = "*"
    params: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DueTrigger:
    """A trigger with the events that fired it, oldest first, and the log's positions they lie between."""

    trigger: Trigger
    events: tuple[Event, ...]
    after: int
    upto: int


def due_triggers(ws: Workspace, project: str, triggers: tuple[Trigger, ...]) -> list[DueTrigger]:
    """Return the triggers whose events have come since the last look; a new trigger begins with what comes next."""
    due = []
    for trigger in triggers:
        after = _cursor(ws, project, trigger.name)
        with ws.read() as tx:
            page = read_events(tx, project, after=after, limit=MAX_EVENTS, types=trigger.types)
        matching = tuple(event for event in page if fnmatchcase(event.subject, trigger.subject))
        if matching:
            due.append(DueTrigger(trigger, matching, after, page[-1].seq))
        elif len(page) == MAX_EVENTS:
            _move(ws, project, trigger.name, after, page[-1].seq)  # none of a full page concerned it: look further on
    return due


def claim_trigger(ws: Workspace, project: str, due: DueTrigger) -> str:
    """Move the trigger past its events and ask for its run, both or neither; return the run's id, "" if another did."""
    name = due.trigger.name
    with ws.change(project) as change:
        moved = change.execute(
            trigger_cursors.update()
            .where(*_named(project, name), trigger_cursors.c.seq == due.after)
            .values(seq=due.upto, moved_at=ws.clock.now())
        )
        if moved.rowcount != 1:
            return ""
        params = {**due.trigger.params, "events": [event.id for event in due.events[-100:]]}
        about = f"{logical_text(due.events[-1].at)}~{name}.{due.upto}"
        return request_run(change, project, due.trigger.pipeline, logical_time=about, params=params, trigger="event")


def claim_slot(
    ws: Workspace, project: str, schedule: str, firing: Firing, *, pipeline: str, params: dict[str, Any] | None = None
) -> str:
    """Claim a schedule's slot and ask for its run, both or neither; return the run's id, "" if the slot was taken.

    Any number of schedulers may try: the slot is unique in the database. Slots that a gap of the local clock pushes to
    one instant share the run of that logical time.
    """
    slot = {"project": project, "schedule": schedule, "slot": firing.slot_local}
    mine = [schedule_slots.c[name] == value for name, value in slot.items()]
    for _ in range(3):
        try:
            with ws.change(project) as change:
                if change.execute(sa.select(schedule_slots.c.slot).where(*mine)).first() is not None:
                    return ""
                about = logical_text(firing.instant)
                run_id = request_run(change, project, pipeline, logical_time=about, params=params, trigger="schedule")
                values = {**slot, "instant": firing.instant, "claimed_at": ws.clock.now(), "run_id": run_id}
                kind = "catch-up" if firing.catch_up else "on-time"
                change.execute(schedule_slots.insert().values(**values, kind=kind))
                return run_id
        except Conflict:
            continue  # another scheduler wrote the slot or the run between the look and the write: look again
    return ""


def tick(ws: Workspace, project: str) -> list[str]:
    """Ask for the runs of every slot that is due in the project's schedules; return their ids.

    A schedule's row names its cron, zone and misfire policy; its action holds `pipeline` and `params`.
    """
    active = sa.select(schedules).where(schedules.c.project == project, schedules.c.paused_at.is_(None))
    with ws.read() as tx:
        rows = tx.execute(active.order_by(schedules.c.name)).all()
    started = []
    for row in rows:
        last = last_slot(ws, project, row.name) or row.created_at
        action = row.action
        # Oldest first, so that a scheduler that dies here has left no older slot behind.
        for firing in due_firings(Cron(row.cron, row.zone), last, ws.clock.now(), misfire=row.misfire):
            started.append(
                claim_slot(ws, project, row.name, firing, pipeline=action["pipeline"], params=action.get("params"))
            )
    return [run_id for run_id in started if run_id]


def last_slot(ws: Workspace, project: str, schedule: str) -> datetime | None:
    """Return the instant of the newest slot claimed, None before the first."""
    mine = (schedule_slots.c.project == project, schedule_slots.c.schedule == schedule)
    with ws.read() as tx:
        found: datetime | None = tx.execute(sa.select(sa.func.max(schedule_slots.c.instant)).where(*mine)).scalar()
    return found


def _named(project: str, name: str) -> tuple[sa.ColumnElement[bool], ...]:
    return (trigger_cursors.c.project == project, trigger_cursors.c.name == name)


def _cursor(ws: Workspace, project: str, name: str) -> int:
    with ws.read() as tx:
        seq = tx.execute(sa.select(trigger_cursors.c.seq).where(*_named(project, name))).scalar()
    if seq is not None:
        return int(seq)
    with ws.change(project) as change:
        head = change.execute(sa.select(sa.func.max(events.c.seq)).where(events.c.project == project)).scalar() or 0
        change.execute(trigger_cursors.insert().values(project=project, name=name, seq=head, moved_at=ws.clock.now()))
    return int(head)


def _move(ws: Workspace, project: str, name: str, after: int, upto: int) -> None:
    with ws.change(project) as change:
        change.execute(
            trigger_cursors.update()
            .where(*_named(project, name), trigger_cursors.c.seq == after)
            .values(seq=upto, moved_at=ws.clock.now())
        )
