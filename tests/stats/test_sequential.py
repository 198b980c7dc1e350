"""Evidence adds up over windows, with false alarms as rare as was asked for."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mainspring.stats.sequential import cusum, cusum_limit


@pytest.mark.parametrize("windows", [100.0, 500.0])
def test_false_alarms_come_as_rarely_as_asked(windows: float) -> None:
    limit, rng = cusum_limit(windows), np.random.default_rng(0)
    lengths = []
    for _ in range(120):
        value, length = 0.0, 0
        while value <= limit:
            value, length = max(0.0, value + rng.normal() - 0.5), length + 1
        lengths.append(length)
    assert np.mean(lengths) == pytest.approx(windows, rel=0.35)


def test_a_small_loss_of_quality_adds_up_and_tells_since_when() -> None:
    z = [0.1, -1.0, 0.4, 1.6, 1.4, 1.9, 1.2, 1.8, 1.5]
    found = cusum(z, limit=5.0)
    assert found.is_over
    assert found.onset == 3
    assert not cusum(z[:6], limit=5.0).is_over


def test_windows_without_outcomes_say_nothing() -> None:
    assert cusum([3.0, math.nan, 3.0], limit=4.0) == cusum([3.0, math.nan, 3.0, math.nan], limit=4.0)


def test_a_long_illness_does_not_outlive_its_cure() -> None:
    assert not cusum([5.0] * 50 + [-2.0] * 3, limit=4.0).is_over
