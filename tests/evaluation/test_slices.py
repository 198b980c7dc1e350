"""Slices cover every row once, and their metric is the metric of their rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mainspring.evaluation.slices import MISSING, OTHER, slice_metrics

Y = np.arange(100.0)


def cut(values: Any, **options: Any) -> dict[str, int]:
    found = slice_metrics("mae", "regression", Y, Y + 1, (), {"c": values}, **options)["c"]
    assert sum(part.share for part in found) == pytest.approx(1)
    return {part.value: part.n for part in found}


def test_texts_are_slices_and_missing_is_one_of_them() -> None:
    values = np.array(["de"] * 60 + ["fr"] * 30 + [None] * 10, dtype=object)
    assert cut(values) == {"de": 60, "fr": 30, MISSING: 10}


def test_rare_texts_are_one_slice() -> None:
    values = np.array(["big"] * 70 + [f"rare{i}" for i in range(30)], dtype=object)
    assert cut(values, values_at_most=3) == {"big": 70, "rare0": 1, "rare1": 1, OTHER: 28}


def test_many_numbers_are_cut_at_their_quartiles_and_few_are_kept() -> None:
    assert list(cut(Y).values()) == [25, 25, 25, 25]
    assert cut(np.array([1.0] * 50 + [2.0] * 40 + [np.nan] * 10)) == {"1": 50, "2": 40, MISSING: 10}
    assert cut(np.array([1] * 50 + [2] * 50)) == {"1": 50, "2": 50}
    assert cut(np.array([True] * 99 + [False])) == {"True": 99, "False": 1}


def test_the_metric_of_a_slice_is_the_metric_of_its_rows() -> None:
    values = np.array(["a"] * 50 + ["b"] * 50, dtype=object)
    found = slice_metrics("mae", "regression", Y, Y + np.repeat([1.0, 3.0], 50), (), {"c": values})["c"]
    assert [(part.value, part.metric.value) for part in found] == [("a", pytest.approx(1)), ("b", pytest.approx(3))]
    assert found[0].metric.interval is not None
