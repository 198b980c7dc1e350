"""Programs that the crash tests run in processes of their own, to kill them."""

from __future__ import annotations

import os
import signal
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from mainspring.core.ref import digest_json
from mainspring.core.settings import Settings
from mainspring.orchestration.engine import Engine, RunResult
from mainspring.orchestration.pipeline import Output, Pipeline, Step, StepContext
from mainspring.orchestration.trigger import tick
from mainspring.store.tables import events, schedule_slots
from mainspring.store.workspace import Workspace, open_workspace

STEPS = ("ingest", "validate", "train", "evaluate", "register", "gate", "deploy", "notify")


def life(effects: Path, pause_s: float = 0.0) -> Pipeline:
    """Return a pipeline of eight steps, each with one idempotent effect in the log and a line per time it ran."""

    def step(name: str, *after: str) -> Step:
        def work(context: StepContext) -> Output:
            with (effects / f"{context.run_id}.{name}").open("a") as file:
                file.write("ran\n")
            time.sleep(pause_s)
            subject = f"{name}:{context.logical_time:%Y%m%dT%H%M}"
            with context.ws.change(context.project) as change:
                context.guard(change)
                mine = sa.select(events.c.seq).where(events.c.type == "effect", events.c.subject == subject)
                if change.execute(mine).first() is None:
                    change.event("effect", subject)
            context.kill_point()
            return {"digest": digest_json([name, context.inputs])}

        return Step(name, work, after=after)

    chain = [step(name, *([STEPS[i - 1]] if i else [])) for i, name in enumerate(STEPS)]
    return Pipeline("life", tuple(chain))


def run_life(settings: Settings, effects: Path, minute: int | None, kill_at: str) -> None:
    """Run the pipeline, one identity of it or by hand, to be killed at a step's phase or after so many seconds."""
    if ":" in kill_at:
        os.environ["MAINSPRING_KILL_AT"] = kill_at
    elif kill_at:
        signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        signal.setitimer(signal.ITIMER_REAL, float(kill_at))
    ws = open_workspace(settings, actor="alice")
    pause_s = 0.02 if kill_at and ":" not in kill_at else 0.0
    Engine(ws).run("shop", life(effects, pause_s), logical_time=None if minute is None else about(minute))


def about(minute: int) -> str:
    return f"2026-01-01T{minute // 60:02d}:{minute % 60:02d}:00+00:00"


def recover_life(settings: Settings, effects: Path, out: Any) -> None:
    ws = open_workspace(settings, actor="bob")
    results: list[RunResult] = Engine(ws).recover("shop", [life(effects)])
    out.put([(result.run_id, result.status, result.outputs) for result in results])


def poison(settings: Settings) -> None:
    """Run what crashes its process each time."""
    ws = open_workspace(settings, actor="alice")
    pipeline = Pipeline("poison", (Step("crash", lambda context: os.kill(os.getpid(), signal.SIGKILL)),))
    Engine(ws).run("shop", pipeline)


def sleeper(settings: Settings, out: Any, ttl_s: float) -> None:
    """Run a step that is stopped in its middle for longer than its lease."""
    ws = open_workspace(settings, actor="alice")
    result = Engine(ws, ttl=timedelta(seconds=ttl_s)).run("shop", sleepy(out))
    out.put(("sleeper", result.status))


def sleepy(out: Any) -> Pipeline:
    def work(context: StepContext) -> Output:
        if context.fence == 1:
            out.put(("in step", os.getpid()))
            time.sleep(0.5)  # stopped here by the test
        with context.ws.change("shop") as change:
            context.guard(change)
            change.event("effect", f"by:{context.fence}")
        return {"fence": context.fence}

    return Pipeline("sleepy", (Step("write", work),))


def scheduler(settings: Settings, clock_file: Path, total: int) -> None:
    """Tick until every slot is claimed, under the clock in the file."""
    os.environ["MAINSPRING_CLOCK"] = str(clock_file)
    ws: Workspace = open_workspace(settings, actor="scheduler")
    while True:
        tick(ws, "shop")
        with ws.read() as tx:
            if tx.execute(sa.select(sa.func.count()).select_from(schedule_slots)).scalar() == total:
                return
        time.sleep(0.002)
