"""What a project file declares, as frozen records; nothing here touches data or runs a user's function."""

from __future__ import annotations

import ast
import linecache
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mainspring.core.errors import Invalid, MainspringError, NotFound, Where, nearest
from mainspring.core.schema import Label, Task
from mainspring.core.units import Condition, human_duration

if TYPE_CHECKING:
    from mainspring.data.datasets import Dataset
    from mainspring.evaluation.gates import Gate
    from mainspring.features.views import FeatureView

_PACKAGE = str(Path(__file__).resolve().parents[1])


@dataclass(frozen=True, slots=True)
class ColumnRef:
    """One column of a declared dataset, as in `payments["amount"]`."""

    dataset: str
    column: str

    def __str__(self) -> str:
        return f"{self.dataset}[{self.column!r}]"


@dataclass(frozen=True, slots=True)
class Rest:
    """All columns of a dataset but those named, as in `payments.without("casual")`; what they are is known at run."""

    dataset: str
    excluded: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LabelsDef:
    """Outcomes that arrive later, in a dataset of their own.

    Args:
        dataset: The dataset that holds them.
        key: Column that joins an outcome to the row it belongs to.
        time: Column that says when the outcome became known.
        value: Column of the outcome.
        matures: How long after the event an outcome can be relied on.
        absent: The outcome of a matured row for which none arrived; None leaves the row out.
    """

    name: str
    dataset: Dataset
    key: str
    time: str | None
    value: str
    matures: timedelta
    absent: Label | None
    where: Where


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of a release; stages are joined by `>>`."""

    kind: str
    options: Mapping[str, Any]

    def __str__(self) -> str:
        return f"{self.kind}({', '.join(f'{k}={v!r}' for k, v in self.options.items())})"


@dataclass(frozen=True, slots=True)
class Rollout:
    """Stages in order, as in `shadow("1d") >> canary(1, 10, 50, every="1h")`."""

    stages: tuple[Stage, ...]

    def __rshift__(self, after: Rollout) -> Rollout:
        return Rollout((*self.stages, *after.stages))


def shadow(length: str) -> Rollout:
    """Declare a stage in which the new version answers in the shadow of the old one for `length`."""
    return Rollout((Stage("shadow", {"length": length}),))


def canary(*percent: float, every: str) -> Rollout:
    """Declare stages that give the new version a growing share of requests, a step each `every`."""
    return Rollout((Stage("canary", {"percent": percent, "every": every}),))


def ab(share: float, *, length: str) -> Rollout:
    """Declare a stage that splits requests between two versions for `length` and compares their outcomes."""
    return Rollout((Stage("ab", {"share": share, "length": length}),))


def blue_green() -> Rollout:
    """Declare a stage that brings the new version up beside the old one and switches at once."""
    return Rollout((Stage("blue_green", {}),))


@dataclass(frozen=True, slots=True)
class ServeDef:
    """How a new version reaches the endpoint; without a rollout it replaces the old one at once."""

    rollout: Rollout | None
    abort_if: tuple[Condition, ...]
    where: Where


@dataclass(frozen=True, slots=True)
class BatchDef:
    """Scores written on a schedule.

    Args:
        to: File (`.parquet`, `.csv`), `postgresql://...#table` or `secret://env/NAME#table` that receives the scores.
        schedule: Cron text, or None for scoring on demand.
        of: Dataset whose newest version is scored; the one the model learned from when None.
    """

    to: str
    schedule: str | None
    zone: str
    of: str | None
    where: Where


@dataclass(frozen=True, slots=True)
class WatchDef:
    """What is watched in production and what heals it.

    Args:
        score: Rules on quality over matured labels that must hold.
        drift: Rule on one column's drift, or None for the calibrated tests.
        every: Length of one window.
        false_alarms: Alarms per day that the owner accepts when nothing is wrong.
        heal: Actions allowed, in order of preference.
        cooldown: Shortest time between two healing actions.
        guards: Rules on the endpoint (error_rate, p99) that must hold.
    """

    score: tuple[Condition, ...]
    drift: Condition | None
    guards: tuple[Condition, ...]
    every: timedelta
    false_alarms: float
    heal: tuple[str, ...]
    cooldown: timedelta
    min_rows: int
    where: Where


@dataclass(frozen=True, slots=True)
class ModelDef:
    """One model: the function that fits it and everything that stands between it and production."""

    name: str
    function: Callable[..., Any]
    predicts: ColumnRef | LabelsDef
    uses: tuple[ColumnRef | Rest | FeatureView, ...] | None
    metric: str | None
    task: Task | None
    positive: Label | None
    split: Any
    tune: Mapping[str, Any]
    trials: int
    seed: int
    schedule: str | None
    zone: str
    on: tuple[str, ...]
    trust_pickle: bool
    where: Where
    gates: tuple[Gate, ...] = ()
    serve: ServeDef | None = None
    batch: tuple[BatchDef, ...] = ()
    watch: WatchDef | None = None


@dataclass(frozen=True, slots=True)
class ScheduledDataset:
    """A dataset and when it is read by itself."""

    dataset: Dataset
    schedule: str | None
    zone: str
    where: Where


@dataclass(frozen=True, slots=True)
class ProjectSpec:
    """Everything a project file declares."""

    name: str
    owner: str
    oncall: str
    file: Path | None
    datasets: Mapping[str, ScheduledDataset] = field(default_factory=dict)
    labels: Mapping[str, LabelsDef] = field(default_factory=dict)
    features: Mapping[str, FeatureView] = field(default_factory=dict)
    models: Mapping[str, ModelDef] = field(default_factory=dict)

    def model(self, name: str | None) -> ModelDef:
        """Return the model called `name`, or the only one.

        Raises:
            NotFound: there is no such model, or several and no name.
        """
        if name is None and len(self.models) == 1:
            return next(iter(self.models.values()))
        if name is not None and name in self.models:
            return self.models[name]
        known = ", ".join(self.models)
        if name is None:
            raise NotFound(
                f"project {self.name!r} declares {len(self.models)} models: say which",
                hint=f"models: {known}" if known else "declare one with @project.model",
            )
        raise NotFound(
            f"no model {name!r} in project {self.name!r}{nearest(name, self.models)}", hint=f"models: {known or 'none'}"
        )

    def dataset(self, name: str) -> Dataset:
        """Return the dataset called `name`, a labels' own included."""
        if name in self.datasets:
            return self.datasets[name].dataset
        if name in self.labels:
            return self.labels[name].dataset
        names = [*self.datasets, *self.labels]
        raise NotFound(
            f"no dataset {name!r} in project {self.name!r}{nearest(name, names)}", hint="mainspring data list"
        )


