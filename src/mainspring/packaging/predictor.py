"""What every packed model can do: give scores for columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from mainspring.core.errors import Invalid
from mainspring.core.schema import Schema, Signature
from mainspring.data.frames import to_pandas
from mainspring.packaging.graph import Array


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
        order: For a classifier, the column of each of the signature's classes in the model's output, -1 for a class it
            never saw; for binary, the column of the positive class alone. Empty for a number.
    """

    order: tuple[int, ...] = ()

    def arrange(self, raw: Array) -> Array:
        """Return scores from the model's output of shape (n, k), or (n, 1) with the probability of class 1."""
        if not self.order:
            return raw[:, 0]
        if len(self.order) == 1:
            column = raw[:, min(self.order[0], raw.shape[1] - 1)]
            return 1.0 - column if raw.shape[1] == 1 and self.order[0] == 0 else column
        if raw.shape[1] == 1:
            raw = np.hstack([1.0 - raw, raw])
        if -1 in self.order:  # the last column is that of the classes never seen
            raw = np.hstack([raw, np.zeros((len(raw), 1))])
        return raw if self.order == tuple(range(raw.shape[1])) else raw[:, self.order]


def answer_of(estimator: Any, signature: Signature) -> Answer:
    """Return how the outputs of a fitted estimator answer the signature.

    Raises:
        Invalid: a classifier that has no probabilities, or whose classes are not those of the signature.
    """
    if signature.task in ("regression", "forecast"):
        return Answer()
    if not hasattr(estimator, "predict_proba") and not is_booster(estimator):
        raise Invalid(
            f"{type(estimator).__name__} gives no probabilities, and a classifier is scored by them",
            hint="wrap it: CalibratedClassifierCV(estimator).fit(X, y)",
        )
    known = list(getattr(estimator, "classes_", signature.classes))
    wanted = (signature.positive,) if signature.task == "binary" else signature.classes
    foreign = [label for label in known if label not in signature.classes]
    if foreign or (signature.task == "binary" and len(known) != 2):
        raise Invalid(
            f"the model answers the classes {known[:10]}, and the target has {list(signature.classes[:10])}",
            hint="fit it on y as given, with rows of every class",
        )
    return Answer(tuple(known.index(label) if label in known else -1 for label in wanted))


def is_booster(estimator: Any) -> bool:
    """Return whether the estimator is a model of LightGBM's own interface, whose `predict` gives probabilities."""
    return type(estimator).__module__ == "lightgbm.basic" and type(estimator).__name__ == "Booster"


@dataclass(frozen=True, slots=True)
class EstimatorPredictor:
    """A fitted estimator as it is: the reference that every format is held against, and the form of skops."""

    estimator: Any
    inputs: Schema
    answer: Answer
    format: str = "skops"

    def predict(self, columns: Mapping[str, Array], n: int) -> Array:
        """Return the scores of n rows."""
        frame = to_pandas(columns, self.inputs)
        classifies = self.answer.order and not is_booster(self.estimator)
        raw = np.asarray(self.estimator.predict_proba(frame) if classifies else self.estimator.predict(frame))
        return self.answer.arrange(raw.astype(np.float64).reshape(n, -1))


def side_by_side(names: Sequence[str], columns: Mapping[str, Array], n: int) -> Array:
    """Return the named columns as one float64 matrix of shape (n, len(names)), missing as NaN."""
    out = np.empty((n, len(names)), np.float64)
    for index, name in enumerate(names):
        out[:, index] = columns[name]  # None in an object column becomes NaN
    return out
