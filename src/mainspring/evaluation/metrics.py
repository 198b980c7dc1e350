"""Figures of quality for every task, each with its uncertainty."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mainspring.core.errors import Invalid, nearest
from mainspring.core.records import Interval, MetricValue
from mainspring.core.schema import Label, Task
from mainspring.stats.intervals import bootstrap, wilson

Array = npt.NDArray[Any]
Columns = dict[str, Array]
Direction = Literal["higher", "lower", "zero"]

_SMALLEST = 1e-15  # a probability of 0 for what happened costs 34.5 nats, not infinity


def compute_metrics(
    task: Task,
    y_true: Array,
    scores: Array,
    classes: Sequence[Label] = (),
    *,
    seasonal: Array | None = None,
    intervals: bool = True,
    seed: int = 0,
    only: Sequence[str] = (),
) -> dict[str, MetricValue]:
    """Return the metrics of a task by name, with 95 % intervals.

    Shares of rows (accuracy, precision, recall, top3) have Wilson intervals, the others bootstrap intervals from 200 to
    1000 resamples, of at most 100,000 rows. A score that is not finite makes every metric NaN: no gate passes on it.

    Args:
        task: What the scores are.
        y_true: Class labels, or numbers, shape (n,).
        scores: Binary: P(positive), (n,). Multiclass: (n, k) in the order of `classes`. Otherwise predictions, (n,).
        classes: Binary: (negative, positive). Multiclass: every class the model knows; others in `y_true` are misses.
        seasonal: Regression and forecast: what "the same time last season" would have predicted, (n,); adds `mase`,
            the mean absolute error as a share of that forecast's on the same rows.
        intervals: Whether to compute intervals.
        seed: Seed of the resampling.
        only: Names to compute; empty for all of the task.

    Raises:
        Invalid: shapes differ, there are no rows, a binary label is not one of the classes, or a name is unknown.
    """
    y_true, scores, n = np.asarray(y_true), np.asarray(scores), len(y_true)
    sample = _sample(task, y_true, scores, classes, seasonal)
    chosen = [check_metric(name, task) for name in only] or [m for m in METRICS.values() if task in m.tasks]
    chosen = [m for m in chosen if m.needs in sample or not m.needs]
    if "bad" in sample:
        return {m.name: MetricValue(m.name, math.nan, n) for m in chosen}
    found = {m.name: MetricValue(m.name, m.compute(sample, np.ones(n)), n) for m in chosen}
    if not intervals:
        return found
    for m in chosen:
        if m.share is not None and (of := float(m.share(sample).sum())) >= 1:
            right = min(round(found[m.name].value * of), of)
            found[m.name] = replace(found[m.name], interval=wilson(right, of))
    drawn = [m for m in chosen if m.share is None]

    def statistics(rows: Array) -> list[Callable[[Array], float]]:
        part = _sample(task, y_true[rows], scores[rows], classes, None if seasonal is None else seasonal[rows])
        return [_statistic(m, part) for m in drawn]

    drawn_intervals = bootstrap(statistics, n, seed=seed, values=[found[m.name].value for m in drawn])
    for m, interval in zip(drawn, drawn_intervals, strict=True):
        found[m.name] = replace(found[m.name], interval=interval)
    return found


def improvement(
    metric: str, task: Task, y_true: Array, before: Array, after: Array, classes: Sequence[Label] = (), *,
    level: float = 0.9, seed: int = 0,
) -> tuple[float, Interval | None]:  # fmt: skip
    """Return by how much `after` is better than `before` on the same rows (above 0 is better), and its interval.

    Both scores are resampled together, so rows that are hard for both cancel out. The default level of 0.9 leaves 5 %
    below its lower end: the bound of a one-sided 95 % claim.
    """
    chosen, y_true = check_metric(metric, task), np.asarray(y_true)

    def statistics(rows: Array) -> list[Callable[[Array], float]]:
        pair = [_sample(task, y_true[rows], np.asarray(scores)[rows], classes, None) for scores in (after, before)]
        if any("bad" in sample for sample in pair):
            return [lambda weights: math.nan]
        return [lambda weights: better_by(metric, *(chosen.compute(sample, weights) for sample in pair))]

    value = statistics(np.arange(len(y_true)))[0](np.ones(len(y_true)))
    if math.isnan(value):
        return value, None
    return value, bootstrap(statistics, len(y_true), seed=seed, values=[value], level=level)[0]


def better_by(metric: str, value: float, other: float) -> float:
    """Return by how much `value` is better than `other` in this metric's direction.

    >>> better_by("rmse", 2.0, 5.0)
    3.0
    """
    direction = metric_direction(metric)
    if direction == "zero":
        return abs(other) - abs(value)
    return value - other if direction == "higher" else other - value


def metric_direction(name: str) -> Direction:
    """Return which way a metric is better: `higher`, `lower`, or `zero` for nearer to 0."""
    return check_metric(name).direction


def default_metric(task: Task) -> str:
    """Return the metric that decides when none is named."""
    return {"binary": "roc_auc", "multiclass": "macro_f1", "regression": "rmse", "forecast": "mae"}[task]


def check_metric(name: str, task: Task | None = None) -> Metric:
    """Return the metric of that name.

    Raises:
        Invalid: there is none, or it is not one of the task.
    """
    known = {key for key, metric in METRICS.items() if task is None or task in metric.tasks}
    if name not in known:
        what = f"{task} metric" if task else "metric"
        raise Invalid(f"there is no {what} {name!r}{nearest(name, known)}", hint=f"metrics: {', '.join(sorted(known))}")
    return METRICS[name]


def encode(y_true: Array, classes: Sequence[Label]) -> Array:
    """Return the position of each label among the classes, shape (n,); len(classes) for a label not among them."""
    position = {label: i for i, label in enumerate(classes)}
    return np.array([position.get(label, len(classes)) for label in y_true.tolist()], dtype=np.int64)


# --- what is computed once per pair of truth and scores --------------------------------------------------------------


def _sample(task: Task, y_true: Array, scores: Array, classes: Sequence[Label], seasonal: Array | None) -> Columns:
    """Return the per-row columns that the metrics of a task weigh; `bad` marks scores that are not finite."""
    n = len(y_true)
    shape = (n, len(classes)) if task == "multiclass" else (n,)
    if n == 0 or scores.shape != shape:
        raise Invalid(f"scores of the shape {scores.shape} do not go with {n} rows; {task} needs {shape}")
    scores = scores.astype(np.float64)
    if not np.isfinite(scores).all():
        return {"bad": scores, "top3": scores, "mase": scores}
    if task == "binary":
        return _binary_sample(y_true, scores, classes)
    if task == "multiclass":
        return _multiclass_sample(encode(y_true, classes), scores)
    return _number_sample(y_true.astype(np.float64), scores, seasonal)


def _binary_sample(y_true: Array, p: Array, classes: Sequence[Label]) -> Columns:
    if len(classes) != 2:
        raise Invalid(f"a binary task has two classes, not {len(classes)}: {list(classes)}")
    codes = encode(y_true, classes)
    if (codes == 2).any():
        raise Invalid(f"{y_true[codes == 2].tolist()[0]!r} is neither of the classes {list(classes)}")
    _check_probabilities(p)
    y, p = codes.astype(np.float64), np.clip(p, 0, 1)
    order = np.argsort(-p, kind="stable")
    said = (p >= 0.5).astype(np.float64)
    return {
        "y": y, "p": p, "order": order, "ties": np.flatnonzero(np.diff(p[order], prepend=2.0)), "said": said,
        "both": y * said, "hit": (said == y).astype(np.float64), "squared": (p - y) ** 2,
        "log": -np.log(np.maximum(np.where(y == 1, p, 1 - p), _SMALLEST)),
        "bin": np.minimum((p * 10).astype(np.int64), 9),
    }  # fmt: skip


def _multiclass_sample(codes: Array, scores: Array) -> Columns:
    n, k = scores.shape
    _check_probabilities(scores)
    said = scores.argmax(axis=1)
    known = codes < k
    of_truth = np.where(known, scores[np.arange(n), np.minimum(codes, k - 1)], 0.0)
    sample = {
        "codes": codes, "said": said, "cell": codes * (k + 1) + said, "k": np.array(k),
        "hit": (said == codes).astype(np.float64), "log": -np.log(np.maximum(of_truth, _SMALLEST)),
    }  # fmt: skip
    if k > 3:
        above = (scores > of_truth[:, None]).sum(axis=1)
        sample["top3"] = (known & (above < 3)).astype(np.float64)
    return sample


def _check_probabilities(p: Array) -> None:
    if p.min() < -1e-6 or p.max() > 1 + 1e-6:
        raise Invalid(f"scores of classes are probabilities, and these go from {p.min():.6g} to {p.max():.6g}")


def _number_sample(y: Array, predicted: Array, seasonal: Array | None) -> Columns:
    if missing := int((~np.isfinite(y)).sum()):
        raise Invalid(f"{missing} of {len(y)} outcomes are missing", hint="measure only rows whose outcome is known")
    error = predicted - y
    size = np.abs(error)
    total = np.abs(y) + np.abs(predicted)
    sample = {
        "error": error, "size": size, "squared": error**2, "centred": y - y.mean(),
        # A percentage of nothing says nothing: rows whose truth is 0 are left out.
        "percent": np.divide(size, np.abs(y), out=np.full_like(size, np.nan), where=np.abs(y) > 1e-9),
        "symmetric": np.divide(2 * size, total, out=np.zeros_like(size), where=total > 0),
    }  # fmt: skip
    if seasonal is not None:
        sample["mase"] = np.abs(np.asarray(seasonal, dtype=np.float64) - y)
    return sample


# --- the metrics: functions of those columns and of row weights ------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric: how it is computed from weighted rows, and how it is to be read.

    Args:
        name: As in scikit-learn where it has one.
        direction: Which way is better.
        tasks: The tasks it is of.
        title: What it says, in a few words for a reader who is no statistician.
        compute: The value from a task's columns and the rows' weights.
        share: For a share of rows, which rows it is a share of.
        needs: The column without which it cannot be computed.
    """

    name: str
    direction: Direction
    tasks: tuple[Task, ...]
    title: str
    compute: Callable[[Columns, Array], float]
    share: Callable[[Columns], Array] | None = None
    needs: str = ""


