"""Processes killed outright, or stopped past their lease, at every step and at random: nothing lost, nothing twice."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from mainspring.core.clock import SystemClock
from mainspring.core.settings import Settings
from mainspring.orchestration import journal
from mainspring.orchestration.engine import Engine
from mainspring.orchestration.pipeline import PHASES
from mainspring.store.events import read_events, verify_chain
from mainspring.store.tables import runs, schedule_slots, schedules
from mainspring.store.workspace import Workspace, open_workspace
from orchestration import crashing

KILL = -signal.SIGKILL


@pytest.fixture(scope="module")
def processes() -> ForkServerContext:
    """Give processes that start from one with the imports done: a fresh interpreter each would take a second."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["orchestration.crashing", "dbos"])
    return context


@pytest.fixture
def ws(local_settings: Settings) -> Iterator[Workspace]:
    ws = open_workspace(local_settings, clock=SystemClock(), actor="carol")
    yield ws
    ws.close()


def run(context: ForkServerContext, target: Any, *args: Any) -> int:
    process = context.Process(target=target, args=args)
    process.start()
    process.join(60)
    assert process.exitcode is not None
    return process.exitcode


def recovered(context: ForkServerContext, ws: Workspace, effects: Path) -> list[tuple[str, str, dict[str, Any]]]:
    out = context.SimpleQueue()
    assert run(context, crashing.recover_life, ws.settings, effects, out) == 0
    results: list[tuple[str, str, dict[str, Any]]] = out.get()
    return results


def effects_of(ws: Workspace) -> Counter[str]:
    with ws.read() as tx:
        return Counter(event.subject for event in read_events(tx, "shop", limit=10_000, types=("effect",)))


def test_a_run_killed_at_any_step_resumes_there_and_ends_as_if_undisturbed(
    ws: Workspace, processes: ForkServerContext, tmp_path: Path
) -> None:
    points = [f"{step}:{phase}" for step in crashing.STEPS for phase in PHASES]
    assert run(processes, crashing.run_life, ws.settings, tmp_path, len(points), "") == 0
    undisturbed = journal.list_runs(ws, "shop")[0].outputs
    for minute, point in enumerate(points):
        assert run(processes, crashing.run_life, ws.settings, tmp_path, minute, point) == KILL, point
    killed = {run.logical_time: run.id for run in journal.list_runs(ws, "shop", statuses={"RUNNING", "KILLED"})}
    assert len(killed) == len(points)

    results = {run_id: (status, outputs) for run_id, status, outputs in recovered(processes, ws, tmp_path)}

    for minute, point in enumerate(points):
        run_id = killed[crashing.about(minute)]
        assert results[run_id] == ("SUCCEEDED", undisturbed), point
        times = {step: (tmp_path / f"{run_id}.{step}").read_text().count("ran") for step in crashing.STEPS}
        step, phase = point.split(":")
        # Only what was done and not yet recorded is done again; the effect itself is there once.
        assert times == {**dict.fromkeys(crashing.STEPS, 1), step: 2 if phase == "during" else 1}, point
    assert set(effects_of(ws).values()) == {1}
    with ws.read() as tx:
        assert verify_chain(tx, "shop") == []
        types = Counter(event.type for event in read_events(tx, "shop", limit=10_000))
    assert (types["run.killed"], types["run.resumed"], types["run.succeeded"]) == (24, 24, 25)


@pytest.mark.parametrize("count", [6, pytest.param(50, marks=pytest.mark.slow)])
def test_runs_killed_at_random_moments_lose_and_double_nothing(
    ws: Workspace, processes: ForkServerContext, tmp_path: Path, count: int
) -> None:
    seed = int(os.environ.get("MAINSPRING_TEST_SEED", "7"))
    chance = random.Random(seed)
    for minute in range(count):
        run(processes, crashing.run_life, ws.settings, tmp_path, minute, f"{chance.uniform(0.05, 0.5):.3f}")
    recovered(processes, ws, tmp_path)
    ended = journal.list_runs(ws, "shop")
    assert {run.status for run in ended} == {"SUCCEEDED"}, f"seed {seed}"
    assert len({str(run.outputs) for run in ended}) == 1
    assert effects_of(ws) == Counter({f"{step}:{run.logical_time[:16].replace('-', '').replace(':', '')}": 1
                                      for step in crashing.STEPS for run in ended})  # fmt: skip


def test_the_next_manual_run_carries_on_the_killed_one(
    ws: Workspace, processes: ForkServerContext, tmp_path: Path
) -> None:
    assert run(processes, crashing.run_life, ws.settings, tmp_path, None, "train:during") == KILL
    result = Engine(ws).run("shop", crashing.life(tmp_path))
    assert (result.status, result.is_resumed, result.is_recorded) == ("SUCCEEDED", True, False)
    assert [run.id for run in journal.list_runs(ws, "shop")] == [result.run_id]
    times = [(tmp_path / f"{result.run_id}.{step}").read_text().count("ran") for step in crashing.STEPS]
    assert times == [1, 1, 2, 1, 1, 1, 1, 1]


