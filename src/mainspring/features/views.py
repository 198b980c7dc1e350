"""Feature definitions: what a feature reads, over which window, and the expression it is."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

from mainspring.core.errors import Invalid, NotFound, Where, nearest
from mainspring.core.ref import check_name
from mainspring.core.schema import Column, DType, Schema
from mainspring.core.units import duration
from mainspring.features.expressions import Array, Node, evaluate, from_json, result_dtype
from mainspring.features.tracing import Expr, Rows, aggregates_of, place_of, trace


@dataclass(frozen=True, slots=True)
class FeatureView:
    """One feature; law: `view_from_json(view.to_json()) == view`, apart from `where`.

    Args:
        name: The column it becomes.
        kind: `request` computes from the request and other features; `window` sums up the events of a dataset.
        node: The expression.
        entity: The columns by which events belong to a row; empty for a request feature.
        window: A row at time t sees events in [t - window, t); None for a request feature.
        dataset: The dataset whose events it reads; empty for a request feature.
        where: Where it is declared.
    """

    name: str
    kind: Literal["request", "window"]
    node: Node
    entity: tuple[str, ...] = ()
    window: timedelta | None = None
    dataset: str = ""
    where: Where | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns it reads: of the request, or of the dataset's events."""
        return self.node.names("column")

    @property
    def inputs(self) -> tuple[str, ...]:
        """The other features it reads."""
        return self.node.names("feature")

    def to_json(self) -> dict[str, Any]:
        """Return the definition as data; a bundle carries it, and never the Python function."""
        data: dict[str, Any] = {"name": self.name, "kind": self.kind, "expression": self.node.to_json()}
        if self.kind == "window" and self.window is not None:
            data |= {"entity": list(self.entity), "window_s": self.window.total_seconds(), "dataset": self.dataset}
        return data


def view_from_json(data: Mapping[str, Any]) -> FeatureView:
    """Return the feature that `to_json` wrote.

    Raises:
        Invalid: the data is not a feature definition.
    """
    try:
        window = timedelta(seconds=data["window_s"]) if "window_s" in data else None
        return FeatureView(
            check_name(data["name"], "feature"), data["kind"], from_json(data["expression"]),
            tuple(data.get("entity", ())), window, data.get("dataset", ""),
        )  # fmt: skip
    except (KeyError, TypeError, ValueError) as error:
        raise Invalid(f"this is not a feature definition: {error!r}") from error


def define(
    function: Callable[..., Any],
    *,
    entity: str | Sequence[str] | None = None,
    window: str | timedelta | None = None,
    datasets: Collection[str] = (),
    features: Collection[str] = (),
) -> FeatureView:
    """Return the feature that a plain function describes; its name is the function's.

    With a window, the one parameter names a dataset and the function sums up its events. Without one, the parameters
    are `request` and other features, and the function computes from them. Parameters with defaults are constants.

    Args:
        entity: The column or columns that tie events to a row; goes with `window`.
        window: A duration, as in `"7d"`.
        datasets: Names of the datasets that exist.
        features: Names of the features that exist.

    Raises:
        Invalid: a parameter names nothing that exists, or the function does what the feature language cannot say.
    """
    name, where = check_name(function.__name__, "feature"), place_of(function)
    if (entity is None) != (window is None):
        raise Invalid(f"feature {name!r} has {'a window' if window else 'an entity'} alone", where=where,
                      hint='a windowed feature needs both: @p.feature(entity="card", window="7d")')  # fmt: skip
    parameters = _parameters(function, where)
    if window is None:
        symbols = {p: _request_symbol(name, p, features, datasets, where) for p in parameters}
        node = trace(function, symbols)
        if found := aggregates_of(node):
            raise Invalid(f"feature {name!r}: {found[0]} needs a window of events", where=where,
                          hint='declare it with @p.feature(entity=..., window="7d") and a dataset')  # fmt: skip
        return FeatureView(name, "request", node, where=where)
    length = duration(window)
    if length <= timedelta(0):
        raise Invalid(f"feature {name!r} has a window of {window}", hint='a window is longer than 0: "7d"', where=where)
    if len(parameters) != 1 or parameters[0] not in datasets:
        raise Invalid(
            f"feature {name!r} takes ({', '.join(parameters)}); a windowed feature takes one dataset"
            + (nearest(parameters[0], datasets) if parameters else ""),
            hint=f"name the parameter after a dataset: {', '.join(datasets) or 'none is declared yet'}", where=where,
        )  # fmt: skip
    node = trace(function, {parameters[0]: Rows(parameters[0], is_window=True)})
    _check_window(name, node, where)
    keys = (entity,) if isinstance(entity, str) else tuple(entity or ())
    return FeatureView(name, "window", node, keys, length, parameters[0], where)


def _parameters(function: Callable[..., Any], where: Where) -> list[str]:
    parameters = inspect.signature(function).parameters.values()
    for parameter in parameters:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise Invalid(f"feature {function.__name__!r} has the parameter {parameter}; its inputs have to be named",
                          hint="def amount_ratio(request, mean_amount_7d): ...", where=where)  # fmt: skip
    return [parameter.name for parameter in parameters if parameter.default is parameter.empty]