def _statistic(metric: Metric, sample: Columns) -> Callable[[Array], float]:
    return lambda weights: metric.compute(sample, weights)


def _mean(column: str) -> Callable[[Columns, Array], float]:
    def compute(s: Columns, w: Array) -> float:
        rows = s[column]
        known = ~np.isnan(rows)
        if known.all():
            return _dot(w, rows) / float(w.sum())
        return _ratio(_dot(w[known], rows[known]), w[known].sum())

    return compute


def _dot(left: Array, right: Array) -> float:
    # einsum and not @: the linear algebra library spreads a product this small over threads, which costs 30 times more.
    return float(np.einsum("i,i->", left, right))


def _ratio(part: Any, whole: Any) -> float:
    return float(part / whole) if whole > 0 else math.nan


def _ranked(s: Columns, w: Array) -> tuple[Array, Array]:
    """Return the weight of positives and of negatives at each distinct score, from the highest score down."""
    positive = w * s["y"]
    pair = (positive[s["order"]], (w - positive)[s["order"]])
    if len(s["ties"]) == len(w):
        return pair
    return np.add.reduceat(pair[0], s["ties"]), np.add.reduceat(pair[1], s["ties"])


def _roc_auc(s: Columns, w: Array) -> float:
    positive, negative = _ranked(s, w)
    below = negative.sum() - np.cumsum(negative)
    return _ratio(_dot(positive, below + negative / 2), positive.sum() * negative.sum())


