"""Contract checks: each finds what it should, names the rows, and says why."""

import time as clock_time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandera.pandas as pandas_pandera
import pandera.polars as pandera
import polars as pl
import pydantic
import pytest

from mainspring.core.errors import Invalid
from mainspring.data import checks as check
from mainspring.data.checks import Check
from mainspring.data.contract import CheckReport, run_checks
from mainspring.data.profile import profile

NOW = datetime(2026, 1, 10, tzinfo=UTC)


def table() -> pl.DataFrame:
    return pl.DataFrame(
        {
            "id": [1, 2, 2, None, 5],
            "amount": [10.0, -1.0, float("nan"), None, 99.0],
            "country": ["DE", "FR", "XX", None, "de"],
            "at": [NOW - timedelta(hours=h) for h in (30, 20, 10, 5, 2)],
            "day": [date(2026, 1, 1)] * 4 + [date(2026, 1, 9)],
            "paid": [True, True, False, None, True],
        }
    )


def run(item: Check, frame: pl.DataFrame | None = None, **options: Any) -> CheckReport:
    return run_checks(table() if frame is None else frame, [item], now=NOW, **options)


@pytest.mark.parametrize(
    ("item", "rows"),
    [
        (check.unique("id"), [2]),
        (check.unique("id", "country"), []),
        (check.not_null("id"), [3]),
        (check.not_null("id", "amount"), [2, 3]),
        (check.between("amount", 0, 50), [1, 4]),
        (check.between("amount", low=0), [1]),
        (check.between("amount", high=50), [4]),
        (check.between("at", "2026-01-09T00:00:00Z", "2026-01-09T20:00:00Z"), [0, 4]),
        (check.between("at", date(2026, 1, 9)), [0]),
        (check.between("day", "2026-01-02"), [0, 1, 2, 3]),
        (check.between("country", "A", "Z"), [4]),
        (check.one_of("country", ["DE", "FR"]), [2, 4]),
        (check.one_of("id", {1, 2}), [4]),
        (check.one_of("amount", [10, 99]), [1]),
        (check.one_of("paid", [True]), [2]),
        (check.matches("country", "[A-Z]{2}"), [4]),
        (check.matches("country", "D"), [0, 1, 2, 4]),
        (check.satisfies(pl.col("amount") < pl.col("id") * 10), [0, 4]),
        (check.satisfies(lambda frame: frame["id"] > 1, "after the first"), [0]),
        (check.satisfies(lambda _: pl.col("id").is_not_null(), "has an id"), [3]),
    ],
)
def test_a_rule_on_rows_finds_the_rows_that_break_it(item: Check, rows: list[int]) -> None:
    report = run(item)
    assert np.flatnonzero(report.bad_rows).tolist() == rows
    assert report.passed == (not rows)
    assert report.results[0].sample_rows == tuple(rows)
    assert report.only_rows_fail


@pytest.mark.parametrize(
    ("item", "passed", "reason"),
    [
        (check.fresh("3h"), True, "2h old"),
        (check.fresh("1h"), False, "2h old .*1h allowed"),
        (check.fresh("1d", "day"), True, "the newest day is 0ms old"),
        (check.fresh("1d", "country"), False, "not a date or an instant"),
        (check.rows(), True, "5 rows"),
        (check.rows(6), False, "5 rows, at least 6 wanted"),
        (check.rows(1, 4), False, "1 to 4 wanted"),
        (check.types(id="int64", at="datetime", day="date", paid="bool"), True, ""),
        (check.types(id="string", amonut="float64"), False, 'id is int64, not string; no column .amonut.; .*"amount"'),
        (check.unique("idd"), False, "no column 'idd'"),
        (check.between("country", 0, 1), False, "country is string, and 0 is int"),
        (check.between("paid", 0, 1), False, "paid is bool"),
        (check.one_of("id", ["1"]), False, "id is int64, and '1' is str"),
        (check.matches("id", "1"), False, "not text"),
        (check.satisfies(pl.col("nope") > 1), False, "no column .nope."),
        (check.satisfies(pl.col("amount") * 2), False, "not true or false"),
        (check.satisfies(lambda frame: frame["id"].head(2) > 0), False, "2 values for 5 rows"),
        (check.satisfies(lambda frame: frame.nope), False, "AttributeError"),
        (check.satisfies(lambda _: 1), False, "returned int"),
        (check.stable(), True, "no earlier version"),
    ],
)
def test_a_rule_on_the_table_says_what_it_saw(item: Check, passed: bool, reason: str) -> None:
    report = run(item, time="at")
    assert report.passed == passed
    assert pl.Series([report.results[0].reason]).str.contains(reason).all(), report.results[0].reason
    assert not report.bad_rows.any()
    assert passed or not report.only_rows_fail


def test_a_report_is_read_by_people_and_by_programs() -> None:
    report = run_checks(table(), [check.not_null("paid"), check.between("amount", 0, 50)], now=NOW)
    assert str(report).splitlines() == [
        "FAIL not_null('paid'): 1 of 5 rows break it, first 3",
        "FAIL between('amount', 0, 50): 2 of 5 rows break it, first 1, 4; amount is '-1.0', '99.0'",
    ]
    assert report.to_json()["bad_rows"] == 3
    assert report.to_json()["results"][1]["sample_rows"] == [1, 4]


def test_a_reason_never_shows_a_value_of_a_private_column() -> None:
    report = run(check.one_of("country", ["DE"]), private=("country",))
    assert report.bad_rows.sum() == 3
    assert "XX" not in str(report)


