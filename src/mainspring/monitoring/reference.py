"""What a version knew when it was made: the sketches that later windows are held against."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from mainspring.core.schema import Signature
from mainspring.stats.drift import groups, season_excess
from mainspring.stats.sketch import Sketch, bin_of, reference_sketch

Array = npt.NDArray[Any]
HOUR_S, DAY_S, HOURS = 3600.0, 86400.0, 24
FINEST_S = (60.0, 300.0, 900.0, 3600.0)
FINEST_CELLS = 8192
FEWEST_WINDOWS = 4
SEASON_ROWS = 100_000  # more rows say nothing more of how windows differ
FEWEST_ROWS = 100
FEWEST_DAYS = 1.9  # two days, less the minutes before the first row and after the last
DAILY = 0.01  # the PSI that hours of the day must differ by for windows to be held against their own hours


@dataclass(frozen=True, slots=True)
class Known:
    """One column of a reference.

    Args:
        sketch: Its counts.
        season: By window length in seconds, the PSI by which windows differ when nothing is wrong.
        season_missing: The same of the share of rows without a value.
        phases: Rows per hour of the day and coarse bin, shape (24, bins); None where the hour makes no difference.
    """

    sketch: Sketch
    season: Mapping[float, float]
    season_missing: Mapping[float, float]
    phases: Array | None = None

    def at(self, start: datetime, end: datetime) -> Array | None:
        """Return the reference's rows per coarse bin at the hours from `start` to `end`; None for all of them."""
        length = (end - start).total_seconds()
        if self.phases is None or length >= DAY_S:
            return None
        begin = start.timestamp() % DAY_S
        edges = np.arange(2 * HOURS + 1) * HOUR_S
        covered = np.clip(np.minimum(edges[1:], begin + length) - np.maximum(edges[:-1], begin), 0, None) / HOUR_S
        rows = (covered[:HOURS] + covered[HOURS:]) @ self.phases
        return rows if rows.sum() >= FEWEST_ROWS else None

    def season_of(self, length_s: float) -> tuple[float, float]:
        """Return both seasons of windows of a length: the larger of those known on either side of it."""
        return _around(self.season, length_s), _around(self.season_missing, length_s)


@dataclass(frozen=True, slots=True)
class Reference:
    """A reference, read.

    Args:
        columns: By input name.
        score: Of the answers on rows that the version did not learn from.
        importance: Share of each input in the answers; empty when it was not measured.
        span: How long a time the rows cover, in seconds; 0 when their time is not known.
    """

    task: str
    columns: Mapping[str, Known]
    score: Known
    importance: Mapping[str, float]
    span: float

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Reference:
        columns = {name: _known(item) for name, item in data["columns"].items()}
        return cls(data["task"], columns, _known(data["score"]), data["importance"], data["span"])

    def weight(self, column: str) -> float:
        """Return the share of a column in the answers; 1 for every column when it was not measured."""
        return self.importance.get(column, 0.0) if self.importance else 1.0