def _pr_auc(s: Columns, w: Array) -> float:
    positive, negative = _ranked(s, w)
    found = np.cumsum(positive)
    precision = found / np.maximum(found + np.cumsum(negative), 1e-300)
    return _ratio(_dot(positive, precision), positive.sum())


def _f1(s: Columns, w: Array) -> float:
    return _ratio(2 * _dot(w, s["both"]), _dot(w, s["y"]) + _dot(w, s["said"]))


def _ece(s: Columns, w: Array) -> float:
    return float(np.abs(np.bincount(s["bin"], weights=w * (s["y"] - s["p"]))).sum() / w.sum())


def _class_f1(s: Columns, w: Array) -> tuple[Array, Array]:
    """Return the F1 of each class, and the weight of its rows; the last one holds labels the model does not know."""
    k = int(s["k"]) + 1
    table = np.bincount(s["cell"], weights=w, minlength=k * k).reshape(k, k)
    rows, columns = table.sum(axis=1), table.sum(axis=0)
    return 2 * table.diagonal() / np.maximum(rows + columns, 1e-300), rows


def _macro_f1(s: Columns, w: Array) -> float:
    scores, rows = _class_f1(s, w)
    seen = (rows > 0) | (scores > 0)
    return float(scores[seen].mean())


def _weighted_f1(s: Columns, w: Array) -> float:
    scores, rows = _class_f1(s, w)
    return _ratio(_dot(scores, rows), rows.sum())


