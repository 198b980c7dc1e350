"""Which inputs the answers depend on: over all rows, and for one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from mainspring.core.schema import Label, Task
from mainspring.evaluation.metrics import better_by, compute_metrics

if TYPE_CHECKING:
    import pandas as pd

Array = npt.NDArray[Any]
Score = Callable[[Mapping[str, Array], int], Array]

ROWS_AT_MOST = 2_000


@dataclass(frozen=True, slots=True)
class Attribution:
    """How much the answers depend on one input; `share` is its part of the whole, 0 to 1.

    Args:
        feature: The input.
        share: Comparable between inputs and models, unlike `value`.
        value: Tree: mean size of its contribution to the raw score. Permutation: how much worse the metric is when its
            values are shuffled.
    """

    feature: str
    share: float
    value: float
    method: Literal["tree", "permutation"]


def attributions(
    score: Score,
    columns: Mapping[str, Array],
    y_true: Array,
    *,
    metric: str,
    task: Task,
    classes: Sequence[Label] = (),
    estimator: object = None,
    frame: pd.DataFrame | None = None,
    seed: int = 0,
) -> tuple[Attribution, ...]:
    """Return how much the answers depend on each input, the largest first.

    Exact tree contributions where the estimator is a LightGBM model, alone or behind steps whose outputs can be traced
    to single inputs; otherwise by shuffling one input at a time, on at most 2,000 rows. Shuffling underrates inputs
    that stand in for one another.

    Args:
        score: The model: columns and number of rows to scores.
        columns: Held-out rows, each column of shape (n,).
        y_true: Their outcomes, shape (n,).
        metric: The metric that shuffling should hurt.
        estimator: The fitted estimator and, in `frame`, the same rows as it takes them, for tree contributions.
        seed: Of the shuffling and the choice of rows.
    """
    if estimator is not None and frame is not None:
        found = tree_contributions(estimator, frame.iloc[:ROWS_AT_MOST])
        if found is not None:
            return _shares(dict(zip(frame.columns, np.abs(found).mean(axis=0).tolist(), strict=True)), "tree")
    rng, n = np.random.default_rng(seed), len(y_true)
    rows = np.sort(rng.choice(n, min(n, ROWS_AT_MOST), replace=False))
    part = {name: values[rows] for name, values in columns.items()}

    def quality(changed: Mapping[str, Array]) -> float:
        scores = score(changed, len(rows))
        return compute_metrics(task, y_true[rows], scores, classes, intervals=False, only=[metric])[metric].value

    whole = quality(part)
    worse = {}
    for name, values in part.items():
        drops = [better_by(metric, whole, quality({**part, name: rng.permutation(values)})) for _ in range(2)]
        worse[name] = float(np.nan_to_num(np.mean(drops)))
    return _shares(worse, "permutation")


def row_attributions(score: Score, row: Mapping[str, Array], background: Mapping[str, Array]) -> dict[str, float]:
    """Return, for one row, how far each input moves its score from what other values of that input would give.

    Args:
        score: The model; for several classes, give a function that returns the score of the class in question.
        row: One row, each column of shape (1,).
        background: Rows to take other values from, each column of shape (m,); 50 to 200 are enough.

    Returns:
        The row's score minus the mean score with that input replaced, by input, the largest effect first.
    """
    m = len(next(iter(background.values())))
    own = float(score(row, 1)[0])
    spread = {name: np.repeat(values, m) for name, values in row.items()}
    effects = {name: own - float(np.mean(score({**spread, name: background[name]}, m))) for name in row}
    return dict(sorted(effects.items(), key=lambda item: -abs(item[1])))


def tree_contributions(estimator: Any, frame: pd.DataFrame) -> Array | None:
    """Return each input's contribution to the raw score of each row, (n, inputs), or None when it is no such model.

    Several classes are added up in size. Source: Lundberg et al. (2020), Nature Machine Intelligence 2, 56-67.
    """
    steps = [step for _, step in getattr(estimator, "steps", [("", estimator)])]
    if not hasattr(steps[-1], "booster_"):
        return None
    table: Any = frame
    names = [str(name) for name in frame.columns]
    owners = names
    for step in steps[:-1]:
        if not hasattr(step, "get_feature_names_out"):
            return None
        owners = [_owner(str(name), names) for name in step.get_feature_names_out()]
        table = step.transform(table)
    if "" in owners or hasattr(table, "tocsr"):
        return None
    found = np.asarray(steps[-1].predict(table, pred_contrib=True))
    by_class = found.reshape(len(frame), -1, len(owners) + 1)[:, :, :-1]
    merged = by_class[:, 0] if by_class.shape[1] == 1 else np.abs(by_class).sum(axis=1)
    belongs = np.array([[owner == name for name in names] for owner in owners], dtype=np.float64)
    return np.asarray(merged @ belongs)


def _owner(output: str, names: Sequence[str]) -> str:
    """Return the input that a transformer's output column is made from, or an empty text."""
    bare = output.split("__", 1)[-1]
    fitting = [name for name in names if bare == name or bare.startswith(f"{name}_") or output == name]
    return max(fitting, key=len, default="")


def _shares(values: Mapping[str, float], method: Literal["tree", "permutation"]) -> tuple[Attribution, ...]:
    total = sum(max(value, 0.0) for value in values.values()) or 1.0
    ordered = sorted(values.items(), key=lambda item: (-item[1], item[0]))
    return tuple(Attribution(name, max(value, 0.0) / total, value, method) for name, value in ordered)
