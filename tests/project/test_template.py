"""A project written from a data file says what it guessed, runs unedited, and is no worse than the usual defaults."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from mainspring import load_project
from mainspring.core.errors import Conflict, Invalid, MainspringError, NotFound
from mainspring.data.contract import run_checks
from mainspring.data.frames import canonical, to_pandas
from mainspring.evaluation.metrics import better_by, compute_metrics
from mainspring.loop.fitting import outcomes, split_of
from mainspring.loop.table import build, resolve_task
from mainspring.project.recipes import Columns, choose, load, recipes, to_model
from mainspring.project.template import create_project
from mainspring.training.trainer import fit_model, predict_scores

ADULT = ["age", "workclass", "fnlwgt", "education", "education_num", "marital_status", "occupation", "relationship",
         "race", "sex", "capital_gain", "capital_loss", "hours_per_week", "native_country", "income"]  # fmt: skip


@dataclass(frozen=True)
class Case:
    file: str
    target: str
    columns: tuple[str, ...] = ()
    says: tuple[str, ...] = ()


CASES = {
    "bike": Case("bike_sharing/hour.csv.gz", "cnt", says=(
        'key="instant"', 'time="dteday"', 'task="forecast"', "split=ms.by_time(test=0.2)", 'without("casual", "registered")',
        "# left out: casual (leak: casual and registered give cnt away")),
    "churn": Case("telco_churn/telco_customer_churn.csv.gz", "Churn", says=(
        'key="customerID"', "# TotalCharges: blank is missing (in 11 of 7043 rows)", 'positive="Yes"', 'metric="roc_auc"',
        '"TotalCharges": "float64"', 'ms.check.one_of("Churn", ["No", "Yes"])', 'ms.check.unique("customerID")')),
    "elec": Case("elec2/elec2.parquet", "class", says=('time="ts_reconstructed"', 'positive="UP"', "by_time")),
    "sms": Case("sms_spam/SMSSpamCollection.tsv.gz", "label", ("label", "text"), says=(
        'columns=["label", "text"]', '"quote": ""', "TfidfVectorizer", 'positive="spam"')),
    "banking": Case("banking77/train.csv.gz", "category", says=('task="multiclass"', "TfidfVectorizer", "77 different values")),
    "adult": Case("adult/adult_train_raw.csv.gz", "income", tuple(ADULT), says=(
        "# workclass: '?' is missing (in 1836 of 32561 rows)", 'positive=">50K"', '"header": False')),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_an_unedited_project_is_no_worse_than_defaults_on_the_same_rows(
    name: str, data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = CASES[name]
    create_project(
        tmp_path / name, name=name, data=data_dir / case.file, target=case.target, columns=case.columns or None
    )
    source = (tmp_path / name / "project.py").read_text()
    for text in case.says:
        assert text in source
    figures = _measure(tmp_path / name)
    with capsys.disabled():
        print(f"\n{name}: {', '.join(f'{key} {value}' for key, value in figures.items())}")
    metric = str(figures.pop("metric"))
    ours = figures.pop("project")
    for other, value in figures.items():
        assert better_by(metric, float(ours), float(value)) >= 0, f"{metric}: {ours} against {value} of {other}"


def _measure(folder: Path) -> dict[str, Any]:
    """Return the held-out figure of the project's model, and of the defaults on the same rows."""
    spec = load_project(folder / "project.py")
    (model,) = spec.models.values()
    (dataset,) = (entry.dataset for entry in spec.datasets.values())
    frame = canonical(dataset.source.read(None))
    table = build(spec, model, {dataset.name: frame}, datetime(2026, 1, 1, tzinfo=UTC))
    task, classes, _, _ = resolve_task(model, table.frame["__target"])
    parts = split_of(model, table.frame, table.time, table.key)
    X, y = to_pandas(table.frame, table.model_inputs), outcomes(table.frame)
    assert model.metric is not None
    found: dict[str, Any] = {"metric": model.metric}

    def held_out(estimator: Any, inputs: Any) -> float:
        scores = predict_scores(estimator, inputs.iloc[parts.test], task, classes)
        metrics = compute_metrics(task, y[parts.test], scores, classes, intervals=False)
        return round(metrics[model.metric or ""].value, 5)

    found["project"] = held_out(fit_model(model.function, X.iloc[parts.train], y[parts.train], {}).estimator, X)
    for kind, inputs, estimator in _defaults(X, task):
        found[kind] = held_out(estimator.fit(inputs.iloc[parts.train], y[parts.train]), inputs)
    return found


