"""The rows of runs and steps: what was asked for, how far it came, how it ended."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from mainspring.core import errors
from mainspring.core.clock import new_id, parse_instant
from mainspring.core.errors import MainspringError, MissingExtra, NotFound, Where
from mainspring.core.ref import canonical_json
from mainspring.core.windows import Window
from mainspring.orchestration.leases import Process, is_free, oom_kills
from mainspring.store.tables import leases, runs, steps
from mainspring.store.workspace import Change, Workspace

PENDING, RUNNING, SUCCEEDED, FAILED, CANCELLED = "PENDING", "RUNNING", "SUCCEEDED", "FAILED", "CANCELLED"
LOST, KILLED, OOM = "LOST", "KILLED", "OOM"
FINAL = frozenset({SUCCEEDED, FAILED, CANCELLED})
BROKEN = frozenset({LOST, KILLED, OOM})
_KINDS: tuple[type[MainspringError], ...] = (*MainspringError.__subclasses__(), MissingExtra)
_CODES = {kind.code: kind for kind in _KINDS}


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a run failed.

    Args:
        step: The step that failed; empty when the run itself did.
        code: The code of the error, `failed` for an exception of the user's own.
        kind: The exception's class name.
        message: Its text.
        hint: What to do, where that is known.
        file, line: The place in the user's code, where that is known.
        traceback: The user's frames as text.
    """

    step: str
    code: str
    kind: str
    message: str
    hint: str = ""
    file: str = ""
    line: int = 0
    traceback: str = ""

    def __str__(self) -> str:
        said = self.message if self.code in _CODES else f"{self.kind}: {self.message}"
        return f"step {self.step!r} failed: {said}" if self.step else said

    def as_error(self) -> MainspringError:
        """Return the failure as an error to raise: of its own class, `Invalid` for an exception of the user's."""
        where = Where(self.file, self.line) if self.file else None
        kind = _CODES.get(self.code)
        if kind is None:
            return errors.Invalid(str(self), hint=self.hint or f"see the traceback of step {self.step!r}", where=where)
        return kind(self.message, hint=self.hint, where=where)


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One step of a run; `cache_reason` says why its recorded output could be used again, or what had changed."""

    name: str
    status: str
    attempts: int = 0
    cache_key: str | None = None
    cache_reason: str | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    error: str | None = None
    output: dict[str, Any] | None = None

    @property
    def is_cached(self) -> bool:
        return self.status == SUCCEEDED and self.attempts == 0


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One run; `outputs` and `failure` are there once it has ended, `steps` when it was read by id."""

    id: str
    project: str
    pipeline: str
    logical_time: str
    trigger: str
    params: dict[str, Any]
    status: str
    actor: str
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    worker: str | None
    outputs: dict[str, dict[str, Any]]
    failure: Failure | None
    steps: tuple[StepRecord, ...] = ()

    @property
    def is_final(self) -> bool:
        return self.status in FINAL


def request_run(
    change: Change,
    project: str,
    pipeline: str,
    *,
    logical_time: str = "",
    params: dict[str, Any] | None = None,
    trigger: str = "manual",
) -> str:
    """Ask for a run inside the caller's transaction and return its id; asking again for the same identity adds nothing.

    Args:
        change: The transaction; once it commits, a worker runs the pipeline at least once.
        project: The project.
        pipeline: The pipeline's name.
        logical_time: The instant the run is about, see `logical_text`; left out, the run has an identity of its own.
        params: JSON parameters.
        trigger: What asked for it.
    """
    if logical_time:
        where = (runs.c.project == project, runs.c.pipeline == pipeline, runs.c.logical_time == logical_time)
        if found := change.execute(sa.select(runs.c.id).where(*where)).scalar():
            return str(found)
    run_id = new_id(change.clock)
    now = change.clock.now()
    change.execute(runs.insert().values(
        id=run_id, project=project, pipeline=pipeline, logical_time=logical_time or f"{logical_text(now)}~{run_id}",
        trigger=trigger, params=params or {}, status=PENDING, actor=change.actor, created_at=now,
    ))  # fmt: skip
    change.event("run.requested", f"run:{run_id}", {"pipeline": pipeline, "trigger": trigger})
    return run_id


def logical_text(when: datetime | Window | str) -> str:
    """Return how a logical time is written in the identity of a run; a window counts as its start."""
    if isinstance(when, str):
        return when
    instant = when.start if isinstance(when, Window) else when
    return instant.astimezone(UTC).isoformat()


def logical_instant(text: str) -> datetime:
    """Return the instant of a logical time; what follows `~` only tells apart runs about the same instant."""
    return parse_instant(text.partition("~")[0])


