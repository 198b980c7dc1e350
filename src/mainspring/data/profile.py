"""What a table's columns look like in figures, and how far a newer table is from them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from mainspring.core.schema import DType
from mainspring.data.frames import canonical, dtype_of

Array = npt.NDArray[Any]

BINS = 10
TOP = 20
SAMPLE = 200_000
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
Scalar = int | float | str | bool | None


@dataclass(frozen=True, slots=True)
class ColumnProfile:
    """One column in figures; instants are ISO text.

    Args:
        dtype: What the column holds.
        missing: How many values are null or NaN.
        distinct: About how many different values there are (HyperLogLog, 1 % off).
        low: Least value, `high` the greatest; of text the length.
        mean: Mean of numbers, of text the mean length, of booleans the share of true.
        std: Standard deviation of numbers.
        quantiles: Values at 1, 5, 25, 50, 75, 95, 99 % (numbers only).
        top: The most frequent values with their counts (text and booleans).
        edges: Inner edges of the reference bins (numbers only); bin i holds `edges[i-1] < x <= edges[i]`.
        counts: Rows per bin, then rows of other values, then missing; of a sample where the table is large.
    """

    dtype: DType
    missing: int
    distinct: int
    low: Scalar = None
    high: Scalar = None
    mean: float | None = None
    std: float | None = None
    quantiles: tuple[float, ...] = ()
    top: tuple[tuple[str, int], ...] = ()
    edges: tuple[float, ...] = ()
    counts: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Profile:
    """A table in figures; law: `Profile.from_json(p.to_json()) == p`."""

    rows: int
    columns: dict[str, ColumnProfile]

    def to_json(self) -> dict[str, Any]:
        return {"rows": self.rows, "columns": {name: asdict(column) for name, column in self.columns.items()}}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Profile:
        return cls(data["rows"], {name: _column_from_json(column) for name, column in data["columns"].items()})


@dataclass(frozen=True, slots=True)
class Shift:
    """How far a column moved: its population stability index, and what chance alone gives at these sizes."""

    psi: float
    noise: float

    @property
    def effect(self) -> float:
        """The index less what chance alone gives, at least 0."""
        return max(0.0, self.psi - self.noise)


def profile(frame: pl.DataFrame) -> Profile:
    """Return the figures of every column; exact but for `distinct`, and quantiles of more than 200,000 rows.

    Of a longer table the quantiles and bins come from every k-th row, at most 200,000.
    """
    frame = canonical(frame)
    facts = _facts(frame)
    step = max(1, -(-frame.height // SAMPLE))
    sample = frame.gather_every(step)
    columns = {name: _profile_column(sample.get_column(name), facts[name]) for name in frame.columns}
    return Profile(frame.height, columns)


def shift(reference: ColumnProfile, series: pl.Series) -> Shift | None:
    """Return how far `series` is from the reference, or None where its bins say nothing (time, free text, no rows).

    The index sums (p - q) ln(p / q) over the reference's bins, "other" and "missing". Under no change its mean is
    about (bins - 1)(1/n + 1/m): that is `noise`.
    """
    if not reference.counts or not series.len() or dtype_of(series.dtype) not in _comparable(reference.dtype):
        return None
    before = np.array(reference.counts, float)
    after = _count(canonical(series.to_frame()).to_series(), reference).astype(float)
    used = (before > 0) | (after > 0)
    n, m = before.sum(), after.sum()
    if not n or used.sum() < 2:
        return Shift(0.0, 0.0)
    # Half a row in each bin keeps an empty one finite.
    p, q = (before[used] + 0.5) / (n + 0.5 * used.sum()), (after[used] + 0.5) / (m + 0.5 * used.sum())
    return Shift(float(((p - q) * np.log(p / q)).sum()), float((used.sum() - 1) * (1 / n + 1 / m)))


def _facts(frame: pl.DataFrame) -> dict[str, dict[str, Any]]:
    """Return exact figures of every column, from one pass."""
    expressions = []
    for name, kind in frame.schema.items():
        value = pl.col(name).fill_nan(None) if kind.is_float() else pl.col(name)
        shown = value.str.len_chars() if kind == pl.String else value
        wanted = {"missing": value.null_count(), "distinct": value.drop_nulls().approx_n_unique()}
        if kind != pl.Boolean:
            wanted |= {"low": shown.min(), "high": shown.max()}
        if not kind.is_temporal():
            wanted["mean"] = shown.mean()
        if kind.is_numeric():
            wanted["std"] = value.std()
        expressions.append(pl.struct([expression.alias(key) for key, expression in wanted.items()]).alias(name))
    row = frame.lazy().select(expressions).collect().row(0, named=True) if expressions else {}
    return {name: {**facts, "dtype": dtype_of(frame.schema[name])} for name, facts in row.items()}


def _profile_column(sample: pl.Series, facts: dict[str, Any]) -> ColumnProfile:
    found: dict[str, Any] = {key: _scalar(value) for key, value in facts.items()}
    found["missing"], found["distinct"] = int(facts["missing"]), int(facts["distinct"])
    if facts["dtype"] in ("int64", "float64"):
        values = sample.cast(pl.Float64).fill_nan(None).drop_nulls().to_numpy()
        values = values[np.isfinite(values)]
        if values.size:
            found["quantiles"] = tuple(np.quantile(values, QUANTILES).tolist())
            inner = np.quantile(values, np.arange(1, BINS) / BINS, method="inverted_cdf")
            # The greatest value is no inner edge: nothing of the reference lies above it.
            found["edges"] = tuple(np.unique(inner[inner < values.max()]).tolist())
    elif facts["dtype"] in ("string", "bool"):
        counted = sample.drop_nulls().cast(pl.String).alias("value").value_counts()
        top = counted.sort(["count", "value"], descending=[True, False]).head(TOP)
        found["top"] = tuple((value, int(count)) for value, count in top.rows())
    bins = ColumnProfile(**found)
    if facts["dtype"] in ("date", "datetime"):
        return bins
    return ColumnProfile(**found, counts=tuple(_count(sample, bins).tolist()))


def _count(series: pl.Series, bins: ColumnProfile) -> Array:
    """Count rows per bin of `bins`, then other values, then missing, shape (bins + 2,)."""
    if bins.dtype in ("int64", "float64"):
        values = series.cast(pl.Float64).fill_null(float("nan")).to_numpy()
        present = values[~np.isnan(values)]
        counts = np.bincount(np.searchsorted(bins.edges, present, side="left"), minlength=len(bins.edges) + 1)
        return np.append(counts, [0, values.size - present.size])
    names = [value for value, _ in bins.top]
    found = dict(series.cast(pl.String).value_counts().rows())
    missing = found.pop(None, 0)
    known = [found.pop(name, 0) for name in names]
    return np.array([*known, sum(found.values()), missing], dtype=np.int64)


def _comparable(dtype: DType) -> tuple[DType, ...]:
    return ("int64", "float64") if dtype in ("int64", "float64") else (dtype,)


def _scalar(value: Any) -> Any:
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value.isoformat() if hasattr(value, "isoformat") else value


def _column_from_json(data: dict[str, Any]) -> ColumnProfile:
    top = tuple((str(value), int(count)) for value, count in data["top"])
    rest = {name: tuple(data[name]) for name in ("quantiles", "edges", "counts")}
    return ColumnProfile(**{**data, **rest, "top": top})