def _defaults(X: Any, task: str) -> list[tuple[str, Any, Any]]:
    from lightgbm import LGBMClassifier, LGBMRegressor
    from sklearn.compose import ColumnTransformer
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    words = list(X.select_dtypes(exclude="number").columns)
    if words == ["text"]:
        text = ColumnTransformer([("text", TfidfVectorizer(), "text")])
        return [("TF-IDF and logistic regression", X, make_pipeline(text, LogisticRegression(max_iter=1000)))]
    kind = LGBMClassifier if task == "binary" else LGBMRegressor
    categories, codes = X.astype(dict.fromkeys(words, "category")), X.copy()
    for name in words:
        codes[name] = categories[name].cat.codes
    return [("LightGBM (categories)", categories, kind(verbose=-1)), ("LightGBM (codes)", codes, kind(verbose=-1))]


def _project(tmp_path: Path, frame: pl.DataFrame, target: str, **options: Any) -> str:
    frame.write_csv(tmp_path / "rows.csv")
    create_project(tmp_path / "made", name="made", data=tmp_path / "rows.csv", target=target, **options)
    return (tmp_path / "made" / "project.py").read_text()


def _table(rows: int = 300) -> pl.DataFrame:
    random = np.random.default_rng(0)
    amount = random.gamma(2.0, 20.0, rows).round(2)
    return pl.DataFrame({
        "order_id": [f"A{i:05d}" for i in range(rows)], "amount": amount, "country": random.choice(["DE", "FR", "US"], rows),
        "late": np.where(amount + random.normal(0, 20, rows) > 50, "yes", "no"),
    })  # fmt: skip


def test_without_a_file_an_example_is_written_that_runs(tmp_path: Path) -> None:
    written = create_project(tmp_path / "shop", name="shop")
    names = {path.relative_to(tmp_path / "shop").as_posix() for path in written}
    assert names == {
        "project.py",
        "mainspring.toml",
        "tests/test_project.py",
        ".gitignore",
        "README.md",
        "customers.csv",
    }
    assert _measure(tmp_path / "shop")["project"] > 0.7


def test_two_projects_written_from_one_file_are_equal_byte_for_byte(tmp_path: Path) -> None:
    _table().write_csv(tmp_path / "orders.csv")
    texts = []
    for place in ("a", "b"):
        create_project(tmp_path / place, name="orders", data=tmp_path / "orders.csv", target="late")
        texts.append((tmp_path / place / "project.py").read_text())
    assert texts[0] == texts[1]
    assert '"../orders.csv"' in texts[0]


def test_the_written_project_passes_its_own_tests_and_ruff(tmp_path: Path) -> None:
    _project(tmp_path, _table(), "late")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"]
    done = subprocess.run(command, cwd=tmp_path / "made", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    ruff = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "E,F,I", "--line-length", "160", "."]
    assert subprocess.run(ruff, cwd=tmp_path / "made", capture_output=True, check=False).returncode == 0


def test_a_bare_series_is_forecast_from_its_calendar(tmp_path: Path) -> None:
    days = [date(2022, 1, 3) + timedelta(days=i) for i in range(900)]
    random = np.random.default_rng(0)
    sales = [100 + 40 * (day.weekday() >= 5) + 20 * (day.month == 12) + random.normal(0, 5) for day in days]
    source = _project(tmp_path, pl.DataFrame({"day": days, "sales": sales}), "sales")
    assert "def day_weekday(request):" in source
    assert "uses=[day_weekday, day_month]" in source
    assert 'task="forecast"' in source
    figures = _measure(tmp_path / "made")
    assert figures["project"] < 10


