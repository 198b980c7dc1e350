"""Baselines answer in the model's shape and know nothing that they could not have known."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from mainspring.core.schema import Column, Schema
from mainspring.training.baselines import baseline_scores

START = datetime(2026, 1, 1, tzinfo=UTC)


def hourly(hours: int) -> pl.DataFrame:
    """Return hours whose outcome depends on the hour of the week only, and an input that says nothing."""
    at = [START + timedelta(hours=i) for i in range(hours)]
    return pl.DataFrame({"at": at, "x": [0.0] * hours, "y": [float(i % 168) for i in range(hours)]})


INPUTS = Schema((Column("x", "float64"),))


def test_the_same_hour_last_week_is_right_for_a_weekly_pattern() -> None:
    frame = hourly(168 * 6)
    scores = baseline_scores("regression", frame[: 168 * 3], frame[168 * 3 :], INPUTS, target="y", time="at")
    assert set(scores) == {"mean", "linear", "seasonal_naive"}
    assert np.array_equal(scores["seasonal_naive"], frame["y"][168 * 3 :].to_numpy())
    assert np.allclose(scores["mean"], 83.5)


def test_without_known_outcomes_nothing_of_the_test_rows_is_used() -> None:
    frame = hourly(168 * 4)
    train, test = frame[: 168 * 2], frame[168 * 2 :]
    before = baseline_scores("regression", train, test, INPUTS, target="y", time="at")
    other = test.with_columns(y=pl.lit(-1.0))
    after = baseline_scores("regression", train, other, INPUTS, target="y", time="at")
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_the_last_value_is_the_newest_outcome_known_by_then() -> None:
    frame = hourly(400)
    delay = timedelta(hours=3)
    scores = baseline_scores(
        "regression", frame[:200], frame[200:], INPUTS, target="y", time="at", known_after=delay
    )  # fmt: skip
    assert np.array_equal(scores["last_value"], frame["y"][197:397].to_numpy())
    at_once = baseline_scores(
        "regression", frame[:200], frame[200:], INPUTS, target="y", time="at", known_after=timedelta(0)
    )
    assert np.array_equal(at_once["last_value"], frame["y"][199:399].to_numpy()), "strictly before, never its own"


def test_a_gap_of_a_day_falls_back_to_the_mean() -> None:
    frame = hourly(168)
    train = frame.filter(~pl.col("at").is_between(START + timedelta(days=1), START + timedelta(days=3)))
    asked = pl.DataFrame({"at": [START + timedelta(days=9, hours=12)], "x": [0.0], "y": [0.0]})
    scores = baseline_scores("regression", train, asked, INPUTS, target="y", time="at")
    assert scores["seasonal_naive"][0] == pytest.approx(train["y"].mean())


def test_classes_keep_their_order_and_their_shares() -> None:
    frame = pl.DataFrame({"x": [1.0, 2.0, 3.0, 4.0] * 5, "y": ["b", "a", "b", "c"] * 5})
    scores = baseline_scores("multiclass", frame, frame[:3], INPUTS, target="y", classes=("c", "b", "a"))
    assert scores["majority"].tolist() == [[0.25, 0.5, 0.25]] * 3
    assert scores["linear"].shape == (3, 3)
    binary = frame.with_columns(y=pl.col("y") == "b")
    found = baseline_scores("binary", binary, binary[:3], INPUTS, target="y", classes=(False, True))
    assert found["majority"].tolist() == [0.5] * 3
    assert found["linear"].shape == (3,)


def test_linear_takes_numbers_categories_text_and_what_is_missing() -> None:
    n = 400
    generator = np.random.default_rng(0)
    spam = generator.random(n) < 0.5
    frame = pl.DataFrame(
        {
            "amount": [None if i % 7 == 0 else float(i % 13) for i in range(n)],
            "empty": pl.Series([None] * n, dtype=pl.Float64),
            "plan": [None if i % 5 == 0 else f"plan {i % 3}" for i in range(n)],
            "text": [
                f"message {i} {'win free cash' if s else 'see you later'} now {i % 50}" for i, s in enumerate(spam)
            ],
            "at": [START] * n,
            "ok": [None if i % 9 == 0 else i % 2 == 0 for i in range(n)],
            "y": spam,
        }
    )
    inputs = Schema(
        (
            Column("amount", "float64"), Column("empty", "float64"), Column("plan", "string"),
            Column("text", "string"), Column("at", "datetime"), Column("ok", "bool"),
        )
    )  # fmt: skip
    test = frame[300:].with_columns(plan=pl.lit("never seen"))
    scores = baseline_scores("binary", frame[:300], test, inputs, target="y", classes=(False, True))
    assert ((scores["linear"] > 0.5) == test["y"].to_numpy()).mean() > 0.95


def test_baselines_are_the_same_each_time() -> None:
    frame = hourly(300).with_columns(x=pl.int_range(300).cast(pl.Float64))
    first, second = (
        baseline_scores("regression", frame[:200], frame[200:], INPUTS, target="y", time="at", seed=1) for _ in range(2)
    )
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_persistence_is_hard_to_beat_on_electricity_prices(data_dir: Path) -> None:
    frame = pl.read_parquet(data_dir / "elec2" / "elec2.parquet")
    inputs = Schema((Column("nswdemand", "float64"),))
    scores = baseline_scores(
        "binary", frame[:36000], frame[36000:], inputs, target="class", time="ts_reconstructed",
        classes=("DOWN", "UP"), known_after=timedelta(0),
    )  # fmt: skip
    right = (scores["last_value"] > 0.5) == (frame["class"][36000:] == "UP").to_numpy()
    assert right.mean() == pytest.approx(0.85, abs=0.01)
