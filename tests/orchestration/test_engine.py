"""What a run promises: one identity one run, recorded results, errors as text, stops where it is told to."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from mainspring.core.clock import FixedClock
from mainspring.core.errors import Conflict, Forbidden, Invalid, NotFound, Refused, Unavailable
from mainspring.core.settings import load_settings
from mainspring.core.windows import Day, windows_between
from mainspring.orchestration import journal, leases
from mainspring.orchestration.engine import Engine
from mainspring.orchestration.execution import RunEvent
from mainspring.orchestration.pipeline import Output, Pipeline, Step, StepContext
from mainspring.store.events import read_events
from mainspring.store.tables import leases as lease_rows
from mainspring.store.workspace import Workspace, open_workspace

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


class Calls:
    """Counts how often each step really ran."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def step(self, name: str, *after: str, output: Output | None = None, **options: object) -> Step:
        def work(context: StepContext) -> Output:
            self.names.append(name)
            return output if output is not None else {"of": name, "after": sorted(context.inputs)}

        return Step(name, work, after=after, **options)  # type: ignore[arg-type]


@pytest.fixture
def calls() -> Calls:
    return Calls()


def failing(error: Exception, times: int = 99) -> Step:
    left = [times]

    def work(context: StepContext) -> Output:
        left[0] -= 1
        if left[0] >= 0:
            raise error
        return {"attempt": context.attempt}

    return Step("risky", work, retries=2, backoff_s=0.01)


def test_a_run_hands_each_step_the_outputs_before_it(workspace: Workspace, calls: Calls) -> None:
    pipeline = Pipeline("p", (calls.step("a"), calls.step("b", "a"), calls.step("c", "a"), calls.step("d", "b", "c")))
    result = Engine(workspace).run("shop", pipeline)
    assert result.succeeded
    assert result.outputs["d"] == {"of": "d", "after": ["a", "b", "c"]}
    assert sorted(calls.names) == ["a", "b", "c", "d"]
    record = journal.get_run(workspace, result.run_id)
    assert (record.status, record.failure) == ("SUCCEEDED", None)
    assert {step.name: (step.status, step.attempts) for step in record.steps} == dict.fromkeys("abcd", ("SUCCEEDED", 1))


def test_one_identity_runs_once_and_then_gives_its_recorded_result(workspace: Workspace, calls: Calls) -> None:
    pipeline, engine = Pipeline("p", (calls.step("a"),)), Engine(workspace)
    first = engine.run("shop", pipeline, logical_time=NOON)
    second = engine.run("shop", pipeline, logical_time=NOON)
    assert (first.run_id, first.outputs, first.steps) == (second.run_id, second.outputs, second.steps)
    assert (first.is_recorded, second.is_recorded) == (False, True)
    assert calls.names == ["a"]
    other = engine.run("fish", pipeline, logical_time=NOON)
    assert other.run_id != first.run_id


def test_runs_without_a_logical_time_are_each_their_own(local_workspace: Workspace, calls: Calls) -> None:
    pipeline, engine = Pipeline("p", (calls.step("a"),)), Engine(local_workspace)
    assert engine.run("shop", pipeline).run_id != engine.run("shop", pipeline).run_id
    assert calls.names == ["a", "a"]


def test_a_step_learns_the_logical_time_and_not_the_present(local_workspace: Workspace) -> None:
    seen = []
    pipeline = Pipeline("p", (Step("a", lambda context: seen.append(context.logical_time)),))
    Engine(local_workspace).run("shop", pipeline, logical_time=Day.parse("2025-03-01"))
    Engine(local_workspace).run("shop", pipeline)
    assert seen == [datetime(2025, 3, 1, tzinfo=UTC), local_workspace.clock.now()]


