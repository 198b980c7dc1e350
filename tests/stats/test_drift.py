"""The tests of drift keep their promised rate of false findings, and distances agree with SciPy."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from scipy.stats import chi2_contingency, combine_pvalues, false_discovery_control, ks_2samp

from mainspring.stats.drift import (
    benjamini_hochberg,
    cauchy_combination,
    chi_square_p,
    compare,
    season_excess,
    stability_index,
)
from mainspring.stats.sketch import reference_sketch, sketch


def test_the_distance_of_the_sketches_is_that_of_the_samples() -> None:
    rng = np.random.default_rng(1)
    before, after = rng.normal(size=20_000), rng.normal(0.2, 1, size=5_000)
    like = reference_sketch(pl.Series(before))
    found = compare(like, sketch(pl.Series(after), like))
    assert found.ks == pytest.approx(ks_2samp(before, after).statistic, abs=1 / 128)
    assert found.psi == pytest.approx(0.04, abs=0.012)  # the index of a shift by 0.2 standard deviations
    assert found.p_shift < 1e-20
    assert found.n == 5_000


def test_the_chi_square_is_scipys() -> None:
    before, after = np.array([500, 300, 200]), np.array([60, 20, 30])
    assert chi_square_p(before, after) == pytest.approx(chi2_contingency([before, after]).pvalue)


def test_without_drift_p_values_are_uniform() -> None:
    rng = np.random.default_rng(2)
    like = reference_sketch(pl.Series(rng.normal(size=10_000)))
    p = [compare(like, sketch(pl.Series(rng.normal(size=200)), like)).p_shift for _ in range(400)]
    assert np.mean(np.array(p) < 0.05) == pytest.approx(0.05, abs=0.035)
    assert np.mean(np.array(p) < 0.5) == pytest.approx(0.5, abs=0.1)


def test_a_fixed_threshold_would_alarm_on_noise_and_the_noise_is_known() -> None:
    rng = np.random.default_rng(3)
    like = reference_sketch(pl.Series(rng.normal(size=10_000)))
    found = [compare(like, sketch(pl.Series(rng.normal(size=200)), like)) for _ in range(300)]
    assert np.mean([d.psi for d in found]) == pytest.approx(found[0].noise, rel=0.15)


@pytest.mark.parametrize(("share", "rows"), [(0.0, 3), (0.001, 5), (0.02, 16), (0.2, 70)])
def test_more_missing_values_are_found_at_every_rate(share: float, rows: int) -> None:
    known = reference_sketch(pl.Series([None] * round(share * 5000) + [1.0] * round((1 - share) * 5000)))
    usual = sketch(pl.Series([None] * round(share * 200) + [1.0] * round((1 - share) * 200)), known)
    worse = sketch(pl.Series([None] * rows + [1.0] * (200 - rows)), known)
    assert compare(known, usual).p_missing > 0.05
    assert compare(known, worse).p_missing < 1e-3


def test_new_categories_count_less_where_new_ones_always_come() -> None:
    rng = np.random.default_rng(4)
    fixed = reference_sketch(pl.Series(rng.choice(["a", "b", "c"], 5000)))
    growing = reference_sketch(pl.Series([f"shop-{i}" for i in (rng.pareto(1.0, 5000) * 3).astype(int)]))
    new = pl.Series(["a"] * 190 + ["z"] * 10)
    usual = pl.Series([f"shop-{i}" for i in (rng.pareto(1.0, 200) * 3).astype(int)])
    assert compare(fixed, sketch(new, fixed)).p_unseen < 1e-6
    assert compare(growing, sketch(usual, growing)).p_unseen > 0.01


def test_nothing_is_compared_with_nothing() -> None:
    like = reference_sketch(pl.Series([1.0, 2.0]))
    empty = compare(like, sketch(pl.Series([], dtype=pl.Float64), like))
    assert (empty.p_shift, empty.p_missing, empty.p_unseen, empty.psi) == (1.0, 1.0, 1.0, 0.0)


def test_the_season_is_what_windows_differ_by_beyond_chance() -> None:
    rng = np.random.default_rng(5)
    still = rng.multinomial(200, [0.25] * 4, size=300)
    swing = np.array([rng.multinomial(200, np.array([1 + s, 1, 1, 1 - s]) / 4) for s in 0.4 * np.sin(np.arange(300))])
    assert season_excess(still) < 0.002
    assert season_excess(swing) == pytest.approx(0.04, rel=0.2)  # mean of 2 (0.4 sin)^2 / 4
    one, other = np.array([1100, 1000, 1000, 900]), np.array([75, 50, 50, 25])
    assert chi_square_p(one, other) < 0.05 < chi_square_p(one, other, season=0.04)


def test_combinations_are_scipys() -> None:
    p = [0.001, 0.02, 0.5, 0.9, 0.04]
    adjusted = false_discovery_control(p)
    for q in (0.01, 0.06, 0.2):
        assert benjamini_hochberg(p, q).tolist() == [float(a) <= q for a in adjusted]
    assert 0.001 < cauchy_combination(p) < 0.01
    assert cauchy_combination([1.0, 1.0]) > 0.99
    assert cauchy_combination([1e-30, 1.0, 1.0]) < 1e-13
    assert combine_pvalues([0.3, 0.3], method="mudholkar_george").pvalue == pytest.approx(
        cauchy_combination([0.3, 0.3]), abs=0.15
    )


def test_a_stability_index_is_symmetric() -> None:
    before, after = np.array([30, 70]), np.array([50, 50])
    assert stability_index(before, after) == pytest.approx(stability_index(after, before))
