"""The feature language: one evaluator, one meaning of missing, and nothing that a bundle can smuggle in."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring.core.errors import Invalid
from mainspring.data.frames import schema_of, to_columns
from mainspring.features.expressions import Node, evaluate, from_json, literal, make, result_dtype, result_kind

A, B, T, D = (Node("column", value=name) for name in "abtd")
COLUMNS: dict[str, Any] = {
    "a": np.array([1.0, -4.0, np.nan, 0.0]),
    "b": np.array([2.0, 0.0, 3.0, 0.0]),
    "t": np.array(["Ann@X.de", "", None, "bob"], dtype=object),
    "d": np.array(["2024-02-29T13:45", "1969-12-31T23:59", "NaT", "1970-01-01T00:00"], dtype="datetime64[us]"),
}


def value(op: str, *args: Any) -> list[Any]:
    found = evaluate(make(op, *(a if isinstance(a, Node) else literal(a) for a in args)), COLUMNS, 4)
    return [None if v is None or v != v else v for v in found.tolist()]


@pytest.mark.parametrize(
    ("op", "args", "expected"),
    [
        ("div", (A, B), [0.5, None, None, None]),
        ("log", (A,), [0.0, None, None, None]),
        ("sqrt", (A,), [1.0, None, None, 0.0]),
        ("mod", (A, 3), [1.0, 2.0, None, 0.0]),
        ("maximum", (A, 0), [1.0, 0.0, None, 0.0]),
        ("round", (B, 0), [2.0, 0.0, 3.0, 0.0]),
        ("round", (2.5, 0), [3.0] * 4),
        ("lt", (A, B), [1.0, 1.0, None, 0.0]),
        ("eq", (T, "bob"), [0.0, 0.0, None, 1.0]),
        ("is_in", (T, "bob", ""), [0.0, 1.0, None, 1.0]),
        ("is_null", (T,), [0.0, 0.0, 1.0, 0.0]),
        ("fill_null", (A, 9), [1.0, -4.0, 9.0, 0.0]),
        ("fill_null", (T, "?"), ["Ann@X.de", "", "?", "bob"]),
        ("and", (A, False), [0.0] * 4),
        ("and", (A, True), [1.0, 1.0, None, 0.0]),
        ("or", (A, True), [1.0] * 4),
        ("not", (A,), [0.0, 0.0, None, 1.0]),
        ("lower", (T,), ["ann@x.de", "", None, "bob"]),
        ("length", (T,), [8.0, 0.0, None, 3.0]),
        ("part", (T, "@", 1), ["X.de", None, None, None]),
        ("part", (T, "@", -1), ["X.de", "", None, "bob"]),
        ("contains", (T, "@"), [1.0, 0.0, None, 0.0]),
        ("to_text", (A,), ["1", "-4", None, "0"]),
        ("hour", (D,), [13.0, 23.0, None, 0.0]),
        ("minute", (D,), [45.0, 59.0, None, 0.0]),
        ("weekday", (D,), [3.0, 2.0, None, 3.0]),
        ("day_of_year", (D,), [60.0, 365.0, None, 1.0]),
        ("month", (D,), [2.0, 12.0, None, 1.0]),
        ("year", (D,), [2024.0, 1969.0, None, 1970.0]),
        ("sub", (D, datetime(1970, 1, 1, tzinfo=UTC)), [1709214300.0, -60.0, None, 0.0]),
        ("gt", (D, datetime(2000, 1, 1, tzinfo=UTC)), [1.0, 0.0, None, 0.0]),
    ],
)
def test_an_operation_gives_its_value_or_missing_and_never_a_made_up_number(
    op: str, args: tuple[Any, ...], expected: list[Any]
) -> None:
    assert value(op, *args) == expected


def test_where_gives_missing_when_its_condition_is_missing() -> None:
    positive = make("gt", A, literal(0))
    assert value("where", positive, "up", "down") == ["up", "down", None, "down"]
    assert value("where", positive, B, None) == [2.0, None, None, None]


def test_negative_zero_is_zero() -> None:
    assert not np.signbit(evaluate(make("mul", A, literal(0)), COLUMNS, 4)).any()


@pytest.mark.parametrize(
    ("text", "number"),
    [("1.5", 1.5), (" 2 ", 2.0), ("nan", None), ("inf", None), ("1_000", None), ("", None), ("x", None)],
)
def test_a_text_is_a_number_only_if_it_spells_one(text: str, number: float | None) -> None:
    [found] = evaluate(make("to_number", T), {"t": np.array([text], dtype=object)}, 1).tolist()
    assert found == number or (number is None and math.isnan(found))


numbers = st.one_of(st.none(), st.floats(allow_nan=False, width=32), st.integers(-(2**53), 2**53).map(float))


@given(
    st.lists(st.tuples(numbers, numbers), min_size=1, max_size=12), st.sampled_from(["add", "div", "pow", "lt", "mod"])
)
def test_a_row_alone_gives_what_it_gives_in_a_batch(rows: list[tuple[float | None, float | None]], op: str) -> None:
    frame = pl.DataFrame(rows, schema={"a": pl.Float64, "b": pl.Float64}, orient="row")
    together = evaluate(make(op, A, B), to_columns(frame, schema_of(frame)), frame.height)
    for i, (a, b) in enumerate(rows):
        alone = evaluate(make(op, A, B), {"a": np.array([a], dtype=object), "b": np.array([b], dtype=object)}, 1)
        np.testing.assert_array_equal(alone[0], together[i])
        assert np.isnan(alone[0]) or np.isfinite(alone[0])


@pytest.mark.parametrize("stored", [[1, 0, None], [True, False, None], [1.0, 0.0, float("nan")]])
def test_a_value_means_the_same_in_whatever_type_it_arrives(stored: list[Any]) -> None:
    frame = pl.DataFrame({"a": stored}, strict=False)
    for nullable in (frame, frame.head(2)):
        found = evaluate(make("add", A, literal(1)), to_columns(nullable, schema_of(nullable)), nullable.height)
        np.testing.assert_array_equal(found, [2.0, 1.0, np.nan][: nullable.height])


literals = st.one_of(st.none(), st.booleans(), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=5),
                     st.datetimes(timezones=st.just(UTC))).map(literal)  # fmt: skip
trees = st.recursive(
    literals | st.sampled_from([A, B, T, Node("feature", value="f")]),
    lambda inner: st.builds(lambda x, y: make("add", x, y), inner, inner) | inner.map(lambda x: make("is_null", x)),
    max_leaves=8,
)


@given(trees)
def test_an_expression_survives_json(tree: Node) -> None:
    assert from_json(json.loads(json.dumps(tree.to_json()))) == tree


@pytest.mark.parametrize(
    "data",
    [["__import__", "os"], ["eval", "1"], {"lambda": "x"}, ["add", 1], ["add", 1, 2, 3], [["add"], 1], [],
     {"column": 1}, {"column": ["a"]}, float("inf"), [1, 2]],
)  # fmt: skip
def test_what_is_not_in_the_language_is_refused(data: Any) -> None:
    with pytest.raises(Invalid):
        from_json(data)


def test_an_expression_too_deep_or_too_large_is_refused() -> None:
    deep: Any = {"column": "a"}
    for _ in range(5_000):
        deep = ["neg", deep]
    with pytest.raises(Invalid, match="levels"):
        from_json(deep)

    def doubled(node: Node, times: int) -> Node:
        return doubled(make("add", node, node), times - 1) if times else node

    with pytest.raises(Invalid, match="operations"):
        doubled(A, 60)


def test_kinds_are_checked_before_any_data_is_read() -> None:
    dtypes: dict[str, Any] = {"a": "int64", "t": "string", "d": "datetime", "f": "bool"}
    assert result_kind(make("sub", D, D), dtypes) == "number"
    assert result_dtype(make("where", A, T, literal(None)), dtypes) == "string"
    assert result_dtype(make("eq", A, A), dtypes) == "float64"
    with pytest.raises(Invalid, match="add takes a number; t is a text"):
        result_kind(make("add", A, T), dtypes)
    with pytest.raises(Invalid, match="mixes number and text"):
        result_kind(make("eq", A, T), dtypes)
    with pytest.raises(Invalid, match="no column 'aa'; the nearest name is \"a\""):
        result_kind(Node("column", value="aa"), dtypes)


def test_an_operand_of_the_wrong_kind_is_refused_in_evaluation_too() -> None:
    with pytest.raises(Invalid, match="does not take operands of these kinds"):
        evaluate(make("add", A, T), COLUMNS, 4)


def test_a_column_without_any_value_takes_the_kind_that_is_asked_of_it() -> None:
    empty = {"a": np.array([None, None], dtype=object), "t": np.full(2, np.nan)}
    assert np.isnan(evaluate(make("add", A, literal(1)), empty, 2)).all()
    assert evaluate(make("lower", T), empty, 2).tolist() == [None, None]
    assert np.isnan(evaluate(make("hour", A), empty, 2)).all()
