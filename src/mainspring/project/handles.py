"""What a declaration gives back: handles that stay plain functions and take further promises."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mainspring.core.errors import Invalid, Where, nearest
from mainspring.core.units import duration, frequency, parse_condition
from mainspring.project.definition import (
    BatchDef,
    ColumnRef,
    LabelsDef,
    ModelDef,
    Rest,
    Rollout,
    ScheduledDataset,
    ServeDef,
    WatchDef,
    calling_line,
    fail,
    parse_option,
    parse_options,
)

HEALING = ("retrain", "rollback")


@dataclass(slots=True)
class Declarations:
    """What one project has declared so far; its handles add to it."""

    datasets: dict[str, ScheduledDataset] = field(default_factory=dict)
    labels: dict[str, LabelsDef] = field(default_factory=dict)
    features: dict[str, Any] = field(default_factory=dict)
    models: dict[str, ModelDef] = field(default_factory=dict)


class Declared:
    """A declaration that stands for a function; calling it calls the function and nothing else."""

    def __init__(self, declared: Declarations, name: str, function: Callable[..., Any] | None, where: Where) -> None:
        self._declared = declared
        self.name = name
        self.where = where
        self.function = function
        if function is not None:
            functools.update_wrapper(self, function)

    def __call__(self, *args: Any, **options: Any) -> Any:
        if self.function is None:
            raise Invalid(f"{self.name!r} is read from a file; it is not a function")
        return self.function(*args, **options)

    def __repr__(self) -> str:
        return f"{type(self).__name__.lower()}:{self.name}"


class Dataset(Declared):
    """A declared dataset; index it for a column."""

    def __getitem__(self, column: str | Sequence[str]) -> Any:
        if isinstance(column, str):
            return ColumnRef(self.name, column)
        return tuple(ColumnRef(self.name, name) for name in column)

    def without(self, *columns: str) -> Rest:
        """Return all columns but those named (and but the key, the time and the target)."""
        return Rest(self.name, columns)

    def expect(self, *checks: Any) -> Dataset:
        """Add rules that the data must keep; bad rows fail the ingest or are set aside, as `on_bad` says."""
        where = calling_line()
        from mainspring.data.checks import Check

        for check in checks:
            if not isinstance(check, Check):
                raise fail(f"{check!r} is not a check", "use ms.check.unique(...), ms.check.between(...), ...", where)
        entry = self._declared.datasets[self.name]
        spec = replace(entry.dataset, checks=(*entry.dataset.checks, *checks))
        self._declared.datasets[self.name] = replace(entry, dataset=spec)
        return self


class Labels(Declared):
    """Declared outcomes; `predicts=` takes them."""


class Feature(Declared):
    """A declared feature; `uses=` takes it."""


class Model(Declared):
    """A declared model; each method adds one promise about it."""

    def must(self, *gates: Any) -> Model:
        """Add gates that a version has to pass before it goes live."""
        where = calling_line()
        from mainspring.evaluation.gates import Gate

        for gate in gates:
            if not isinstance(gate, Gate):
                raise fail(f"{gate!r} is not a gate", "use ms.gate.beats_baseline(), ms.gate.at_least(...), ...", where)
        return self._change(gates=(*self._definition.gates, *gates))

    def serve(self, rollout: Rollout | None = None, *, abort_if: Iterable[str] = ()) -> Model:
        """Say how a new version reaches the endpoint; without a rollout it replaces the old one at once."""
        where = calling_line()
        if rollout is not None and not isinstance(rollout, Rollout):
            raise fail(
                f"{rollout!r} is not a rollout", 'use ms.shadow("1d") >> ms.canary(1, 10, 50, every="1h")', where
            )
        rules = parse_options(parse_condition, abort_if, where, "abort_if")
        return self._change(serve=ServeDef(rollout, rules, where))

    def batch(self, *, to: str, schedule: str | None = None, zone: str = "UTC", of: Dataset | None = None) -> Model:
        """Write scores of the newest data to a file or a table, on a schedule or by `mainspring score`."""
        definition = BatchDef(str(to), schedule, zone, of.name if of else None, calling_line())
        return self._change(batch=(*self._definition.batch, definition))

    def watch(
        self,
        *,
        score: str | Iterable[str] = (),
        drift: str | None = None,
        alert_if: str | Iterable[str] = (),
        every: str = "1h",
        false_alarms: str = "1/week",
        heal: str = "",
        cooldown: str = "1d",
        min_rows: int = 200,
    ) -> Model:
        """Watch the model in production and say what may heal it.

        Args:
            score: Rules on quality over matured labels that must hold, as "roc_auc >= 0.80".
            drift: A rule per column, as "psi > 0.1"; left out, tests calibrated to `false_alarms` decide.
            alert_if: Rules on the endpoint that must not hold, as "error_rate > 1%" or "p99 > 250ms".
            every: Length of one window of observation.
            false_alarms: How often an alarm may be false when nothing is wrong.
            heal: Actions allowed, in order of preference: "retrain | rollback".
            cooldown: Shortest time between two healing actions.
            min_rows: Predictions that a window needs to be judged.
        """
        where = calling_line()
        actions = tuple(part.strip() for part in heal.split("|") if part.strip())
        for action in actions:
            if action not in HEALING:
                raise fail(
                    f"unknown healing action {action!r}{nearest(action, HEALING)}",
                    f'write heal="{" | ".join(HEALING)}"',
                    where,
                    "heal",
                )
        return self._change(
            watch=WatchDef(
                score=parse_options(parse_condition, score, where, "score"),
                drift=parse_option(parse_condition, drift, where, "drift") if drift is not None else None,
                guards=parse_options(parse_condition, alert_if, where, "alert_if"),
                every=parse_option(duration, every, where, "every"),
                false_alarms=parse_option(frequency, false_alarms, where, "false_alarms"),
                heal=actions,
                cooldown=parse_option(duration, cooldown, where, "cooldown"),
                min_rows=min_rows,
                where=where,
            )
        )

    @property
    def _definition(self) -> ModelDef:
        return self._declared.models[self.name]

    def _change(self, **changes: Any) -> Model:
        self._declared.models[self.name] = replace(self._definition, **changes)
        return self
