"""One form for every table: the types a column may have, the frame a model sees, and the digest of its content."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import polars as pl

from mainspring.core.errors import Invalid, NotFound, nearest
from mainspring.core.schema import Column, DType, Schema

if TYPE_CHECKING:
    import pandas as pd

Array = npt.NDArray[Any]

INSTANT = pl.Datetime("us", "UTC")
POLARS_TYPES: dict[DType, pl.DataType] = {
    "int64": pl.Int64(), "float64": pl.Float64(), "bool": pl.Boolean(), "string": pl.String(), "date": pl.Date(),
    "datetime": INSTANT,
}  # fmt: skip


def dtype_of(kind: pl.DataType) -> DType | None:
    """Return the column type that a Polars type is stored as, or None when a table cannot hold it."""
    if kind.is_integer():
        return "int64"
    if kind.is_float() or kind.is_decimal() or kind == pl.Duration:
        return "float64"
    if kind in (pl.String, pl.Categorical, pl.Enum, pl.Null, pl.Time):
        return "string"
    if kind == pl.Boolean:
        return "bool"
    if kind == pl.Date:
        return "date"
    return "datetime" if kind == pl.Datetime else None


def canonical(frame: pl.DataFrame) -> pl.DataFrame:
    """Return the frame with each column in the one Polars type of its kind.

    Integers become Int64, floats and decimals Float64 with NaN as null, durations seconds, categories text, instants
    UTC microseconds (an instant without a zone is taken as UTC).

    Raises:
        Invalid: a column holds lists, structs or bytes, or an integer beyond 64 bits.
    """
    expressions = []
    for name, kind in frame.schema.items():
        dtype = dtype_of(kind)
        if dtype is None:
            raise Invalid(
                f"column {name!r} holds {kind}, which a table cannot store",
                hint="spread nested values over columns, or drop the column before returning the frame",
            )
        column = pl.col(name)
        if kind.is_float():
            expressions.append(column.cast(pl.Float64).fill_nan(None))
        elif kind == POLARS_TYPES[dtype]:
            continue
        elif isinstance(kind, pl.Duration):
            expressions.append(column.cast(pl.Duration("us")).cast(pl.Float64) / 1e6)
        elif isinstance(kind, pl.Datetime):
            zoned = column.dt.replace_time_zone("UTC") if kind.time_zone is None else column.dt.convert_time_zone("UTC")
            expressions.append(zoned.dt.cast_time_unit("us"))
        elif kind == pl.Time:
            expressions.append(column.dt.to_string("%H:%M:%S%.f"))
        else:
            expressions.append(column.cast(POLARS_TYPES[dtype]))
    try:
        return frame.with_columns(expressions)
    except pl.exceptions.InvalidOperationError as error:
        raise Invalid(f"a whole number is beyond 64 bits: {str(error).splitlines()[0]}",
                      hint="read the column as text") from error  # fmt: skip


def schema_of(frame: pl.DataFrame) -> Schema:
    """Return the schema of a frame; a column is nullable when a value is missing (null, or NaN in a float)."""
    columns = []
    for name, kind in frame.schema.items():
        dtype = dtype_of(kind)
        if dtype is None:
            canonical(frame.select(name))  # raises, naming the column
            raise AssertionError(name)
        series = frame.get_column(name)
        missing = series.null_count() > 0 or (kind.is_float() and bool(series.is_nan().any()))
        columns.append(Column(name, dtype, nullable=missing))
    return Schema(tuple(columns))


def to_columns(frame: pl.DataFrame | Mapping[str, Array], schema: Schema) -> dict[str, Array]:
    """Return the schema's columns as arrays of shape (n,), missing as NaN, NaT or None.

    float64 as it is; int64, or float64 when nullable; bool, or object when nullable; string as object; date and
    datetime as datetime64[us] in UTC. Columns that the schema does not name are left out.

    Raises:
        NotFound: a column of the schema is absent.
        Invalid: a column is of another kind, or misses values although the schema says it cannot.
    """
    names = frame.columns if isinstance(frame, pl.DataFrame) else list(frame)
    for column in schema:
        if column.name not in names:
            raise NotFound(f"no column {column.name!r} in the data{nearest(column.name, names)}",
                           hint=f"columns: {', '.join(names)}")  # fmt: skip
    if isinstance(frame, pl.DataFrame):
        frame = canonical(frame.select(schema.names))
        return {column.name: _from_series(frame.get_column(column.name), column) for column in schema}
    return {column.name: _from_array(np.asarray(frame[column.name]), column) for column in schema}


def to_pandas(frame: pl.DataFrame | Mapping[str, Array], schema: Schema) -> pd.DataFrame:
    """Return the frame that model code is given, the same in training and in serving.

    The columns of `to_columns`, in the schema's order, with instants as datetime64[us, UTC] and text as object (never
    pandas' own string type, whose missing value is NaN and not None).
    """
    import pandas as pd

    columns: dict[str, Any] = {}
    for name, values in to_columns(frame, schema).items():
        series = pd.Series(values, dtype=values.dtype, copy=False)
        columns[name] = series.dt.tz_localize("UTC") if values.dtype.kind == "M" else series
    # A copy: model code may change its frame in place, and neither the table nor the request may change with it.
    return pd.DataFrame(columns, copy=True)


def content_digest(frame: pl.DataFrame) -> str:
    """Return the digest of names, types, order and values.

    It does not depend on how the values lie in memory; null and NaN are one value, and so are 0.0 and -0.0.
    """
    total = hashlib.sha256(f"{frame.height}".encode())
    frame = canonical(frame)
    for name, kind in frame.schema.items():
        series = frame.get_column(name)
        total.update(f"\0{name}\0{kind}\0".encode())
        total.update(np.packbits(series.is_null().to_numpy()).tobytes())
        if kind == pl.String:
            series = series.fill_null("")
            total.update(series.str.len_bytes().to_numpy().tobytes())
            total.update(series.str.join("").item().encode() if frame.height else b"")
        elif kind in (pl.Date, INSTANT):
            total.update(series.to_physical().fill_null(0).to_numpy().tobytes())
        elif kind == pl.Boolean:
            total.update(series.fill_null(False).to_numpy().tobytes())
        else:
            # -0.0 + 0 is 0.0: the addition gives zero its one form (Polars would optimise it away).
            total.update((series.fill_null(0).to_numpy() + 0).tobytes())
    return "sha256:" + total.hexdigest()


def _from_series(series: pl.Series, column: Column) -> Array:
    found = dtype_of(series.dtype)
    if found != column.dtype and not (found == "int64" and column.dtype == "float64"):
        if series.null_count() < series.len():
            raise _wrong_type(column, found or str(series.dtype))
        series = series.cast(POLARS_TYPES[column.dtype])
    _refuse_missing(series.null_count(), column)
    if column.dtype == "float64":
        return series.cast(pl.Float64).to_numpy()
    if column.dtype == "int64":
        return (series.cast(pl.Float64) if column.nullable else series).to_numpy()
    if column.dtype in ("date", "datetime"):
        return series.cast(pl.Datetime("us")).to_numpy()
    if column.dtype == "bool" and column.nullable:
        return np.array(series.to_list(), dtype=object)
    return series.to_numpy()


_KINDS: dict[DType, str] = {"float64": "iuf", "int64": "iuf", "bool": "b", "string": "", "date": "M", "datetime": "M"}


def _from_array(values: Array, column: Column) -> Array:
    """Give an array that a request was parsed into its canonical form; an object array holds None for missing."""
    numeric = column.dtype in ("float64", "int64")
    if values.dtype == object and numeric:
        try:
            values = values.astype(np.float64)  # None becomes NaN
        except (TypeError, ValueError) as error:
            raise _wrong_type(column, "mixed values") from error
    if column.dtype == "string" and values.dtype.kind in "UT":
        values = values.astype(object)
    if values.dtype != object and values.dtype.kind not in _KINDS[column.dtype]:
        raise _wrong_type(column, str(values.dtype))
    if values.dtype == object:
        _refuse_missing(sum(value is None for value in values), column)
        if column.dtype in ("date", "datetime"):
            return values.astype("datetime64[us]")
        return values if column.dtype == "string" or column.nullable else values.astype(bool)
    if column.dtype == "float64" or (column.dtype == "int64" and column.nullable):
        return values.astype(np.float64, copy=False)
    if column.dtype == "int64":
        if values.dtype.kind == "f":
            _refuse_missing(int(np.isnan(values).sum()), column)
            if bool((values != np.floor(values)).any()):
                raise _wrong_type(column, "fractions")
        return values.astype(np.int64, copy=False)
    if column.dtype == "bool":
        return values.astype(object) if column.nullable else values
    return values.astype("datetime64[us]", copy=False)


def _refuse_missing(count: int, column: Column) -> None:
    # A float may always be missing: NaN is one of its values.
    if count and not column.nullable and column.dtype != "float64":
        raise Invalid(
            f"column {column.name!r} misses {count} values, and the schema says that it has none missing",
            hint=f"fill the missing values, or declare {column.name!r} nullable",
        )


def _wrong_type(column: Column, found: str) -> Invalid:
    return Invalid(f"column {column.name!r} is {found}, and the schema says {column.dtype}",
                   hint=f"cast {column.name!r} to {column.dtype}")  # fmt: skip
