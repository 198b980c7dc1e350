"""Durable execution of pipelines on DBOS: what a killed run had finished is not done again."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from mainspring.core.errors import Conflict, Invalid, Unavailable
from mainspring.core.ref import canonical_json, check_name
from mainspring.core.windows import Window
from mainspring.orchestration import journal, leases
from mainspring.orchestration.execution import Execution, Keep, Listener
from mainspring.orchestration.journal import (
    BROKEN,
    CANCELLED,
    FAILED,
    LOST,
    PENDING,
    RUNNING,
    SUCCEEDED,
    Failure,
    RunRecord,
    StepRecord,
)
from mainspring.orchestration.leases import Heartbeat, Lease
from mainspring.orchestration.pipeline import Json, Output, Pipeline, Stopped
from mainspring.store.tables import runs
from mainspring.store.workspace import Change, Workspace

MAX_FRUITLESS = 3
SCHEMA = "mainspring_pipelines"


@dataclass(frozen=True, slots=True)
class RunResult:
    """How a run ended; `is_resumed` when it carried on an interrupted one, `is_recorded` when nothing had to run."""

    run_id: str
    status: str
    outputs: dict[str, Output]
    steps: tuple[StepRecord, ...]
    error: Failure | None = None
    is_resumed: bool = False
    is_recorded: bool = False

    @property
    def succeeded(self) -> bool:
        return self.status == SUCCEEDED


@dataclass(frozen=True, slots=True)
class Engine:
    """Runs pipelines of one workspace in this process, any number at a time.

    A run is held under a lease. Each process that takes it up starts a DBOS workflow of its own, called after the run
    and the lease's token, and reads from the earlier ones what was already done. Work is therefore never handed to a
    process that does not know the pipeline, and a process that was only thought dead keeps nothing any more.

    Args:
        ws: The workspace.
        ttl: How long a run stays this process's without a sign of life.
    """

    ws: Workspace
    ttl: timedelta = leases.TTL

    def run(
        self,
        project: str,
        pipeline: Pipeline,
        *,
        params: dict[str, Json] | None = None,
        logical_time: datetime | Window | str | None = None,
        trigger: str = "manual",
        on_event: Listener | None = None,
        resume: bool = True,
        rerun: bool = False,
    ) -> RunResult:
        """Run a pipeline and return how it ended; an error in a step is a FAILED result, not an exception.

        Args:
            project: The project.
            pipeline: What to run.
            params: JSON parameters, as the steps see them.
            logical_time: What the run is about. One identity (project, pipeline, logical time) runs once: a second
                call returns the recorded result. Left out, each call is a run of its own.
            trigger: What asked for it: manual, schedule, event, backfill.
            on_event: Told what happens, in the threads where it happens; what it raises is dropped.
            resume: Without a logical time, carry on an interrupted run of the same pipeline, params and trigger; that
                is then the answer. One with other params is cancelled as superseded.
            rerun: Run a failed or cancelled identity again, from its last finished step.

        Raises:
            Conflict: another living process is at this very run.
            Invalid: the project's name or the params are not valid.
            Unavailable: a database does not answer.
        """
        check_name(project, "project")
        params = _checked_params(params or {})
        journal.reap(self.ws, project)
        text = journal.logical_text(logical_time) if logical_time is not None else ""
        run_id = self._find(project, pipeline, text) if text else ""
        if not text and resume:
            run_id = self._interrupted(project, pipeline, params, trigger)
        if run_id and (recorded := self._recorded(run_id, rerun)):
            return recorded
        with _started(self.ws.settings.pipelines):
            with self.ws.change(project) as change:
                run_id = run_id or journal.request_run(
                    change, project, pipeline.name, logical_time=text, params=params, trigger=trigger
                )
                run, lease = self._take(change, run_id, rerun)
            return self._execute(run, lease, pipeline, on_event, rerun)

    def recover(
        self, project: str, pipelines: Iterable[Pipeline], *, on_event: Listener | None = None, limit: int = 100
    ) -> list[RunResult]:
        """Run what was asked for and never started, carry on what was interrupted; oldest first, at most `limit`."""
        known = {pipeline.name: pipeline for pipeline in pipelines}
        journal.reap(self.ws, project)
        open_ = (runs.c.project == project, runs.c.pipeline.in_(known), runs.c.status.in_({PENDING, *BROKEN}))
        with self.ws.read() as tx:
            query = sa.select(runs.c.id, runs.c.pipeline).where(*open_).order_by(runs.c.created_at, runs.c.id)
            waiting = tx.execute(query.limit(limit)).all()
        results = []
        for run_id, name in waiting:
            with _started(self.ws.settings.pipelines):
                try:
                    with self.ws.change(project) as change:
                        taken, lease = self._take(change, run_id)
                except Conflict:
                    continue  # another worker was faster
                results.append(self._execute(taken, lease, known[name], on_event))
        return results

    def backfill(
        self,
        project: str,
        pipeline: Pipeline,
        windows: Iterable[Window],
        *,
        params: dict[str, Json] | None = None,
        on_event: Listener | None = None,
        rerun: bool = False,
    ) -> list[RunResult]:
        """Run the pipeline once for each logical window, in order; windows that were run are not run again."""
        return [
            self.run(
                project, pipeline, params=params, logical_time=w, trigger="backfill", on_event=on_event, rerun=rerun
            )
            for w in windows
        ]

    def cancel(self, run_id: str, *, reason: str = "") -> bool:
        """Ask a run of any process to stop; see `journal.cancel_run`."""
        return journal.cancel_run(self.ws, run_id, reason=reason)

    def _find(self, project: str, pipeline: Pipeline, text: str) -> str:
        where = (runs.c.project == project, runs.c.pipeline == pipeline.name, runs.c.logical_time == text)
        with self.ws.read() as tx:
            return tx.execute(sa.select(runs.c.id).where(*where)).scalar() or ""

    def _interrupted(self, project: str, pipeline: Pipeline, params: dict[str, Json], trigger: str) -> str:
        """Return the newest interrupted run that this call carries on, after closing the ones it replaces."""
        broken = journal.list_runs(self.ws, project, pipeline=pipeline.name, statuses=BROKEN)
        mine = [run for run in broken if run.trigger == trigger and "~" in run.logical_time]
        chosen = next((run.id for run in mine if run.params == params), "")
        for run in mine:
            if run.id != chosen:
                journal.cancel_run(self.ws, run.id, reason="superseded by a newer run")
        return chosen

    def _recorded(self, run_id: str, rerun: bool) -> RunResult | None:
        run = journal.get_run(self.ws, run_id)
        if run.status == SUCCEEDED or (run.is_final and not rerun):
            return RunResult(run.id, run.status, run.outputs, run.steps, run.failure, is_recorded=True)
        return None

    def _take(self, change: Change, run_id: str, rerun: bool = False) -> tuple[RunRecord, Lease]:
        """Make the run this process's, and return it as it was found.

        Raises:
            Conflict: another process has it, or it has ended.
        """
        lease = leases.take(change, journal.lease_name(run_id), f"{socket.gethostname()}:{os.getpid()}", self.ttl)
        run = journal.as_record(change.execute(sa.select(runs).where(runs.c.id == run_id)).one())
        if run.status == SUCCEEDED or (run.is_final and not rerun):
            raise Conflict(f"run {run_id} has ended meanwhile: {run.status}", hint=f"mainspring runs show {run_id}")
        values: dict[str, Any] = {"status": RUNNING, "ended_at": None, "error": None, "worker": lease.holder}
        if run.started_at is None:
            values["started_at"] = change.clock.now()
        change.execute(runs.update().where(runs.c.id == run_id).values(**values))
        data = {"pipeline": run.pipeline, "attempt": lease.token, "from": run.status}
        change.event("run.started" if lease.token == 1 else "run.resumed", f"run:{run_id}", data)
        return run, lease

    def _execute(
        self, run: RunRecord, lease: Lease, pipeline: Pipeline, listener: Listener | None, rerun: bool = False
    ) -> RunResult:
        earlier, fruitless = _earlier_records(run.id, lease.token)
        earlier = {name: record for name, record in earlier.items() if name in pipeline.ancestors}
        execution = Execution(self.ws, run, pipeline, lease, earlier, listener)
        status, interrupt = SUCCEEDED, list[KeyboardInterrupt]()
        execution.tell("run_resumed" if lease.token > 1 else "run_started", message=pipeline.name)
        with Heartbeat(self.ws, lease, execution.beat, execution.stop) as heartbeat:
            execution.on_write(heartbeat.wake)
            if fruitless >= MAX_FRUITLESS and not rerun:
                execution.failure = _poison(run, fruitless)
            else:
                try:
                    _walk_durably(f"{run.id}.{lease.token}", execution)
                except Stopped:
                    status = CANCELLED
                except KeyboardInterrupt as error:
                    status, interrupt = CANCELLED, [error]
        status = FAILED if execution.failure else status
        result = self._settle(execution, status, is_resumed=lease.token > 1)
        execution.tell("run_finished", message=result.status)
        for raised in interrupt:
            raise raised
        return result

    def _settle(self, execution: Execution, status: str, *, is_resumed: bool) -> RunResult:
        run, failure = execution.run, execution.failure
        if status == CANCELLED:
            failure = Failure("", "cancelled", "Cancelled", "interrupted")
        try:
            with self.ws.change(run.project) as change:
                execution.write(change)
                journal.settle(change, run, status, outputs=execution.outputs, failure=failure)
                leases.release(change, execution.lease)
        except Conflict:
            # Fenced off: whoever has the run now says how it ended.
            return RunResult(run.id, LOST, execution.outputs, (), failure, is_resumed)
        ended = journal.get_run(self.ws, run.id)
        return RunResult(run.id, ended.status, ended.outputs, ended.steps, ended.failure, is_resumed)


def _checked_params(params: dict[str, Json]) -> dict[str, Json]:
    try:
        read_back: dict[str, Json] = json.loads(canonical_json(params))
    except (TypeError, ValueError) as error:
        raise Invalid(
            f"the params are not JSON: {error}", hint="pass names, numbers, texts, lists and dicts"
        ) from error
    return read_back


def _poison(run: RunRecord, fruitless: int) -> Failure:
    return Failure(
        "", "failed", "Interrupted",
        f"the process ended {fruitless} times in a row without finishing a step",
        hint=f"look for want of memory or a crash in native code: mainspring runs show {run.id}",
    )  # fmt: skip


# DBOS: one instance per process, on the database it was last started for.
_lock = threading.RLock()
_instance: tuple[str, int] | None = None
_opened: sa.Engine | None = None
_active = 0
_executions: dict[str, Execution] = {}


@contextmanager
def _started(url: str) -> Iterator[None]:
    """Hold the process's DBOS instance on the database at `url`."""
    global _active
    with _lock:
        _start(url)
        _active += 1
    try:
        yield
    finally:
        with _lock:
            _active -= 1


