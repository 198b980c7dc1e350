"""Features from plain functions: what is read into an expression, and what is refused with its line."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mainspring.core.errors import Invalid, Where
from mainspring.core.schema import Column, Schema
from mainspring.features.tracing import maximum, where
from mainspring.features.views import (
    FeatureView,
    closure,
    define,
    feature_schema,
    in_order,
    request_columns,
    request_features,
    view_from_json,
)  # fmt: skip


def mean_amount_7d(payments: Any) -> Any:
    return payments.amount.mean()


def amount_ratio(request: Any, mean_amount_7d: Any) -> Any:
    return request.amount / (mean_amount_7d + 1.0)


def is_large(request: Any, amount_ratio: Any, limit: float = 2.0) -> Any:
    return where(request.country.is_in(["DE", "FR"]), amount_ratio > limit, maximum(amount_ratio, 1) > 9)


WINDOW = define(mean_amount_7d, entity="card", window="7d", datasets=["payments"])
RATIO = define(amount_ratio, features=["mean_amount_7d"])
LARGE = define(is_large, features=["amount_ratio"])


def test_a_decorated_function_stays_a_plain_function() -> None:
    assert amount_ratio(SimpleNamespace(amount=6.0), 2.0) == 2.0
    assert (where(None, 1, 2), where(3 > 2, 1, 2), maximum(1, 2), maximum(None, 2)) == (None, 1, 2, None)


def test_numpy_functions_of_one_row_are_read_as_expressions() -> None:
    def scaled(request: Any) -> Any:
        return np.where(np.isnan(request.a), 0, np.log1p(np.clip(request.a, 0, 100)))

    view = define(scaled)
    assert str(view.node) == "where(is_null(a), 0.0, log1p(minimum(maximum(a, 0.0), 100.0)))"
    np.testing.assert_allclose(
        request_features([view], {"a": np.array([np.nan, 500.0])}, 2)["scaled"], [0, np.log1p(100)]
    )


def test_a_feature_says_what_it_reads() -> None:
    assert (WINDOW.kind, WINDOW.dataset, WINDOW.entity, WINDOW.columns) == (
        "window",
        "payments",
        ("card",),
        ("amount",),
    )
    assert (RATIO.kind, RATIO.columns, RATIO.inputs) == ("request", ("amount",), ("mean_amount_7d",))
    assert str(RATIO.node) == "div(amount, add(mean_amount_7d, 1.0))"
    assert request_columns([WINDOW, RATIO, LARGE]) == ("amount", "country")


def test_features_are_computed_in_the_order_of_their_needs() -> None:
    columns = {"amount": np.array([6, 30]), "country": np.array(["DE", "US"], dtype=object)}
    values = request_features([LARGE, RATIO, WINDOW], columns | {"mean_amount_7d": np.array([1.0, 2.0])}, 2)
    assert values["amount_ratio"].tolist() == [3.0, 10.0]
    assert values["is_large"].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("view", [WINDOW, RATIO, LARGE])
def test_a_feature_survives_json(view: FeatureView) -> None:
    again = view_from_json(json.loads(json.dumps(view.to_json())))
    assert (again.to_json(), again.node, again.window) == (view.to_json(), view.node, view.window)
    assert "where" not in view.to_json()


def test_closure_takes_only_what_is_needed() -> None:
    assert [v.name for v in closure([LARGE, RATIO, WINDOW], ["amount_ratio"])] == ["mean_amount_7d", "amount_ratio"]
    with pytest.raises(Invalid, match='the nearest name is "amount_ratio"'):
        closure([RATIO, WINDOW], ["amount_ratios"])


def branch(request: Any) -> Any:
    if request.amount > 3:
        return request.amount
    return 0


def both(request: Any) -> Any:
    return request.a > 1 and request.b > 1


def member(request: Any) -> Any:
    return request.country in ("DE", "FR")


def math_log(request: Any) -> Any:
    return math.log(request.amount)


def loop(request: Any) -> Any:
    return sum(x for x in request.amount)


def builtin_max(request: Any) -> Any:
    return max(request.amount, 0)


def formatted(request: Any) -> Any:
    return f"{request.amount}"


def unknown(request: Any) -> Any:
    return request.amount.meen()


def constant(request: Any) -> Any:
    return 1.0


def forgotten(request: Any) -> Any:
    request.amount + 1


def whole(request: Any) -> Any:
    return request


def chance(request: Any) -> Any:
    return request.amount * random.random()


def broken(request: Any) -> Any:
    return request.amount + undefined  # noqa: F821


def frame(request: Any) -> Any:
    return np.percentile(request.amount, 5)


def windowless(request: Any) -> Any:
    return request.amount.mean()


def many(*requests: Any) -> Any:
    return requests[0].amount


def stranger(requets: Any) -> Any:
    return requets.amount


@pytest.mark.parametrize(
    ("function", "line", "says"),
    [
        (branch, 1, "ms.where(condition, a, b)"),
        (both, 1, "&, |, ~"),
        (member, 1, "is_in"),
        (math_log, 1, "x.log()"),
        (loop, 1, "looped over"),
        (builtin_max, 1, "maximum(a, b)"),
        (formatted, 1, "x.text()"),
        (unknown, 1, 'the nearest name is "mean"'),
        (constant, 0, "the same float for every row"),
        (forgotten, 0, "add a return"),
        (whole, 0, "return one column"),
        (chance, 0, "different each time"),
        (broken, 1, "NameError"),
        (frame, 1, "numpy.percentile is not part"),
        (windowless, 0, "needs a window"),
        (many, 0, "have to be named"),
        (stranger, 0, 'the nearest name is "request"'),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_line_and_the_form_that_works(
    function: Callable[..., Any], line: int, says: str
) -> None:
    with pytest.raises(Invalid) as caught:
        define(function)
    assert caught.value.where == Where(__file__, function.__code__.co_firstlineno + line)
    assert says in str(caught.value)


def test_a_window_feature_has_one_value_and_not_one_for_each_event() -> None:
    def raw(payments: Any) -> Any:
        return payments.amount

    def mixed(payments: Any) -> Any:
        return payments.amount.mean() + payments.amount

    def nested(payments: Any) -> Any:
        return (payments.amount - payments.amount.mean()).std()

    for function, says in ((raw, "one value for each event"), (mixed, "one value for each event"), (nested, "inside")):
        with pytest.raises(Invalid, match=says):
            define(function, entity="card", window="7d", datasets=["payments"])


def test_an_entity_and_a_window_go_together() -> None:
    with pytest.raises(Invalid, match="alone"):
        define(mean_amount_7d, window="7d", datasets=["payments"])
    with pytest.raises(Invalid, match='the nearest name is "payments_eu"'):
        define(mean_amount_7d, entity="card", window="7d", datasets=["payments_eu"])
    with pytest.raises(Invalid, match="longer than 0"):
        define(mean_amount_7d, entity="card", window="0d", datasets=["payments"])
    with pytest.raises(Invalid, match="to sum up events"):
        define(mean_amount_7d, datasets=["payments"])


def test_features_in_a_circle_and_twice_the_same_name_are_refused() -> None:
    one = view_from_json({"name": "one", "kind": "request", "expression": {"feature": "two"}})
    two = view_from_json({"name": "two", "kind": "request", "expression": {"feature": "one"}})
    with pytest.raises(Invalid, match="one, two read each other in a circle"):
        in_order([one, two])
    with pytest.raises(Invalid, match="two features have the name 'one'"):
        in_order([one, one])


def test_a_feature_may_not_hide_a_column() -> None:
    columns = {"amount": np.ones(1), "mean_amount_7d": np.ones(1), "amount_ratio": np.ones(1)}
    with pytest.raises(Invalid, match="has the name of a column"):
        request_features([RATIO], columns, 1)
    with pytest.raises(Invalid, match="has no value here"):
        request_features([WINDOW, RATIO], {"amount": np.ones(1)}, 1)


def test_wrong_columns_are_found_from_the_schemas_alone() -> None:
    request = Schema((Column("amount", "float64"), Column("country", "string")))
    payments = Schema((Column("card", "string"), Column("amount", "float64")))
    schema = feature_schema([LARGE, RATIO, WINDOW], request, {"payments": payments})
    assert schema.names == ("mean_amount_7d", "amount_ratio", "is_large")
    with pytest.raises(Invalid, match="feature 'amount_ratio': there is no column 'amount'") as caught:
        feature_schema([RATIO, WINDOW], Schema((Column("amonut", "float64"),)), {"payments": payments})
    assert caught.value.where == RATIO.where
    with pytest.raises(Invalid, match="feature 'mean_amount_7d': no column 'card'"):
        feature_schema([WINDOW], request, {"payments": Schema((Column("amount", "float64"),))})


@pytest.mark.parametrize(
    "data", [{}, {"name": "../x", "kind": "request", "expression": 1}, {"name": "x", "kind": "request"}]
)
def test_data_that_is_no_definition_is_refused(data: dict[str, Any]) -> None:
    with pytest.raises(Invalid):
        view_from_json(data)
