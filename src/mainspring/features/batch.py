"""Features at a point in time: for each row, what serving could have known just before it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta

import numpy as np
import polars as pl

from mainspring.core.errors import Invalid, nearest
from mainspring.data.frames import schema_of, to_columns
from mainspring.features.expressions import AGGREGATES, Array, Node, evaluate
from mainspring.features.tracing import aggregates_of
from mainspring.features.views import FeatureView, in_order, request_features

_ROW, _TIME = "__spine_row", "__at"


def training_table(
    spine: pl.DataFrame, views: Iterable[FeatureView], *, time: str | None = None,
    tables: Mapping[str, pl.DataFrame] | None = None, times: Mapping[str, str] | None = None,
) -> pl.DataFrame:  # fmt: skip
    """Return the spine with one column added per feature; every row stays, in order, duplicates too.

    A window covers [t - window, t): an event at t itself is not in it, so a row never sees itself. Events at one
    instant keep the order of their table. No history is null, and 0 for a count; a row without an entity or an event
    without a time matches nothing. Missing values are left out of every figure of a window.

    Args:
        spine: One row per prediction; holds the entity columns and the request's columns.
        time: The column of the spine that holds t; needed for windowed features.
        tables: The events of each dataset that the features read.
        times: The event time column of each of them.

    Raises:
        Invalid: a column is absent, or a row of the spine has no time.
    """
    ordered = in_order(views)
    for view in ordered:
        if view.name in spine.columns:
            raise Invalid(
                f"feature {view.name!r} has the name of a column", hint="rename the function", where=view.where
            )
        if view.kind == "window":
            spine = spine.with_columns(_window_feature(spine, view, time, tables or {}, times or {}))
    requested = [view for view in ordered if view.kind == "request"]
    if not requested:
        return spine
    values = request_features(ordered, to_columns(spine, schema_of(spine)), spine.height)
    return spine.with_columns(_series(view.name, values[view.name]) for view in requested)


def _window_feature(
    spine: pl.DataFrame,
    view: FeatureView,
    time: str | None,
    tables: Mapping[str, pl.DataFrame],
    times: Mapping[str, str],
) -> pl.Series:
    if view.dataset not in tables or view.dataset not in times:
        raise Invalid(f"feature {view.name!r} reads {view.dataset!r}, which has no table or no time column",
                      hint=f'declare {view.dataset!r} with time="..."', where=view.where)  # fmt: skip
    events, at = tables[view.dataset], times[view.dataset]
    _check_columns(view, events.columns, view.dataset, (*view.entity, at, *view.columns))
    _check_columns(view, spine.columns, "the table of rows", view.entity)
    if time is None or time not in spine.columns or spine[time].null_count():
        raise Invalid(f"feature {view.name!r} needs a time for every row", where=view.where,
                      hint='declare the dataset with time="..." and a contract: check.not_null on it')  # fmt: skip
    aggregates = list(dict.fromkeys(aggregates_of(view.node)))
    figures = _window_figures(spine, view, _instants(spine, time), aggregates, events, _instants(events, at))
    outer = _replace(view.node, {node: Node("column", value=f"figure {i}") for i, node in enumerate(aggregates)})
    return _series(view.name, evaluate(outer, figures, spine.height))


def _check_columns(view: FeatureView, there: Sequence[str], label: str, wanted: Iterable[str]) -> None:
    for column in wanted:
        if column not in there:
            message = f"feature {view.name!r}: {label} has no column {column!r}{nearest(column, there)}"
            raise Invalid(message, where=view.where)


def _window_figures(
    spine: pl.DataFrame,
    view: FeatureView,
    at: pl.Series,
    aggregates: list[Node],
    events: pl.DataFrame,
    happened: pl.Series,
) -> dict[str, Array]:
    """Return the value of each aggregate for each row of the spine, in the spine's order."""
    keys = list(view.entity)
    source = to_columns(events.select(view.columns), schema_of(events.select(view.columns))) if view.columns else {}
    inner = [_series(f"value {i}", evaluate(node.args[0], source, events.height))
             for i, node in enumerate(aggregates) if node.args]  # fmt: skip
    # Events first and the spine after, both in their own order: a stable sort keeps ties in order of ingestion. The
    # spine's rows ride along with empty values, so one rolling pass answers for exactly their instants.
    rows = pl.concat(
        [
            events.select(keys).with_columns(happened.alias(_TIME), *inner).filter(pl.col(_TIME).is_not_null()),
            _like(spine.select(keys), events).with_columns(at.alias(_TIME), pl.int_range(pl.len()).alias(_ROW)),
        ],
        how="diagonal",
    ).filter(pl.all_horizontal(pl.col(key).is_not_null() for key in keys))
    rows = rows.sort([*keys, _TIME], maintain_order=True)
    rolled = rows.rolling(_TIME, period=view.window or timedelta(0), closed="left", group_by=keys).agg(
        _aggregate(node, f"value {i}").alias(f"figure {i}") for i, node in enumerate(aggregates)
    )
    answers = pl.DataFrame({_ROW: rows[_ROW]}).hstack(rolled.select(pl.selectors.starts_with("figure ")))
    answers = pl.DataFrame({_ROW: np.arange(spine.height)}).join(
        answers.filter(pl.col(_ROW).is_not_null()), on=_ROW, how="left", maintain_order="left"
    )
    counts = [f"figure {i}" for i, node in enumerate(aggregates) if node.op == "count"]
    answers = answers.drop(_ROW).with_columns(pl.col(counts).fill_null(0))
    return to_columns(answers, schema_of(answers))


