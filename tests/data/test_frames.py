"""The one form of every table: types, the frame a model sees, and content digests."""

from datetime import UTC, date, datetime, timedelta

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring.core.errors import Invalid, NotFound
from mainspring.core.schema import Column, Schema
from mainspring.data.frames import canonical, content_digest, schema_of, to_columns, to_pandas

AT = datetime(2026, 1, 1, 12, 30, tzinfo=UTC)


def everything() -> pl.DataFrame:
    return pl.DataFrame(
        {
            "count": [1, 2, 3],
            "maybe": [1, None, 3],
            "amount": [0.5, float("nan"), -0.0],
            "name": ["x", None, "é"],
            "flag": [True, False, True],
            "unsure": [True, None, False],
            "day": [date(2026, 1, 1)] * 3,
            "at": [AT, None, AT],
        },
        schema_overrides={"count": pl.Int16, "at": pl.Datetime("ms", "Europe/Berlin")},
    )


def test_a_schema_says_what_a_column_holds_and_whether_a_value_may_be_missing() -> None:
    found = {c.name: (c.dtype, c.nullable) for c in schema_of(everything())}
    assert found == {
        "count": ("int64", False), "maybe": ("int64", True), "amount": ("float64", True), "name": ("string", True),
        "flag": ("bool", False), "unsure": ("bool", True), "day": ("date", False), "at": ("datetime", True),
    }  # fmt: skip


def test_the_frame_a_model_sees_has_one_pandas_type_per_kind_of_column() -> None:
    frame = everything()
    seen = to_pandas(frame, schema_of(frame))
    assert {name: str(kind) for name, kind in seen.dtypes.items()} == {
        "count": "int64", "maybe": "float64", "amount": "float64", "name": "object", "flag": "bool",
        "unsure": "object", "day": "datetime64[us, UTC]", "at": "datetime64[us, UTC]",
    }  # fmt: skip
    assert seen["name"][1] is None
    assert seen["unsure"][1] is None
    assert seen["at"][0] == pd.Timestamp(AT)
    assert np.isnan(seen["maybe"][1])


def test_model_code_may_change_its_frame_in_place_and_nothing_else_changes() -> None:
    frame = pl.DataFrame({"x": [1.0, 2.0], "n": [1, 2], "s": ["a", "b"]})
    request = {"x": np.array([1.0]), "n": np.array([1]), "s": np.array(["a"], object)}
    for source in (frame, request):
        seen = to_pandas(source, schema_of(frame))
        seen.loc[0, "x"], seen.loc[0, "n"], seen.loc[0, "s"] = 9.0, 9, "z"
    assert frame.row(0) == (1.0, 1, "a")
    assert [values[0] for values in request.values()] == [1.0, 1, "a"]


def test_arrays_from_a_request_become_the_same_frame_as_the_table_they_came_from() -> None:
    frame = everything()
    schema = schema_of(frame)
    pd.testing.assert_frame_equal(to_pandas(to_columns(frame, schema), schema), to_pandas(frame, schema))


def test_a_request_of_plain_python_values_becomes_the_training_frame() -> None:
    schema = Schema((Column("a", "float64"), Column("b", "string"), Column("c", "int64", nullable=False)))
    seen = to_pandas(
        {"a": np.array([1, None], object), "b": np.array(["x", None], object), "c": np.array([1, 2])}, schema
    )
    expected = to_pandas(pl.DataFrame({"a": [1.0, None], "b": ["x", None], "c": [1, 2]}), schema)
    pd.testing.assert_frame_equal(seen, expected)


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (np.array(["x"], object), "float64"),
        (np.array([1.5]), "int64"),
        (np.array([1]), "string"),
        (np.array([1]), "bool"),
    ],
)
def test_an_array_of_another_kind_is_refused(values: np.ndarray, dtype: str) -> None:
    with pytest.raises(Invalid, match="column 'a'"):
        to_columns({"a": values}, Schema((Column("a", dtype, nullable=False),)))


