"""Profiles: right figures, and a shift that is not fooled by chance."""

import json
from datetime import UTC, datetime

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring.data.profile import Profile, profile, shift


def test_a_profile_gives_the_figures_of_every_column() -> None:
    frame = pl.DataFrame(
        {
            "n": [1, 2, 3, 4, None],
            "x": [0.5, float("nan"), None, float("inf"), 1.5],
            "s": ["a", "bb", "a", None, "a"],
            "b": [True, True, False, None, True],
            "t": [datetime(2026, 1, day, tzinfo=UTC) for day in (1, 2, 3, 4, 5)],
        }
    )
    found = profile(frame)
    assert found.rows == 5
    n, x, s, b, t = (found.columns[name] for name in frame.columns)
    assert (n.missing, n.distinct, n.low, n.high, n.mean) == (1, 4, 1, 4, 2.5)
    assert n.quantiles[3] == 2.5
    assert (x.missing, x.low, x.high, x.mean) == (2, 0.5, None, None)
    assert (s.missing, s.top, s.low, s.high) == (1, (("a", 3), ("bb", 1)), 1, 2)
    assert (b.mean, b.top) == (0.75, (("true", 3), ("false", 1)))
    assert (t.low, t.high, t.counts) == ("2026-01-01T00:00:00+00:00", "2026-01-05T00:00:00+00:00", ())


def test_a_profile_survives_being_written_as_json() -> None:
    frame = pl.DataFrame({"n": [1, 2, None], "s": ["a", None, "b"], "b": [True, None, False], "none": [None] * 3})
    for table in (frame, frame.clear()):
        found = profile(table)
        assert Profile.from_json(json.loads(json.dumps(found.to_json(), allow_nan=False))) == found


def test_bins_count_every_row_once_and_give_a_frequent_value_its_own() -> None:
    frame = pl.DataFrame({"x": [0.0] * 900 + list(range(1, 101))}, strict=False)
    column = profile(frame).columns["x"]
    assert sum(column.counts) == 1000
    assert column.counts[0] == 900


def test_a_long_table_is_profiled_from_a_sample_and_counts_stay_exact() -> None:
    n = 450_000
    found = profile(pl.DataFrame({"x": np.arange(n, dtype=float)})).columns["x"]
    assert (found.low, found.high, found.mean) == (0, n - 1, (n - 1) / 2)
    assert found.quantiles[3] == pytest.approx(n / 2, rel=0.001)
    assert sum(found.counts) == 150_000


@pytest.mark.parametrize("seed", range(5))
def test_chance_alone_has_no_effect_and_a_move_of_half_a_deviation_has(seed: int) -> None:
    rng = np.random.default_rng(seed)
    reference = profile(pl.DataFrame({"x": rng.normal(size=2000)})).columns["x"]
    calm = shift(reference, pl.Series(rng.normal(size=200)))
    moved = shift(reference, pl.Series(rng.normal(0.6, 1, size=200)))
    assert calm is not None
    assert moved is not None
    assert calm.effect < 0.1 < moved.effect


def test_missing_values_new_categories_and_new_extremes_are_a_shift() -> None:
    frame = pl.DataFrame({"x": np.arange(1000.0), "c": ["a", "b"] * 500})
    columns = profile(frame).columns
    for column, values in (("x", [None] * 500 + [1.0] * 500), ("x", [5000.0] * 1000), ("c", ["new"] * 1000)):
        found = shift(columns[column], pl.Series(values))
        assert found is not None
        assert found.effect > 0.2


def test_time_and_a_column_that_changed_its_kind_are_not_compared() -> None:
    columns = profile(pl.DataFrame({"t": [datetime(2026, 1, 1, tzinfo=UTC)], "x": [1.0]})).columns
    assert shift(columns["t"], pl.Series([datetime(2027, 1, 1, tzinfo=UTC)])) is None
    assert shift(columns["x"], pl.Series(["a"])) is None
    assert shift(columns["x"], pl.Series([], dtype=pl.Float64)) is None


@given(st.lists(st.none() | st.floats(), max_size=30), st.lists(st.none() | st.floats(), max_size=30))
def test_no_values_break_a_profile_or_a_shift(before: list, after: list) -> None:
    found = profile(pl.DataFrame({"x": before}, schema={"x": pl.Float64}))
    json.dumps(found.to_json(), allow_nan=False)
    assert sum(found.columns["x"].counts) == len(before)
    moved = shift(found.columns["x"], pl.Series(after, dtype=pl.Float64))
    assert moved is None or moved.psi >= 0
