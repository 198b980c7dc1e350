"""The table a model learns from: rows, features as of their time, and outcomes that have matured."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import polars as pl

from mainspring.core.errors import Invalid, NotFound, nearest
from mainspring.core.schema import Column, Label, Schema, Signature, Task
from mainspring.core.units import human_duration
from mainspring.data.frames import schema_of
from mainspring.features.batch import training_table
from mainspring.features.views import FeatureView, closure, feature_schema, request_columns
from mainspring.project.definition import ColumnRef, LabelsDef, ModelDef, ProjectSpec, Rest

TARGET = "__target"
MAX_CLASSES = 1000


@dataclass(frozen=True, slots=True)
class TrainingTable:
    """Rows ready to learn from.

    Args:
        frame: Request columns, features, extras, and the target as `__target`.
        inputs: What a request must carry.
        model_inputs: What the model function sees as `X`, in order.
        extras: Columns that name a row (key, entity, time).
        notes: What was left out and why, a sentence each.
    """

    frame: pl.DataFrame
    inputs: Schema
    model_inputs: Schema
    extras: Schema
    time: str | None
    key: tuple[str, ...]
    notes: tuple[str, ...]


def spine_name(spec: ProjectSpec, model: ModelDef) -> str:
    """Return the dataset whose rows the model learns from.

    Raises:
        Invalid: the target is labels and nothing says which rows they belong to.
    """
    if isinstance(model.predicts, ColumnRef):
        return model.predicts.dataset
    named = [use.dataset for use in model.uses or () if isinstance(use, (ColumnRef, Rest))]
    views = [use for use in model.uses or () if isinstance(use, FeatureView)]
    names = dict.fromkeys(
        [
            *named,
            *(v.dataset for v in closure(spec.features.values(), [v.name for v in views]) if v.kind == "window"),
            *spec.datasets,
        ]
    )
    for name in names:
        if model.predicts.key in spec.datasets[name].dataset.key:
            return name
    raise Invalid(
        f"model {model.name!r}: no dataset has the key {model.predicts.key!r} that its labels are joined by",
        hint=f'declare it: dataset(..., key="{model.predicts.key}")',
        where=model.where,
    )


def datasets_of(spec: ProjectSpec, model: ModelDef) -> list[str]:
    """Return every dataset that a training of the model reads, its rows first."""
    wanted = [use.name for use in model.uses or () if isinstance(use, FeatureView)]
    views = closure(spec.features.values(), wanted)
    names = [spine_name(spec, model), *(view.dataset for view in views if view.dataset)]
    if isinstance(model.predicts, LabelsDef):
        names.append(model.predicts.name)
    return list(dict.fromkeys(names))


def views_of(spec: ProjectSpec, model: ModelDef) -> tuple[FeatureView, ...]:
    """Return the features that the model stands on, each after those it reads."""
    return closure(spec.features.values(), [use.name for use in model.uses or () if isinstance(use, FeatureView)])


def build(spec: ProjectSpec, model: ModelDef, tables: Mapping[str, pl.DataFrame], as_of: datetime) -> TrainingTable:
    """Return the training table from the datasets' frames, as it was known at `as_of`.

    Raises:
        Invalid: a column the model uses is absent, or no row has an outcome.
    """
    name = spine_name(spec, model)
    dataset = spec.datasets[name].dataset
    spine, notes = _with_target(tables[name], model, dataset, tables, as_of)
    views = views_of(spec, model)
    columns = _columns(model, name, dataset, tables[name], views)
    times = {n: spec.datasets[n].dataset.time for n in tables if n in spec.datasets}
    windows = {view.dataset for view in views if view.kind == "window"}
    for needed in windows | ({name} if windows else set()):
        if times.get(needed) is None:
            raise Invalid(
                f"a windowed feature needs the event time of dataset {needed!r}",
                where=model.where,
                hint='declare it: dataset(..., time="column")',
            )
    requested = tuple(dict.fromkeys([*(c for c in columns if c in spine.columns), *request_columns(views)]))
    schemas = {n: schema_of(table) for n, table in tables.items()}
    inputs = schema_of(spine.select(_known(spine, requested, model, name)))
    found = feature_schema(views, inputs, schemas)
    frame = training_table(
        spine, views, time=dataset.time, tables=dict(tables), times={n: t for n, t in times.items() if t is not None}
    )
    windowed = tuple(view.name for view in views if view.kind == "window")
    inputs = Schema((*inputs.columns, *(Column(n, found[n].dtype) for n in windowed)))
    entities = [key for view in views for key in view.entity]
    extras = [
        c
        for c in dict.fromkeys([*dataset.key, *entities, *([dataset.time] if dataset.time else [])])
        if c in spine.columns and c not in inputs.names
    ]
    keep = dict.fromkeys([*extras, *inputs.names, *columns, TARGET])
    frame = frame.select(*keep)
    known = schema_of(frame)
    return TrainingTable(
        frame=frame,
        inputs=inputs,
        model_inputs=known.only(columns),
        extras=Schema(tuple(Column(c, known[c].dtype) for c in extras)),
        time=dataset.time,
        key=tuple(dataset.key),
        notes=tuple(notes),
    )


def _columns(
    model: ModelDef, name: str, dataset: Any, spine: pl.DataFrame, views: tuple[FeatureView, ...]
) -> tuple[str, ...]:
    """Return the columns of X: what `uses` names, or every column but key, time and target."""
    target = model.predicts.column if isinstance(model.predicts, ColumnRef) else None
    left_out = {*dataset.key, dataset.time, target}
    columns: list[str] = []
    for use in model.uses if model.uses is not None else (Rest(name),):
        if isinstance(use, Rest):
            _known(spine, use.excluded, model, name)
            columns += [c for c in spine.columns if c not in left_out and c not in use.excluded and c != TARGET]
        elif isinstance(use, ColumnRef):
            if use.dataset != name:
                raise Invalid(
                    f"model {model.name!r} uses {use}, of another dataset than its rows ({name!r})",
                    where=model.where,
                    hint="bring it in with a windowed feature, or join it in the dataset function",
                )
            if use.column == target:
                raise Invalid(
                    f"model {model.name!r} uses its own target {target!r}",
                    where=model.where,
                    hint="remove it from uses=",
                )
            columns.append(use.column)
        else:
            columns.append(use.name)
    names = {view.name for view in views}
    _known(spine, [c for c in columns if c not in names], model, name)
    if not columns:
        raise Invalid(
            f"model {model.name!r} has no column to learn from",
            where=model.where,
            hint="the dataset holds only key, time and target; add columns or features",
        )
    return tuple(dict.fromkeys(columns))


def _known(spine: pl.DataFrame, columns: Any, model: ModelDef, name: str) -> list[str]:
    for column in columns:
        if column not in spine.columns:
            raise NotFound(
                f"dataset {name!r} has no column {column!r}{nearest(column, spine.columns)}",
                where=model.where,
                hint=f"columns: {', '.join(spine.columns)}",
            )
    return list(columns)


def _with_target(
    spine: pl.DataFrame, model: ModelDef, dataset: Any, tables: Mapping[str, pl.DataFrame], as_of: datetime
) -> tuple[pl.DataFrame, list[str]]:
    """Return the rows whose outcome is known, with it as `__target`, and notes on the rest."""
    notes: list[str] = []
    if isinstance(model.predicts, ColumnRef):
        column = model.predicts.column
        _known(spine, [column], model, model.predicts.dataset)
        found = spine.rename({column: TARGET})
    else:
        found = _join_labels(spine, model.predicts, dataset, tables[model.predicts.name], as_of, notes)
    known = found.filter(pl.col(TARGET).is_not_null())
    if known[TARGET].dtype.is_float():
        known = known.filter(pl.col(TARGET).is_finite())
    if dropped := found.height - known.height:
        notes.append(f"{dropped} rows have no outcome and are left out")
    if known.height == 0:
        raise Invalid(
            f"model {model.name!r}: no row has an outcome",
            where=model.where,
            hint="check the target column, or the key that labels are joined by",
        )
    return known, notes


def _join_labels(
    spine: pl.DataFrame, labels: LabelsDef, dataset: Any, table: pl.DataFrame, as_of: datetime, notes: list[str]
) -> pl.DataFrame:
    for column in (labels.key, labels.value, *([labels.time] if labels.time else [])):
        if column not in table.columns:
            raise NotFound(
                f"labels {labels.name!r} have no column {column!r}{nearest(column, table.columns)}",
                where=labels.where,
                hint=f"columns: {', '.join(table.columns)}",
            )
    if labels.time is not None:
        # What was reported later than this training's own time was not known then.
        table = table.filter(pl.col(labels.time) <= as_of).sort(labels.time, maintain_order=True)
    last = table.unique(subset=[labels.key], keep="last", maintain_order=True).select(
        labels.key, pl.col(labels.value).alias(TARGET)
    )
    if labels.matures.total_seconds() > 0:
        if dataset.time is None:
            raise Invalid(
                f"labels {labels.name!r} mature, but dataset {dataset.name!r} has no event time",
                where=labels.where,
                hint='declare it: dataset(..., time="column")',
            )
        before = spine.height
        spine = spine.filter(pl.col(dataset.time) <= as_of - labels.matures)
        if immature := before - spine.height:
            notes.append(
                f"{immature} rows are younger than {human_duration(labels.matures)} and wait for their outcome"
            )
    joined = spine.join(last, on=labels.key, how="left", maintain_order="left")
    return joined.with_columns(pl.col(TARGET).fill_null(labels.absent)) if labels.absent is not None else joined


def resolve_task(model: ModelDef, target: pl.Series) -> tuple[Task, tuple[Label, ...], Label | None, str]:
    """Return task, classes, positive class, and why, from the declaration and the outcomes seen.

    Raises:
        Invalid: the declared task or positive class does not fit the outcomes.
    """
    from mainspring.data.splits import ByTime
    from mainspring.project.infer import POSITIVE_WORDS

    values = target.unique().sort().to_list()
    is_numeric = target.dtype.is_numeric()
    task, why = model.task, "declared"
    if task is None:
        if len(values) == 2 and not target.dtype.is_float():
            task, why = "binary", f"the target has two values, {values[0]!r} and {values[1]!r}"
        elif not is_numeric:
            task, why = "multiclass", f"the target has {len(values)} values"
        elif set(values) <= {0.0, 1.0}:
            task, why = "binary", "the target is 0 or 1"
        else:
            task = "forecast" if isinstance(model.split, ByTime) else "regression"
            why = "the target is a number" + (", split by time" if task == "forecast" else "")
    if task in ("regression", "forecast"):
        if not is_numeric:
            raise Invalid(
                f"model {model.name!r}: a {task} needs numbers, the target holds {values[:3]!r}",
                where=model.where,
                hint='write task="multiclass", or choose another target',
            )
        return task, (), None, why
    if not 2 <= len(values) <= MAX_CLASSES:
        raise Invalid(
            f"model {model.name!r}: the target has {len(values)} different values, a classifier needs 2 to "
            f"{MAX_CLASSES}",
            where=model.where,
            hint='write task="regression" for a number',
        )
    if task == "multiclass":
        return task, tuple(values), None, why
    if len(values) != 2:
        raise Invalid(
            f"model {model.name!r}: a binary target has two values, this one {len(values)}",
            where=model.where,
            hint='write task="multiclass"',
        )
    positive = model.positive
    if positive is None:
        named = [v for v in values if str(v).strip().lower() in POSITIVE_WORDS]
        rare = values[0] if (target == values[0]).sum() < (target == values[1]).sum() else values[1]
        positive = named[0] if len(named) == 1 else rare
    if positive not in values:
        raise Invalid(
            f"model {model.name!r}: positive={positive!r} is not in the target",
            where=model.where,
            hint=f"write positive={values[0]!r} or positive={values[1]!r}",
        )
    negative = values[1] if values[0] == positive else values[0]
    return task, (negative, positive), positive, why


def signature_of(table: TrainingTable, task: Task, classes: tuple[Label, ...], positive: Label | None) -> Signature:
    """Return what a request carries and what the model answers."""
    return Signature(table.inputs, task, classes, positive, table.extras)


def to_parquet(frame: pl.DataFrame) -> bytes:
    """Return a frame as Parquet bytes; the same frame gives the same bytes."""
    buffer = io.BytesIO()
    frame.write_parquet(buffer, compression="zstd", statistics=False)
    return buffer.getvalue()


def from_parquet(data: bytes) -> pl.DataFrame:
    """Return the frame that `to_parquet` wrote."""
    return pl.read_parquet(io.BytesIO(data))