def test_a_users_error_fails_the_run_and_keeps_only_their_frames(workspace: Workspace, calls: Calls) -> None:
    def work(context: StepContext) -> Output:
        return {"rate": 1 / len([])}

    result = Engine(workspace).run("shop", Pipeline("p", (Step("a", work), calls.step("b", "a"))))
    assert (result.status, calls.names) == ("FAILED", [])
    assert result.error is not None
    assert str(result.error) == "step 'a' failed: ZeroDivisionError: division by zero"
    assert result.error.traceback.count("File ") == 1
    assert result.error.file == __file__
    assert isinstance(result.error.as_error(), Invalid)
    assert journal.get_run(workspace, result.run_id).failure == result.error


def test_an_error_of_our_own_keeps_its_class_and_hint(local_workspace: Workspace) -> None:
    result = Engine(local_workspace).run("shop", Pipeline("p", (failing(Refused("gate said no", hint="see report")),)))
    assert result.error is not None
    error = result.error.as_error()
    assert (type(error), error.message, error.hint) == (Refused, "gate said no", "see report")


def test_a_step_that_calls_exit_fails_instead_of_ending_the_process(local_workspace: Workspace) -> None:
    def work(context: StepContext) -> Output:
        raise SystemExit(3)

    assert Engine(local_workspace).run("shop", Pipeline("p", (Step("a", work),))).status == "FAILED"


def test_an_error_that_passes_is_tried_again(local_workspace: Workspace) -> None:
    heard: list[RunEvent] = []
    pipeline = Pipeline("p", (failing(OSError("away"), times=2),))
    result = Engine(local_workspace).run("shop", pipeline, on_event=heard.append)
    assert result.outputs == {"risky": {"attempt": 3}}
    assert result.steps[0].attempts == 3
    assert [event.message for event in heard if event.kind == "step_retry"] == ["away", "away"]


@pytest.mark.parametrize(("error", "attempts"), [(Invalid("wrong"), 1), (Forbidden("no"), 1), (Unavailable("away"), 3)])
def test_an_answer_that_stays_no_is_not_asked_again(
    local_workspace: Workspace, error: Exception, attempts: int
) -> None:
    result = Engine(local_workspace).run("shop", Pipeline("p", (failing(error),)))
    assert (result.status, result.steps[0].attempts) == ("FAILED", attempts)


def test_a_failed_identity_can_be_run_again_from_its_last_finished_step(workspace: Workspace, calls: Calls) -> None:
    engine = Engine(workspace)
    broken = Pipeline("p", (calls.step("a"), Step("risky", failing(OSError("away")).run, after=("a",))))
    first = engine.run("shop", broken, logical_time=NOON)
    assert engine.run("shop", broken, logical_time=NOON).is_recorded
    mended = Pipeline("p", (calls.step("a"), calls.step("risky", "a")))
    again = engine.run("shop", mended, logical_time=NOON, rerun=True)
    assert (again.run_id, again.status, calls.names) == (first.run_id, "SUCCEEDED", ["a", "risky"])
    assert again.error is None


@pytest.mark.parametrize("output", [[1], {"x": {1, 2}}, {"x": float("nan")}, {"x": "y" * 300_000}, {1: object()}])
def test_what_is_not_a_small_json_object_is_refused_as_an_output(local_workspace: Workspace, output: object) -> None:
    result = Engine(local_workspace).run("shop", Pipeline("p", (Step("a", lambda context: output),)))  # type: ignore[arg-type,return-value]
    assert result.error is not None
    assert result.error.code == "invalid"
    assert "references" in result.error.hint


def test_params_that_are_not_json_are_refused(local_workspace: Workspace, calls: Calls) -> None:
    with pytest.raises(Invalid, match="params are not JSON"):
        Engine(local_workspace).run("shop", Pipeline("p", (calls.step("a"),)), params={"x": object()})


def test_independent_steps_run_side_by_side(local_workspace: Workspace) -> None:
    meet = threading.Barrier(2, timeout=5)
    pipeline = Pipeline("p", tuple(Step(name, lambda context: {"at": meet.wait() >= 0}) for name in "ab"))
    assert Engine(local_workspace).run("shop", pipeline).succeeded


