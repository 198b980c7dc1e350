"""The decorators that a project file is written with."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal, overload

from mainspring.core.clock import parse_instant
from mainspring.core.errors import Invalid, MainspringError, Where, nearest
from mainspring.core.ref import check_name
from mainspring.core.schema import Label, Task
from mainspring.core.units import duration
from mainspring.core.windows import KINDS
from mainspring.project.definition import (
    ColumnRef,
    LabelsDef,
    ModelDef,
    ProjectSpec,
    Rest,
    ScheduledDataset,
    calling_line,
    fail,
    parse_option,
    place_of,
)
from mainspring.project.handles import Dataset, Declarations, Feature, Labels, Model

TASKS = ("binary", "multiclass", "regression", "forecast")
EVENTS = {"new_data": "dataset.ingested"}


class Project:
    """One team's models and all they stand on, declared in one file.

    Args:
        name: The project's name; it becomes paths and URLs.
        owner: Who answers for it.
        oncall: Who is told at night.
    """

    def __init__(self, name: str, *, owner: str = "", oncall: str = "") -> None:
        self.where = calling_line()
        self.name = parse_option(lambda text: check_name(text, "project"), name, self.where, "name")
        self.owner = owner
        self.oncall = oncall
        self._declared = Declarations()

    def dataset(
        self,
        source: Any = None,
        *,
        name: str | None = None,
        key: str | Sequence[str] = (),
        time: str | None = None,
        pii: Mapping[str, str] | None = None,
        columns: Sequence[str] | None = None,
        read: Mapping[str, Any] | None = None,
        schedule: str | None = None,
        zone: str = "UTC",
        start: str | datetime | None = None,
        retain: str | timedelta | None = None,
        on_bad: Literal["fail", "quarantine"] = "fail",
    ) -> Any:
        """Declare a dataset: a file, a folder or a query by its source, or a function by decoration.

        Args:
            source: Path or glob (relative to this file), or `ms.sql(...)`, `ms.folder(...)`; left out, a decorator.
            name: Its name; the function's or the file's when left out.
            key: Column or columns that tell rows apart.
            time: Column of the event time.
            pii: What to do with personal columns: {"email": "drop", "card": "hash"}.
            columns: Column names of a file without a header.
            read: How to read the file, as `mainspring init` wrote it.
            schedule: Cron text; `mainspring up` reads it then.
            zone: Time zone of the schedule.
            start: The first window to read, for functions of a window; the last 30 when left out.
            retain: How long rows are kept, by event time.
            on_bad: "fail" the ingest on a bad row, or "quarantine" bad rows and keep the rest.
        """
        where = calling_line()
        options = _DatasetOptions(key, time, pii, columns, read, schedule, zone, start, retain, on_bad, where)
        if source is None:
            return lambda function: self._function_dataset(function, name, options)
        if inspect.isfunction(source):
            return self._function_dataset(source, name, options)
        from mainspring.data.sources import FileSource, ReadOptions

        if isinstance(source, (str, Path)):
            path = str(Path(where.file).parent / source) if "://" not in str(source) else str(source)
            reading = dict(read or {}) | ({"columns": tuple(columns)} if columns else {})
            try:
                source = FileSource(path, ReadOptions.from_json(reading) if reading else None)
            except MainspringError as error:
                raise fail(error.message, error.hint, where, "read") from error
        found = name or re.sub(r"[^A-Za-z0-9_]+", "_", Path(source.describe().get("path", "")).name.split(".")[0])
        return self._add_dataset(found.strip("_") or "data", source, None, None, options)

    def _function_dataset(self, function: Callable[..., Any], name: str | None, options: _DatasetOptions) -> Dataset:
        from mainspring.data.sources import FunctionSource

        kind = _window_kind(function)
        return self._add_dataset(name or function.__name__, FunctionSource(function, kind), function, kind, options)

    def _add_dataset(
        self, name: str, source: Any, function: Callable[..., Any] | None, kind: Any, options: _DatasetOptions
    ) -> Dataset:
        where = place_of(function) if function else options.where
        self._is_new(name, "dataset", where)
        self._declared.datasets[name] = ScheduledDataset(
            options.spec(name, source, kind), options.schedule, options.zone, options.where
        )
        return Dataset(self._declared, name, function, where)

    def labels(
        self,
        source: Any,
        *,
        key: str,
        value: str,
        time: str | None = None,
        matures: str = "0s",
        absent: Label | None = None,
        name: str | None = None,
        columns: Sequence[str] | None = None,
        read: Mapping[str, Any] | None = None,
    ) -> Labels:
        """Declare outcomes that arrive later.

        Args:
            source: File, or `ms.sql(...)`, that holds one row per outcome.
            key: Column that joins an outcome to its row; the datasets have it too.
            value: Column of the outcome.
            time: Column that says when the outcome became known.
            matures: How long after the event an outcome can be relied on; younger rows are not learned from.
            absent: The outcome of a matured row for which none arrived; left out, such rows are not used.
        """
        where = calling_line()
        handle = self.dataset(source, name=name, time=time, columns=columns, read=read)
        entry = self._declared.datasets.pop(handle.name)
        self._declared.labels[handle.name] = LabelsDef(
            handle.name,
            entry.dataset,
            key,
            time,
            value,
            parse_option(duration, matures, where, "matures"),
            absent,
            where,
        )
        return Labels(self._declared, handle.name, None, where)

    @overload
    def feature(self, function: Callable[..., Any]) -> Feature: ...

    @overload
    def feature(
        self, *, entity: str | None = None, window: str | None = None
    ) -> Callable[[Callable[..., Any]], Feature]: ...

    def feature(
        self, function: Callable[..., Any] | None = None, *, entity: str | None = None, window: str | None = None
    ) -> Any:
        """Declare a feature: of the request alone, or with `entity` and `window` of a dataset's recent past.

        The function is read once, with symbols for its parameters: `request`, a dataset, or another feature.
        """
        if function is None:
            return lambda decorated: self._add_feature(decorated, entity, window)
        return self._add_feature(function, None, None)

    def _add_feature(self, function: Callable[..., Any], entity: str | None, window: str | None) -> Feature:
        from mainspring.features.views import define

        where = place_of(function)
        self._is_new(function.__name__, "feature", where)
        self._declared.features[function.__name__] = define(
            function,
            entity=entity,
            window=parse_option(duration, window, where, "window") if window else None,
            datasets=tuple(self._declared.datasets),
            features=self._declared.features,
        )
        return Feature(self._declared, function.__name__, function, where)

    def model(
        self,
        function: Callable[..., Any] | None = None,
        *,
        predicts: ColumnRef | Labels | None = None,
        uses: Iterable[Any] | None = None,
        metric: str | None = None,
        task: Task | None = None,
        positive: Label | None = None,
        split: Any = None,
        tune: Mapping[str, Any] | None = None,
        trials: int | None = None,
        seed: int = 0,
        schedule: str | None = None,
        zone: str = "UTC",
        on: str | Iterable[str] = (),
        trust_pickle: bool = False,
    ) -> Any:
        """Declare a model: a function of `X` (a pandas DataFrame) and `y` that returns what it fitted.

        Args:
            predicts: The target: a column of a dataset, or labels.
            uses: Columns and features, in order; left out, every column but key, time and target.
            metric: What is optimised and compared; the task's usual one when left out.
            task: "binary", "multiclass", "regression" or "forecast"; told from the target when left out.
            positive: The class whose probability a binary model gives; told from the target when left out.
            split: `ms.by_time(...)`, `ms.by_group(...)` or `ms.by_chance(...)`.
            tune: What to search: {"name": (low, high)}, (low, high, "log"), or a list of choices.
            trials: How many settings to try.
            seed: Seed of all randomness.
            schedule: Cron text; `mainspring up` trains then.
            zone: Time zone of the schedule.
            on: "new_data", or names of events, that start a training.
            trust_pickle: Allow a pickle where no safe format can hold the model.
        """
        where = calling_line()
        if function is not None:
            raise fail("@project.model needs a target", f'write @{self.name}.model(predicts=dataset["column"])', where)
        if isinstance(predicts, Labels):
            target: ColumnRef | LabelsDef = self._declared.labels[predicts.name]
        elif isinstance(predicts, ColumnRef):
            target = predicts
        else:
            raise fail(
                f"the model has no target: predicts={predicts!r}",
                'write predicts=dataset["column"] or predicts=labels',
                where,
                "predicts",
            )
        if task is not None and task not in TASKS:
            raise fail(f"unknown task {task!r}{nearest(str(task), TASKS)}", f"tasks: {', '.join(TASKS)}", where, "task")
        space = dict(tune or {})
        if trials is not None and (not isinstance(trials, int) or isinstance(trials, bool) or trials < 1):
            raise fail(f"trials={trials!r} is not a count", "write trials=20", where, "trials")
        if trials and not space:
            raise fail(
                "trials= without tune= searches nothing",
                'add tune={"learning_rate": (0.01, 0.3, "log")}',
                where,
                "trials",
            )
        used = self._used(uses, where) if uses is not None else None

        def declare(decorated: Callable[..., Any]) -> Model:
            place = place_of(decorated)
            self._is_new(decorated.__name__, "model", place)
            _check_parameters(decorated, space)
            self._declared.models[decorated.__name__] = ModelDef(
                name=decorated.__name__,
                function=decorated,
                predicts=target,
                uses=used,
                metric=metric,
                task=task,
                positive=positive,
                split=split,
                tune=space,
                trials=trials or (20 if space else 0),
                seed=seed,
                schedule=schedule,
                zone=zone,
                on=(on,) if isinstance(on, str) else tuple(on),
                trust_pickle=trust_pickle,
                where=place,
            )
            return Model(self._declared, decorated.__name__, decorated, place)

        return declare

    def _used(self, uses: Any, where: Where) -> tuple[Any, ...]:
        items: list[Any] = []
        for use in [uses] if isinstance(uses, (ColumnRef, Rest, Feature, Dataset)) else uses:
            if isinstance(use, Feature):
                items.append(self._declared.features[use.name])
            elif isinstance(use, (ColumnRef, Rest)):
                items.append(use)
            elif isinstance(use, tuple) and all(isinstance(part, ColumnRef) for part in use):
                items.extend(use)
            elif isinstance(use, Dataset):
                items.append(Rest(use.name))
            else:
                raise fail(
                    f"uses= holds {use!r}, which is not a column or a feature",
                    'write uses=[payments["amount"], a_feature]',
                    where,
                    "uses",
                )
        return tuple(items)

    def _is_new(self, name: str, what: str, where: Where) -> None:
        parse_option(lambda text: check_name(text, what), name, where, "name")
        for kind, declared in (
            ("dataset", self._declared.datasets),
            ("labels", self._declared.labels),
            ("feature", self._declared.features),
            ("model", self._declared.models),
        ):
            if name in declared:
                raise Invalid(
                    f"{what} {name!r}: there is already a {kind} of that name",
                    where=where,
                    hint="give one of them another name",
                )

    def spec(self) -> ProjectSpec:
        """Return everything declared so far, as one frozen record."""
        return ProjectSpec(
            self.name,
            self.owner,
            self.oncall,
            Path(self.where.file),
            dict(self._declared.datasets),
            dict(self._declared.labels),
            dict(self._declared.features),
            dict(self._declared.models),
        )


class _DatasetOptions:
    """The options of one dataset, checked where they stand."""

    def __init__(
        self,
        key: str | Sequence[str],
        time: str | None,
        pii: Mapping[str, str] | None,
        columns: Sequence[str] | None,
        read: Mapping[str, Any] | None,
        schedule: str | None,
        zone: str,
        start: str | datetime | None,
        retain: str | timedelta | None,
        on_bad: Literal["fail", "quarantine"],
        where: Where,
    ) -> None:
        if on_bad not in ("fail", "quarantine"):
            raise fail(f"unknown on_bad={on_bad!r}", 'write on_bad="fail" or on_bad="quarantine"', where, "on_bad")
        from mainspring.governance.privacy import ACTIONS

        for column, action in (pii or {}).items():
            if action not in ACTIONS:
                raise fail(
                    f"unknown pii action {action!r} for {column!r}",
                    'write pii={"email": "drop", "card": "hash"}, or "keep" where it may stay as it is',
                    where,
                    "pii",
                )
        self.key = (key,) if isinstance(key, str) else tuple(key)
        self.time, self.pii, self.on_bad = time, dict(pii or {}), on_bad
        self.schedule, self.zone, self.where = schedule, zone, where
        self.retain = parse_option(duration, retain, where, "retain") if retain is not None else None
        self.start = parse_option(parse_instant, start, where, "start") if isinstance(start, str) else start

    def spec(self, name: str, source: Any, kind: Any) -> Any:
        from mainspring.data.datasets import Dataset as DatasetSpec

        return DatasetSpec(
            name=name,
            source=source,
            key=self.key,
            time=self.time,
            pii=self.pii,
            retain=self.retain,
            checks=(),
            on_bad=self.on_bad,
            window_kind=kind,
            start=self.start,
        )


def _window_kind(function: Callable[..., Any]) -> Any:
    """Return the kind of window a dataset function takes, None when it takes nothing."""
    parameters = list(inspect.signature(function).parameters.values())
    where = place_of(function)
    if not parameters:
        return None
    names = {kind.__name__: kind for kind in KINDS.values()}
    annotation = parameters[0].annotation
    name = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")
    kind = names.get(str(name).rsplit(".", 1)[-1])
    if len(parameters) > 1 or kind is None:
        raise Invalid(
            f"dataset function {function.__name__!r} takes ({', '.join(map(str, parameters))})",
            hint=f"take nothing, or one window: def {function.__name__}(day: ms.Day); windows: {', '.join(names)}",
            where=where,
        )
    return kind


def _check_parameters(function: Callable[..., Any], space: Mapping[str, Any]) -> None:
    parameters = list(inspect.signature(function).parameters.values())
    where = place_of(function)
    required = [
        p for p in parameters if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    if len(required) != 2:
        raise Invalid(
            f"model {function.__name__!r} takes ({', '.join(p.name for p in parameters)})",
            where=where,
            hint=f"write def {function.__name__}(X, y, setting=0.1): X and y, then settings with defaults",
        )
    settings = [p.name for p in parameters[2:]]
    for name, values in space.items():
        if name not in settings:
            raise Invalid(
                f"tune names {name!r}, which {function.__name__!r} does not take{nearest(name, settings)}",
                hint=f"settings with defaults: {', '.join(settings) or 'none'}",
                where=where,
            )
        if not _is_space(values):
            raise Invalid(
                f"tune[{name!r}] is {values!r}",
                where=where,
                hint='write (low, high), (low, high, "log") or a list of choices',
            )


def _is_space(values: Any) -> bool:
    if isinstance(values, list):
        return len(values) > 0
    if not isinstance(values, tuple) or len(values) not in (2, 3) or (len(values) == 3 and values[2] != "log"):
        return False
    low, high = values[:2]
    numbers = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in (low, high))
    return numbers and low < high and (len(values) == 2 or low > 0)
