"""Background work: what is due is asked for in this lean process and carried out in a child."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from mainspring.core.errors import Conflict, MainspringError, NotFound, Unavailable
from mainspring.core.units import duration
from mainspring.governance import audit
from mainspring.monitoring.alerts import deliver_alerts
from mainspring.orchestration import journal, trigger
from mainspring.orchestration.journal import BROKEN, PENDING
from mainspring.orchestration.leases import oom_kills
from mainspring.orchestration.supervise import exit_of
from mainspring.project.plan import current
from mainspring.store import tables
from mainspring.store.workspace import Workspace

if TYPE_CHECKING:
    from mainspring.orchestration.engine import RunResult
    from mainspring.orchestration.pipeline import Pipeline, StepContext
    from mainspring.project.definition import ProjectSpec

SEAL_EVERY = timedelta(minutes=1)
KEEP_KEYS = timedelta(days=7)
SHORTEST_WATCH = timedelta(seconds=10)
MOST_AT_ONCE = 100


class Worker:
    """Turns schedules, triggers and requests into runs, and keeps one child busy with them.

    What is due becomes a row first, so a worker that dies has promised nothing that is not written down; any number
    of workers may share a database. Not for use from several threads.

    Args:
        ws: The workspace.
        spawn: Starts the child that carries out what waits, and returns it.
        say: Told in a sentence what the worker does.
    """

    def __init__(
        self,
        ws: Workspace,
        spawn: Callable[[], subprocess.Popen[bytes]],
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._ws, self._spawn, self._say = ws, spawn, say
        self._child: subprocess.Popen[bytes] | None = None
        self._sealed_at: datetime | None = None
        self._watched_at: dict[str, datetime] = {}
        self._oom_kills = 0

    def tick(self) -> None:
        """Look once at what is due; quick when nothing is.

        Raises:
            Unavailable: a child could not be started.
        """
        work = False
        for project in self.projects():
            parts = current(self._ws, project)
            asked = trigger.tick(self._ws, project)
            for due in trigger.due_triggers(self._ws, project, triggers_of(parts)):
                asked.append(trigger.claim_trigger(self._ws, project, due))
            if asked := [run_id for run_id in asked if run_id]:
                self._say(f"{project}: {len(asked)} runs are due")
            journal.reap(self._ws, project)
            work = self._has_waiting(project) or self._is_time_to_look(project, parts) or work
        work = self._has_unsent() or work
        self._keep_house()
        if self._child is not None and (code := self._child.poll()) is not None:
            if code not in (0, 1):
                ended = exit_of(code, out_of_memory=oom_kills() > self._oom_kills)
                self._say(f"the worker's child {ended.reason}; what it left is carried on")
            self._child = None
        if work and self._child is None:
            self._oom_kills = oom_kills()
            self._child = self._spawn()

    def projects(self) -> list[str]:
        """Return the projects with a declaration that runs."""
        query = sa.select(tables.declarations.c.project).distinct().order_by(tables.declarations.c.project)
        with self._ws.read() as tx:
            return list(tx.execute(query).scalars())

    def stop(self, timeout_s: float = 10.0) -> None:
        """End the child; what it was doing is resumed by the next worker."""
        if self._child is None or self._child.poll() is not None:
            return
        self._child.terminate()
        try:
            self._child.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()

    def _has_waiting(self, project: str) -> bool:
        return bool(journal.list_runs(self._ws, project, statuses={PENDING, *BROKEN}, limit=1))

    def _has_unsent(self) -> bool:
        """Send alerts, and say whether the registry's mirror has something to do."""
        deliver_alerts(self._ws)
        outbox = tables.outbox.c
        due = sa.and_(outbox.target == "mlflow", outbox.status == "pending", outbox.next_at <= self._ws.clock.now())
        with self._ws.read() as tx:
            return tx.execute(sa.select(outbox.id).where(due).limit(1)).first() is not None

    def _is_time_to_look(self, project: str, parts: dict[str, Any]) -> bool:
        """Whether a monitor's window may have ended since the last look."""
        lengths = [duration(part["watch"]["every"]) for part in parts.values() if part.get("watch")]
        now, last = self._ws.clock.now(), self._watched_at.get(project)
        if not lengths or (last is not None and now - last < max(SHORTEST_WATCH, min(lengths))):
            return False
        self._watched_at[project] = now
        return True

    def _keep_house(self) -> None:
        now = self._ws.clock.now()
        if self._sealed_at is None or now - self._sealed_at >= SEAL_EVERY:
            self._sealed_at = now
            audit.seal(self._ws)
            with self._ws.database.write() as connection:
                keys = tables.idempotency
                connection.execute(keys.delete().where(keys.c.created_at < now - KEEP_KEYS))


def triggers_of(parts: dict[str, Any]) -> tuple[trigger.Trigger, ...]:
    """Return what starts the models of an applied declaration by itself."""
    return tuple(
        trigger.Trigger(f"{ref}/{cause}", ref.partition(":")[2], _event_types(cause), _subject(cause))
        for ref, part in parts.items()
        if ref.startswith("model:")
        for cause in part["on"]
    )


