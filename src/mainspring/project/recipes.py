"""The model functions that `init` can write, and the measurement that chooses one for a table."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from textwrap import indent
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from mainspring.core.schema import Column, Label, Schema, Task

Array = npt.NDArray[Any]
_FOLDS = 3
_MOST_ROWS = 20_000
_FEW_ROWS = 10_000
_LEAST_ROWS = 50  # on fewer, three rounds of a handful of rows tell chance apart from nothing
_STEADY = "deterministic=True, force_row_wise=True, n_jobs=1, random_state=0, verbose=-1"


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of X by what they hold; each kind may be empty."""

    numbers: tuple[str, ...]
    words: tuple[str, ...]
    texts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Recipe:
    """One way to model a table: its name, a sentence on it, and the function's source."""

    name: str
    why: str
    source: str


@dataclass(frozen=True, slots=True)
class Choice:
    """The recipe chosen, and the figure of every one that was measured, on rows that training kept apart.

    Args:
        figures: Figure by recipe; empty when none was measured.
        how: How they were measured, or why the recipe was chosen without.
        failed: Why a recipe could not be measured, by its name.
    """

    recipe: Recipe
    metric: str
    figures: dict[str, float]
    how: str
    failed: dict[str, str] = field(default_factory=dict)


def recipes(task: Task, columns: Columns, *, rows: int, is_skewed: bool = False) -> tuple[Recipe, ...]:
    """Return the functions worth measuring on such a table.

    Args:
        task: What is predicted.
        columns: What X holds.
        rows: How many there are to learn from.
        is_skewed: The target is a number, never negative, with a long tail: as counts and amounts are.
    """
    if columns.texts:
        return (_text(task, columns),)
    found = [_blend(task, columns), _boosted(task, columns), _plain(task, columns)]
    if columns.words:
        found.append(_two_views(task, columns))
    if rows >= _FEW_ROWS:  # on fewer, large trees learn the rows by heart
        found.append(_fine(task, columns))
    if task in ("regression", "forecast") and is_skewed:
        found.insert(0, _counted(task, columns))
    return tuple(found)


def _kind(task: Task) -> str:
    return "Regressor" if task in ("regression", "forecast") else "Classifier"


def _function(summary: str, body: str) -> str:
    """Return `def model(X, y)` with the imports that its body needs."""
    lines = []
    for module, names in _IMPORTS.items():
        used = [name for name in names if re.search(rf"\b{name}\b", body)]
        if used:
            lines.append(f"from {module} import {', '.join(used)}")
    inside = "\n".join(lines) + "\n\n" + body
    return f'def model(X, y):\n    """{summary}"""\n{indent(inside, "    ")}\n'


_IMPORTS = {
    "lightgbm": ("LGBMClassifier", "LGBMRegressor"),
    "sklearn.compose": ("ColumnTransformer",),
    "sklearn.ensemble": ("VotingClassifier", "VotingRegressor"),
    "sklearn.feature_extraction.text": ("TfidfVectorizer",),
    "sklearn.impute": ("SimpleImputer",),
    "sklearn.linear_model": ("LogisticRegression", "Ridge", "RidgeCV"),
    "sklearn.pipeline": ("FeatureUnion", "make_pipeline"),
    "sklearn.preprocessing": ("OneHotEncoder", "OrdinalEncoder", "StandardScaler"),
}
_WORDS = """\
words = list(X.select_dtypes(exclude="number").columns)
numbers = [name for name in X if name not in words]
"""
_CODES = """\
code = OrdinalEncoder(
    handle_unknown="use_encoded_value", unknown_value=-1, encoded_missing_value=-2, min_frequency=10
)
codes = ColumnTransformer([("words", code, words), ("numbers", "passthrough", numbers)])
"""
_FLAGS = """\
flag = OneHotEncoder(handle_unknown="ignore", min_frequency=10, sparse_output=False)
flags = ColumnTransformer([("words", flag, words), ("numbers", {numbers}, numbers)])
"""


def _lgbm(task: Task, settings: str) -> str:
    """Return the source of boosted trees that come out the same each time, on one thread."""
    return f"LGBM{_kind(task)}(\n    {settings},\n    {_STEADY},\n)\n"


def _trees(name: str, why: str, task: Task, columns: Columns, settings: str) -> Recipe:
    body = f"trees = {_lgbm(task, settings)}"
    body = body + "return trees.fit(X, y)" if not columns.words else (
        f"{_WORDS}{_CODES}{body}return make_pipeline(codes, trees).fit(X, y)")  # fmt: skip
    return Recipe(name, why, _function(f"Fit boosted trees: {why}.", body))


def _boosted(task: Task, columns: Columns) -> Recipe:
    settings = "n_estimators=500, learning_rate=0.05, subsample=0.8, subsample_freq=1, reg_lambda=1.0"
    return _trees("slow boosting", "many small steps, each on four fifths of the rows", task, columns, settings)


