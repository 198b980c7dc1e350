"""A search is the same whether or not it was killed."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mainspring.core.errors import Invalid
from mainspring.training.tuning import Report, SearchResult, check_space, search

SPACE: dict[str, Any] = {"depth": (2, 9), "rate": (0.001, 0.5, "log"), "kind": ["a", "b", None], "noise": (0.0, 1.0)}


def objective(params: dict[str, Any], report: Report) -> float:
    bonus = {"a": 0.0, "b": 0.1, None: 0.05}[params["kind"]]
    return bonus - (math.log10(params["rate"]) + 1.5) ** 2 - 0.01 * (params["depth"] - 5) ** 2


def run(journal: Path, trials: int = 15, **options: Any) -> SearchResult:
    return search(objective, SPACE, trials, 3, direction="maximize", journal=journal, **options)


def deep(X: Any, y: Any, depth: int = 7) -> None: ...


def points(result: SearchResult) -> list[dict[str, Any]]:
    return [trial.params for trial in result.trials]


def test_the_same_seed_gives_the_same_search(tmp_path: Path) -> None:
    first, second = run(tmp_path / "a"), run(tmp_path / "b")
    assert points(first) == points(second)
    assert first.best_params == second.best_params
    assert points(run(tmp_path / "c", 3)) != points(
        search(objective, SPACE, 3, 4, direction="maximize", journal=tmp_path / "c")
    )


def test_a_search_finds_better_points_than_it_began_with(tmp_path: Path) -> None:
    result = run(tmp_path / "journal", 30)
    assert result.best_value == max(trial.value for trial in result.trials if trial.value is not None)
    assert result.best_value > 0.0
    assert isinstance(result.best_params["depth"], int)


def test_the_functions_own_defaults_are_tried_first(tmp_path: Path) -> None:
    def model(X: Any, y: Any, depth: int = 7, rate: float = 0.1, kind: str = "b", noise: float = 5.0) -> None: ...

    first = points(run(tmp_path / "journal", 1, function=model))[0]
    assert {name: first[name] for name in ("depth", "rate", "kind")} == {"depth": 7, "rate": 0.1, "kind": "b"}
    assert 0.0 <= first["noise"] <= 1.0


_KILLED = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = sys.argv[2:]
from training import test_tuning
calls = 0
def objective(params, report):
    global calls
    calls += 1
    if calls == 8:
        os.kill(os.getpid(), signal.SIGKILL)
    return plain(params, report)
plain, test_tuning.objective = test_tuning.objective, objective
test_tuning.run(Path(sys.argv[1]), function=test_tuning.deep)
"""


def test_a_killed_search_ends_as_an_undisturbed_one(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", _KILLED, str(tmp_path / "killed"), str(root / "tests"), str(root / "src")]
    assert subprocess.run(command, env=dict(os.environ), check=False).returncode == -signal.SIGKILL
    with (tmp_path / "killed").open("a") as journal:
        journal.write('{"op_code": 5, "wor')  # a write that the kill cut in half

    resumed = run(tmp_path / "killed", function=deep)
    undisturbed = run(tmp_path / "undisturbed", function=deep)

    assert points(resumed) == points(undisturbed)
    assert [trial.number for trial in resumed.trials] == list(range(15))
    assert resumed.best_params == undisturbed.best_params


def test_a_finished_search_evaluates_nothing_again(tmp_path: Path) -> None:
    before = run(tmp_path / "journal")

    def never(params: dict[str, Any], report: Report) -> float:
        raise AssertionError("evaluated again")

    assert search(never, SPACE, 15, 3, direction="maximize", journal=tmp_path / "journal") == before


def test_a_changed_space_begins_anew_in_the_same_journal(tmp_path: Path) -> None:
    run(tmp_path / "journal", 3)
    narrow = {**SPACE, "depth": (2, 3)}
    result = search(objective, narrow, 2, 3, direction="maximize", journal=tmp_path / "journal")
    assert len(result.trials) == 2
    assert all(trial.params["depth"] <= 3 for trial in result.trials)


def test_a_hopeless_trial_is_pruned_and_kept(tmp_path: Path) -> None:
    def slow(params: dict[str, Any], report: Report) -> float:
        for step in range(5):
            report(step, params["x"])
        return float(params["x"])

    result = search(slow, {"x": (0.0, 1.0)}, 20, 0, direction="minimize", journal=tmp_path / "journal")

    pruned = [trial for trial in result.trials if trial.status == "PRUNED"]
    assert pruned
    assert all(trial.reports for trial in pruned)
    assert all(trial.value is not None and trial.value > result.best_value for trial in pruned)


def test_a_failing_point_does_not_end_the_search(tmp_path: Path) -> None:
    def picky(params: dict[str, Any], report: Report) -> float:
        if params["kind"] == "a":
            raise ValueError("no such solver")
        return math.nan if params["kind"] == "b" else 1.0

    result = search(picky, {"kind": ["a", "b", "c"]}, 12, 0, direction="maximize", journal=tmp_path / "journal")

    assert result.best_params == {"kind": "c"}
    assert {trial.status for trial in result.trials} == {"SUCCEEDED", "FAILED"}
    assert any("no such solver" in trial.error for trial in result.trials)


def test_a_search_in_which_all_fails_names_the_first_error(tmp_path: Path) -> None:
    def broken(params: dict[str, Any], report: Report) -> float:
        raise ValueError("no column 'age'")

    with pytest.raises(Invalid, match="none of 3 trials succeeded; the first: ValueError: no column 'age'"):
        search(broken, {"x": (0.0, 1.0)}, 3, 0, direction="maximize", journal=tmp_path / "journal")


def test_progress_tells_how_many_and_how_good(tmp_path: Path) -> None:
    told: list[tuple[int, float]] = []
    result = run(tmp_path / "journal", 4, on_trial=lambda count, best: told.append((count, best)))
    assert [count for count, _ in told] == [1, 2, 3, 4]
    assert told[-1][1] == result.best_value
    assert sorted(best for _, best in told) == [best for _, best in told]


def test_no_trial_begins_after_the_time_is_up(tmp_path: Path) -> None:
    assert len(run(tmp_path / "journal", 50, timeout_s=0.0).trials) == 1


@pytest.mark.parametrize(
    "spec", [(), (1,), (2, 1), (1, 1), (0, 1, "log"), (1, 2, "linear"), [], [[1]], "ab", 3, (1, "b"), (0, math.inf)]
)
def test_a_malformed_space_is_refused_by_name(spec: Any) -> None:
    with pytest.raises(Invalid, match="tune\\['depth'\\]"):
        check_space({"depth": spec})
