"""Metrics equal scikit-learn's, say how sure they are, and never hide a NaN."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from mainspring.core.errors import Invalid
from mainspring.evaluation.metrics import METRICS, better_by, compute_metrics, default_metric, improvement

RNG = np.random.default_rng(0)


def values(task: Any, y: Any, scores: Any, classes: Any = (), **options: Any) -> dict[str, float]:
    return {k: m.value for k, m in compute_metrics(task, y, scores, classes, intervals=False, **options).items()}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 8).map(lambda i: i / 8)), min_size=4, max_size=40))
def test_binary_metrics_equal_scikit_learn_also_with_ties(rows: list[tuple[bool, float]]) -> None:
    y, p = np.array([r[0] for r in rows]), np.array([r[1] for r in rows])
    if len(set(y.tolist())) < 2:
        return
    found = values("binary", np.where(y, "yes", "no"), p, ("no", "yes"))
    said = p >= 0.5
    expected = {
        "roc_auc": sk.roc_auc_score(y, p),
        "pr_auc": sk.average_precision_score(y, p),
        "accuracy": sk.accuracy_score(y, said),
        "recall": sk.recall_score(y, said),
        "brier": sk.brier_score_loss(y, p),
        "log_loss": sk.log_loss(y, np.clip(p, 1e-15, 1 - 1e-15)),
    }
    assert {k: found[k] for k in expected} == pytest.approx(expected, abs=1e-9, rel=1e-4)
    if said.any():
        assert found["precision"] == pytest.approx(sk.precision_score(y, said))
        assert found["f1"] == pytest.approx(sk.f1_score(y, said))


def test_multiclass_metrics_equal_scikit_learn() -> None:
    classes = ("a", "b", "c", "d", "e")
    p = RNG.dirichlet(np.ones(5), 300)
    y = np.array(classes)[RNG.integers(0, 5, 300)]
    found, said = values("multiclass", y, p, classes), np.array(classes)[p.argmax(1)]
    assert found == pytest.approx({
        "accuracy": sk.accuracy_score(y, said),
        "macro_f1": sk.f1_score(y, said, average="macro"),
        "weighted_f1": sk.f1_score(y, said, average="weighted"),
        "top3": sk.top_k_accuracy_score(y, p, k=3, labels=classes),
        "log_loss": sk.log_loss(y, p, labels=classes),
    })  # fmt: skip


def test_a_class_the_model_does_not_know_is_a_miss_and_not_a_crash() -> None:
    found = values("multiclass", np.array(["a", "b", "new"]), np.eye(2)[[0, 1, 0]], ("a", "b"))
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert found["log_loss"] == pytest.approx(-math.log(1e-15) / 3)


def test_regression_metrics_equal_scikit_learn() -> None:
    y = RNG.normal(10, 3, 200)
    predicted = y + RNG.normal(0.5, 1, 200)
    found = values("regression", y, predicted)
    assert {k: found[k] for k in ("mae", "rmse", "r2", "mape")} == pytest.approx({
        "mae": sk.mean_absolute_error(y, predicted), "rmse": sk.root_mean_squared_error(y, predicted),
        "r2": sk.r2_score(y, predicted), "mape": sk.mean_absolute_percentage_error(y, predicted),
    })  # fmt: skip
    assert found["bias"] == pytest.approx((predicted - y).mean())
    assert "mase" not in found


def test_a_truth_of_zero_does_not_explode_the_percentage_error() -> None:
    found = values("regression", np.array([0.0, 10.0]), np.array([5.0, 11.0]))
    assert found["mape"] == pytest.approx(0.1)
    assert found["smape"] == pytest.approx((2 + 2 / 21) / 2)


def test_mase_is_the_error_as_a_share_of_last_seasons_value() -> None:
    y = np.array([10.0, 20.0])
    assert values("forecast", y, y + 1, seasonal=y - 4)["mase"] == pytest.approx(0.25)


def test_a_perfect_accuracy_on_few_rows_is_not_certain() -> None:
    y = np.array([0, 1] * 5)
    found = compute_metrics("binary", y, y.astype(float), (0, 1))["accuracy"]
    assert found.value == 1.0
    assert found.interval is not None
    assert found.interval.low < 0.75


def test_intervals_hold_the_value_and_shrink_with_rows() -> None:
    widths = []
    for n in (200, 5_000):
        y = RNG.integers(0, 2, n)
        found = compute_metrics("binary", y, np.clip(y * 0.2 + RNG.random(n) * 0.8, 0, 1), (0, 1))
        assert all(
            m.interval and m.interval.low <= m.value <= m.interval.high for m in found.values() if m.name != "ece"
        )
        assert found["roc_auc"].interval
        widths.append(found["roc_auc"].interval.high - found["roc_auc"].interval.low)
    assert widths[1] < widths[0] / 3


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_one_score_that_is_not_finite_makes_every_metric_nan(bad: float) -> None:
    found = compute_metrics("binary", np.array([0, 1, 1]), np.array([0.1, bad, 0.9]), (0, 1))
    assert all(math.isnan(m.value) and m.interval is None for m in found.values())
    assert math.isnan(improvement("rmse", "regression", np.ones(2), np.ones(2), np.array([1.0, bad]))[0])


def test_one_class_alone_has_no_ranking() -> None:
    assert math.isnan(values("binary", np.ones(5), np.full(5, 0.7), (0, 1))["roc_auc"])


@pytest.mark.parametrize(
    ("y", "scores", "classes", "says"),
    [
        (np.ones(3), np.ones(2), (0, 1), "do not go with 3 rows"),
        (np.ones(0), np.ones(0), (0, 1), "do not go with 0 rows"),
        (np.array(["maybe"]), np.ones(1), ("no", "yes"), "'maybe' is neither of the classes"),
        (np.ones(2), np.array([0.5, 7.0]), (0, 1), "are probabilities"),
        (np.ones(1), np.ones(1), (1,), "has two classes"),
    ],
)
def test_what_does_not_fit_together_is_refused(y: Any, scores: Any, classes: Any, says: str) -> None:
    with pytest.raises(Invalid, match=says):
        compute_metrics("binary", y, scores, classes)


def test_an_outcome_that_is_missing_is_refused_and_not_left_out() -> None:
    with pytest.raises(Invalid, match="1 of 2 outcomes are missing"):
        compute_metrics("regression", np.array([1.0, math.nan]), np.ones(2))
    with pytest.raises(Invalid, match="are probabilities"):
        compute_metrics("multiclass", np.array(["a"]), np.array([[2.0, -1.0]]), ("a", "b"))


def test_a_misspelt_metric_gets_its_nearest_name() -> None:
    with pytest.raises(Invalid, match='nearest name is "roc_auc"'):
        compute_metrics("binary", np.ones(1), np.ones(1), (0, 1), only=["roc_acu"])


def test_an_improvement_is_paired_and_points_up() -> None:
    y = RNG.normal(size=2_000)
    rough = RNG.normal(size=2_000)
    gain, interval = improvement("rmse", "regression", y, y + rough, y + 0.98 * rough)
    assert interval is not None
    assert 0 < interval.low < gain < interval.high < 0.03, "the shared error cancels, so a gain of 2 % is seen"
    same, none = improvement("rmse", "regression", y, y + rough, y + rough)
    assert same == 0
    assert none is not None
    assert (none.low, none.high) == (0, 0)


def test_every_metric_has_a_direction_and_every_task_a_metric() -> None:
    for task in ("binary", "multiclass", "regression", "forecast"):
        assert task in METRICS[default_metric(task)].tasks  # type: ignore[arg-type]
    assert better_by("roc_auc", 0.9, 0.8) > 0
    assert better_by("bias", -0.1, 3.0) == pytest.approx(2.9)


def test_a_hundred_thousand_rows_take_less_than_two_seconds() -> None:
    y = RNG.integers(0, 2, 100_000)
    p = np.clip(y * 0.2 + RNG.random(100_000) * 0.8, 0, 1)
    began = time.process_time()
    compute_metrics("binary", y, p, (0, 1))
    assert time.process_time() - began < 2