def _aggregate(node: Node, column: str) -> pl.Expr:
    if not node.args:
        # The spine's own rows are in the table too and are not events.
        return pl.col(_ROW).is_null().sum().cast(pl.Float64)
    values = pl.col(column)
    if node.op == "sum":
        return pl.when(values.count() > 0).then(values.sum())
    return {
        "count": values.count().cast(pl.Float64), "mean": values.mean(), "min": values.min(), "max": values.max(),
        "std": values.std(), "first": values.first(ignore_nulls=True), "last": values.last(ignore_nulls=True),
    }[node.op]  # fmt: skip


def _replace(node: Node, known: Mapping[Node, Node]) -> Node:
    if node.op in AGGREGATES:
        return known[node]
    return Node(node.op, tuple(_replace(arg, known) for arg in node.args), node.value)


def _instants(frame: pl.DataFrame, column: str) -> pl.Series:
    values = frame[column]
    if values.dtype == pl.Date:
        values = values.cast(pl.Datetime("us"))
    if not isinstance(values.dtype, pl.Datetime):
        raise Invalid(f"the time column {column!r} holds {values.dtype}, not instants", hint="read it as a datetime")
    zone = values.dtype.time_zone
    values = values.dt.cast_time_unit("us")
    return values.dt.convert_time_zone("UTC") if zone else values.dt.replace_time_zone("UTC")


def _like(keys: pl.DataFrame, events: pl.DataFrame) -> pl.DataFrame:
    """Return the spine's entity columns in the types of the events', so that 7 matches 7 whatever holds it."""
    try:
        return keys.with_columns(pl.col(name).cast(events.schema[name], strict=True) for name in keys.columns)
    except pl.exceptions.PolarsError as error:
        raise Invalid(f"the entity columns {', '.join(keys.columns)} differ in type from those of the events",
                      hint="give both tables one type") from error  # fmt: skip


def _series(name: str, values: Array) -> pl.Series:
    if values.dtype.kind == "M":
        return pl.Series(name, values).dt.replace_time_zone("UTC")
    if values.dtype.kind == "O":
        return pl.Series(name, values.tolist(), dtype=pl.String)
    return pl.Series(name, values).fill_nan(None)