def test_a_lone_step_runs_on_the_callers_thread(local_workspace: Workspace) -> None:
    pipeline = Pipeline("p", (Step("a", lambda context: {"thread": threading.get_ident()}),))
    assert Engine(local_workspace).run("shop", pipeline).outputs["a"]["thread"] == threading.get_ident()


def test_a_step_past_its_deadline_fails_the_run_and_stops_at_its_next_progress(local_workspace: Workspace) -> None:
    ended = threading.Event()

    def work(context: StepContext) -> Output:
        try:
            while True:
                time.sleep(0.01)
                context.progress(text="still here")
        finally:
            ended.set()

    result = Engine(local_workspace).run("shop", Pipeline("p", (Step("slow", work, timeout_s=0.1, retries=3),)))
    assert result.error is not None
    assert (result.error.code, result.steps[0].attempts) == ("unavailable", 1)
    assert "longer than 0.1 s" in result.error.message
    assert ended.wait(2)


def test_a_cancelled_run_stops_at_its_next_progress(workspace: Workspace, calls: Calls) -> None:
    engine, reached = Engine(workspace), threading.Event()

    def work(context: StepContext) -> Output:
        reached.set()
        while True:
            time.sleep(0.01)
            context.progress(0.5, "half")

    def cancel() -> None:
        reached.wait(5)
        engine.cancel(journal.list_runs(workspace, "shop")[0].id, reason="lunch")

    canceller = threading.Thread(target=cancel)
    canceller.start()
    result = engine.run("shop", Pipeline("p", (Step("slow", work), calls.step("b", "slow"))))
    canceller.join()
    assert (result.status, calls.names) == ("CANCELLED", [])
    assert result.error is not None
    assert result.error.message == "lunch"
    assert [(step.name, step.status) for step in result.steps] == [("slow", "CANCELLED")]
    assert not engine.cancel(result.run_id)


def test_an_interrupt_of_the_keyboard_cancels_the_run_and_passes_on(local_workspace: Workspace) -> None:
    def work(context: StepContext) -> Output:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Engine(local_workspace).run("shop", Pipeline("p", (Step("a", work),)))
    assert journal.list_runs(local_workspace, "shop")[0].status == "CANCELLED"


def test_a_run_that_someone_alive_is_at_is_not_started_twice(local_workspace: Workspace, calls: Calls) -> None:
    engine = Engine(local_workspace)

    def work(context: StepContext) -> Output:
        with pytest.raises(Conflict, match="is held by"):
            threaded(lambda: engine.run("shop", pipeline, logical_time=NOON))
        return {}

    pipeline = Pipeline("p", (Step("a", work),))
    assert engine.run("shop", pipeline, logical_time=NOON).succeeded


def threaded(work: object) -> None:
    """Call in another thread, as another client of this process would, and pass on what it raised."""
    raised: list[BaseException] = []

    def call() -> None:
        try:
            work()  # type: ignore[operator]
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    for error in raised:
        raise error


def test_a_step_may_run_a_pipeline_itself(local_workspace: Workspace, calls: Calls) -> None:
    engine, inner = Engine(local_workspace), Pipeline("inner", (calls.step("x"), calls.step("y")))
    outer = Pipeline("outer", (Step("a", lambda context: {"inner": engine.run("shop", inner).status}),))
    assert engine.run("shop", outer).outputs == {"a": {"inner": "SUCCEEDED"}}


def test_a_database_that_is_away_is_unavailable_at_once(tmp_path: Path, calls: Calls) -> None:
    for url in ("postgresql+psycopg://root@127.0.0.1:1/none", f"sqlite:///{tmp_path / 'file' / 'x.db'}"):
        (tmp_path / "file").touch()
        settings = load_settings(tmp_path, environment={"MAINSPRING_PIPELINES": url})
        workspace = open_workspace(settings, clock=FixedClock())
        with pytest.raises(Unavailable, match="pipelines' database does not answer"):
            Engine(workspace).run("shop", Pipeline("p", (calls.step("a"),)))
        workspace.close()