def build(
    frame: pl.DataFrame,
    scores: Array,
    signature: Signature,
    *,
    time: Array | None = None,
    importance: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Return the reference of a version as JSON-able data, as `Reference.from_json` reads it.

    Args:
        frame: The rows it learned from, as requests carry them.
        scores: Its answers on rows it did not learn from, shape (n,) or (n, k).
        signature: What it takes and gives.
        time: When each row of `frame` happened (datetime64); shows how much windows differ when nothing is wrong.
        importance: The share of each input in the answers, 0 to 1.
    """
    seconds = np.empty(0) if time is None else np.asarray(time).astype("datetime64[us]").astype(np.int64) / 1e6
    sketches = {name: reference_sketch(frame[name]) for name in signature.inputs.names}
    some = slice(None, None, max(1, frame.height // SEASON_ROWS))
    seasons = {name: _season(frame[name][some], item, seconds[some]) for name, item in sketches.items()}
    weights = {name: max(0.0, float(share)) for name, share in (importance or {}).items()}
    answered = reference_sketch(answers(scores, signature))
    return {
        "rows": frame.height,
        "span": float(np.ptp(seconds)) if len(seconds) else 0.0,
        "task": signature.task,
        "columns": {name: item.to_json() | seasons[name].to_json() for name, item in sketches.items()},
        "score": answered.to_json() | {"season": _blend(seasons, weights), "season_missing": {}},
        "importance": weights,
    }


def answers(scores: Array, signature: Signature) -> pl.Series:
    """Return what is counted of a model's answers: the score, or of several classes the one it says."""
    if signature.task == "multiclass":
        return pl.Series([str(signature.classes[i]) for i in np.asarray(scores).argmax(axis=1)], dtype=pl.String)
    return pl.Series(np.asarray(scores, dtype=np.float64))


def _known(data: Mapping[str, Any]) -> Known:
    season, missing = (
        {float(length): value for length, value in data[key].items()} for key in ("season", "season_missing")
    )
    phases = np.array(data["phases"], np.float64) if data.get("phases") else None
    return Known(Sketch.from_json(data), season, missing, phases)


@dataclass(frozen=True, slots=True)
class _Season:
    """How windows of a column differ: `raw` as they are, `adjusted` after the hour of the day is allowed for."""

    raw: dict[str, float]
    adjusted: dict[str, float]
    missing: dict[str, float]
    phases: list[list[int]] | None

    def to_json(self) -> dict[str, Any]:
        return {"season": self.adjusted, "season_missing": self.missing, "phases": self.phases}


def _season(series: pl.Series, item: Sketch, seconds: Array) -> _Season:
    """Return by window length in seconds how much more windows of that length differ than chance has them differ.

    Counts are made once over the shortest windows; longer ones are sums of them.
    """
    found = _Season({}, {}, {}, None)
    if len(seconds) == 0:
        return found
    group = groups(item)
    k, span = int(group.max(initial=0)) + 1, float(np.ptp(seconds))
    width = next((w for w in FINEST_S if span / w <= FINEST_CELLS), max(FINEST_S[-1], span / FINEST_CELLS))
    first = int(seconds.min() // width)
    cell = (seconds // width).astype(np.int64) - first
    # Rows without a value fall into a last group, which is compared by itself.
    place = cell * (k + 1) + np.append(group, k)[bin_of(series, item)]
    table = np.bincount(place, minlength=(int(cell.max()) + 1) * (k + 1)).reshape(-1, k + 1)
    counts, missing = table[:, :k], np.column_stack([table[:, :k].sum(axis=1), table[:, k]])
    hour = ((np.arange(len(table)) + first) * width // HOUR_S % HOURS).astype(np.int64)
    phases = np.zeros((HOURS, k), np.int64)
    np.add.at(phases, hour, counts)
    is_daily = width <= HOUR_S and span >= FEWEST_DAYS * DAY_S and season_excess(phases) > DAILY
    expected = np.zeros(counts.shape)
    if is_daily:
        found = replace(found, phases=phases.tolist())
        expected = counts.sum(axis=1, keepdims=True) * (phases / np.maximum(1, phases.sum(axis=1, keepdims=True)))[hour]
    while len(counts) >= FEWEST_WINDOWS:
        length = f"{width:.6g}"
        found.raw[length] = season_excess(counts)
        found.missing[length] = season_excess(missing)
        found.adjusted[length] = (
            season_excess(counts, expected, phases=min(HOURS, DAY_S / width)) if is_daily else found.raw[length]
        )
        counts, missing, expected, width = _paired(counts), _paired(missing), _paired(expected), width * 2
    return found


def _paired(table: Array) -> Array:
    """Return the sums of windows two by two."""
    if len(table) % 2:
        table = np.vstack([table, np.zeros((1, table.shape[1]), table.dtype)])
    return table[0::2] + table[1::2]


def _blend(seasons: Mapping[str, _Season], weights: Mapping[str, float]) -> dict[str, float]:
    """Return the season of the answers: they vary as the inputs do that they depend on."""
    lengths = sorted({length for season in seasons.values() for length in season.raw}, key=float)
    return {
        length: sum(weights.get(name, 0.0) * season.raw.get(length, 0.0) for name, season in seasons.items())
        for length in lengths
    }


def _around(season: Mapping[float, float], length_s: float) -> float:
    if not season:
        return 0.0
    below = max((length for length in season if length <= length_s), default=min(season))
    above = min((length for length in season if length >= length_s), default=max(season))
    value = max(season[below], season[above])
    return value if math.isfinite(value) else 0.0