def _start(url: str) -> None:
    global _instance, _opened
    if _instance == (url, os.getpid()):
        return
    if _instance is not None and (_active or _instance[1] != os.getpid()):
        raise Conflict("this process already runs pipelines of another workspace", hint="start another process for it")
    from dbos import DBOS

    if _instance is not None:
        DBOS.destroy()
        _instance = None
    if _opened is not None:
        _opened.dispose()
    try:
        _opened = _sqlite(url) if url.startswith("sqlite") else None
        _launch(url, _opened)
    except (sa.exc.SQLAlchemyError, OSError) as error:
        DBOS.destroy()
        cause = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        raise Unavailable(f"the pipelines' database does not answer: {cause}", hint="mainspring doctor") from error
    _instance = (url, os.getpid())


def _launch(url: str, engine: sa.Engine | None) -> None:
    from dbos import DBOS, DBOSConfig

    config: DBOSConfig = {
        "name": "mainspring",
        "system_database_url": url,
        "system_database_engine": engine,
        "dbos_system_schema": SCHEMA,
        "serializer": _records(),
        # Recovery goes by leases: a name of its own per process keeps DBOS from taking up what another one left.
        "executor_id": str(leases.this_process()),
        "application_version": "1",
        "log_level": "CRITICAL",
        "use_listen_notify": False,
        # Nobody waits for notifications; the interval only bounds how long stopping takes.
        "notification_listener_polling_interval_sec": 0.05,
    }
    DBOS(config=config)
    DBOS.launch()


