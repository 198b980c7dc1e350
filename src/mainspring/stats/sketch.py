"""Mergeable counts of a column over bins fixed by its reference."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

Array = npt.NDArray[Any]
Kind = Literal["number", "category", "text", "none"]

FINE_BINS = 128
MAX_CATEGORIES = 1000
# More different texts than this share of the rows are prose, not names of kinds.
PROSE = 0.5


@dataclass(frozen=True, slots=True)
class Sketch:
    """Counts over fixed bins; law: `sketch(a, b).merged(sketch(c, b)) == sketch(a + c, b)`.

    Args:
        kind: `number`; `category`; `text`, of which the length is counted; `none`, of which only the missing are.
        edges: Upper ends of the bins but the last, ascending: bin i holds (edges[i-1], edges[i]]; `none` has one bin.
        categories: The values of the bins, most frequent first.
        counts: Rows per bin, shape (len(edges) + 1,) or (len(categories),).
        nulls: Rows without a value; NaN and infinite numbers have none.
        unseen: Rows with a category that is not among `categories`.
    """

    kind: Kind
    edges: Array
    categories: tuple[str, ...]
    counts: Array
    nulls: int = 0
    unseen: int = 0

    @property
    def rows(self) -> int:
        return self.known + self.nulls + self.unseen

    @property
    def known(self) -> int:
        return int(self.counts.sum())

    def merged(self, other: Sketch) -> Sketch:
        """Return the sketch of both samples; their bins must be the same."""
        return replace(
            self, counts=self.counts + other.counts, nulls=self.nulls + other.nulls, unseen=self.unseen + other.unseen
        )

    def counted(self, windows: Iterable[Mapping[str, Any]]) -> Sketch:
        """Return these bins with the sum of what `counts_json` wrote of some windows."""
        full, nulls, unseen = np.zeros(len(self.counts), np.int64), 0, 0
        for counts in windows:
            full[counts["bins"]] += counts["counts"]
            nulls += counts["nulls"]
            unseen += counts["unseen"]
        return replace(self, counts=full, nulls=nulls, unseen=unseen)

    def counts_json(self) -> dict[str, Any]:
        """Return the counts alone, without empty bins."""
        filled = np.flatnonzero(self.counts)
        return {
            "bins": filled.tolist(),
            "counts": self.counts[filled].tolist(),
            "nulls": self.nulls,
            "unseen": self.unseen,
        }

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "edges": self.edges.tolist(),
            "categories": list(self.categories),
            "counts": self.counts.tolist(),
            "nulls": self.nulls,
            "unseen": self.unseen,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Sketch:
        return cls(
            data["kind"],
            np.array(data["edges"], np.float64),
            tuple(data["categories"]),
            np.array(data["counts"], np.int64),
            data["nulls"],
            data["unseen"],
        )


def reference_sketch(series: pl.Series, *, bins: int = FINE_BINS) -> Sketch:
    """Return the sketch of a reference column, with bins that hold about equally many of its rows.

    A value that fills more than a bin gets a bin of its own; few different numbers get one each. Instants move on by
    themselves, so only whether they are missing is counted.
    """
    if series.dtype.is_temporal():
        return sketch(series, Sketch("none", np.empty(0), (), np.zeros(1, np.int64)))
    if not (series.dtype.is_numeric() or series.dtype == pl.Boolean):
        values = series.cast(pl.String)
        found = values.drop_nulls().value_counts(sort=True)
        if found.height <= MAX_CATEGORIES and found.height <= max(20, PROSE * len(values)):
            ordered = found.sort(found.columns[1], found.columns[0], descending=[True, False])
            return sketch(values, _of_categories(tuple(ordered[found.columns[0]].to_list())))
        return sketch(values, _of_numbers(values.str.len_chars(), bins, "text"))
    if series.dtype == pl.Boolean:
        return sketch(series, _of_categories(("false", "true")))
    return sketch(series, _of_numbers(series, bins, "number"))


def sketch(series: pl.Series, like: Sketch) -> Sketch:
    """Return the counts of a column over the bins of `like`."""
    if like.kind == "none":
        nulls = series.null_count()
        return replace(like, counts=np.array([len(series) - nulls]), nulls=nulls, unseen=0)
    if like.kind == "category":
        return _count_categories(series, like)
    if like.kind == "text":
        series = series.cast(pl.String).str.len_chars()
    values = _sorted(series)
    # Sorting and looking up the edges is ten times faster than looking up every value among the edges.
    counts = np.diff(np.searchsorted(values, like.edges, side="right"), prepend=0, append=len(values))
    return replace(like, counts=counts, nulls=len(series) - len(values), unseen=0)


def bin_of(series: pl.Series, like: Sketch) -> Array:
    """Return the bin of each row, shape (n,); the number of bins for a row without a value, or one never seen."""
    if like.kind == "category":
        places = pl.DataFrame({"value": like.categories, "place": np.arange(len(like.categories))},
                              schema={"value": pl.String(), "place": pl.Int64()})  # fmt: skip
        joined = pl.DataFrame({"value": series.cast(pl.String)}).join(
            places, on="value", how="left", maintain_order="left"
        )
        return joined["place"].fill_null(len(like.categories)).to_numpy()
    if like.kind == "none":
        return series.is_null().cast(pl.Int64).to_numpy()
    if like.kind == "text" and not series.dtype.is_numeric():
        series = series.cast(pl.String).str.len_chars()
    values = series.cast(pl.Float64).to_numpy()
    finite = np.isfinite(values)
    positions = np.searchsorted(like.edges, values, side="left")
    if not finite.all():
        positions[~finite] = len(like.edges) + 1
    return positions


def _of_categories(names: tuple[str, ...]) -> Sketch:
    return Sketch("category", np.empty(0), names, np.zeros(len(names), np.int64))


def _count_categories(series: pl.Series, like: Sketch) -> Sketch:
    found = series.cast(pl.String).alias("value").value_counts(name="rows")
    by_name = dict(zip(found["value"].to_list(), found["rows"].to_list(), strict=True))
    nulls = by_name.pop(None, 0)
    counts = np.array([by_name.pop(name, 0) for name in like.categories], np.int64)
    return replace(like, counts=counts, nulls=nulls, unseen=sum(by_name.values()))


def _of_numbers(series: pl.Series, bins: int, kind: Kind) -> Sketch:
    values = _sorted(series)
    edges = np.empty(0)
    if len(values):
        ends = np.append(np.flatnonzero(values[1:] != values[:-1]), len(values) - 1)
        distinct, counts = values[ends], np.diff(ends, prepend=-1)
        if len(distinct) <= bins:
            edges = distinct[:-1]
        else:
            quantiles = values[(np.arange(1, bins) * len(values)) // bins]
            atoms = distinct[counts > len(values) / bins]
            # (just below a, a] holds a and nothing else.
            edges = np.unique(np.concatenate([quantiles, atoms, np.nextafter(atoms, -np.inf)]))
    return Sketch(kind, edges, (), np.zeros(len(edges) + 1, np.int64))


def _sorted(series: pl.Series) -> Array:
    """Return the finite values in order."""
    values = np.sort(series.cast(pl.Float64).drop_nulls().to_numpy())
    return values[np.searchsorted(values, -np.inf, side="right") : np.searchsorted(values, np.inf, side="left")]
