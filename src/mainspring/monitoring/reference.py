"""What a version knew when it was made: the sketches that later windows are held against."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from mainspring.core.schema import Signature
from mainspring.stats.drift import groups, season_excess
from mainspring.stats.sketch import Sketch, bin_of, reference_sketch

Array = npt.NDArray[Any]
SCORE = "(score)"
FINEST_S = 60.0
FINEST_CELLS = 4096
FEWEST_WINDOWS = 4


def build(
    frame: pl.DataFrame,
    scores: Array,
    signature: Signature,
    *,
    time: Array | None = None,
    importance: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Return the reference of a version as JSON-able data.

    Args:
        frame: The rows it learned from, as requests carry them.
        scores: Its answers on rows it did not learn from, shape (n,) or (n, k).
        signature: What it takes and gives.
        time: When each row of `frame` happened (datetime64); shows how much windows differ when nothing is wrong.
        importance: The share of each input in the answers, 0 to 1.
    """
    sketches = {name: reference_sketch(frame[name]) for name in signature.inputs.names}
    seconds = None if time is None else np.asarray(time).astype("datetime64[us]").astype(np.int64) / 1e6
    weights = {name: float(share) for name, share in (importance or {}).items()}
    columns = {
        name: item.to_json() | {"season": {} if seconds is None else _season(frame[name], item, seconds)}
        for name, item in sketches.items()
    }
    return {
        "rows": frame.height,
        "task": signature.task,
        "columns": columns,
        "score": reference_sketch(answers(scores, signature)).to_json() | {"season": _blend(columns, weights)},
        "importance": weights,
    }


def answers(scores: Array, signature: Signature) -> pl.Series:
    """Return what is counted of a model's answers: the score, or of several classes the one it says."""
    if signature.task == "multiclass":
        return pl.Series([str(signature.classes[i]) for i in np.asarray(scores).argmax(axis=1)], dtype=pl.String)
    return pl.Series(np.asarray(scores, dtype=np.float64))


def _season(series: pl.Series, item: Sketch, seconds: Array) -> dict[str, float]:
    """Return by window length in seconds how much more windows of that length differ than chance has them differ.

    Counts are made once over the shortest windows; longer ones are sums of them.
    """
    group = groups(item)
    if len(group) == 0 or len(seconds) == 0:
        return {}
    width = max(FINEST_S, float(np.ptp(seconds)) / FINEST_CELLS)
    cell = ((seconds - seconds.min()) // width).astype(np.int64)
    k = int(group.max()) + 1
    # Rows without a known value fall into a last group that is not compared here.
    flat = np.bincount(
        cell * (k + 1) + np.append(group, k)[bin_of(series, item)], minlength=(int(cell.max()) + 1) * (k + 1)
    )
    table = flat.reshape(-1, k + 1)[:, :k]
    found: dict[str, float] = {}
    while len(table) >= FEWEST_WINDOWS:
        found[f"{width:.6g}"] = season_excess(table)
        if len(table) % 2:
            table = np.vstack([table, np.zeros((1, k), table.dtype)])
        table, width = table[0::2] + table[1::2], width * 2
    return found


def _blend(columns: Mapping[str, Any], weights: Mapping[str, float]) -> dict[str, float]:
    """Return the season of the answers: they vary as the inputs do that they depend on."""
    lengths = sorted({length for column in columns.values() for length in column["season"]}, key=float)
    return {
        length: sum(weights.get(name, 0.0) * column["season"].get(length, 0.0) for name, column in columns.items())
        for length in lengths
    }
