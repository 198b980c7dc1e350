"""A sketch is the same whether it is made at once or in parts, and loses nothing that is compared."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring.stats.sketch import Sketch, bin_of, reference_sketch, sketch

NUMBERS = st.lists(st.none() | st.floats(allow_nan=True, allow_infinity=True, width=32), max_size=60)


def same(a: Sketch, b: Sketch) -> bool:
    return (a.counts == b.counts).all() and (a.nulls, a.unseen) == (b.nulls, b.unseen)


@given(NUMBERS, NUMBERS, NUMBERS)
def test_the_sketch_of_a_whole_is_the_sum_of_those_of_its_parts(known: Any, left: Any, right: Any) -> None:
    like = reference_sketch(pl.Series(known, dtype=pl.Float64), bins=8)
    parts = [sketch(pl.Series(part, dtype=pl.Float64), like) for part in (left, right)]
    assert same(parts[0].merged(parts[1]), sketch(pl.Series([*left, *right], dtype=pl.Float64), like))


@given(NUMBERS, NUMBERS)
def test_rows_are_counted_in_the_bins_they_fall_into(known: Any, values: Any) -> None:
    like = reference_sketch(pl.Series(known, dtype=pl.Float64), bins=8)
    series = pl.Series(values, dtype=pl.Float64)
    counted = sketch(series, like)
    places = np.bincount(bin_of(series, like), minlength=len(like.counts) + 1)
    assert counted.counts.tolist() == places[:-1].tolist()
    assert counted.nulls == places[-1]
    assert counted.rows == len(values)


def test_a_sketch_survives_json() -> None:
    made = reference_sketch(pl.Series([1.5, 2.5, None, 1e300, -0.0]))
    assert same(Sketch.from_json(json.loads(json.dumps(made.to_json()))), made)
    assert same(made.counted([json.loads(json.dumps(made.counts_json()))]), made)
    assert same(made.counted([made.counts_json()] * 2), made.merged(made))


def test_bins_are_about_equally_full_and_an_atom_has_its_own() -> None:
    values = np.concatenate([np.zeros(5000), np.random.default_rng(0).lognormal(size=5000)])
    made = reference_sketch(pl.Series(values))
    place = int(np.searchsorted(made.edges, 0.0))
    assert made.counts[place] == 5000
    assert np.delete(made.counts, place).max() <= 2 * 10_000 / 128
    nudged = sketch(pl.Series(np.full(10, np.nextafter(0.0, 1))), made)
    assert nudged.counts[place] == 0


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (pl.Series([1, 2, 3]), "number"),
        (pl.Series([True, None]), "category"),
        (pl.Series(["a", "b"] * 50), "category"),
        (pl.Series([f"free text number {i}" for i in range(500)]), "text"),
        (pl.Series([1, 2]).cast(pl.Datetime("us")), "none"),
        (pl.Series([None, None], dtype=pl.Float64), "number"),
        (pl.Series([], dtype=pl.String), "category"),
    ],
)
def test_every_kind_of_column_has_a_sketch(values: pl.Series, kind: str) -> None:
    made = reference_sketch(values)
    assert made.kind == kind
    assert made.rows == len(values)
    assert same(sketch(values, made), made)


def test_values_never_seen_are_counted_apart() -> None:
    like = reference_sketch(pl.Series(["a", "b", "a"]))
    assert sketch(pl.Series(["a", "zz", None, "y"]), like).unseen == 2
