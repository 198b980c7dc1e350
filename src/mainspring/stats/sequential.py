"""Sequential tests: evidence that adds up from window to window."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

SLACK = 0.5


@dataclass(frozen=True, slots=True)
class Cusum:
    """The sum of evidence up to now: `onset` is the position it has been growing since, None while it is 0."""

    value: float
    limit: float
    onset: int | None

    @property
    def is_over(self) -> bool:
        return self.value > self.limit


def cusum(z: Sequence[float], *, limit: float, slack: Sequence[float] | float = SLACK) -> Cusum:
    """Return the one-sided cumulative sum of standardised values: it grows while they lie above `slack`.

    Args:
        z: One value per window, oldest first; standard normal when nothing is wrong, NaN for a window without one.
        limit: From `cusum_limit`.
        slack: What is let pass per window, one for all or one for each.

    Source: Page (1954), Biometrika 41, 100-115.

    >>> cusum([0.0, 3.0, 3.0], limit=4.0)
    Cusum(value=5.0, limit=4.0, onset=1)
    """
    value, onset = 0.0, None
    for i, item in enumerate(z):
        if math.isnan(item):
            continue
        # Bounded above too, so that a long illness does not outlive its cure by as long again.
        value = min(2 * limit, max(0.0, value + item - (slack if isinstance(slack, float) else slack[i])))
        onset = None if value == 0 else i if onset is None else onset
    return Cusum(value, limit, onset)


def cusum_limit(windows: float, *, slack: float = SLACK) -> float:
    """Return the limit at which a cusum gives one false alarm in so many windows on average.

    Source: Siegmund (1985), Sequential Analysis, section 2.6: the average run length with the corrected boundary.

    >>> round(cusum_limit(938.0), 2)
    5.0
    """
    low, high = 0.0, 50.0
    while high - low > 1e-6:
        middle = (low + high) / 2
        b = 2 * slack * (middle + 1.166)
        if (math.exp(b) - 1 - b) / (2 * slack * slack) < windows:
            low = middle
        else:
            high = middle
    return high
