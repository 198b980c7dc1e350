"""Distances between a reference and a current sample, and tests of whether chance explains them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mainspring.stats.sketch import Sketch

Array = npt.NDArray[np.int64] | npt.NDArray[np.float64]
COARSE_BINS = 10
# Below this expected count a bin is pooled with others: the chi-square approximation fails there.
FEWEST_EXPECTED = 5.0


@dataclass(frozen=True, slots=True)
class Distance:
    """How far a current sample lies from its reference.

    Args:
        psi: Population stability index over coarse bins; `noise` is what chance and season alone add to it.
        ks: Largest distance of the cumulative distributions at the edges of the fine bins; 0 for categories.
        js: Jensen-Shannon distance over the fine bins, base 2, 0 to 1.
        missing: Share of rows without a value, less the reference's.
        unseen: Share of rows with a category the reference never saw.
        p_shift: How often chance gives values this far apart; 1 where they cannot be compared.
        p_missing: How often chance gives this change of the share of missing values.
        p_unseen: How often chance gives this many new categories.
    """

    n: int
    psi: float
    noise: float
    ks: float
    js: float
    missing: float
    unseen: float
    p_shift: float
    p_missing: float
    p_unseen: float

    @property
    def excess(self) -> float:
        """The PSI beyond what chance and season explain, at least 0."""
        return max(0.0, self.psi - self.noise)


def compare(
    reference: Sketch, current: Sketch, *, before: Array | None = None, season: float = 0.0, season_missing: float = 0.0
) -> Distance:
    """Return how far `current` lies from `reference`, both counted over the same bins.

    Args:
        before: The reference's rows per coarse bin at the hours of `current`; all of its rows when None.
        season: The PSI by which windows of this length differ when nothing is wrong, from `season_excess`.
        season_missing: The same of the share of missing values.
    """
    rows, m, n = current.rows, float(reference.known), current.known
    psi, noise, p_shift, ks, js = 0.0, 0.0, 1.0, 0.0, 0.0
    if m and n:
        group = groups(reference)
        k = int(group.max()) + 1
        if before is None:
            before = np.bincount(group, weights=reference.counts, minlength=k)
        m = float(before.sum())
        after = np.bincount(group, weights=current.counts, minlength=k)
        psi, noise = stability_index(before, after), (k - 1) * (1 / n + 1 / m) + season
        p_shift = chi_square_p(before, after, season)
        ks, js = _fine_distances(reference, current)
    base, share = _share(reference.nulls, reference.rows), _share(current.nulls, rows)
    once = int((reference.counts == 1).sum()) if reference.kind == "category" else 0
    return Distance(
        n=rows,
        psi=psi,
        noise=noise,
        ks=ks,
        js=js,
        missing=share - base,
        unseen=_share(current.unseen, rows),
        p_shift=p_shift,
        p_missing=_share_p(reference.nulls, reference.rows, current.nulls, rows, season_missing),
        # A category seen once says how many there are that were not seen at all (Good 1953, Biometrika 40).
        p_unseen=_more_p(once, reference.known, current.unseen, n + current.unseen) if current.unseen else 1.0,
    )


def groups(reference: Sketch) -> npt.NDArray[np.int64]:
    """Return for each fine bin the coarse one it belongs to, about equally full and in order, shape (bins,)."""
    total = reference.counts.sum()
    if total == 0:
        return np.zeros(len(reference.counts), np.int64)
    if reference.kind == "category":
        return np.minimum(np.arange(len(reference.counts)), COARSE_BINS - 1)
    middle = (np.cumsum(reference.counts) - reference.counts / 2) / total
    coarse = np.minimum((middle * COARSE_BINS).astype(np.int64), COARSE_BINS - 1)
    return np.unique(coarse, return_inverse=True)[1].astype(np.int64)


def stability_index(before: Array, after: Array) -> float:
    """Return the population stability index of counts over the same bins; empty bins count half a row.

    >>> stability_index(np.array([50, 50]), np.array([50, 50]))
    0.0
    """
    p = (before + 0.5) / (before.sum() + 0.5 * len(before))
    q = (after + 0.5) / (after.sum() + 0.5 * len(after))
    return float(((q - p) * np.log(q / p)).sum())


def chi_square_p(before: Array, after: Array, season: float = 0.0) -> float:
    """Return how often two samples of one distribution, which varies by `season` between windows, differ this much.

    The season is taken to push in one direction, where it is the hardest to tell from a drift: the statistic is then
    chi-square plus a wider chi-square of one degree, approximated by matching mean and variance (Satterthwaite 1946).
    """
    from scipy.special import chdtrc

    m, n = float(before.sum()), float(after.sum())
    both = before + after
    rare = both * min(n, m) / (n + m) < FEWEST_EXPECTED
    if rare.any():
        before = np.append(before[~rare], before[rare].sum())
        after = np.append(after[~rare], after[rare].sum())
        both = before + after
    keep = both > 0
    df = int(keep.sum()) - 1
    if df < 1 or (rare.any() and df == 1 and both[-1] * min(n, m) / (n + m) < FEWEST_EXPECTED):
        return 1.0
    difference = math.sqrt(m / n) * after[keep] - math.sqrt(n / m) * before[keep]
    statistic = float((difference**2 / both[keep]).sum())
    wider = 1 + n * m / (n + m) * season
    mean, variance = df - 1 + wider, 2 * (df - 1 + wider**2)
    return float(chdtrc(2 * mean**2 / variance, statistic * 2 * mean / variance))


def season_excess(table: Array, expected: Array | None = None, *, phases: float = 1.0) -> float:
    """Return how far windows vary beyond chance, as the PSI that it adds to a window's; 0 when chance explains all.

    The excess of the chi-square statistic of windows against bins over its expectation, by the method of moments, and
    one standard error on top: an estimate from few windows must not promise more than it knows.

    Args:
        table: Rows per window and bin, shape (windows, bins).
        expected: The rows that each window should have, same shape; without it the share of all windows.
        phases: How many windows make the period whose phases `expected` was estimated from.
    """
    filled, used = table.sum(axis=1) > 0, table.sum(axis=0) > 0
    table = table[filled][:, used].astype(np.float64)
    w, b = table.shape
    if w < 2 or b < 2:
        return 0.0
    rows, n = table.sum(axis=1), float(table.sum())
    expected = np.outer(rows, table.sum(axis=0) / n) if expected is None else expected[filled][:, used]
    statistic = float(((table - expected) ** 2 / np.maximum(expected, 1e-9)).sum())
    df = max(1.0, (w - max(1.0, phases)) * (b - 1))
    weight = n - float((rows**2).sum()) / n
    return float(max(0.0, statistic - df + math.sqrt(2 * df)) / weight)


def cauchy_combination(p: Sequence[float]) -> float:
    """Return one p-value from several that may depend on each other.

    Source: Liu and Xie (2020), Journal of the American Statistical Association 115, 393-402.

    >>> cauchy_combination([0.5, 0.5])
    0.5
    """
    bounded = np.clip(np.asarray(p, dtype=np.float64), 1e-15, 1 - 1e-9)
    statistic = float(np.mean(1 / np.tan(np.pi * bounded)))
    return float(0.5 - math.atan(statistic) / math.pi if statistic < 1e6 else 1 / (math.pi * statistic))


def benjamini_hochberg(p: Sequence[float], q: float) -> npt.NDArray[np.bool_]:
    """Return which hypotheses fall when at most a share `q` of those that fall may be true, shape (n,).

    Source: Benjamini and Hochberg (1995), Journal of the Royal Statistical Society B 57, 289-300.

    >>> benjamini_hochberg([0.001, 0.5, 0.02], 0.05).tolist()
    [True, False, True]
    """
    values = np.asarray(p, dtype=np.float64)
    ranked = np.sort(values)
    passing = np.flatnonzero(ranked <= q * np.arange(1, len(values) + 1) / len(values))
    limit = ranked[passing[-1]] if len(passing) else -1.0
    return np.asarray(values <= limit)


def _fine_distances(reference: Sketch, current: Sketch) -> tuple[float, float]:
    p, q = reference.counts / reference.known, current.counts / current.known
    ordered = reference.kind in ("number", "text")
    ks = float(np.abs(np.cumsum(p - q)).max()) if ordered else 0.0
    middle = (p + q) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(p > 0, p * np.log2(p / middle), 0.0) + np.where(q > 0, q * np.log2(q / middle), 0.0)
    return ks, math.sqrt(max(0.0, float(terms.sum()) / 2))


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _share_p(k_before: int, m: int, k: int, n: int, season: float) -> float:
    """Return how often chance alone changes a share this much: by chi-square where counts allow, else exactly."""
    if not (m and n):
        return 1.0
    expected = (k_before + k) * n / (m + n)
    if min(expected, n - expected) >= 2 * FEWEST_EXPECTED:
        return chi_square_p(np.array([k_before, m - k_before]), np.array([k, n - k]), season)
    return _more_p(k_before, m, k, n)


def _more_p(k_before: int, m: int, k: int, n: int) -> float:
    """Return how often chance gives at least k of n, at the highest rate that k_before of m still speaks for."""
    from scipy.special import bdtrc

    rate = min(1.0, (k_before + 1 + math.sqrt(k_before + 1)) / (m + 1))
    return float(bdtrc(k - 1, n, rate)) if k > 0 else 1.0
