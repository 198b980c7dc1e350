"""One attempt at one run: the graph walked, steps side by side where it allows, events told, progress written down."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from mainspring.orchestration import journal, leases
from mainspring.orchestration.attempt import carry_out
from mainspring.orchestration.journal import CANCELLED, FAILED, RUNNING, SUCCEEDED, Failure, RunRecord
from mainspring.orchestration.leases import Lease
from mainspring.orchestration.pipeline import Json, Output, Pipeline, Step, StepContext, Stopped, kill_point
from mainspring.store.tables import runs
from mainspring.store.workspace import Change, Workspace

MAX_PARALLEL = max(2, min(8, os.cpu_count() or 2))


@dataclass(frozen=True, slots=True)
class RunEvent:
    """Something that happened in a run, for whoever watches.

    `kind` is one of `run_started`, `run_resumed`, `step_started`, `step_progress`, `step_retry`, `step_cached`,
    `step_recovered`, `step_finished`, `step_failed`, `run_finished`; `fraction` is 0 to 1 where it is known.
    """

    kind: str
    run_id: str
    at: datetime
    step: str = ""
    message: str = ""
    fraction: float | None = None


Listener = Callable[[RunEvent], None]
Keep = Callable[[Callable[[], dict[str, Json]]], dict[str, Json]]
"""Carries out a step's work and keeps its record durably; may be called from another thread."""


class Execution:
    """Walks a pipeline for one run.

    Args:
        ws: The workspace.
        run: The run.
        pipeline: Its steps.
        lease: The lease this attempt holds; the lease's token is the fence.
        earlier: The records of steps that earlier attempts finished, by name.
        listener: Told what happens.
    """

    def __init__(
        self,
        ws: Workspace,
        run: RunRecord,
        pipeline: Pipeline,
        lease: Lease,
        earlier: dict[str, dict[str, Json]],
        listener: Listener | None,
    ) -> None:
        self.run, self.lease = run, lease
        self.failure: Failure | None = None
        self.outputs: dict[str, Output] = {}
        self._ws, self._pipeline, self._earlier, self._listener = ws, pipeline, earlier, listener
        self._logical_time = journal.logical_instant(run.logical_time)
        self._stop = ""
        self._lock = threading.Lock()
        self._unwritten: dict[str, dict[str, Any]] = {}
        self._wake: Callable[[], None] = lambda: None
        # A step's code runs as if called from here, outside the engine's own context: it may run pipelines itself.
        self._outside = copy_context()

    def walk(self, reserve: Callable[[str], Keep]) -> None:
        """Run what is not done yet; returns when all is, or a step failed, or the run must stop.

        Args:
            reserve: Gives, for a step's name, the function that keeps its record; called in this thread only.

        Raises:
            Stopped: the run was cancelled or taken over.
        """
        for name, record in self._earlier.items():
            self._done(name, record, "step_recovered")
        started, running = set(self.outputs), dict[Future[dict[str, Json]], str]()
        with ThreadPoolExecutor(MAX_PARALLEL, thread_name_prefix="step") as pool:
            try:
                while True:
                    may_start = not self.failure and not self._stop
                    ready = self._pipeline.ready(self.outputs, started) if may_start else []
                    started.update(step.name for step in ready)
                    if len(ready) == 1 and not running:
                        # Alone, a step stays on the caller's thread: its debugger, its signals, its context variables.
                        self._done(ready[0].name, self._one(ready[0], reserve(ready[0].name)), "step_finished")
                        continue
                    for step in ready:
                        running[pool.submit(copy_context().run, self._one, step, reserve(step.name))] = step.name
                    if not running:
                        break
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        self._done(running.pop(future), future.result(), "step_finished")
            except BaseException as error:
                self.stop(str(error) or type(error).__name__)  # the steps still running see it at their next progress
                raise
        if self._stop:
            raise Stopped(self._stop)

    def stop(self, reason: str) -> None:
        """Make the run stop at the next chance."""
        self._stop = self._stop or reason

    def beat(self) -> None:
        """Write down what happened since the last beat, and look whether someone cancelled the run."""
        with self._ws.read() as tx:
            if tx.execute(sa.select(runs.c.status).where(runs.c.id == self.run.id)).scalar() == CANCELLED:
                self.stop("cancelled")
        if not self._unwritten:
            return
        with self._lock:
            taken, self._unwritten = self._unwritten, {}
        try:
            with self._ws.change(self.run.project) as change:
                self._write(change, taken)
        except BaseException:
            with self._lock:
                for name, values in self._unwritten.items():  # what has come since is newer
                    taken.setdefault(name, {}).update(values)
                self._unwritten = taken
            raise

    def write(self, change: Change) -> None:
        """Write what is left inside a transaction, unless another process has taken the run over."""
        self._write(change, self._unwritten)

    def _write(self, change: Change, rows: dict[str, dict[str, Any]]) -> None:
        leases.check(change, self.lease)
        journal.write_steps(change, self.run.id, rows)

    def on_write(self, wake: Callable[[], None]) -> None:
        """Call `wake` whenever there is something to write."""
        self._wake = wake

    def tell(self, kind: str, step: str = "", message: str = "", fraction: float | None = None) -> None:
        """Tell the listener; a display that fails is no reason for a run to fail."""
        if self._listener is not None:
            with suppress(Exception):
                self._listener(RunEvent(kind, self.run.id, self._ws.clock.now(), step, message, fraction))

    def _one(self, step: Step, keep: Keep) -> dict[str, Json]:
        self._note(step.name, status=RUNNING, started_at=self._ws.clock.now(), ended_at=None, error=None)
        self.tell("step_started", step.name)
        context = StepContext(
            ws=self._ws,
            project=self.run.project,
            run_id=self.run.id,
            logical_time=self._logical_time,
            params=self.run.params,
            inputs={name: self.outputs[name] for name in self._pipeline.ancestors[step.name]},
            attempt=1,
            fence=self.lease.token,
            step=step.name,
            report=lambda fraction, text: self.tell("step_progress", step.name, text, fraction),
            stop=lambda: self._stop,
            guard_change=lambda change: leases.check(change, self.lease),
        )

        def retrying(attempt: int, failure: Failure) -> None:
            self._note(step.name, attempts=attempt, error=str(failure))
            self.tell("step_retry", step.name, failure.message)

        record = keep(lambda: self._outside.copy().run(carry_out, step, context, self._pipeline.name, retrying))
        kill_point(step.name, "after")
        return record

    def _done(self, name: str, record: dict[str, Json], kind: str) -> None:
        """Take in a step's record."""
        failure = Failure(**record["failure"]) if "failure" in record else None
        values = {
            "status": FAILED if failure else SUCCEEDED,
            "attempts": record["attempts"],
            "cache_key": record.get("cache_key"),
            "cache_reason": record.get("cache_reason"),
            "error": failure.traceback or failure.message if failure else None,
            "output": record.get("output"),
        }
        if kind == "step_finished":
            values["ended_at"] = self._ws.clock.now()
        self._note(name, **values)
        if failure:
            self.failure = self.failure or failure
            self.tell("step_failed", name, str(failure))
            return
        self.outputs[name] = record["output"]
        is_cached = kind == "step_finished" and record["attempts"] == 0
        self.tell("step_cached" if is_cached else kind, name, record.get("cache_reason", "") if is_cached else "")

    def _note(self, name: str, **values: Any) -> None:
        with self._lock:
            self._unwritten.setdefault(name, {}).update(values)
        self._wake()
