"""What does not drift does not alarm, and what drifts is found in two windows, with and without a season."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest

from mainspring.core.schema import Column, Schema, Signature
from mainspring.core.units import parse_condition
from mainspring.monitoring import monitors
from mainspring.monitoring.reference import Reference, build

NUMBERS, CATEGORIES, DAYS = 20, 10, 2
HOUR = timedelta(hours=1)
START = datetime(2026, 2, 1, tzinfo=UTC)
COLUMNS = (
    *(Column(f"n{i}", "float64") for i in range(NUMBERS)),
    *(Column(f"c{i}", "string") for i in range(CATEGORIES)),
)
SIGNATURE = Signature(Schema(COLUMNS), "binary", (False, True), True)
SHARES = np.array([0.4, 0.2, 0.15, 0.1, 0.06, 0.04, 0.03, 0.01, 0.006, 0.004])
IMPORTANCE = {"n1": 0.5, "n4": 0.4, "c1": 0.1}
CHANGES: dict[str, list[pl.Expr]] = {
    "": [],
    "sudden": [pl.col("n1") + 0.8, pl.col("n4") * 1.5],
    "missing": [pl.when(pl.int_range(pl.len()) % 15 == 0).then(None).otherwise(pl.col("n1")).alias("n1")],
    "new": [pl.when(pl.int_range(pl.len()) % 15 == 0).then(pl.lit("zz")).otherwise(pl.col("c1")).alias("c1")],
    "harmless": [pl.col("n7") + 0.8],
}


def rows(rng: np.random.Generator, hours: npt.NDArray[Any], season: float) -> pl.DataFrame:
    """Return rows of those hours; half of the numbers and three categories follow the hour of the day."""
    n, phase = len(hours), season * np.sin(2 * np.pi * hours / 24)
    numbers = rng.normal(size=(NUMBERS, n)) + np.where(np.arange(NUMBERS)[:, None] < 10, phase, 0.0)
    data: dict[str, Any] = {f"n{i}": np.exp(x) if i % 3 == 0 else x for i, x in enumerate(numbers)}
    names = np.array(list("abcdefghij"))
    for i in range(CATEGORIES):
        tilt = np.outer(phase if i < 3 else 0 * phase, np.linspace(-1, 1, 10))
        share = SHARES * np.exp(tilt)
        edges = np.cumsum(share / share.sum(axis=1, keepdims=True), axis=1)[:, :-1]
        data[f"c{i}"] = names[(rng.random(n)[:, None] > edges).sum(axis=1)]
    return pl.DataFrame(data)


def score(frame: pl.DataFrame) -> npt.NDArray[Any]:
    return np.asarray(1 / (1 + np.exp(1 - frame["n1"].fill_null(0.0).to_numpy() - frame["n4"].to_numpy())))


def reference(rng: np.random.Generator, n: int, season: float) -> Reference:
    hours = np.repeat(np.arange(24 * DAYS), n)
    frame, held_out = rows(rng, hours, season), rows(rng, np.repeat(np.arange(24), n), season)
    time = np.datetime64("2026-01-01", "s") + (hours * 3600 + rng.integers(0, 3600, len(hours))).astype("m8[s]")
    made = build(frame, score(held_out), SIGNATURE, time=time, importance=IMPORTANCE)
    return Reference.from_json(json.loads(json.dumps(made)))


def logged(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.rename({name: f"in.{name}" for name in frame.columns}).with_columns(score=pl.Series(score(frame)))


def stream(
    seed: int, n: int, windows: int, season: float, change: str = "", since: int = 0
) -> list[tuple[monitors.Drift, ...]]:
    """Return what is alarmed of in each hourly window."""
    rng = np.random.default_rng(seed)
    known, counted, named, alarms = reference(rng, n, season), list[Any](), list[list[str]](), []
    for w in range(windows):
        frame = rows(rng, np.full(n, w % 24), season)
        if w >= since:
            frame = frame.with_columns(CHANGES[change])
        counted.append(json.loads(json.dumps(monitors.count_window(known, logged(frame)))))
        end = START + (w + 1) * HOUR
        found = monitors.find_drift(known, counted[-16:], end=end, every=HOUR, min_rows=200)
        alarms.append(monitors.persistent(found, named))
        named.append([drift.name for drift in found])
    return alarms


@pytest.mark.parametrize("season", [0.0, 0.5], ids=["still", "seasonal"])
@pytest.mark.parametrize("n", [200, 1000])
def test_at_most_one_window_in_a_hundred_alarms_when_nothing_drifts(n: int, season: float) -> None:
    alarms = [found for seed in (1, 2) for found in stream(seed, n, 60, season)]
    assert sum(bool(found) for found in alarms) <= len(alarms) // 100


@pytest.mark.parametrize("season", [0.0, 0.5], ids=["still", "seasonal"])
@pytest.mark.parametrize(
    ("change", "names"), [("sudden", {"n1/shift", "n4/shift"}), ("missing", {"n1/missing"}), ("new", {"c1/unseen"})]
)
def test_a_sudden_change_is_found_in_two_windows(change: str, names: set[str], season: float) -> None:
    alarms = stream(3, 200, 10, season, change, since=7)
    assert not any(alarms[:8])
    found = {drift.name for windows in alarms[8:10] for drift in windows if drift.pages}
    assert names & found
    assert found <= {*names, "(score)/shift"}


def test_a_change_that_the_model_does_not_look_at_pages_nobody() -> None:
    alarms = stream(4, 400, 6, 0.0, "harmless", since=2)
    assert {drift.name for found in alarms for drift in found} == {"n7/shift"}
    assert not any(drift.pages for found in alarms for drift in found)


def test_a_feed_that_breaks_is_told_from_a_change_of_the_world() -> None:
    rng = np.random.default_rng(5)
    known = reference(rng, 200, 0.0)
    frame = rows(rng, np.zeros(400, int), 0.0)
    for change, is_broken in (((pl.col("n1") * 100).alias("n1"), True), ((pl.col("n1") + 0.8).alias("n1"), False)):
        counts = monitors.count_window(known, logged(frame.with_columns(change)))
        found = monitors.find_drift(known, [counts], end=START + HOUR, every=HOUR, min_rows=200)
        assert next(drift for drift in found if drift.column == "n1").is_broken is is_broken


def test_windows_with_few_rows_are_judged_together() -> None:
    rng = np.random.default_rng(6)
    known = reference(rng, 200, 0.0)
    counts = [
        monitors.count_window(known, logged(rows(rng, np.zeros(60, int), 0.0).with_columns(CHANGES["sudden"])))
        for _ in range(4)
    ]

    def found(windows: int) -> set[str]:
        drifts = monitors.find_drift(known, counts[:windows], end=START + HOUR, every=HOUR, min_rows=200)
        return {drift.column for drift in drifts}

    assert found(3) == set()
    assert "n1" in found(4)


def test_a_plain_rule_is_kept_as_written_and_told_what_chance_gives() -> None:
    rng = np.random.default_rng(7)
    known = reference(rng, 200, 0.0)
    counts = monitors.count_window(known, logged(rows(rng, np.zeros(100, int), 0.0)))
    broken = monitors.break_rule(known, counts, parse_condition("psi > 0.1"), every=HOUR)
    assert broken, "ten bins and 100 rows exceed 0.1 by chance in some of 31 columns"
    assert all(value > 0.1 for _, value, _ in broken)
    assert "chance alone gives 0.09" in broken[0][2]
    for measure in monitors.DRIFT_MEASURES:
        assert monitors.break_rule(known, counts, parse_condition(f"{measure} > 2"), every=HOUR) == []


def test_the_endpoint_is_measured_by_request() -> None:
    answered = [(f"a{i // 5}.{i % 5}", 200, 10.0) for i in range(100)]
    failed = [(f"f{i}", 503, 900.0) for i in range(4)] + [("r", 422, 1.0)]
    frame = pl.DataFrame(answered + failed, schema=["prediction_id", "status", "latency_ms"], orient="row")
    figures = monitors.endpoint_figures(frame)
    assert figures == {
        "requests": 25.0, "predictions": 100.0, "error_rate": 4 / 25, "refused_rate": 1 / 25,
        "p50": 0.01, "p95": 0.01, "p99": 0.01,
    }  # fmt: skip
    assert set(figures) == set(monitors.ENDPOINT_FIGURES)
    assert "error_rate" not in monitors.endpoint_figures(frame.head(3)), "a rate of one request says nothing"