def test_a_killed_run_of_other_params_is_superseded(
    ws: Workspace, processes: ForkServerContext, tmp_path: Path
) -> None:
    assert run(processes, crashing.run_life, ws.settings, tmp_path, None, "train:before") == KILL
    result = Engine(ws).run("shop", crashing.life(tmp_path), params={"code": "v2"})
    assert (result.status, result.is_resumed) == ("SUCCEEDED", False)
    killed = journal.list_runs(ws, "shop")[1]
    assert killed.status == "CANCELLED"
    assert killed.failure is not None
    assert killed.failure.message == "superseded by a newer run"


def test_a_run_that_kills_its_process_again_and_again_is_given_up(
    ws: Workspace, processes: ForkServerContext, tmp_path: Path
) -> None:
    for _ in range(3):
        assert run(processes, crashing.poison, ws.settings) == KILL
    assert run(processes, crashing.poison, ws.settings) == 0  # the fourth does not touch it
    assert run(processes, crashing.run_life, ws.settings, tmp_path, 0, "") == 0
    statuses = {run.pipeline: run for run in journal.list_runs(ws, "shop")}
    assert {name: run.status for name, run in statuses.items()} == {"poison": "FAILED", "life": "SUCCEEDED"}
    failure = statuses["poison"].failure
    assert failure is not None
    assert "ended 3 times in a row" in failure.message


def test_a_process_stopped_past_its_lease_is_fenced_off_when_it_wakes(
    ws: Workspace, processes: ForkServerContext
) -> None:
    out = processes.SimpleQueue()
    process = processes.Process(target=crashing.sleeper, args=(ws.settings, out, 0.6))
    process.start()
    told, pid = out.get()
    assert told == "in step"
    os.kill(pid, signal.SIGSTOP)
    deadline = time.monotonic() + 10
    results = []
    while not results and time.monotonic() < deadline:
        results = Engine(ws).recover("shop", [crashing.sleepy(out)])
        time.sleep(0.05)
    os.kill(pid, signal.SIGCONT)
    process.join(20)
    assert out.get() == ("sleeper", "LOST")
    assert [result.status for result in results] == ["SUCCEEDED"]
    assert journal.get_run(ws, results[0].run_id).outputs == {"write": {"fence": 2}}
    assert effects_of(ws) == Counter({"by:2": 1})


@pytest.mark.parametrize("slots", [120, pytest.param(1000, marks=pytest.mark.slow)])
def test_three_schedulers_killed_at_random_make_one_run_per_slot(
    settings: Settings, processes: ForkServerContext, tmp_path: Path, slots: int
) -> None:
    start, clock_file = datetime(2026, 1, 1, tzinfo=UTC), tmp_path / "clock"
    clock_file.write_text(start.isoformat())
    ws = open_workspace(settings, actor="alice")
    with ws.change("shop") as change:
        change.execute(schedules.insert().values(
            project="shop", name="minutely", cron="* * * * *", zone="Europe/Berlin", misfire="all(2000)",
            action={"pipeline": "life", "params": {}}, created_at=start,
        ))  # fmt: skip
    chance, minute, killed = random.Random(1), 0, 0
    workers = [processes.Process(target=crashing.scheduler, args=(settings, clock_file, slots)) for _ in range(3)]
    for worker in workers:
        worker.start()
    deadline = time.monotonic() + 60 + slots / 10
    while any(worker.exitcode != 0 for worker in workers):
        assert time.monotonic() < deadline, "the schedulers did not end"
        minute = min(slots, minute + max(1, slots // 40))
        temporary = clock_file.with_suffix(".new")
        temporary.write_text((start + timedelta(minutes=minute)).isoformat())
        temporary.replace(clock_file)
        time.sleep(0.05)
        chosen = chance.randrange(3)
        if minute < slots and chance.random() < 0.3:
            workers[chosen].kill()
            killed += 1
        for i, worker in enumerate(workers):
            if worker.exitcode not in (None, 0):
                workers[i] = processes.Process(target=crashing.scheduler, args=(settings, clock_file, slots))
                workers[i].start()
    with ws.read() as tx:
        claimed = tx.execute(sa.select(schedule_slots.c.slot, schedule_slots.c.run_id)).all()
        requested = tx.execute(sa.select(sa.func.count()).select_from(runs)).scalar()
    ws.close()
    assert killed > 3
    assert len({row.slot for row in claimed}) == len({row.run_id for row in claimed}) == requested == slots