@pytest.mark.parametrize("values", [[1, None], ["x", None], [True, None], [AT, None]])
def test_a_value_missing_from_a_column_that_cannot_miss_one_is_refused(values: list) -> None:
    frame = pl.DataFrame({"a": values})
    schema = Schema((Column("a", schema_of(frame)["a"].dtype, nullable=False),))
    with pytest.raises(Invalid, match="misses 1 value"):
        to_columns(frame, schema)
    if not isinstance(values[0], datetime):
        with pytest.raises(Invalid, match="misses 1 value"):
            to_columns({"a": np.array(values, object)}, schema)


def test_an_absent_column_is_named_with_the_nearest_one() -> None:
    with pytest.raises(NotFound, match='the nearest name is "amount"'):
        to_pandas(pl.DataFrame({"amount": [1.0]}), Schema((Column("amonut", "float64"),)))


def test_a_column_without_any_value_takes_the_type_the_schema_gives_it() -> None:
    schema = Schema((Column("a", "float64"), Column("b", "string")))
    seen = to_pandas(pl.DataFrame({"a": [None], "b": [None]}, schema={"a": pl.String, "b": pl.Float64}), schema)
    assert seen["a"].dtype == "float64"
    assert seen["b"][0] is None


def test_nested_values_are_refused_by_name_and_other_types_are_stored_in_their_nearest_kind() -> None:
    with pytest.raises(Invalid, match="column 'tags' holds List"):
        canonical(pl.DataFrame({"tags": [["a"]]}))
    frame = pl.DataFrame(
        {"wait": [timedelta(seconds=1.5)], "kind": pl.Series(["a"], dtype=pl.Categorical), "none": [None]}
    )
    assert canonical(frame).rows() == [(1.5, "a", None)]
    with pytest.raises(Invalid, match="64 bits"):
        canonical(pl.DataFrame({"big": pl.Series([2**64 - 1], dtype=pl.UInt64)}))


def test_an_instant_keeps_its_moment_and_one_without_a_zone_is_utc() -> None:
    frame = pl.DataFrame({"a": [AT.replace(tzinfo=None)], "b": pl.Series([AT]).dt.convert_time_zone("Asia/Tokyo")})
    assert canonical(frame).rows() == [(AT, AT)]


def test_missing_has_one_form_in_a_stored_table() -> None:
    assert canonical(everything())["amount"].to_list() == [0.5, None, 0.0]
    assert canonical(pl.DataFrame({"x": pl.Series([float("nan"), 1], dtype=pl.Float32)}))["x"].to_list() == [None, 1.0]


def test_a_digest_depends_on_values_and_not_on_how_they_lie_in_memory() -> None:
    frame = everything()
    chunked = pl.concat([frame.slice(0, 1), frame.slice(1)], rechunk=False)
    assert content_digest(chunked) == content_digest(frame)
    assert content_digest(frame.with_columns(pl.col("amount").fill_nan(None))) == content_digest(frame)
    assert content_digest(frame.with_columns(amount=pl.Series([0.5, None, 0.0]))) == content_digest(frame)


@pytest.mark.parametrize(
    "other",
    [
        pl.DataFrame({"a": ["x", "yz"], "b": [2, 1]}),
        pl.DataFrame({"a": ["xy", "z"], "b": [1, 2]}),
        pl.DataFrame({"a": ["x", None], "b": [1, 2]}),
        pl.DataFrame({"a": ["x", "yz"], "b": [1.0, 2.0]}),
        pl.DataFrame({"a": ["x", "yz"], "c": [1, 2]}),
        pl.DataFrame({"b": [1, 2], "a": ["x", "yz"]}),
    ],
)
def test_a_digest_changes_with_a_value_a_name_a_type_or_the_order(other: pl.DataFrame) -> None:
    assert content_digest(other) != content_digest(pl.DataFrame({"a": ["x", "yz"], "b": [1, 2]}))


@given(
    st.lists(st.tuples(st.none() | st.text(max_size=5), st.none() | st.floats(), st.none() | st.booleans()), max_size=8)
)
def test_equal_tables_have_equal_digests_and_a_slice_is_a_table(rows: list) -> None:
    schema = {"a": pl.String, "b": pl.Float64, "c": pl.Boolean}
    frame = pl.DataFrame(rows, schema=schema, orient="row")
    padded = pl.DataFrame([("x", 1.0, True), *rows], schema=schema, orient="row").slice(1)
    assert content_digest(padded) == content_digest(frame)
    assert to_columns(padded, schema_of(frame)).keys() == {"a", "b", "c"}