def test_an_empty_table_breaks_no_rule_on_rows() -> None:
    items = [check.unique("id"), check.between("amount", 0, 1), check.satisfies(pl.col("id") > 0)]
    assert run_checks(table().clear(), items, now=NOW).passed
    assert not run(check.rows(), table().clear()).passed


class Person(pydantic.BaseModel):
    id: int
    country: str = pydantic.Field(pattern="^[A-Z]{2}$")


class Payments(pandera.DataFrameModel):
    id: int = pandera.Field(ge=2, nullable=True)
    country: str = pandera.Field(isin=["DE", "FR", "XX", "de"], nullable=True)


class PandasPayments(pandas_pandera.DataFrameModel):
    amount: float = pandas_pandera.Field(ge=0, nullable=True)


class More(pandera.DataFrameModel):
    id: float = pandera.Field(nullable=True)
    fee: float


@pytest.mark.parametrize(
    ("schema", "rows", "reason"),
    [
        (Person, [3, 4], "2 rows are not valid; id: int_type; country: string_type; country: string_pattern_mismatch"),
        (Payments, [0], r"1 rows are not valid; id: greater_than_or_equal_to\(2\)"),
        (Payments.to_schema(), [0], "not valid"),
        (PandasPayments, [1], "amount: greater_than_or_equal_to"),
        (pandera.DataFrameSchema({"id": pandera.Column(int, nullable=True)}), [], "every row is valid"),
    ],
)
def test_pydantic_and_pandera_models_are_taken_as_they_are(schema: Any, rows: list[int], reason: str) -> None:
    report = run(check.model(schema))
    assert np.flatnonzero(report.bad_rows).tolist() == rows
    assert pl.Series([report.results[0].reason]).str.contains(reason).all(), report.results[0].reason
    assert report.only_rows_fail


def test_a_model_that_the_table_itself_does_not_fit_cannot_be_mended_by_setting_rows_aside() -> None:
    report = run(check.model(More))
    assert not report.only_rows_fail
    assert "fee: column_in_dataframe" in report.results[0].reason
    assert "id: dtype('Float64')" in report.results[0].reason


def test_a_distribution_is_held_against_the_last_good_version() -> None:
    rng = np.random.default_rng(0)
    before = pl.DataFrame({"x": rng.normal(size=5000), "c": rng.choice(["a", "b"], 5000), "t": [NOW] * 5000})
    same = pl.DataFrame({"x": rng.normal(size=300), "c": rng.choice(["a", "b"], 300), "t": [NOW] * 300})
    reference = profile(before)
    assert run(check.stable(), same, reference=reference).passed
    moved = run(check.stable(), same.with_columns(pl.col("x") + 1), reference=reference)
    assert "x moved: psi" in moved.results[0].reason
    assert "c moved" not in moved.results[0].reason
    other = same.with_columns(c=pl.lit("z"))
    assert not run(check.stable("c"), other, reference=reference).passed
    assert run(check.stable("c"), other, reference=reference, private=("c",)).passed


def test_the_year_that_followed_in_bike_sharing_is_seen_as_a_move(data_dir: Path) -> None:
    hours = pl.read_parquet(data_dir / "bike_sharing" / "hour.parquet")
    first, second = hours.filter(pl.col("yr") == 0), hours.filter(pl.col("yr") == 1)
    moved = run(check.stable("cnt", psi=0.1), second, reference=profile(first)).results[0]
    assert not moved.passed
    calm = run(check.stable("hr", psi=0.1), second, reference=profile(first)).results[0]
    assert calm.passed


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: check.unique(), "names no column"),
        (lambda: check.between("a"), "low or a high bound"),
        (lambda: check.between("a", 2, 1), "holds for no value"),
        (lambda: check.one_of("a", []), "allows no value"),
        (lambda: check.matches("a", "(?=x)"), "not a regular expression"),
        (lambda: check.rows(5, 2), "holds for no table"),
        (lambda: check.types(a="text"), "'text' is not a type"),
        (lambda: check.fresh("soon"), "soon"),
        (lambda: check.satisfies("a > 1"), "not a rule"),
        (lambda: check.model(dict), "neither a Pydantic nor a Pandera"),
    ],
)
def test_a_check_that_can_never_hold_is_refused_where_it_is_written(make: Any, message: str) -> None:
    with pytest.raises(Invalid, match=message):
        make()


def test_a_check_knows_its_line_and_equals_its_twin() -> None:
    first, second = check.between("a", 0, 1), check.between("a", 0, 1)
    assert first == second
    assert str(first) == "between('a', 0, 1)"
    assert first.where is not None
    assert str(first.where).startswith("test_contract.py:")


def test_twenty_five_checks_cost_one_pass_over_the_table() -> None:
    n = 500_000
    rng = np.random.default_rng(0)
    frame = pl.DataFrame({f"x{i}": rng.random(n) for i in range(20)} | {"id": np.arange(n)})
    items = [check.unique("id"), *(check.between(f"x{i}", 0, 1) for i in range(20)), check.not_null("x1", "x2")]
    items += [check.rows(1), check.between("id", 0), check.satisfies(pl.col("x1") <= 1.0)]
    started = clock_time.perf_counter()
    assert run_checks(frame, items, now=NOW).passed
    seconds = clock_time.perf_counter() - started
    print(f"25 checks over {n:,} x 21: {seconds:.2f} s")
    assert seconds < 5
