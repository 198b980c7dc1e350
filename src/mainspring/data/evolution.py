"""What may change about a dataset's columns from one version to the next."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from mainspring.core.errors import Invalid, nearest
from mainspring.core.schema import Column, Schema
from mainspring.data.frames import INSTANT, POLARS_TYPES, schema_of


def conform(
    frame: pl.DataFrame, before: Schema | None, *, of: str, windowed: bool, free: Sequence[str] = ()
) -> tuple[pl.DataFrame, Schema, list[str]]:
    """Return the frame in the columns that its dataset has, the schema of the version it makes, and what is new.

    What loses nothing is adapted: whole numbers among floats, dates among instants, a column without any value. A
    column that is new passes; one that is gone or of another type does not.

    Args:
        frame: Rows to come in, in canonical types.
        before: Schema of the version before.
        of: The dataset, for messages.
        windowed: Whether the rows join those of earlier windows.
        free: Columns that may change all the same, where the rows replace the old ones.

    Raises:
        Invalid: a column is gone or of another type.
    """
    if before is None:
        return frame, schema_of(frame), []
    if not frame.width and windowed:
        frame = pl.DataFrame(schema={column.name: POLARS_TYPES[column.dtype] for column in before})
    frame = frame.with_columns(
        pl.col(column.name).cast(POLARS_TYPES[column.dtype])
        for column in before
        if column.name in frame.columns and _fits(frame, column)
    )
    schema = schema_of(frame)
    change = before.diff(schema)
    gone = [name for name in change.removed if windowed or name not in free]
    retyped = [f"{name} was {old} and is {new}" for name, old, new in change.retyped if windowed or name not in free]
    if gone or retyped:
        what = "; ".join([*[f"{name} is gone{nearest(name, change.added)}" for name in gone], *retyped])
        raise Invalid(f"the columns of dataset {of!r} changed: {what}",
                      hint="mend the source; if the change is meant, give the dataset a new name")  # fmt: skip
    frame = frame.select([*(name for name in before.names if name in frame.columns), *change.added])
    if not windowed:
        return frame, schema_of(frame), list(change.added)
    held = (Column(c.name, c.dtype, c.nullable or schema[c.name].nullable, c.description, c.unit) for c in before)
    # Rows of earlier windows have no value in a column that is new.
    return frame, Schema((*held, *(Column(name, schema[name].dtype) for name in change.added))), list(change.added)


def _fits(frame: pl.DataFrame, column: Column) -> bool:
    """Return whether a column must and can be cast to the type it had without losing a value."""
    found, wanted = frame.schema[column.name], POLARS_TYPES[column.dtype]
    if found == wanted:
        return False
    widens = (found == pl.Int64 and wanted == pl.Float64) or (found == pl.Date and wanted == INSTANT)
    return widens or frame.get_column(column.name).null_count() == frame.height