def test_texts_that_miss_are_read_as_empty_in_training_and_serving(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    kinds = random.choice(["refund", "delivery"], 400)
    notes = [None if i % 20 == 0 else f"please help me with the {kind} of order {i}" for i, kind in enumerate(kinds)]
    source = _project(tmp_path, pl.DataFrame({"note": notes, "kind": kinds}), "kind")
    assert 'request["note"].fill_null("")' in source
    assert 'text, "note_filled")' in source
    assert _measure(tmp_path / "made")["project"] > 0.9


def test_rows_without_a_target_keep_the_contract_and_are_not_learned_from(tmp_path: Path) -> None:
    frame = _table().with_columns(pl.when(pl.int_range(pl.len()) % 2 == 0).then("late").alias("late"))
    frame = frame.with_columns(  # where the target misses, other promises are broken as well
        pl.when(pl.col("late").is_null()).then(-1.0).otherwise("amount").alias("amount"),
        pl.when(pl.col("late").is_null()).then(pl.lit("A00000")).otherwise("order_id").alias("order_id"),
    )
    source = _project(tmp_path, frame, "late")
    assert "ms.check.rows(at_least=150)" in source
    assert 'ms.check.not_null("amount", "country")' in source
    assert "# rows: 150 of 300 have no target; they are not learned from" in source
    (entry,) = load_project(tmp_path / "made" / "project.py").datasets.values()
    rows = canonical(entry.dataset.source.read(None))
    assert run_checks(rows, entry.dataset.checks, now=datetime(2026, 1, 1, tzinfo=UTC)).passed


def test_columns_that_teach_nothing_or_too_much_are_left_out_with_the_reason(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    frame = _table().with_columns(
        pl.lit("EUR").alias("currency"),
        pl.lit(None, pl.Int64).alias("empty"),
        pl.Series("email", [f"user{i}@example.org" for i in range(300)]),
        pl.Series("word", ["".join(random.choice(list("abcdefgh"), 9)) for _ in range(300)]),
        pl.col("late").replace({"yes": "late", "no": "on time"}).alias("status"),
    )
    source = _project(tmp_path, frame, "late")
    assert "# left out: currency ('EUR' in every row)" in source
    assert "# left out: empty (empty in every row)" in source
    assert "# left out: status (leak: " in source
    assert "# left out: word (another value in every row)" in source
    assert 'pii={"email": "drop"}' in source
    assert 'rows.without("currency", "empty", "word", "status")' in source
    assert load_project(tmp_path / "made" / "project.py").models


def test_numbers_left_out_as_text_say_that_they_are_numbers(tmp_path: Path) -> None:
    frame = _table().with_columns(
        pl.Series("balance", [f"({i}.55)" for i in range(300)]),
        pl.Series("hash", [str(10**30 + i) for i in range(300)]),
    )
    source = _project(tmp_path, frame.select("balance", "order_id", "hash", "amount", "late"), "late")
    assert 'key="order_id"' in source
    said = "does not read as one: a sign in front, digits, the marks of the other values)"
    assert f"# left out: balance (numbers written as text: '(0.55)' {said}" in source
    assert "# left out: hash (numbers written as text: with up to 31 digits, where a number holds 18)" in source


def test_how_a_dirty_file_is_read_is_pinned_in_the_project(tmp_path: Path) -> None:
    rows = "".join(
        f"{i:05d};{i % 7},{i % 10}5;{i % 28 + 1:02d}.03.2024;{'ja' if i % 3 else 'nein'}\n" for i in range(200)
    )
    (tmp_path / "käufe.csv").write_bytes(f"Nr;Größe;Tag;gekauft\n{rows}".encode("cp1252"))
    create_project(tmp_path / "made", name="made", data=tmp_path / "käufe.csv", target="gekauft")
    source = (tmp_path / "made" / "project.py").read_text()
    for option in (
        '"encoding": "cp1252"',
        '"separator": ";"',
        '"decimal": ","',
        '"dates": {"Tag": "dmy"}',
        '"Nr": "string"',
    ):
        assert option in source
    (dataset,) = load_project(tmp_path / "made" / "project.py").datasets.values()
    assert dataset.dataset.source.read(None)["Größe"][1] == 1.15


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"target": None}, Invalid, "which column is to be predicted"),
        ({"target": "lates"}, NotFound, "no column 'lates'; the nearest name is \"late\""),
        ({"target": "order_id"}, Invalid, "too many for classes"),
        ({"target": "late", "time": "country"}, Invalid, "the time column 'country' holds words"),
        ({"target": "late", "name": "a b"}, Invalid, "project"),
        ({"target": "late", "columns": ["a"]}, Invalid, "1 column names are given for 4 columns"),
    ],
)
def test_what_cannot_be_a_project_is_refused(
    options: dict[str, Any], error: type[MainspringError], message: str, tmp_path: Path
) -> None:
    _table().write_csv(tmp_path / "orders.csv")
    with pytest.raises(error, match=message) as caught:
        create_project(tmp_path / "new", **{"name": "orders", "data": tmp_path / "orders.csv", **options})
    assert caught.value.hint
    assert not (tmp_path / "new").exists()