def _sqlite(url: str) -> sa.Engine:
    """Open DBOS's own SQLite file: a rollback journal with full sync, its file kept between commits.

    Truncating or deleting the journal costs a second directory sync per commit; overwriting its header does not.
    """
    path = Path(sa.make_url(url).database or "")
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.touch(mode=0o600)
    engine = sa.create_engine(url)

    @sa.event.listens_for(engine, "connect")
    def configure(connection: Any, _: Any) -> None:
        connection.isolation_level = "IMMEDIATE"
        for pragma in ("busy_timeout=30000", "foreign_keys=ON", "journal_mode=PERSIST", "synchronous=FULL"):
            connection.execute(f"PRAGMA {pragma}")

    return engine


@lru_cache(maxsize=1)
def _records() -> Any:
    from dbos import Serializer

    class JsonRecords(Serializer):
        """Records as JSON: what is read back from the database is data, never code."""

        def serialize(self, data: Any) -> str:
            return json.dumps(data, default=str)

        def deserialize(self, serialized_data: str) -> Any:
            return json.loads(serialized_data)

        def name(self) -> str:
            return "mainspring_json"

    return JsonRecords()


@lru_cache(maxsize=1)
def _workflow() -> Callable[[str], None]:
    from dbos import DBOS

    def reserve(step: str) -> Keep:
        return partial(DBOS.reserve_step().run, {"name": step})

    @DBOS.workflow(name="mainspring.run")
    def walk(attempt: str) -> None:
        _executions[attempt].walk(reserve)

    return walk


