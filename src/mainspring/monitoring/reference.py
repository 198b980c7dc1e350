"""What a version knew when it was made: the sketches that later windows are held against."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from mainspring.core.schema import Signature
from mainspring.stats.drift import groups, season_excess
from mainspring.stats.sketch import Sketch, bin_of, reference_sketch

Array = npt.NDArray[Any]
FINEST_S = 60.0
FINEST_CELLS = 4096
FEWEST_WINDOWS = 4


@dataclass(frozen=True, slots=True)
class Known:
    """One column of a reference.

    Args:
        sketch: Its counts.
        season: By window length in seconds, the PSI by which windows differ when nothing is wrong.
        season_missing: The same of the share of rows without a value.
    """

    sketch: Sketch
    season: Mapping[float, float]
    season_missing: Mapping[float, float]

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
    columns = {}
    for name in signature.inputs.names:
        item = reference_sketch(frame[name])
        columns[name] = item.to_json() | _seasons(frame[name], item, seconds)
    weights = {name: max(0.0, float(share)) for name, share in (importance or {}).items()}
    answered = reference_sketch(answers(scores, signature))
    return {
        "rows": frame.height,
        "span": float(np.ptp(seconds)) if len(seconds) else 0.0,
        "task": signature.task,
        "columns": columns,
        "score": answered.to_json() | {"season": _blend(columns, weights), "season_missing": {}},
        "importance": weights,
    }


def answers(scores: Array, signature: Signature) -> pl.Series:
    """Return what is counted of a model's answers: the score, or of several classes the one it says."""
    if signature.task == "multiclass":
        return pl.Series([str(signature.classes[i]) for i in np.asarray(scores).argmax(axis=1)], dtype=pl.String)
    return pl.Series(np.asarray(scores, dtype=np.float64))


def _known(data: Mapping[str, Any]) -> Known:
    seasons = ({float(length): value for length, value in data[key].items()} for key in ("season", "season_missing"))
    return Known(Sketch.from_json(data), *seasons)


def _seasons(series: pl.Series, item: Sketch, seconds: Array) -> dict[str, dict[str, float]]:
    """Return by window length in seconds how much more windows of that length differ than chance has them differ.

    Counts are made once over the shortest windows; longer ones are sums of them.
    """
    found: dict[str, dict[str, float]] = {"season": {}, "season_missing": {}}
    group = groups(item)
    if len(seconds) == 0 or len(group) == 0:
        return found
    width = max(FINEST_S, float(np.ptp(seconds)) / FINEST_CELLS)
    cell = ((seconds - seconds.min()) // width).astype(np.int64)
    k = int(group.max()) + 1
    # Rows without a value fall into a last group, which is compared by itself.
    place = cell * (k + 1) + np.append(group, k)[bin_of(series, item)]
    table = np.bincount(place, minlength=(int(cell.max()) + 1) * (k + 1)).reshape(-1, k + 1)
    while len(table) >= FEWEST_WINDOWS:
        missing = np.column_stack([table[:, :k].sum(axis=1), table[:, k]])
        found["season"][f"{width:.6g}"] = season_excess(table[:, :k])
        found["season_missing"][f"{width:.6g}"] = season_excess(missing)
        if len(table) % 2:
            table = np.vstack([table, np.zeros((1, k + 1), table.dtype)])
        table, width = table[0::2] + table[1::2], width * 2
    return found


def _blend(columns: Mapping[str, Any], weights: Mapping[str, float]) -> dict[str, float]:
    """Return the season of the answers: they vary as the inputs do that they depend on."""
    lengths = sorted({length for column in columns.values() for length in column["season"]}, key=float)
    return {
        length: sum(weights.get(name, 0.0) * column["season"].get(length, 0.0) for name, column in columns.items())
        for length in lengths
    }


def _around(season: Mapping[float, float], length_s: float) -> float:
    if not season:
        return 0.0
    below = max((length for length in season if length <= length_s), default=min(season))
    above = min((length for length in season if length >= length_s), default=max(season))
    value = max(season[below], season[above])
    return value if math.isfinite(value) else 0.0