def _r2(s: Columns, w: Array) -> float:
    centred = s["centred"]
    spread = _dot(w, centred**2) - _dot(w, centred) ** 2 / w.sum()
    return 1 - _ratio(_dot(w, s["squared"]), spread)


_CLASSES: tuple[Task, ...] = ("binary", "multiclass")
_BINARY: tuple[Task, ...] = ("binary",)
_MULTICLASS: tuple[Task, ...] = ("multiclass",)
_NUMBERS: tuple[Task, ...] = ("regression", "forecast")

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("roc_auc", "higher", _BINARY, "how often a positive ranks above a negative", _roc_auc),
        Metric("pr_auc", "higher", _BINARY, "the average precision over all thresholds", _pr_auc),
        Metric("accuracy", "higher", _CLASSES, "the share of right answers", _mean("hit"),
               lambda s: np.ones(len(s["hit"]))),
        Metric("precision", "higher", _BINARY, "the share of alarms that are right",
               lambda s, w: _ratio(_dot(w, s["both"]), _dot(w, s["said"])), lambda s: s["said"]),
        Metric("recall", "higher", _BINARY, "the share of positives that are found",
               lambda s, w: _ratio(_dot(w, s["both"]), _dot(w, s["y"])), lambda s: s["y"]),
        Metric("f1", "higher", _BINARY, "the balance of precision and recall", _f1),
        Metric("macro_f1", "higher", _MULTICLASS, "F1 with every class counted alike", _macro_f1),
        Metric("weighted_f1", "higher", _MULTICLASS, "F1 with classes counted by size", _weighted_f1),
        Metric("top3", "higher", _MULTICLASS, "how often the truth is among the first three", _mean("top3"),
               lambda s: np.ones(len(s["top3"])), "top3"),
        Metric("log_loss", "lower", _CLASSES, "the cost of confident mistakes", _mean("log")),
        Metric("brier", "lower", _BINARY, "the squared error of the probabilities", _mean("squared")),
        Metric("ece", "lower", _BINARY, "how far probabilities are from frequencies", _ece),
        Metric("mae", "lower", _NUMBERS, "the average size of the error", _mean("size")),
        Metric("rmse", "lower", _NUMBERS, "the typical error, large ones weigh more",
               lambda s, w: math.sqrt(_mean("squared")(s, w))),
        Metric("r2", "higher", _NUMBERS, "the share of the variation explained", _r2),
        Metric("mape", "lower", _NUMBERS, "the average error as a share of the truth", _mean("percent")),
        Metric("smape", "lower", _NUMBERS, "the average error as a share, symmetric", _mean("symmetric")),
        Metric("bias", "zero", _NUMBERS, "how far predictions are too high (+) or too low (-)", _mean("error")),
        Metric("mase", "lower", _NUMBERS, "the error as a share of the seasonal forecast's",
               lambda s, w: _ratio(_dot(w, s["size"]), _dot(w, s["mase"])), None, "mase"),
    )
}  # fmt: skip