def _counted(task: Task, columns: Columns) -> Recipe:
    settings = (
        'objective="tweedie", n_estimators=500, learning_rate=0.05, subsample=0.8, subsample_freq=1, reg_lambda=1.0'
    )
    return _trees("boosting of amounts", "errors weigh by the size of what is predicted", task, columns, settings)


def _fine(task: Task, columns: Columns) -> Recipe:
    settings = "n_estimators=600, learning_rate=0.05, num_leaves=63, subsample=0.9, subsample_freq=1, reg_lambda=1.0"
    return _trees("large trees", "patterns of many columns together", task, columns, settings)


def _plain(task: Task, columns: Columns) -> Recipe:
    return _trees("LightGBM defaults", "the library's own settings", task, columns, "n_estimators=100")


def _two_views(task: Task, columns: Columns) -> Recipe:
    """Boosted trees twice, with categories as codes and as flags: each sees splits the other cannot."""
    settings = (
        "n_estimators=800, learning_rate=0.03, num_leaves=20, subsample=0.8, subsample_freq=1,\n"
        "    colsample_bytree=0.3, reg_lambda=5.0"
    )
    body = _WORDS + _CODES + _FLAGS.format(numbers='"passthrough"') + f"trees = {_lgbm(task, settings)}"
    body += "by_code, by_flag = make_pipeline(codes, trees), make_pipeline(flags, trees)\n"
    body += _average(task, codes="by_code", flags="by_flag")
    why = "trees that see categories as codes, and as flags"
    return Recipe("two views of categories", why, _function(f"Average two kinds of boosted {why}.", body))


def _average(task: Task, **members: str) -> str:
    listed = ", ".join(f'("{name}", {variable})' for name, variable in members.items())
    soft = ', voting="soft"' if _kind(task) == "Classifier" else ""
    return f"return Voting{_kind(task)}([{listed}]{soft}).fit(X, y)"


def _blend(task: Task, columns: Columns) -> Recipe:
    """A linear model and cautious trees: hard to beat on few rows, and steady when the world moves on."""
    settings = (
        "n_estimators=300, learning_rate=0.03, num_leaves=15, min_child_samples=30, subsample=0.8,\n"
        "    subsample_freq=1, colsample_bytree=0.5, reg_lambda=5.0"
    )
    final = "LogisticRegression(max_iter=1000)" if _kind(task) == "Classifier" else "RidgeCV([0.1, 1.0, 10.0, 100.0])"
    scale = 'SimpleImputer(strategy="median"), StandardScaler()'
    trees = f"trees = {_lgbm(task, settings)}"
    if columns.words:
        body = f"{_WORDS}scale = make_pipeline({scale})\n" + _FLAGS.format(numbers="scale")
        body += f"linear = make_pipeline(flags, {final})\n{_CODES}{trees}trees = make_pipeline(codes, trees)\n"
    else:
        body = f"linear = make_pipeline({scale}, {final})\n{trees}"
    body += _average(task, linear="linear", trees="trees")
    return Recipe("linear and trees", "steady on few rows, and when the world moves on",
                  _function("Average a linear model and cautious boosted trees.", body))  # fmt: skip


def _text(task: Task, columns: Columns) -> Recipe:
    """TF-IDF of words, pairs and parts of words, and a linear model over all."""
    many = task == "multiclass"  # each class costs a vector of weights: fewer words and a looser stop save minutes
    final = f"LogisticRegression(C=10.0, max_iter=1000{', tol=1e-3' if many else ''})"
    body = f"""\
words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True{", min_df=2" if many else ""})
parts = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True, min_df=2)
text = FeatureUnion([("words", words), ("parts", parts)])
columns = ColumnTransformer([
"""
    body += "".join(f'    ("{name}", text, "{name}"),\n' for name in columns.texts)
    if columns.numbers:
        scale = 'make_pipeline(SimpleImputer(strategy="median"), StandardScaler())'
        body += f'    ("all numbers", {scale}, {_names(columns.numbers)}),\n'
    if columns.words:
        flags = 'OneHotEncoder(handle_unknown="ignore", min_frequency=10)'
        body += f'    ("all words", {flags}, {_names(columns.words)}),\n'
    final = final if _kind(task) == "Classifier" else "Ridge(alpha=1.0)"
    body += f"])\nreturn make_pipeline(columns, {final}).fit(X, y)"
    summary = "Weigh words, pairs and parts of words by TF-IDF, and fit a linear model over them."
    return Recipe("TF-IDF and a linear model", "quick, and explained word by word", _function(summary, body))


def _names(names: Sequence[str]) -> str:
    return json.dumps(list(names), ensure_ascii=False)


