"""What turned out to be true of served predictions, and how good they were."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mainspring.core.errors import NotFound
from mainspring.core.schema import Label, Task
from mainspring.project.definition import LabelsDef, ModelDef, ProjectSpec
from mainspring.store.workspace import Workspace

if TYPE_CHECKING:
    import polars as pl

Array = npt.NDArray[Any]
_SMALLEST = 1e-15


@dataclass(frozen=True, slots=True)
class Truth:
    """Every outcome known at one time, from the labels log and from the declared labels.

    Args:
        logged: From `monitoring.labels.read_labels`.
        declared: The declared labels' own rows, `label` and the key, or None.
        labels: The declaration of those.
        notes: Why something could not be read.
    """

    logged: pl.DataFrame
    declared: pl.DataFrame | None
    labels: LabelsDef | None
    notes: tuple[str, ...]

    @property
    def matures(self) -> timedelta:
        return self.labels.matures if self.labels else timedelta(0)


@dataclass(frozen=True, slots=True)
class Judged:
    """Mature predictions whose outcome is known.

    Args:
        y_true: Labels or numbers, shape (n,).
        scores: Shape (n,) or (n, k).
        mature: How many predictions are old enough to be judged.
        unknown: How many outcomes were no class of the model.
    """

    y_true: Array
    scores: Array
    mature: int
    unknown: int = 0

    @property
    def n(self) -> int:
        return len(self.y_true)

    @property
    def coverage(self) -> float:
        return self.n / self.mature if self.mature else 0.0


def read_truth(ws: Workspace, spec: ProjectSpec, model: ModelDef, now: datetime) -> Truth:
    """Read every outcome known at `now`; declared labels are brought up to date first, as a new version."""
    import polars as pl

    from mainspring.core.errors import MainspringError
    from mainspring.data.datasets import ingest, read
    from mainspring.monitoring.labels import read_labels

    logged = read_labels(ws.home, spec.name, model.name).filter(pl.col("arrived_at") <= now)
    labels = model.predicts if isinstance(model.predicts, LabelsDef) else None
    if labels is None:
        return Truth(logged, None, None, ())
    try:
        version = ingest(ws, spec.name, labels.dataset, now=now).version.version
        table = read(ws, spec.name, labels.name, version)
    except MainspringError as error:
        return Truth(logged, None, labels, (f"the labels {labels.name!r} could not be read: {error.message}",))
    if labels.time is not None:
        table = table.filter(pl.col(labels.time) <= now).sort(labels.time, maintain_order=True)
    table = table.select(labels.key, pl.col(labels.value).alias("label")).unique(
        labels.key, keep="last", maintain_order=True
    )
    return Truth(logged, table, labels, ())


def judge(predictions: pl.DataFrame, truth: Truth, task: Task, classes: Sequence[Label], now: datetime) -> Judged:
    """Return the predictions that are old enough and whose outcome is known.

    An outcome sent for a prediction by its id counts before one sent by key, and that before the declared labels.
    """
    import polars as pl

    mature = predictions.filter((pl.col("status") == 200) & (pl.col("at") <= now - truth.matures))
    codes = pl.Series([None] * mature.height, dtype=pl.Float64)
    for found in _joined(mature, truth, now):
        code = _encoded(found["actual"], task, classes)
        found = found.select("prediction_id", code.alias("code")).unique("prediction_id", keep="last")
        joined = mature.select("prediction_id").join(found, on="prediction_id", how="left", maintain_order="left")
        codes = codes.zip_with(codes.is_not_null(), joined["code"])
    if truth.labels is not None and truth.labels.absent is not None and truth.declared is not None:
        codes = codes.fill_null(_encoded(pl.Series([truth.labels.absent]), task, classes)[0])
    is_class = bool(classes)
    known = codes.is_not_null() & (codes >= 0) if is_class else codes.is_not_null()
    rows = mature.filter(known)
    values = codes.filter(known).to_numpy()
    y_true = np.array([classes[int(i)] for i in values]) if is_class else values
    scores = np.array(rows["scores"].to_list()) if task == "multiclass" and rows.height else rows["score"].to_numpy()
    return Judged(y_true, scores, mature.height, int((codes < 0).sum()) if is_class else 0)


def losses(task: Task, judged: Judged, classes: Sequence[Label]) -> Array:
    """Return the loss of each row, shape (n,): the negative log-likelihood, or for numbers the absolute error."""
    if task in ("regression", "forecast"):
        return np.asarray(np.abs(judged.scores - judged.y_true))
    place = {label: i for i, label in enumerate(classes)}
    codes = np.array([place[label] for label in judged.y_true.tolist()], np.int64)
    if task == "binary":
        likelihood = np.where(codes == 1, judged.scores, 1 - judged.scores)
    else:
        likelihood = judged.scores[np.arange(len(codes)), codes]
    return np.asarray(-np.log(np.maximum(likelihood, _SMALLEST)))


def loss_metric(task: Task) -> str:
    """Return the metric that is the mean of `losses`."""
    return "mae" if task in ("regression", "forecast") else "log_loss"


def _joined(mature: pl.DataFrame, truth: Truth, now: datetime) -> list[pl.DataFrame]:
    """Return the predictions with an outcome in `actual`, a frame per way of joining them, the surest way first."""
    import polars as pl

    from mainspring.monitoring.labels import join_labels

    logged = truth.logged
    base = {"prediction_id", "label", "source", "sequence", "observed_at", "arrived_at"}
    keys = [name for name in logged.columns if name not in base]
    found = [join_labels(mature, logged.filter(pl.col("prediction_id").is_not_null()), now=now).frame]
    by_key = logged.filter(pl.col("prediction_id").is_null())
    for present in {tuple(k for k in keys if row[k] is not None) for row in by_key.select(keys).to_dicts()} - {()}:
        rows = by_key.drop_nulls(list(present))
        rows = rows.filter(pl.all_horizontal([pl.col(k).is_null() for k in keys if k not in present] or [pl.lit(True)]))
        found += _by_columns(mature, rows, present, now)
    if truth.declared is not None and truth.labels is not None:
        found += _by_columns(mature, truth.declared, (truth.labels.key,), now)
    return found


def _by_columns(mature: pl.DataFrame, rows: pl.DataFrame, by: Sequence[str], now: datetime) -> list[pl.DataFrame]:
    from mainspring.monitoring.labels import join_labels

    try:
        return [join_labels(mature, rows, by=by, now=now).frame]
    except NotFound:  # the requests carried no such column, so these labels belong to none of them
        return []


def _encoded(values: pl.Series, task: Task, classes: Sequence[Label]) -> pl.Series:
    """Return outcomes as numbers: their own, or the position of their class, -1 for no class of the model."""
    import polars as pl

    if task in ("regression", "forecast"):
        return values.cast(pl.Float64, strict=False)
    place: dict[Any, int] = {str(label).lower(): i for i, label in enumerate(classes)}
    place |= {label: i for i, label in enumerate(classes)}
    codes = [None if v is None else place.get(v, place.get(str(v).lower(), -1)) for v in values.to_list()]
    return pl.Series(codes, dtype=pl.Float64)