def test_the_engines_own_file_is_for_its_owner_only(local_workspace: Workspace, calls: Calls) -> None:
    Engine(local_workspace).run("shop", Pipeline("p", (calls.step("a"),)))
    assert (local_workspace.home / "pipelines.db").stat().st_mode & 0o777 == 0o600


def test_a_listener_that_fails_does_not_fail_the_run(local_workspace: Workspace, calls: Calls) -> None:
    def listener(event: RunEvent) -> None:
        raise BrokenPipeError

    assert Engine(local_workspace).run("shop", Pipeline("p", (calls.step("a"),)), on_event=listener).succeeded


def test_a_run_tells_its_story_to_the_listener_and_to_the_log(workspace: Workspace) -> None:
    heard: list[RunEvent] = []
    pipeline = Pipeline("p", (Step("a", lambda context: context.progress(0.5, "half")),))
    result = Engine(workspace).run("shop", pipeline, on_event=heard.append)
    assert [(event.kind, event.fraction) for event in heard] == [
        ("run_started", None), ("step_started", None), ("step_progress", 0.5), ("step_finished", None),
        ("run_finished", None),
    ]  # fmt: skip
    with workspace.read() as tx:
        told = [(event.type, event.subject) for event in read_events(tx, "shop")]
    subject = f"run:{result.run_id}"
    assert told == [("run.requested", subject), ("run.started", subject), ("run.succeeded", subject)]


def test_a_step_with_the_same_parts_is_not_run_again_and_says_why(workspace: Workspace, calls: Calls) -> None:
    code = ["v1"]

    def parts(context: StepContext) -> dict[str, str]:
        return {"code": code[0], "seed": "1"}

    engine, pipeline = Engine(workspace), Pipeline("p", (calls.step("a", cache=parts),))
    first, second = engine.run("shop", pipeline), engine.run("shop", pipeline)
    code[0] = "v2"
    third = engine.run("shop", pipeline)
    assert calls.names == ["a", "a"]
    assert second.steps[0].is_cached
    assert second.outputs == first.outputs
    reasons = [result.steps[0].cache_reason for result in (first, second, third)]
    assert reasons == ["first run", f"same code and seed as run {first.run_id}", "code changed"]


def test_a_failed_step_is_not_remembered_by_the_cache(local_workspace: Workspace) -> None:
    risky = failing(Refused("no"), times=1)
    pipeline = Pipeline("p", (Step("a", risky.run, cache=lambda context: {"code": "1"}),))
    engine = Engine(local_workspace)
    assert [engine.run("shop", pipeline).status for _ in range(2)] == ["FAILED", "SUCCEEDED"]


def test_a_backfill_runs_each_window_once_in_order(workspace: Workspace) -> None:
    seen: list[str] = []
    pipeline = Pipeline("p", (Step("a", lambda context: seen.append(f"{context.logical_time:%m-%d}")),))
    days = list(windows_between(Day, datetime(2025, 2, 27, tzinfo=UTC), datetime(2025, 3, 2, tzinfo=UTC)))
    engine = Engine(workspace)
    engine.backfill("shop", pipeline, days[1:])
    again = engine.backfill("shop", pipeline, days)
    assert seen == ["02-28", "03-01", "02-27"]
    assert [result.is_recorded for result in again] == [False, True, True]


def test_a_requested_run_is_started_by_recovery(workspace: Workspace, calls: Calls) -> None:
    with workspace.change("shop") as change:
        run_id = journal.request_run(change, "shop", "p", params={"x": 1}, trigger="api")
        assert journal.request_run(change, "shop", "unknown") != run_id
    results = Engine(workspace).recover("shop", [Pipeline("p", (calls.step("a"),))])
    assert [(result.run_id, result.status) for result in results] == [(run_id, "SUCCEEDED")]
    assert journal.get_run(workspace, run_id).params == {"x": 1}
    assert Engine(workspace).recover("shop", [Pipeline("p", (calls.step("a"),))]) == []


