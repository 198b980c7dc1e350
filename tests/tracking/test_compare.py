"""A comparison names what differs and nothing else."""

from __future__ import annotations

from datetime import UTC, datetime

from mainspring.tracking.compare import Difference, compare_runs
from mainspring.tracking.records import RunRecord


def _run(run_id: str, params: dict[str, str], metrics: dict[str, float]) -> RunRecord:
    tags = {"python": "3.11", "mainspring.run_id": run_id}
    now = datetime(2026, 1, 1, tzinfo=UTC)
    return RunRecord("churn", run_id, "model", "SUCCEEDED", now, now, params, metrics, tags, "", "m" + run_id)


def test_equal_parameters_are_left_out_and_missing_ones_are_none() -> None:
    before = _run("a", {"depth": "3", "seed": "0"}, {"auc": 0.5, "f1": 0.2})
    after = _run("b", {"depth": "4", "seed": "0", "lr": "0.1"}, {"auc": 0.75})

    comparison = compare_runs(before, after)

    assert comparison.params == (Difference("depth", "3", "4"), Difference("lr", None, "0.1"))
    assert comparison.metrics == (Difference("auc", 0.5, 0.75, 0.25), Difference("f1", 0.2, None))
    assert comparison.tags == ()
