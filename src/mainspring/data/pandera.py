"""Pandera models as part of a contract."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from mainspring.core.errors import MissingExtra

Array = npt.NDArray[Any]


def validate(frame: pl.DataFrame, schema: Any) -> tuple[Array, list[str], list[str]]:
    """Return the rows that a Pandera model or schema refuses (shape (n,)), why, and what is wrong with the table.

    Models for Polars and for pandas are both taken. Reasons name columns and rules, never values.
    """
    try:
        from pandera.errors import SchemaError, SchemaErrors
    except ImportError as error:  # a Pandera model without Pandera cannot be, a half-removed one can
        raise MissingExtra("checking a Pandera model needs pandera", extra="pandera") from error
    schema = schema.to_schema() if hasattr(schema, "to_schema") else schema
    for_polars = ".polars" in type(schema).__module__
    bad = np.zeros(frame.height, dtype=bool)
    try:
        schema.validate(frame if for_polars else frame.to_pandas(), lazy=True)
    except SchemaErrors as error:
        cases = error.failure_cases
        rows = cases.rows(named=True) if isinstance(cases, pl.DataFrame) else cases.to_dict("records")
    except SchemaError as error:
        return bad, [], [str(error).splitlines()[0]]
    else:
        return bad, [], []
    reasons, table = dict[str, None](), dict[str, None]()
    for row in rows:
        index, name, rule = row["index"], row["column"], row["check"]
        if index is None or index != index:  # a missing position is None from Polars and NaN from pandas
            table[f"{row['failure_case']}: {rule}" if rule == "column_in_dataframe" else f"{name}: {rule}"] = None
        else:
            bad[int(index)] = True
            reasons[f"{name}: {rule}"] = None
    return bad, list(reasons), list(table)
