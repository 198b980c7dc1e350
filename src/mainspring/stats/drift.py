"""Distances between a reference and a current sample, and tests of whether chance explains them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from mainspring.stats.sketch import Sketch

Array = npt.NDArray[Any]
COARSE_BINS = 10


def groups(reference: Sketch) -> Array:
    """Return for each fine bin the coarse one it belongs to, about equally full and in order, shape (bins,)."""
    total = reference.counts.sum()
    if total == 0:
        return np.zeros(len(reference.counts), np.int64)
    if reference.kind == "category":
        return np.minimum(np.arange(len(reference.counts)), COARSE_BINS - 1)
    middle = (np.cumsum(reference.counts) - reference.counts / 2) / total
    coarse = np.minimum((middle * COARSE_BINS).astype(np.int64), COARSE_BINS - 1)
    return np.unique(coarse, return_inverse=True)[1]


def season_excess(table: Array) -> float:
    """Return how far windows vary beyond chance, as the PSI that it adds to a window's; 0 when chance explains all.

    The excess of the chi-square statistic of windows against bins over its expectation, by the method of moments, and
    one standard error on top: an estimate from few windows must not promise more than it knows.

    Args:
        table: Rows per window and bin, shape (windows, bins).
    """
    table = table[table.sum(axis=1) > 0][:, table.sum(axis=0) > 0].astype(np.float64)
    w, b = table.shape
    if w < 2 or b < 2:
        return 0.0
    rows, n = table.sum(axis=1), table.sum()
    expected = np.outer(rows, table.sum(axis=0) / n)
    statistic = float(((table - expected) ** 2 / expected).sum())
    df = (w - 1) * (b - 1)
    weight = n - float((rows**2).sum()) / n
    return float(max(0.0, statistic - df + (2 * df) ** 0.5) / weight)