def _event_types(cause: str) -> tuple[str, ...]:
    return ("dataset.ingested",) if cause == "new_data" else (cause,)


def _subject(cause: str) -> str:
    return "dataset:*" if cause == "new_data" else "*"


def carry_out(
    ws: Workspace, *, on_event: Callable[[Any], None] | None = None, say: Callable[[str], None] = lambda text: None
) -> list[RunResult]:
    """Run what waits in the declared project, then look at its monitors and heal; this is the child's work.

    Args:
        ws: The workspace.
        on_event: Hears of the progress of runs.
        say: Told in a sentence what is wrong with a live version and what was done about it.

    Raises:
        NotFound: there is no project file.
        Invalid: the project file is wrong.
    """
    from mainspring.orchestration.engine import Engine
    from mainspring.project.loading import load_project

    if ws.settings.project_file is None:
        raise NotFound("there is no project file here, so nothing can be run", hint="mainspring init NAME")
    spec = load_project(ws.settings.project_file)
    known = {pipeline.name: pipeline for pipeline in pipelines_of(ws, spec)}
    journal.reap(ws, spec.name)
    waiting = journal.list_runs(ws, spec.name, statuses={PENDING, *BROKEN}, limit=MOST_AT_ONCE)
    done = []
    for run in reversed([run for run in waiting if run.pipeline in known]):
        # As the one who asked for it: whoever had a version made is its author, and cannot approve it.
        engine = Engine(ws.with_actor(run.actor))
        with suppress(Conflict):  # another worker was faster
            done.append(
                engine.run(
                    spec.name,
                    known[run.pipeline],
                    params=run.params,
                    logical_time=run.logical_time,
                    trigger=run.trigger,
                    on_event=on_event,
                )
            )
    for model in spec.models.values():
        if model.watch is not None:
            _look(ws, spec, model.name, say)
    from mainspring.tracking.runs import Runs

    Runs(ws).mirror_registry()
    return done


def _look(ws: Workspace, spec: ProjectSpec, model: str, say: Callable[[str], None]) -> None:
    from mainspring.loop.heal import heal
    from mainspring.loop.watch import watch_once

    report = watch_once(ws, spec, model)
    for alarm in report.alarms:
        say(f"{model}: {alarm}")
    done = heal(ws, spec, model, report)
    if done.action != "wait":
        say(f"{model}: {done.action}, because {'; '.join(done.reasons)}: {done.outcome}")
    elif report.alarms and done.reasons:
        say(f"{model}: waits, because {done.reasons[0]}")


def pipelines_of(ws: Workspace, spec: ProjectSpec) -> Iterator[Pipeline]:
    """Yield every pipeline that the project's schedules and requests may name."""
    from mainspring.loop.train import training_pipeline
    from mainspring.orchestration.pipeline import Pipeline, Step

    for model in spec.models.values():
        yield training_pipeline(ws, spec, model)
        for number, batch in enumerate(model.batch):
            yield Pipeline(
                f"score-{model.name}-{number}", (Step("score", _scorer(spec, model.name, batch), retries=2),)
            )
    for name in spec.datasets:
        yield Pipeline(f"ingest-{name}", (Step("ingest", _ingester(spec, name), retries=2),))


def _scorer(spec: ProjectSpec, model: str, batch: Any) -> Callable[[StepContext], dict[str, Any]]:
    def score_step(ctx: StepContext) -> dict[str, Any]:
        from mainspring.loop.score import score

        scored = score(ctx.ws, spec, model, to=batch.to, of=batch.of)
        return {"rows": scored.rows, "version": scored.version, "to": scored.to.split("@")[-1]}

    return score_step


def _ingester(spec: ProjectSpec, name: str) -> Callable[[StepContext], dict[str, Any]]:
    def ingest_step(ctx: StepContext) -> dict[str, Any]:
        from mainspring.data.datasets import ingest

        result = ingest(ctx.ws, spec.name, spec.dataset(name), now=ctx.ws.clock.now())
        return {"version": result.version.version, "rows": result.version.rows, "new": result.new}

    return ingest_step


def spawner(directory: Path, log: Path) -> Callable[[], subprocess.Popen[bytes]]:
    """Return a function that starts `mainspring worker --once` for a folder, its output appended to `log`."""

    def spawn() -> subprocess.Popen[bytes]:
        descriptor = os.open(log, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)
        try:
            return subprocess.Popen(command(directory, "worker", "--once"), stdout=descriptor, stderr=descriptor)
        except OSError as error:
            raise Unavailable(f"no child could be started: {error.strerror}", hint="mainspring doctor") from error
        finally:
            os.close(descriptor)

    return spawn


def command(directory: Path, *arguments: str) -> list[str]:
    """Return the command line of this program in `directory`, with this interpreter."""
    return [sys.executable, "-m", "mainspring.cli.main", "-C", str(directory), *arguments]


def tick_safely(worker: Worker, say: Callable[[str], None]) -> None:
    """Tick, and say what stood in the way instead of ending; the next tick tries again."""
    try:
        worker.tick()
    except MainspringError as error:
        say(f"background work waits: {error.message}")