def describe(value: Any) -> Any:
    """Return a declared value as JSON-able data; equal declarations give equal descriptions, wherever they stand."""
    if is_dataclass(value) and not isinstance(value, type):
        return {
            f.name: describe(getattr(value, f.name))
            for f in fields(value)
            if f.name not in ("where", "file", "function")
        } | ({"code": code_of(value.function)} if hasattr(value, "function") else {})
    if isinstance(value, Mapping):
        return {str(key): describe(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [describe(item) for item in value]
    if isinstance(value, timedelta):
        return human_duration(value)
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Path):
        return value.name
    if isinstance(value, type):
        return value.__name__
    if callable(value):
        return code_of(value)
    return value if value is None or isinstance(value, (str, int, float, bool)) else str(value)


def code_of(function: Callable[..., Any]) -> str:
    """Return the digest of a function's source, its decorators left out: moving a function changes nothing."""
    from mainspring.core.ref import digest

    return digest(source_of(function).encode())


def source_of(function: Callable[..., Any]) -> str:
    """Return a function's own source, without decorators and comments, as one canonical text."""
    code = getattr(function, "__code__", None)
    if code is None:
        return repr(type(function))
    lines = linecache.getlines(code.co_filename)
    try:
        tree = ast.parse("".join(lines))
    except SyntaxError:
        tree = ast.Module(body=[], type_ignores=[])
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.Lambda)) and _starts(node) == code.co_firstlineno:
            if isinstance(node, ast.FunctionDef):
                node.decorator_list = []
            return ast.unparse(node)
    return str(code.co_code.hex())


def _starts(node: ast.FunctionDef | ast.Lambda) -> int:
    decorators = getattr(node, "decorator_list", [])
    return int(decorators[0].lineno if decorators else node.lineno)


def calling_line() -> Where:
    """Return the line of the user's file that called into this package."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.f_back
    return Where(frame.f_code.co_filename, frame.f_lineno)


def option_line(where: Where, option: str) -> Where:
    """Return the line on which `option=` stands in the call at `where`, or `where` itself."""
    try:
        tree = ast.parse("".join(linecache.getlines(where.file)))
    except SyntaxError:
        return where
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node.lineno <= where.line <= (node.end_lineno or node.lineno):
            for keyword in node.keywords:
                if keyword.arg == option:
                    return Where(where.file, keyword.value.lineno)
    return where


def place_of(function: Callable[..., Any]) -> Where:
    """Return the line on which a function is defined."""
    code = getattr(function, "__code__", None)
    return Where(code.co_filename, code.co_firstlineno) if code else calling_line()


def fail(message: str, hint: str, where: Where, option: str = "") -> Invalid:
    """Return the error for a wrong declaration, pointing at the option's own line."""
    return Invalid(message, hint=hint, where=option_line(where, option) if option else where)


def parse_option(reader: Callable[[Any], Any], text: Any, where: Where, option: str) -> Any:
    """Return `reader(text)`; an error points at the option's line."""
    try:
        return reader(text)
    except MainspringError as error:
        raise fail(f"{option}: {error.message}", error.hint, where, option) from error


def parse_options(
    reader: Callable[[Any], Any], texts: str | Iterable[str], where: Where, option: str
) -> tuple[Any, ...]:
    return tuple(parse_option(reader, text, where, option) for text in ([texts] if isinstance(texts, str) else texts))