def test_an_example_whose_target_is_wrong_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"customers\.csv: no column 'nope'"):
        create_project(tmp_path / "shop", name="shop", target="nope")
    assert not (tmp_path / "shop").exists()


def test_a_project_that_is_there_is_not_overwritten(tmp_path: Path) -> None:
    create_project(tmp_path / "shop", name="shop")
    with pytest.raises(Conflict, match="is there already"):
        create_project(tmp_path / "shop", name="shop")


def test_a_target_of_one_value_or_of_dates_is_refused(tmp_path: Path) -> None:
    frame = _table().with_columns(
        same=pl.lit("x"), at=pl.lit(date(2024, 1, 1)) + pl.duration(days=pl.int_range(pl.len()))
    )
    frame.write_csv(tmp_path / "orders.csv")
    for target, message in (("same", "1 different value: there is nothing"), ("at", "holds dates")):
        with pytest.raises(Invalid, match=message):
            create_project(tmp_path / "new", name="orders", data=tmp_path / "orders.csv", target=target)


def test_of_a_few_rows_a_fixed_model_is_written_that_says_so(tmp_path: Path) -> None:
    frame = pl.DataFrame({"a": [float(i * 3 % 7) for i in range(8)], "left": ["yes", *["no"] * 3] * 2})
    source = _project(tmp_path, frame, "left")
    assert "# model: linear and trees (6 rows to learn from are too few to measure models on)" in source
    (model,) = load_project(tmp_path / "made" / "project.py").models.values()
    X, y = to_model(frame, Columns(("a",), ())), frame["left"].to_numpy().astype(object)
    assert len(predict_scores(fit_model(model.function, X, y, {}).estimator, X, "binary", ("no", "yes"))) == 8


def test_a_table_too_short_to_test_on_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="3 rows with a 'left' are too few to learn from some and test on others"):
        _project(tmp_path, pl.DataFrame({"a": [1.0, 2.0, 3.5], "left": ["yes", "no", "no"]}), "left")


def test_models_that_fail_while_they_are_measured_are_passed_over_with_the_reason() -> None:
    frame = pl.DataFrame({"a": [float(i % 7) for i in range(90)], "y": ["no"] * 89 + ["yes"]})
    choice = choose(frame, "y", "binary", ("no", "yes"), Columns(("a",), ()), metric="roc_auc", in_time=True)
    assert choice.recipe.name == "linear and trees"
    assert not choice.figures
    assert choice.how == "no model could be measured"
    assert "2 classes" in choice.failed["linear and trees"]


@pytest.mark.parametrize("first", [0, 1])
def test_a_target_that_counts_the_rows_is_refused(tmp_path: Path, first: int) -> None:
    frame = _table().with_columns(row=pl.int_range(first, first + pl.len()))
    with pytest.raises(Invalid, match=f"column 'row' only counts the rows, from {first} to {first + 299}") as refused:
        _project(tmp_path, frame, "row")
    assert "choose another --target" in refused.value.hint


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression", "forecast"])
@pytest.mark.parametrize(
    "columns", [Columns(("n",), ()), Columns((), ("w",)), Columns(("n",), ("w",)), Columns(("n",), ("w",), ("t",))]
)
def test_every_recipe_fits_twice_to_the_same_scores(task: Any, columns: Columns) -> None:
    random = np.random.default_rng(0)
    n = random.gamma(2, 3, 120)
    frame = pl.DataFrame({
        "n": n, "w": random.choice(["a", "b", None], 120), "t": random.choice(["one two three", "four five"], 120),
    }).select(*columns.numbers, *columns.words, *columns.texts)  # fmt: skip
    classes: tuple[str, ...] = {"binary": ("x", "y"), "multiclass": ("x", "y", "z")}.get(task, ())
    y = np.array([classes[i % len(classes)] for i in range(120)], dtype=object) if classes else n * 2
    X = to_model(frame, columns)
    for recipe in recipes(task, columns, rows=50_000, is_skewed=True):
        scores = [predict_scores(load(recipe)(X, y), X, task, classes) for _ in range(2)]
        assert np.array_equal(scores[0], scores[1])
        assert np.isfinite(scores[0]).all()
