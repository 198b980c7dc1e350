"""Versions only grow, aliases move with a record, and nothing that is blocked goes live."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest

from mainspring.core.clock import FixedClock
from mainspring.core.errors import Conflict, Invalid, NotFound, Refused
from mainspring.core.records import ModelVersion, Verdict
from mainspring.core.ref import digest
from mainspring.registry import models
from mainspring.registry.models import PRODUCTION
from mainspring.store.events import deliver, read_events, verify_chain
from mainspring.store.workspace import Workspace


def register(ws: Workspace, run_id: str, **changes: Any) -> ModelVersion:
    given: dict[str, Any] = {
        "bundle_digest": digest(run_id.encode()),
        "run_id": run_id,
        "report_digest": digest(b"report"),
        "policy_digest": digest(b"policy"),
        "metrics": {"roc_auc": 0.8, "r2": float("nan")},
        "verdicts": (),
        "author": "alice",
        "lineage": {"code": digest(b"code")},
    }
    return models.register(ws, "churn", "model", **{**given, **changes})


def promote(ws: Workspace, version: int, **options: Any) -> int | None:
    return models.set_alias(ws, "churn", "model", PRODUCTION, version, reason="better", **options)


def events(ws: Workspace) -> list[str]:
    with ws.read() as tx:
        return [event.type for event in read_events(tx, "churn")]


def test_a_registered_version_reads_back_as_it_was_made(workspace: Workspace) -> None:
    made = register(workspace, "run-1")
    assert models.get_version(workspace, "churn", "model", 1) == made
    assert models.get_version(workspace, "churn", "model", "1") == made
    assert (made.version, made.status, made.metrics) == (1, "registered", {"roc_auc": 0.8})
    assert models.get_lineage(workspace, "churn", "model", 1) == {"code": digest(b"code")}


def test_numbers_only_grow_and_each_model_counts_for_itself(workspace: Workspace) -> None:
    assert [register(workspace, f"run-{i}").version for i in range(3)] == [1, 2, 3]
    assert models.register(
        workspace, "churn", "other", bundle_digest="b", run_id="run-0", report_digest="", policy_digest="", metrics={},
        verdicts=(), author="alice",
    ).version == 1  # fmt: skip
    assert [found.version for found in models.list_versions(workspace, "churn", "model")] == [3, 2, 1]


def test_a_run_registers_once(workspace: Workspace) -> None:
    first, again = register(workspace, "run-1"), register(workspace, "run-1")
    assert first == again
    assert events(workspace) == ["model.registered"]
    with pytest.raises(Conflict, match="registered another bundle"):
        register(workspace, "run-1", bundle_digest=digest(b"other"))


def test_versions_registered_at_once_get_different_numbers(workspace: Workspace) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda i: register(workspace, f"run-{i}"), range(8)))
    assert sorted(version.version for version in made) == list(range(1, 9))
    with workspace.read() as tx:
        assert verify_chain(tx, "churn") == []


def test_a_bundle_registered_by_runs_at_once_gets_one_number(workspace: Workspace) -> None:
    bundle = digest(b"one bundle")
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda i: register(workspace, f"run-{i}", bundle_digest=bundle), range(8)))
    assert [version.version for version in made] == [1] * 8
    assert len({version.run_id for version in made}) == 1
    assert events(workspace) == ["model.registered"]
    # Under other gates it is judged anew.
    assert register(workspace, "run-9", bundle_digest=bundle, policy_digest=digest(b"stricter")).version == 2


def test_an_alias_moves_and_tells_who_and_why(workspace: Workspace, clock: FixedClock) -> None:
    for i in range(2):
        register(workspace, f"run-{i}")
    assert models.live(workspace, "churn", "model") is None
    assert promote(workspace, 1) is None
    clock.advance(timedelta(hours=1))
    assert promote(workspace.with_actor("bob"), 2) == 1

    current = models.live(workspace, "churn", "model")

    assert current is not None
    assert current.version == 2
    assert models.get_version(workspace, "churn", "model", PRODUCTION) == current
    moves = models.history(workspace, "churn", "model")
    assert [(move.version, move.previous, move.actor) for move in moves] == [(1, None, "alice"), (2, 1, "bob")]
    assert events(workspace)[-1] == "model.alias_moved"


def test_what_was_live_at_a_time_stays_known(workspace: Workspace, clock: FixedClock) -> None:
    for i in range(2):
        register(workspace, f"run-{i}")
    before = clock.now()
    clock.advance(timedelta(hours=1))
    promote(workspace, 1)
    first = clock.now()
    clock.advance(timedelta(hours=1))
    promote(workspace, 2)
    found = [models.as_of(workspace, "churn", "model", PRODUCTION, at) for at in (before, first, clock.now())]
    assert found == [None, 1, 2]


def test_a_move_to_the_same_version_is_no_move(workspace: Workspace) -> None:
    register(workspace, "run-1")
    promote(workspace, 1)
    assert promote(workspace, 1) == 1
    assert len(models.history(workspace, "churn", "model")) == 1


def test_a_move_that_expected_another_version_is_refused(workspace: Workspace) -> None:
    for i in range(3):
        register(workspace, f"run-{i}")
    promote(workspace, 1)
    promote(workspace, 2, expected=1)
    with pytest.raises(Conflict, match="points at 2, not at 1"):
        promote(workspace, 3, expected=1)


def test_of_two_moves_that_expect_the_same_one_wins(workspace: Workspace) -> None:
    for i in range(9):
        register(workspace, f"run-{i}")
    promote(workspace, 1)

    def attempt(version: int) -> bool:
        try:
            promote(workspace, version, expected=1)
        except Conflict:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(attempt, range(2, 10))) == 1
    assert len(models.history(workspace, "churn", "model")) == 2


def test_moves_at_once_are_all_recorded_in_one_line(workspace: Workspace) -> None:
    for i in range(6):
        register(workspace, f"run-{i}")
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda version: promote(workspace, version), range(1, 7)))
    moves = models.history(workspace, "churn", "model")
    assert [move.previous for move in moves] == [None, *(move.version for move in moves[:-1])]
    assert len(moves) == 6


def test_a_blocked_version_does_not_go_live_until_it_is_unblocked(workspace: Workspace) -> None:
    register(workspace, "run-1")
    models.block(workspace, "churn", "model", 1, reason="wrong labels")
    with pytest.raises(Refused, match="model:model@1 is blocked"):
        promote(workspace, 1)
    models.unblock(workspace, "churn", "model", 1, reason="labels were right")
    promote(workspace, 1)
    assert events(workspace) == ["model.registered", "model.blocked", "model.unblocked", "model.alias_moved"]


def test_going_back_twice_goes_further_back_and_skips_what_is_blocked(workspace: Workspace) -> None:
    for i in range(4):
        register(workspace, f"run-{i}")
        promote(workspace, i + 1)

    def back() -> int | None:
        found = models.previous(workspace, "churn", "model")
        return found.version if found else None

    assert back() == 3
    models.block(workspace, "churn", "model", 3, reason="bad")
    assert back() == 2
    promote(workspace, 2)
    assert back() == 1
    promote(workspace, 1)
    assert back() is None


def test_verdicts_decide_the_status_and_a_block_outlives_them(workspace: Workspace) -> None:
    register(workspace, "run-1")
    good, bad = Verdict("parity", True, "equal"), Verdict("slices", False, "too low", {"gap": 0.2})
    assert models.record_verdicts(workspace, "churn", "model", 1, (good,)).status == "proven"
    judged = models.record_verdicts(workspace, "churn", "model", 1, (good, bad))
    assert (judged.status, judged.verdicts) == ("unproven", (good, bad))
    assert models.record_verdicts(workspace, "churn", "model", 1, (good, bad)) == judged
    assert events(workspace).count("model.judged") == 2
    models.block(workspace, "churn", "model", 1, reason="bad")
    assert models.record_verdicts(workspace, "churn", "model", 1, (good,)).status == "blocked"


def test_a_model_without_gates_is_proven_by_having_none(workspace: Workspace) -> None:
    register(workspace, "run-1")
    assert models.record_verdicts(workspace, "churn", "model", 1, ()).status == "proven"


def test_a_missing_name_is_told_with_the_nearest(workspace: Workspace) -> None:
    register(workspace, "run-1")
    promote(workspace, 1)
    for model, version, text in (
        ("modle", 1, 'the nearest name is "model"'),
        ("model", 7, "has no version 7"),
        ("model", "prodution", 'the nearest name is "production"'),
    ):
        with pytest.raises(NotFound, match=text):
            models.get_version(workspace, "churn", model, version)


@pytest.mark.parametrize("alias", ["7", "latest", "a b", "", "../x"])
def test_an_alias_cannot_look_like_something_else(local_workspace: Workspace, alias: str) -> None:
    register(local_workspace, "run-1")
    with pytest.raises(Invalid):
        models.set_alias(local_workspace, "churn", "model", alias, 1, reason="")


def test_every_decision_leaves_for_the_mirror(local_workspace: Workspace) -> None:
    register(local_workspace, "run-1")
    promote(local_workspace, 1)
    seen: list[dict[str, Any]] = []
    deliver(local_workspace.database, local_workspace.clock, "mlflow", lambda payload, _: seen.append(payload))
    assert sorted((message["kind"], message["version"]) for message in seen) == [("alias", 1), ("model_version", 1)]
    assert {message["bundle_digest"] for message in seen} == {digest(b"run-1")}