def _walk_durably(attempt: str, execution: Execution) -> None:
    """Walk the pipeline as a DBOS workflow, which records each step as it ends.

    Raises:
        Stopped: the run was cancelled or taken over.
    """
    from dbos import DBOS, SetWorkflowID, error

    _executions[attempt] = execution
    try:
        with SetWorkflowID(attempt):
            _workflow()(attempt)
    except error.DBOSAwaitedWorkflowCancelledError as fenced_off:
        raise Stopped("taken over") from fenced_off
    except (Stopped, KeyboardInterrupt):
        DBOS.cancel_workflow(attempt)
        raise
    except sa.exc.DBAPIError as away:
        raise Unavailable(f"the pipelines' database does not answer: {away.orig}", hint="mainspring doctor") from away
    finally:
        del _executions[attempt]


def _earlier_records(run_id: str, token: int) -> tuple[dict[str, dict[str, Json]], int]:
    """Return what earlier attempts finished, by step, and how many of the latest finished nothing.

    The attempt before this one is fenced off first: should its process be alive after all, nothing it does from here
    on is recorded.
    """
    from dbos import DBOS

    found: dict[str, dict[str, Json]] = {}
    fruitless, counting = 0, True
    for earlier in range(token - 1, 0, -1):
        attempt = f"{run_id}.{earlier}"
        if earlier == token - 1:
            DBOS.cancel_workflow(attempt)
        records = [(step["function_name"], step["output"]) for step in DBOS.list_workflow_steps(attempt)]
        counting = counting and not records
        fruitless += counting
        for name, record in records:
            if record and "output" in record:
                found.setdefault(name, record)
    return found, fruitless
