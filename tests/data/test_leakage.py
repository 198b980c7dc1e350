"""The leakage sentinel: it finds planted and real leaks, and is quiet on honest data."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from mainspring.core.errors import NotFound
from mainspring.core.records import Finding
from mainspring.data.leakage import inspect_leakage
from mainspring.data.splits import SplitSpec, by_chance, by_time, split

N = 4000
RNG = np.random.default_rng(7)
START = datetime(2026, 1, 1, tzinfo=UTC)


def honest(task: str = "regression") -> pl.DataFrame:
    """Return a table with real signal: the best single column explains about half."""
    x = RNG.normal(size=(N, 5))
    y = x[:, 0] * 2 + x[:, 1] + RNG.normal(size=N) * 1.5
    frame = pl.DataFrame({f"x{i}": x[:, i] for i in range(5)} | {"city": RNG.choice(["a", "b", "c"], N)})
    if task == "binary":
        return frame.with_columns(y=pl.Series(np.where(y > 1, "yes", "no")))
    if task == "multiclass":
        return frame.with_columns(y=pl.Series(np.digitize(y, [-2, 0, 2]).astype(str)))
    return frame.with_columns(y=pl.Series(y + 20))


def found(frame: pl.DataFrame, test: pl.DataFrame | None = None, **options: object) -> set[tuple[str, str, str]]:
    findings = inspect_leakage(frame, test, "y", **options)  # type: ignore[arg-type]
    return {(finding.severity, finding.code, finding.column) for finding in findings}


def inspect(frame: pl.DataFrame, spec: SplitSpec, target: str, **options: object) -> tuple[Finding, ...]:
    parts = split(frame, spec, target=target, **options)  # type: ignore[arg-type]
    return inspect_leakage(frame[parts.train], frame[parts.test], target, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("task", ["regression", "binary", "multiclass"])
def test_honest_data_raises_nothing(task: str) -> None:
    frame = honest(task)
    assert found(frame.head(3000), frame.tail(1000)) == set()


@pytest.mark.parametrize(
    ("copy", "severity", "code"),
    [
        (pl.col("y"), "error", "target-copy"),
        (pl.col("y") * -3 + 7, "error", "target-copy"),
        (pl.col("y").log(), "error", "target-copy"),
        (pl.col("y").round(1), "error", "target-copy"),
        (pl.col("y") + pl.col("x4") * 0.3, "error", "too-good"),
        (pl.col("y").exp(), "error", "target-copy"),
        (pl.col("y").cast(pl.String), None, ""),  # a number as text teaches nothing about the next number
    ],
)
def test_a_number_that_is_the_target_in_another_form_is_found(copy: pl.Expr, severity: str | None, code: str) -> None:
    seen = found(honest().with_columns(leak=copy))
    assert (seen == {(severity, code, "leak")}) if severity else not {s for s, _, _ in seen} & {"error"}


@pytest.mark.parametrize("task", ["binary", "multiclass"])
def test_a_class_under_other_names_is_found(task: str) -> None:
    frame = honest(task)
    names = {name: f"code {i}" for i, name in enumerate(frame["y"].unique().sort())}
    assert found(frame.with_columns(leak=pl.col("y").replace(names))) == {("error", "target-copy", "leak")}
    wrong = pl.Series(RNG.random(N) < 0.01)
    noisy = pl.when(wrong).then(pl.lit("code 0")).otherwise(pl.col("y").replace(names))
    assert {code for severity, code, _ in found(frame.with_columns(leak=noisy)) if severity == "error"} == {"too-good"}


def test_a_strong_but_honest_column_is_a_warning_only() -> None:
    frame = honest("binary").with_columns(score=pl.when(pl.col("y") == "yes").then(1.0).otherwise(0.0))
    frame = frame.with_columns(score=pl.col("score") + pl.Series(RNG.normal(size=N) * 0.36))
    assert found(frame) == {("warning", "too-good", "score")}


def test_a_column_filled_in_after_the_outcome_is_found() -> None:
    frame = honest("binary")
    closed = pl.when(pl.col("y") == "yes").then(pl.lit(START))
    assert found(frame.with_columns(closed_at=closed)) == {("error", "post-event", "closed_at")}
    reason = pl.when(pl.col("y") == "yes").then(pl.lit(float("nan"))).otherwise(pl.col("x1"))
    assert found(frame.with_columns(reason=reason)) == {("error", "post-event", "reason")}


@pytest.mark.parametrize(
    ("columns", "parts"),
    [
        ({"a": pl.col("x0").exp(), "b": pl.col("y") - pl.col("x0").exp()}, {"a", "b"}),
        ({"gross": pl.col("y") + pl.col("x0").abs(), "fee": pl.col("x0").abs()}, {"gross", "fee"}),
        ({"price": pl.col("x3").exp(), "count": pl.col("y") / pl.col("x3").exp()}, {"price", "count"}),
        (
            {"a": pl.col("x0"), "b": pl.col("x1"), "c": pl.col("y") - pl.col("x0") * 2 - pl.col("x1") * 5},
            {"c", "x0", "x1"},
        ),
    ],
)
def test_columns_that_give_the_target_away_together_are_found(columns: dict[str, pl.Expr], parts: set[str]) -> None:
    seen = found(honest().with_columns(**columns))
    leaks = {column for severity, code, column in seen if (severity, code) == ("error", "target-sum")}
    same = {"a": "x0", "b": "x1"} if "c" in columns else {}
    assert {same.get(column, column) for column in leaks} == parts


def test_a_sum_of_a_whole_year_of_columns_is_a_warning() -> None:
    months = RNG.random((N, 12))
    frame = pl.DataFrame({f"m{i}": months[:, i] for i in range(12)} | {"y": months.sum(axis=1)})
    assert found(frame) == {("warning", "target-sum", f"m{i}") for i in range(12)}


def test_a_column_that_names_rows_is_found_and_free_text_is_not_one() -> None:
    frame = honest().with_columns(
        customer=pl.Series([f"{i * 7919 % 100_003:05d}-AB" for i in range(N)]),
        row=pl.int_range(N), order_id=pl.Series(RNG.permutation(N) * 17), amount=pl.Series(RNG.permutation(N) * 17),
        note=pl.Series([f"please call back {i} times" for i in range(N)]),
    )  # fmt: skip
    names = {column for _, code, column in found(frame) if code == "identifier"}
    assert names == {"customer", "row", "order_id"}
    assert {column for _, _, column in found(frame, key=("customer", "row", "order_id"))} == set()


def test_an_instant_that_mostly_lies_after_the_event_is_found() -> None:
    at = [START + timedelta(hours=i) for i in range(N)]
    later = pl.Series(
        [moment + timedelta(minutes=int(m)) for moment, m in zip(at, RNG.integers(-5, 60, N), strict=True)]
    )
    frame = honest().with_columns(at=pl.Series(at), shipped_at=later)
    assert ("warning", "post-event", "shipped_at") in found(frame, time="at")
    same_day = frame.with_columns(at=pl.col("at").dt.date(), shipped_at=pl.col("at"))
    assert not {code for _, code, _ in found(same_day, time="at")} & {"post-event"}


def test_test_rows_that_train_are_found_by_key_and_by_content() -> None:
    frame = honest().with_columns(id=pl.int_range(N))
    train, test = frame.head(3000), frame.slice(2900, 1000)
    assert found(train, test, key=("id",)) == {("error", "row-overlap", "id"), ("error", "row-overlap", "")}
    again = test.with_columns(id=pl.col("id") + N)
    assert found(train, again, key=("id",)) == {("error", "row-overlap", "")}
    overlap = next(f for f in inspect_leakage(train, again, "y", key=("id",)) if f.code == "row-overlap")
    assert (overlap.count, overlap.rows) == (100, (0, 1, 2, 3, 4))


def test_rows_that_agree_by_chance_are_a_warning() -> None:
    frame = pl.DataFrame({"a": RNG.integers(0, 5, N), "b": RNG.integers(0, 5, N), "y": RNG.integers(0, 2, N)})
    assert found(frame.head(3000), frame.tail(1000)) == {("warning", "row-overlap", "")}


def test_test_rows_older_than_training_rows_are_noticed() -> None:
    frame = honest().with_columns(at=pl.Series([START + timedelta(hours=i) for i in range(N)]))
    assert found(frame.head(3000), frame.tail(1000), time="at") == set()
    assert found(frame.tail(3000), frame.head(1000), time="at") == {("warning", "time-order", "at")}


def test_few_rows_one_class_or_no_target_are_no_reason_to_fail() -> None:
    for frame in (honest().head(10), honest().with_columns(y=1.0), honest().with_columns(y=pl.lit(None, pl.Float64))):
        assert found(frame.with_columns(copy=pl.col("y")), frame.with_columns(copy=pl.col("y")).clear()) == set()
    odd = honest().with_columns(x0=pl.lit(float("inf")), x1=pl.lit(None, pl.Float64), none=None)
    assert found(odd) == set()
    with pytest.raises(NotFound, match='nearest name is "y"'):
        inspect_leakage(honest(), None, "yy")


def test_casual_and_registered_are_caught_in_bike_sharing(data_dir: Path) -> None:
    hours = pl.read_csv(data_dir / "bike_sharing" / "hour.csv.gz", try_parse_dates=True)
    for spec in (by_time(), by_chance()):
        findings = inspect(hours, spec, "cnt", key=("instant",), time="dteday")
        assert {f.column for f in findings if f.severity == "error"} == {"casual", "registered"}
    clean = inspect(hours.drop("casual", "registered"), by_time(), "cnt", key=("instant",), time="dteday")
    assert clean == ()


def test_honest_real_data_raises_no_error(data_dir: Path) -> None:
    telco = pl.read_csv(data_dir / "telco_churn" / "telco_customer_churn.csv.gz", null_values=[" "])
    adult = pl.read_parquet(data_dir / "adult" / "adult.parquet")
    elec = pl.read_parquet(data_dir / "elec2" / "elec2.parquet")
    words = pl.read_csv(data_dir / "banking77" / "train.csv.gz")
    for findings in (
        inspect(telco, by_chance(), "Churn", key=("customerID",)),
        inspect(telco, by_chance(), "Churn"),
        inspect(adult.drop("split"), by_chance(), "income"),
        inspect(elec, by_time(), "class", time="ts_reconstructed"),
        inspect(words, by_chance(), "category"),
    ):
        assert [finding for finding in findings if finding.severity == "error"] == []
    assert {f.column for f in inspect(telco, by_chance(), "Churn") if f.code == "identifier"} == {"customerID"}


def test_a_careless_split_of_sms_spam_is_caught_and_ours_is_clean(data_dir: Path) -> None:
    sms = pl.read_csv(
        data_dir / "sms_spam" / "SMSSpamCollection.tsv.gz", separator="\t", quote_char=None, has_header=False,
        new_columns=["label", "text"],
    )  # fmt: skip
    assert inspect(sms, by_chance(), "label") == ()
    order = np.random.default_rng(0).permutation(sms.height)
    careless = inspect_leakage(sms[order[:4000]], sms[order[4000:]], "label")
    assert [(f.severity, f.code) for f in careless] == [("error", "row-overlap")]


def test_education_gives_its_number_away_in_adult(data_dir: Path) -> None:
    adult = pl.read_parquet(data_dir / "adult" / "adult.parquet")
    findings = inspect_leakage(adult, None, "education_num")
    assert [f.column for f in findings if f.code == "target-copy"] == ["education"]