def choose(
    frame: pl.DataFrame, target: str, task: Task, classes: Sequence[Label], columns: Columns, *, metric: str,
    in_time: bool,
) -> Choice:  # fmt: skip
    """Return the recipe that does best on rows it did not learn from; of too few rows, a fixed one.

    A recipe that fails on some of the rows is passed over, with its reason.

    Args:
        frame: The rows that training may see, in time order when `in_time`; never the test rows.
        target: The column to predict.
        classes: Labels; for a binary task (negative, positive).
        columns: What X holds.
        metric: The figure that decides.
        in_time: Each fold is tested on the rows that follow it, not on rows drawn from among it.
    """
    from mainspring.evaluation.metrics import better_by

    y = frame[target]
    is_skewed = y.dtype.is_numeric() and float(y.min() or 0) >= 0 and float(y.cast(pl.Float64).skew() or 0) > 0.75  # type: ignore[arg-type]
    candidates = recipes(task, columns, rows=frame.height, is_skewed=is_skewed)
    if len(candidates) == 1:
        return Choice(candidates[0], metric, {}, candidates[0].why)
    steady = _blend(task, columns)
    if frame.height < _LEAST_ROWS:
        return Choice(steady, metric, {}, f"{frame.height} rows to learn from are too few to measure models on")
    sample = frame.gather_every(-(-frame.height // _MOST_ROWS)) if frame.height > _MOST_ROWS else frame
    folds = _folds(sample.height, in_time)
    figures: dict[str, float] = {}
    failed: dict[str, str] = {}
    for recipe in candidates:
        try:
            figure = _figure(recipe, sample, target, task, classes, columns, metric, folds)
        except Exception as error:  # a round may lack a class, or hold what one library does not take
            failed[recipe.name] = f"{type(error).__name__}: {error}"
            continue
        if math.isfinite(figure):
            figures[recipe.name] = figure
        else:
            failed[recipe.name] = f"{metric} has no value in some round"
    if not figures:
        return Choice(steady, metric, {}, "no model could be measured", failed)
    best = max(
        (recipe for recipe in candidates if recipe.name in figures),
        key=lambda recipe: better_by(metric, figures[recipe.name], 0.0),
    )
    rounds = f"{len(folds)} rounds, each" if len(folds) > 1 else "one round,"
    how = f"{rounds} tested on {'the rows that follow in time' if in_time else 'rows kept apart'}"
    return Choice(best, metric, figures, how, failed)


def _folds(rows: int, in_time: bool) -> list[tuple[Array, Array]]:
    if in_time:  # the last rounds learn from most: half, two thirds, five sixths
        cuts = [round(rows * share) for share in (1 / 2, 2 / 3, 5 / 6, 1)]
        return [(np.arange(cut), np.arange(cut, end)) for cut, end in pairwise(cuts)]
    order = np.random.default_rng(0).permutation(rows)
    held = [order[index::_FOLDS] for index in range(_FOLDS if rows < _FEW_ROWS else 1)]
    return [(np.setdiff1d(order, test), np.sort(test)) for test in held]


def _figure(
    recipe: Recipe, frame: pl.DataFrame, target: str, task: Task, classes: Sequence[Label], columns: Columns,
    metric: str, folds: Sequence[tuple[Array, Array]],
) -> float:  # fmt: skip
    from mainspring.evaluation.metrics import compute_metrics
    from mainspring.training.trainer import predict_scores

    function = load(recipe)
    X, y = to_model(frame, columns), outcomes(frame[target])
    found = []
    for learned, tested in folds:
        estimator = function(X.iloc[learned], y[learned])
        scores = predict_scores(estimator, X.iloc[tested], task, classes)
        found.append(compute_metrics(task, y[tested], scores, classes, intervals=False)[metric].value)
    return float(np.mean(found))


def load(recipe: Recipe) -> Callable[..., Any]:
    """Return the recipe's function, made from the very text that is written to the project file."""
    names: dict[str, Any] = {}
    exec(compile(recipe.source, f"<{recipe.name}>", "exec"), names)
    function: Callable[..., Any] = names["model"]
    return function


def to_model(frame: pl.DataFrame, columns: Columns) -> Any:
    """Return X as training gives it to a model function."""
    from mainspring.data.frames import schema_of, to_pandas

    names = [name for name in frame.columns if name in (*columns.numbers, *columns.words, *columns.texts)]
    found = schema_of(frame.select(names))
    # A fold may miss no value where another does; X is the same in both.
    return to_pandas(frame.select(names), Schema(tuple(Column(c.name, c.dtype, c.nullable) for c in found)))


def outcomes(target: pl.Series) -> Array:
    """Return y as training gives it to a model function."""
    return target.to_numpy().astype(object) if target.dtype == pl.String else target.to_numpy()