def get_run(ws: Workspace, run_id: str) -> RunRecord:
    """Return a run with its steps, in the order they started.

    Raises:
        NotFound: no such run.
    """
    with ws.read() as tx:
        row = tx.execute(sa.select(runs).where(runs.c.id == run_id)).first()
        if row is None:
            raise NotFound(f"no run {run_id!r}", hint="mainspring runs list")
        found = tx.execute(sa.select(steps).where(steps.c.run_id == run_id).order_by(steps.c.started_at, steps.c.name))
        rows = [{key: value for key, value in step.items() if key != "run_id"} for step in found.mappings()]
    return replace(as_record(row), steps=tuple(StepRecord(**step) for step in rows))


def list_runs(
    ws: Workspace, project: str, *, pipeline: str = "", statuses: Iterable[str] = (), limit: int = 100
) -> list[RunRecord]:
    """Return the project's runs, newest first, without their steps."""
    query = sa.select(runs).where(runs.c.project == project)
    if pipeline:
        query = query.where(runs.c.pipeline == pipeline)
    if statuses := list(statuses):
        query = query.where(runs.c.status.in_(statuses))
    with ws.read() as tx:
        return [
            as_record(row)
            for row in tx.execute(query.order_by(runs.c.created_at.desc(), runs.c.id.desc()).limit(limit))
        ]


def as_record(row: sa.Row[Any]) -> RunRecord:
    """Return a row of `runs` as a record."""
    values = dict(row._mapping)
    error = values.pop("error")
    outputs = values.pop("outputs") or {}
    return RunRecord(**values, outputs=outputs, failure=Failure(**json.loads(error)) if error else None)


def lease_name(run_id: str) -> str:
    """Return the name of the lease a run is executed under."""
    return f"run:{run_id}"


def settle(
    change: Change, record: RunRecord, status: str, *, outputs: dict[str, Any] | None = None,
    failure: Failure | None = None,
) -> bool:  # fmt: skip
    """Write how a run ended inside the caller's transaction; return whether it was still open."""
    closed = change.execute(
        runs.update()
        .where(runs.c.id == record.id, runs.c.status.not_in(FINAL))
        .values(
            status=status,
            ended_at=change.clock.now(),
            outputs=outputs,
            error=canonical_json(asdict(failure)).decode() if failure else None,
        )
    )
    # A step that was at it ended with its run, also where someone else closed that before: none stays RUNNING.
    at_it = (steps.c.run_id == record.id, steps.c.status == RUNNING)
    ended_as = sa.select(runs.c.status).where(runs.c.id == record.id).scalar_subquery()
    change.execute(steps.update().where(*at_it).values(status=ended_as, ended_at=change.clock.now()))
    if closed.rowcount:
        data = {"pipeline": record.pipeline, "trigger": record.trigger, "logical_time": record.logical_time}
        if failure:
            data |= {"step": failure.step, "code": failure.code, "error": failure.message[:500]}
        change.event(f"run.{status.lower()}", f"run:{record.id}", data)
    return bool(closed.rowcount)


def write_steps(change: Change, run_id: str, changed: dict[str, dict[str, Any]]) -> None:
    """Write the changed columns of steps, by step name, inside the caller's transaction."""
    for name, values in changed.items():
        where = (steps.c.run_id == run_id, steps.c.name == name)
        if not change.execute(steps.update().where(*where).values(**values)).rowcount:
            change.execute(steps.insert().values(run_id=run_id, name=name, **{"status": PENDING, **values}))


def reap(ws: Workspace, project: str = "") -> list[RunRecord]:
    """Mark the runs whose process is gone, and return them as they now are: LOST, KILLED or OOM.

    KILLED: the process ended on this machine without a word. OOM: and the kernel's count of processes killed for want
    of memory has grown since the run began. LOST: it fell silent elsewhere, or stopped beating.
    """
    query = sa.select(runs).where(runs.c.status == RUNNING)
    with ws.read() as tx:
        running = [as_record(row) for row in tx.execute(query.where(runs.c.project == project) if project else query)]
    reaped = []
    for record in running:
        with ws.change(record.project) as change:
            still = sa.select(runs.c.id).where(runs.c.id == record.id, runs.c.status == RUNNING).with_for_update()
            if change.execute(still).first() is None:
                continue  # it ended, or another reaper saw it first
            lease = change.execute(sa.select(leases).where(leases.c.name == lease_name(record.id))).first()
            if lease is not None and not is_free(lease, ws.clock):
                continue
            process = Process.parse(lease.worker) if lease is not None else None
            status = LOST
            if process is not None and process.is_gone():
                status = OOM if oom_kills() > process.oom_kills else KILLED
            if settle(change, record, status):
                reaped.append(replace(record, status=status))
    return reaped


def cancel_run(ws: Workspace, run_id: str, *, reason: str = "") -> bool:
    """Ask a run to stop; return whether it had not ended yet.

    A running step stops at its next `context.progress()`, other steps do not start.
    """
    record = get_run(ws, run_id)
    failure = Failure("", "cancelled", "Cancelled", reason or f"cancelled by {ws.actor}")
    with ws.change(record.project) as change:
        return settle(change, record, CANCELLED, failure=failure)