def test_recovery_takes_the_oldest_first_however_many_wait(local_workspace: Workspace, calls: Calls) -> None:
    with local_workspace.change("shop") as change:
        ids = [journal.request_run(change, "shop", "p") for _ in range(5)]
        journal.request_run(change, "shop", "other")
    results = Engine(local_workspace).recover("shop", [Pipeline("p", (calls.step("a"),))], limit=2)
    assert [result.run_id for result in results] == sorted(ids)[:2]


def test_a_run_whose_lease_ran_out_is_lost_and_its_late_writes_are_refused(
    workspace: Workspace, clock: FixedClock
) -> None:
    """The process sleeps through its lease; another takes the run up and ends it; then the first one wakes."""
    engine, effects = Engine(workspace, ttl=timedelta(hours=1)), []

    def work(context: StepContext) -> Output:
        if context.fence == 1:
            clock.advance(timedelta(hours=2))
            assert [run.status for run in journal.reap(workspace)] == ["LOST"]
            threaded(lambda: taken.extend(engine.recover("shop", [pipeline])))
            with pytest.raises(Conflict, match="taken over"), workspace.change("shop") as change:
                context.guard(change)
                effects.append("late")
        else:
            with workspace.change("shop") as change:
                context.guard(change)
                effects.append("in time")
        return {"fence": context.fence}

    taken: list[object] = []
    pipeline = Pipeline("p", (Step("a", work), Step("b", lambda context: {}, after=("a",))))
    first = engine.run("shop", pipeline)
    assert first.status == "LOST"
    record = journal.get_run(workspace, first.run_id)
    assert (record.status, record.outputs["a"]) == ("SUCCEEDED", {"fence": 2})
    assert effects == ["in time"]


def test_a_jump_of_the_wall_clock_takes_no_lease_away(workspace: Workspace) -> None:
    class Jumping(FixedClock):
        def now(self) -> datetime:
            return super().now() + jump[0]

    jump = [timedelta(0)]
    ws = Workspace(workspace.settings, workspace.database, workspace.objects, Jumping(), "alice")
    leases.acquire(ws, "one", "a")
    jump[0] = timedelta(days=1)
    with pytest.raises(Conflict, match="one is held by a"):
        leases.acquire(ws, "one", "b")


def test_tokens_grow_with_every_holder(workspace: Workspace, clock: FixedClock) -> None:
    first = leases.acquire(workspace, "one", "a", timedelta(seconds=10))
    leases.renew(workspace, first)
    clock.advance(timedelta(seconds=11))
    second = leases.acquire(workspace, "one", "b", timedelta(seconds=10))
    with pytest.raises(Conflict, match="taken over"):
        leases.renew(workspace, first)
    with pytest.raises(Conflict, match="taken over"), workspace.change("shop") as change:
        leases.check(change, first)
    with workspace.change("shop") as change:
        leases.check(change, second)
        leases.release(change, second)
    third = leases.acquire(workspace, "one", "a")
    assert (first.token, second.token, third.token) == (1, 2, 3)


def test_a_lease_of_a_process_that_ended_is_free_at_once(local_workspace: Workspace) -> None:
    leases.acquire(local_workspace, "one", "a")
    gone = str(leases.this_process()).split("/")
    gone[3] = "1"  # the same number, started at another time: another process
    with local_workspace.change("") as change:
        change.execute(sa.update(lease_rows).values(worker="/".join(gone)))
    assert leases.acquire(local_workspace, "one", "b").token == 2


def test_an_unknown_run_is_not_found(local_workspace: Workspace) -> None:
    with pytest.raises(NotFound, match="no run 'x'"):
        journal.get_run(local_workspace, "x")
