"""Confidence intervals: closed forms for shares, seeded resampling for everything else."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from mainspring.core.errors import Invalid
from mainspring.core.records import Interval

Array = npt.NDArray[Any]

# Above this many rows the resamples come from a random part of the rows, and the interval is narrowed by the square
# root of the ratio: the errors of averages and ranks fall so. It keeps the cost flat.
ROWS_AT_MOST = 100_000


def wilson(successes: float, n: float, level: float = 0.95) -> Interval:
    """Return the Wilson score interval of a share; honest near 0 and 1, where resampling says "certain".

    Raises:
        Invalid: n is below 1 or less than `successes`.

    Source: Wilson (1927), Journal of the American Statistical Association 22, 209-212.

    >>> wilson(10, 10).low
    0.722
    """
    if n < 1 or not 0 <= successes <= n:
        raise Invalid(f"{successes} of {n} is not a share")
    z = NormalDist().inv_cdf(0.5 + level / 2)
    share, spread = successes / n, z * z / n
    centre = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / n + spread / (4 * n))
    return Interval(max(0.0, centre - half), min(1.0, centre + half), level)


def bootstrap(
    statistics: Callable[[Array], Sequence[Callable[[Array], float]]],
    n: int,
    *,
    seed: int,
    values: Sequence[float],
    level: float = 0.95,
) -> list[Interval | None]:
    """Return a percentile bootstrap interval for each statistic, all on the same resamples.

    Args:
        statistics: Given rows (positions, in order), the functions of those rows' weights: how often each was drawn.
        n: How many rows there are.
        seed: Where the draws start; the same seed draws the same rows.
        values: Each statistic on the whole of the rows.
        level: The coverage, 0 to 1.

    Returns:
        None for a statistic that is not finite on more than a tenth of the resamples.
    """
    rng, m = np.random.default_rng(seed), min(n, ROWS_AT_MOST)
    functions = statistics(np.arange(n) if m == n else np.sort(rng.choice(n, m, replace=False)))
    count = int(np.clip(10_000_000 // max(m, 1), 200, 1000))
    drawn = np.empty((count, len(functions)))
    for i in range(count):
        weights = np.bincount(rng.integers(0, m, m), minlength=m).astype(np.float64)
        drawn[i] = [function(weights) for function in functions]
    found: list[Interval | None] = []
    for column, value, function in zip(drawn.T, values, functions, strict=True):
        finite = column[np.isfinite(column)]
        if len(finite) < 0.9 * count or not math.isfinite(value):
            found.append(None)
            continue
        low, high = (float(q) for q in np.quantile(finite, [(1 - level) / 2, (1 + level) / 2]))
        if m < n:
            part, narrow = function(np.ones(m)), math.sqrt(m / n)
            low, high = value + (low - part) * narrow, value + (high - part) * narrow
        found.append(Interval(low, high, level))
    return found
