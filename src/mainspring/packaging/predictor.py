"""What every packed model can do: give scores for columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from mainspring.core.errors import Invalid
from mainspring.core.schema import Label, Schema, Signature
from mainspring.data.frames import to_pandas
from mainspring.packaging.graph import Array

if TYPE_CHECKING:
    import pandas as pd


class Predictor(Protocol):
    """A loaded model. Threads may share it; equal columns give equal scores; it keeps no reference to its input."""

    @property
    def format(self) -> str:
        """How the model is stored: `onnx`, `lightgbm`, `skops` or `pickle`."""

    def predict(self, columns: Mapping[str, Array], n: int) -> Array:
        """Return the scores of n rows.

        Args:
            columns: The model's inputs, each of shape (n,), in the form that `data.frames.to_columns` gives.
            n: The number of rows.

        Returns:
            Binary: the probability of the positive class, shape (n,). Multiclass: probabilities in the order of the
            signature's classes, shape (n, k). Regression and forecast: shape (n,). A row that the model itself would
            refuse (a missing value it cannot take) gives NaN or an error, never a number.
        """


@dataclass(frozen=True, slots=True)
class Answer:
    """How a model's own output becomes scores: which of its columns, in which order.

    Args:
        order: For a classifier, the column of each of the signature's classes in the model's output; for binary, the
            column of the positive class alone. Empty for a number.
    """

    order: tuple[int, ...] = ()

    def arrange(self, raw: Array) -> Array:
        """Return scores from the model's output of shape (n, k), or (n, 1) with the probability of class 1."""
        if not self.order:
            return raw[:, 0]
        if len(self.order) > 1:
            return raw if self.order == tuple(range(raw.shape[1])) else raw[:, self.order]
        if raw.shape[1] == 1:
            return raw[:, 0] if self.order[0] == 1 else 1.0 - raw[:, 0]
        return raw[:, self.order[0]]


def answer_of(estimator: Any, signature: Signature) -> Answer:
    """Return how the outputs of a fitted estimator answer the signature.

    Raises:
        Invalid: a classifier that has no probabilities, or that never saw one of the signature's classes.
    """
    if signature.task in ("regression", "forecast"):
        return Answer()
    if not hasattr(estimator, "predict_proba"):
        raise Invalid(
            f"{type(estimator).__name__} gives no probabilities, and a classifier is scored by them",
            hint="wrap it in sklearn.calibration.CalibratedClassifierCV, or use a model with predict_proba",
        )
    known = list(estimator.classes_)
    wanted = (signature.positive,) if signature.task == "binary" else signature.classes
    absent = [label for label in wanted if label not in known]
    if absent:
        raise Invalid(
            f"the model never saw the classes {absent[:5]}; it knows {known[:20]}",
            hint="train on rows of every class, or leave the rare classes out of the target",
        )
    return Answer(tuple(known.index(label) for label in wanted))


@dataclass(frozen=True, slots=True)
class EstimatorPredictor:
    """A fitted estimator as it is: the reference that every format is held against, and the form of skops."""

    estimator: Any
    inputs: Schema
    answer: Answer
    format: str = "skops"

    def predict(self, columns: Mapping[str, Array], n: int) -> Array:
        """Return the scores of n rows."""
        return self.score(to_pandas(columns, self.inputs))

    def score(self, frame: pd.DataFrame) -> Array:
        """Return the scores of a frame in the form that `data.frames.to_pandas` gives."""
        raw = np.asarray(self.estimator.predict_proba(frame) if self.answer.order else self.estimator.predict(frame))
        return self.answer.arrange(raw.astype(np.float64).reshape(len(frame), -1))


def side_by_side(names: Sequence[str], columns: Mapping[str, Array], n: int) -> Array:
    """Return the named columns as one float64 matrix of shape (n, len(names)), missing as NaN."""
    out = np.empty((n, len(names)), np.float64)
    for index, name in enumerate(names):
        out[:, index] = columns[name]  # None in an object column becomes NaN
    return out
