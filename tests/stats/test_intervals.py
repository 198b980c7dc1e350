"""Intervals cover what they claim to cover."""

from __future__ import annotations

import numpy as np
import pytest

from mainspring.core.errors import Invalid
from mainspring.stats.intervals import ROWS_AT_MOST, bootstrap, wilson


def test_a_share_of_ten_out_of_ten_is_not_certain() -> None:
    interval = wilson(10, 10)
    assert interval.high == 1.0
    assert interval.low == pytest.approx(0.7225, abs=1e-4)


@pytest.mark.parametrize(("successes", "n"), [(1, 0), (3, 2), (-1, 2)])
def test_what_is_not_a_share_is_refused(successes: int, n: int) -> None:
    with pytest.raises(Invalid, match="is not a share"):
        wilson(successes, n)


def test_a_bootstrap_interval_of_a_mean_agrees_with_its_standard_error() -> None:
    values = np.random.default_rng(3).normal(size=4_000)
    [found] = bootstrap(
        lambda rows: [lambda w: float(w @ values[rows] / w.sum())], 4_000, seed=0, values=[values.mean()]
    )
    assert found is not None
    error = values.std() / np.sqrt(4_000)
    assert found.low == pytest.approx(values.mean() - 1.96 * error, abs=error / 4)
    assert found.high == pytest.approx(values.mean() + 1.96 * error, abs=error / 4)


def test_above_the_row_limit_the_interval_is_as_narrow_as_the_whole_data_makes_it() -> None:
    n = 4 * ROWS_AT_MOST
    values = np.random.default_rng(3).normal(size=n)
    [found] = bootstrap(
        lambda rows: [lambda w: float(np.average(values[rows], weights=w))], n, seed=0, values=[values.mean()]
    )
    assert found is not None
    assert (found.high - found.low) / 2 == pytest.approx(1.96 / np.sqrt(n), rel=0.2)
    assert found.low < values.mean() < found.high


def test_the_same_seed_gives_the_same_interval_and_an_undefined_figure_has_none() -> None:
    values = np.arange(50.0)

    def draw() -> list[object]:
        return list(bootstrap(lambda rows: [lambda w: float(w @ values[rows]), lambda w: float("nan")], 50, seed=7,
                              values=[1225.0, float("nan")]))  # fmt: skip

    assert draw() == draw()
    assert draw()[1] is None


def test_nine_of_ten_wilson_intervals_hold_the_truth() -> None:
    drawn = np.random.default_rng(0).binomial(40, 0.1, 500)
    covered = [interval.low <= 0.1 <= interval.high for interval in (wilson(int(d), 40) for d in drawn)]
    assert np.mean(covered) > 0.92
