"""Baselines: what simple rules would have answered, so that a model's figures have something to stand against."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from mainspring.core.schema import Column, Label, Schema, Task
from mainspring.data.frames import to_pandas
from mainspring.training.trainer import fit_model, predict_scores

Array = npt.NDArray[Any]

BASELINES = ("majority", "mean", "linear", "seasonal_naive", "last_value")
WEEK = timedelta(days=7)
MAX_ROWS = 50_000
MAX_TERMS = 20_000


def baseline_scores(
    task: Task,
    train: pl.DataFrame,
    test: pl.DataFrame,
    inputs: Schema,
    *,
    target: str,
    time: str | None = None,
    classes: Sequence[Label] = (),
    known_after: timedelta | None = None,
    seed: int = 0,
) -> dict[str, Array]:
    """Return what each baseline answers on the test rows, in the shape of the task's scores.

    - `majority` (classes): how often each class occurs; `mean` (numbers): the mean of the target.
    - `linear`: logistic or ridge regression over all inputs: numbers scaled, categories one-hot, text as TF-IDF. Learns
      from at most 50,000 rows.
    - `seasonal_naive` (with a time column): the outcome at the same time in the last week known.
    - `last_value` (with a time column and `known_after`): the newest outcome known.

    Args:
        task: What kind of answer.
        train: Rows to learn from, with the inputs, the target and the time.
        test: Rows to answer.
        inputs: The model's inputs.
        target: Name of the target column.
        time: Name of the column of event time.
        classes: Labels; for a binary task (negative, positive).
        known_after: How long after its time an outcome is known. None means that no outcome of the test rows is known
            to the baselines, as when the model is trained once and serves for the whole of that time.
        seed: For the rows that `linear` learns from.
    """
    outcomes = _indicators(train[target], task, classes)
    shown = _shaped(outcomes.mean(axis=0), task)
    found = {"mean" if not classes else "majority": np.repeat(shown[None], test.height, axis=0)}
    found["linear"] = _linear(task, train, test, inputs, target, classes, seed)
    if time is not None and train[time].dtype.is_temporal():
        known = outcomes
        times, asked = _microseconds(train[time]), _microseconds(test[time])
        if known_after is not None:
            known = np.concatenate([outcomes, _indicators(test[target], task, classes)])
            times = np.concatenate([times, asked])
        found |= _over_time(
            times, known, asked, _microseconds(train[time]).max(), known_after, task, outcomes.mean(axis=0)
        )
    return found


def _linear(
    task: Task,
    train: pl.DataFrame,
    test: pl.DataFrame,
    inputs: Schema,
    target: str,
    classes: Sequence[Label],
    seed: int,
) -> Array:
    if train.height > MAX_ROWS:
        train = train.sample(MAX_ROWS, seed=seed)
    kinds = {column.name: _kind(train[column.name], column) for column in inputs}
    y = train[target].to_numpy()
    y = y.astype(np.float64) if task in ("regression", "forecast") else y

    def fit(X: Any, y: Array) -> Any:
        return _pipeline(task, kinds, inputs).fit(X, y)

    fitted = fit_model(fit, to_pandas(train, inputs), y, {}, seed=seed)
    return predict_scores(fitted.estimator, to_pandas(test, inputs), task, classes)


def _pipeline(task: Task, kinds: dict[str, str], inputs: Schema) -> Any:
    from sklearn.compose import ColumnTransformer
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

    numeric = make_pipeline(
        FunctionTransformer(_as_float), SimpleImputer(strategy="median", keep_empty_features=True), StandardScaler()
    )
    categories = make_pipeline(
        FunctionTransformer(_as_text), OneHotEncoder(handle_unknown="infrequent_if_exist", max_categories=50)
    )
    texts = [
        (name, make_pipeline(FunctionTransformer(_as_text), TfidfVectorizer(max_features=MAX_TERMS)), name)
        for name, kind in kinds.items()
        if kind == "text"
    ]
    columns = ColumnTransformer(
        [
            ("numbers", numeric, [name for name, kind in kinds.items() if kind == "number"]),
            ("categories", categories, [name for name, kind in kinds.items() if kind == "category"]),
            *texts,
        ],
        sparse_threshold=1.0 if texts else 0.3,
    )
    if task in ("regression", "forecast"):
        return make_pipeline(columns, Ridge())
    return make_pipeline(columns, LogisticRegression(max_iter=200))


def _as_float(frame: Any) -> Any:
    return frame.astype("float64")


def _as_text(values: Any) -> Any:
    return values.fillna("").astype(object)


def _kind(values: pl.Series, column: Column) -> str:
    """Return how the linear baseline takes a column; instants it leaves out, since a trend would run away."""
    if column.dtype in ("date", "datetime"):
        return "instant"
    if column.dtype != "string":
        return "number"
    sample = values.drop_nulls().head(1000)
    words = sample.str.count_matches(r"\S+").mean() if len(sample) else 0
    return "text" if isinstance(words, float) and words > 3 and sample.n_unique() > len(sample) / 5 else "category"


def _over_time(
    times: Array, known: Array, asked: Array, end: int, known_after: timedelta | None, task: Task, fallback: Array
) -> dict[str, Array]:
    """Return what outcomes of the past say of the instants asked, all in microseconds.

    An outcome is used only if it is known: before `end`, the last instant of the training rows, or, with `known_after`,
    that long before the instant asked. Several outcomes of one instant are averaged; where there is none, `fallback`.
    """
    instants, places = np.unique(times, return_inverse=True)
    means = np.zeros((len(instants), known.shape[1]))
    np.add.at(means, places, known)
    means /= np.bincount(places)[:, None]
    week = _length(WEEK)
    newest = np.full(len(asked), end) if known_after is None else asked - max(1, _length(known_after))
    weeks = np.maximum(1, np.ceil((asked - newest) / week)).astype(np.int64)

    def at(wanted: Array, tolerance: float) -> Array:
        index = np.searchsorted(instants, wanted, side="right") - 1
        near = (index >= 0) & (wanted - instants[index] <= tolerance)
        return _shaped(np.where(near[:, None], means[index], fallback), task)

    found = {"seasonal_naive": at(asked - weeks * week, _length(timedelta(days=1)))}
    if known_after is not None:
        found["last_value"] = at(newest, math.inf)
    return found


def _indicators(target: pl.Series, task: Task, classes: Sequence[Label]) -> Array:
    """Return the target as numbers, shape (n, 1), or one column of 0 and 1 for each class that scores speak of."""
    values = target.to_numpy()
    if not classes:
        return values.astype(np.float64)[:, None]
    spoken = list(classes)[1:] if task == "binary" else list(classes)
    return np.column_stack([values == label for label in spoken]).astype(np.float64)


def _shaped(values: Array, task: Task) -> Array:
    return values if task == "multiclass" else values[..., 0]


def _microseconds(instants: pl.Series) -> Array:
    return instants.cast(pl.Datetime("us")).to_physical().to_numpy()


def _length(span: timedelta) -> int:
    return span // timedelta(microseconds=1)