def _request_symbol(
    name: str, parameter: str, features: Collection[str], datasets: Collection[str], where: Where
) -> Expr | Rows:
    if parameter == "request":
        return Rows("request", is_window=False)
    if parameter in features:
        return Expr(Node("feature", value=parameter))
    hint = f"parameters are `request` and the features declared above it: {', '.join(features) or 'none yet'}"
    if parameter in datasets:
        hint = f'to sum up events of {parameter!r}, give an entity and a window: @p.feature(entity="...", window="7d")'
    close = nearest(parameter, ["request", *features])
    raise Invalid(f"feature {name!r} takes {parameter!r}, which is no feature{close}", hint=hint, where=where)


def _check_window(name: str, node: Node, where: Where) -> None:
    """Refuse columns of events that stand outside every aggregate: a window has many rows and a feature one value."""

    def bare(part: Node) -> list[Node]:
        if part in aggregates:
            return []
        return [part] if part.op == "column" else [found for arg in part.args for found in bare(arg)]

    try:
        aggregates = aggregates_of(node)
    except Invalid as error:
        raise Invalid(f"feature {name!r}: {error.message}", hint=error.hint, where=where) from None
    if loose := bare(node):
        raise Invalid(f"feature {name!r}: {loose[0]} has one value for each event of the window", where=where,
                      hint=f"say which figure of them: .{loose[0]}.mean(), .last(), .count()")  # fmt: skip


def in_order(views: Iterable[FeatureView]) -> tuple[FeatureView, ...]:
    """Return the features so that each comes after those it reads, otherwise in the order given.

    Raises:
        Invalid: two have one name, or features read each other in a circle.
    """
    waiting = list(views)
    names = [view.name for view in waiting]
    if twice := {name for name in names if names.count(name) > 1}:
        raise Invalid(f"two features have the name {min(twice)!r}")
    ordered: list[FeatureView] = []
    while waiting:
        left = {view.name for view in waiting}
        ready = [view for view in waiting if not left.intersection(view.inputs)]
        if not ready:
            raise Invalid(f"the features {', '.join(sorted(left))} read each other in a circle")
        ordered += ready
        waiting = [view for view in waiting if view not in ready]
    return tuple(ordered)


def closure(views: Iterable[FeatureView], wanted: Iterable[str]) -> tuple[FeatureView, ...]:
    """Return the features that `wanted` names and all they read, in order.

    Raises:
        Invalid: a name is no feature.
    """
    known = {view.name: view for view in views}
    needed: dict[str, FeatureView] = {}
    open_names = list(wanted)
    while open_names:
        name = open_names.pop()
        if name not in known:
            raise Invalid(f"there is no feature {name!r}{nearest(name, known)}")
        if name not in needed:
            needed[name] = known[name]
            open_names += known[name].inputs
    return in_order(view for view in known.values() if view.name in needed)


def request_columns(views: Iterable[FeatureView]) -> tuple[str, ...]:
    """Return the columns that a request must carry for these features."""
    return tuple(dict.fromkeys(c for view in views if view.kind == "request" for c in view.columns))


def request_features(views: Iterable[FeatureView], columns: Mapping[str, Array], n: int) -> dict[str, Array]:
    """Return `columns` with the request features added: the one computation of training and serving.

    Args:
        views: Features; those over windows must be among `columns` already.
        columns: The request's columns, each of shape (n,).
        n: How many rows.

    Raises:
        Invalid: a feature has the name of a column, or reads one that is absent.
    """
    values = dict(columns)
    for view in in_order(views):
        if view.kind == "window":
            if view.name not in values:
                hint = "windowed features are computed in batch; serving them is not built yet"
                raise Invalid(f"the windowed feature {view.name!r} has no value here", hint=hint, where=view.where)
            continue
        if view.name in values:
            raise Invalid(
                f"feature {view.name!r} has the name of a column", hint="rename the function", where=view.where
            )
        values[view.name] = evaluate(view.node, values, n)
    return values


def feature_schema(views: Iterable[FeatureView], request: Schema, tables: Mapping[str, Schema]) -> Schema:
    """Return the columns that the features become; finds every unknown column and wrong kind before any data is read.

    Args:
        views: The features.
        request: The columns of a request.
        tables: The columns of each dataset that has windowed features.

    Raises:
        Invalid: naming the feature, its line, and the column.
    """
    known: dict[str, DType] = {column.name: column.dtype for column in request}
    found: list[Column] = []
    for view in in_order(views):
        try:
            if view.kind == "window":
                schema = tables[view.dataset]
                for key in view.entity:
                    schema[key]
                dtype = result_dtype(view.node, {column.name: column.dtype for column in schema})
            else:
                dtype = result_dtype(view.node, known)
        except (Invalid, NotFound) as error:
            raise Invalid(f"feature {view.name!r}: {error.message}", hint=error.hint, where=view.where) from None
        known[view.name] = dtype
        found.append(Column(view.name, dtype))
    return Schema(tuple(found))
