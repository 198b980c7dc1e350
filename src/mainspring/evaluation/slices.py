"""Quality on parts of the data: the same metric for each value of a column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from mainspring.core.records import MetricValue
from mainspring.core.schema import Label, Task
from mainspring.evaluation.metrics import compute_metrics

Array = npt.NDArray[Any]
MISSING, OTHER = "(missing)", "(other)"


@dataclass(frozen=True, slots=True)
class SliceMetric:
    """A metric on the rows where `column` is `value`; `share` is their part of all rows, 0 to 1."""

    column: str
    value: str
    share: float
    metric: MetricValue

    @property
    def n(self) -> int:
        return self.metric.n


def slice_metrics(
    metric: str,
    task: Task,
    y_true: Array,
    scores: Array,
    classes: Sequence[Label],
    columns: Mapping[str, Array],
    *,
    values_at_most: int = 20,
    seed: int = 0,
) -> dict[str, tuple[SliceMetric, ...]]:
    """Return the metric on every slice of each column: numbers in their order, all else from the largest slice.

    Numbers with many values are cut at their quartiles; texts beyond the most frequent `values_at_most` are one slice,
    `(other)`; missing values are a slice, `(missing)`.

    Args:
        metric: A metric of the task.
        columns: The columns to cut by, each of shape (n,); others as for `compute_metrics`.
    """
    y_true, scores = np.asarray(y_true), np.asarray(scores)
    return {
        name: tuple(
            SliceMetric(name, label, len(rows) / len(y_true),
                        compute_metrics(task, y_true[rows], scores[rows], classes, seed=seed, only=[metric])[metric])
            for label, rows in _parts(values, values_at_most)
        )
        for name, values in columns.items()
    }  # fmt: skip


def _parts(values: Array, at_most: int) -> list[tuple[str, Array]]:
    """Return the rows of each slice by its label: numbers in their order, all else from the largest to the smallest."""
    values = np.asarray(values)
    labels = _labels(values, at_most)
    names, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    by_size = sorted(range(len(names)), key=lambda i: (-counts[i], names[i]))
    kept = by_size if len(by_size) <= at_most + 1 else by_size[:at_most]
    parts = [(str(names[i]), np.flatnonzero(inverse == i)) for i in kept]
    if len(kept) < len(by_size):
        parts.append((OTHER, np.flatnonzero(~np.isin(inverse, kept))))
    if values.dtype.kind in "iuf":
        parts.sort(key=lambda part: (part[0] == MISSING, values[part[1]].min()))
    return parts


def _labels(values: Array, at_most: int) -> Array:
    if values.dtype.kind == "f" or (values.dtype.kind in "iu" and len(np.unique(values)) > at_most):
        return _ranges(values.astype(np.float64), at_most)
    missing = (
        np.isnat(values) if values.dtype.kind == "M" else np.array([v is None or v != v for v in values], dtype=bool)
    )
    return np.where(missing, MISSING, values.astype(str))


def _ranges(values: Array, at_most: int) -> Array:
    missing = np.isnan(values)
    present = values[~missing]
    if len(np.unique(present)) <= at_most:
        return np.where(missing, MISSING, np.array([f"{v:g}" for v in values], dtype=object)).astype(str)
    edges = np.unique(np.quantile(present, [0, 0.25, 0.5, 0.75, 1]))
    names = np.array([f"{low:.4g} to {high:.4g}" for low, high in pairwise(edges)])
    inside = np.clip(np.searchsorted(edges, np.where(missing, edges[0], values), side="right") - 1, 0, len(names) - 1)
    return np.where(missing, MISSING, names[inside])
