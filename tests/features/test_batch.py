"""Point-in-time features equal a plain loop over the rule of the design, on any history."""

from __future__ import annotations

import statistics
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mainspring.core.errors import Invalid
from mainspring.features.batch import training_table
from mainspring.features.tracing import where
from mainspring.features.views import FeatureView, define

START = datetime(2026, 1, 1, tzinfo=UTC)


def view(function: Any, window: str = "3h", entity: Any = "card") -> FeatureView:
    return define(function, entity=entity, window=window, datasets=["payments"])


def figures(payments: Any) -> Any:
    return payments.amount.sum()


def rows(*hours: float, card: str = "a") -> pl.DataFrame:
    return pl.DataFrame({"card": [card] * len(hours), "at": [START + timedelta(hours=h) for h in hours]},
                        schema={"card": pl.String, "at": pl.Datetime("us", "UTC")})  # fmt: skip


def table(spine: pl.DataFrame, events: pl.DataFrame, *views: FeatureView) -> pl.DataFrame:
    return training_table(spine, views, time="at", tables={"payments": events}, times={"payments": "at"})


NAMES = ("count", "sum", "mean", "min", "max", "std", "first", "last")


def aggregate(name: str) -> FeatureView:
    def feature(payments: Any) -> Any:
        return getattr(payments.amount, name)()

    feature.__name__ = name
    return view(feature)


def expected(name: str, values: list[float]) -> float | None:
    if name == "count":
        return float(len(values))
    if not values or (name == "std" and len(values) < 2):
        return None
    plain: dict[str, Any] = {"sum": sum, "mean": statistics.fmean, "min": min, "max": max, "std": statistics.stdev,
                             "first": lambda v: v[0], "last": lambda v: v[-1]}  # fmt: skip
    return float(plain[name](values))


instants = st.integers(0, 12).map(lambda h: START + timedelta(hours=h))
cards = st.sampled_from(["a", "b", None])
event_rows = st.lists(st.tuples(cards, instants | st.none(), st.none() | st.integers(-5, 5).map(float)), max_size=25)
spine_rows = st.lists(st.tuples(cards, instants), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(spine_rows, event_rows)
def test_every_figure_of_a_window_equals_a_plain_loop(spine: list[Any], events: list[Any]) -> None:
    instant = pl.Datetime("us", "UTC")
    left = pl.DataFrame(spine, schema={"card": pl.String, "at": instant}, orient="row")
    right = pl.DataFrame(events, schema={"card": pl.String, "at": instant, "amount": pl.Float64}, orient="row")
    found = table(left, right, *(aggregate(name) for name in NAMES))
    assert found.select("card", "at").equals(left)
    for (card, at), row in zip(spine, found.iter_rows(named=True), strict=True):
        inside = [e for e in events if e[0] == card and card and e[1] and at - timedelta(hours=3) <= e[1] < at]
        values = [amount for _, _, amount in sorted(inside, key=lambda e: e[1]) if amount is not None]
        assert {n: row[n] for n in NAMES} == pytest.approx({n: expected(n, values) for n in NAMES}, nan_ok=True)


def test_a_row_never_sees_itself_nor_an_event_of_its_own_instant() -> None:
    events = rows(0, 1, 1, 2).with_columns(amount=pl.Series([1.0, 10.0, 20.0, 100.0]))
    assert table(events, events, view(figures))["figures"].to_list() == [None, 1.0, 1.0, 31.0]


def test_a_window_begins_with_its_first_instant_and_ends_before_the_row() -> None:
    events = rows(0, 2.999).with_columns(amount=pl.Series([1.0, 2.0]))
    assert table(rows(3, 3.001), events, view(figures))["figures"].to_list() == [3.0, 2.0]


def test_a_sum_is_exact_after_a_huge_value_has_left_the_window() -> None:
    events = rows(0, 5, 5.5).with_columns(amount=pl.Series([1e16, 1.0, 0.5]))
    assert table(rows(1, 6, 20), events, view(figures))["figures"].to_list() == [1e16, 1.5, None]


def test_counting_rows_counts_events_and_not_the_rows_that_ask() -> None:
    def seen(payments: Any) -> Any:
        return payments.count()

    events = rows(0, 1).with_columns(amount=pl.Series([None, 1.0], dtype=pl.Float64))
    assert table(rows(1, 1, 2, 9), events, view(seen))["seen"].to_list() == [1.0, 1.0, 2.0, 0.0]


def test_figures_of_a_window_combine_and_feed_request_features() -> None:
    def spread(payments: Any) -> Any:
        return (payments.amount.max() - payments.amount.min()).fill_null(0)

    def abroad(payments: Any) -> Any:
        return payments.amount.only(payments.country != "DE").count() / payments.count()

    def last_country(payments: Any) -> Any:
        return payments.country.lower().last()

    def jump(request: Any, spread: Any, last_country: Any) -> Any:
        return where(last_country == "us", request.amount - spread, request.amount)

    events = rows(0, 1).with_columns(amount=pl.Series([3.0, 8.0]), country=pl.Series(["DE", "US"]))
    spine = rows(2, 0).with_columns(amount=pl.Series([100, 7]))
    request = define(jump, features=["spread", "last_country"])
    found = table(spine, events, request, view(spread), view(abroad), view(last_country))
    assert found["spread"].to_list() == [5.0, 0.0]
    assert found["abroad"].to_list() == [0.5, None]
    assert found["last_country"].to_list() == ["us", None]
    assert found["jump"].to_list() == [95.0, None]


def test_several_entity_columns_match_together_and_types_may_differ() -> None:
    spine = rows(1).with_columns(shop=pl.Series([7], dtype=pl.Int32))
    events = pl.concat([rows(0)] * 2).with_columns(shop=pl.Series([7, 8]), amount=pl.Series([1.0, 2.0]))
    assert table(spine, events, view(figures, entity=("card", "shop")))["figures"].to_list() == [1.0]


def test_no_events_at_all_give_no_history() -> None:
    events = rows().with_columns(amount=pl.lit(1.0))
    assert table(rows(1), events, view(figures))["figures"].to_list() == [None]


def test_what_is_absent_is_named() -> None:
    events = rows(0).with_columns(amount=pl.lit(1.0))
    with pytest.raises(Invalid, match="payments has no column 'amount'"):
        table(rows(1), rows(0), view(figures))
    with pytest.raises(Invalid, match="needs a time for every row"):
        table(rows(1).with_columns(at=pl.lit(None, pl.Datetime("us", "UTC"))), events, view(figures))
    with pytest.raises(Invalid, match="not instants"):
        table(rows(1), events.with_columns(at=pl.lit("yesterday")), view(figures))
    with pytest.raises(Invalid, match="has the name of a column"):
        table(rows(1).with_columns(figures=1), events, view(figures))
