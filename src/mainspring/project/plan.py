"""The difference between what is declared and what runs, what cannot be done, and making it so."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa

from mainspring.core.errors import Conflict, Invalid, MainspringError, Where, nearest
from mainspring.core.ref import digest_json
from mainspring.core.units import Condition
from mainspring.project.definition import ColumnRef, LabelsDef, ModelDef, ProjectSpec, Rest, describe, option_line
from mainspring.store.tables import declarations, schedules
from mainspring.store.workspace import Change, Workspace

# Where scores go that are rows of a table; a URL with a password belongs behind a reference to a secret.
TABLES = ("postgresql://", "sqlite:///", "secret://")
Action = Literal["add", "change", "remove", "keep"]


@dataclass(frozen=True, slots=True)
class Item:
    """One declared thing and what `apply` would do about it; `details` says what changed."""

    kind: str
    name: str
    action: Action
    details: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Refusal:
    """One declared option that would have no effect here, and the line it stands on."""

    where: Where
    message: str
    hint: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What `apply` would do."""

    project: str
    digest: str
    items: tuple[Item, ...]
    refusals: tuple[Refusal, ...]
    notes: tuple[str, ...]

    @property
    def has_changes(self) -> bool:
        return any(item.action != "keep" for item in self.items)


def plan(ws: Workspace, spec: ProjectSpec) -> Plan:
    """Return what `apply` would change and every option that has no effect here; changes nothing."""
    declared = declared_parts(spec)
    applied = current(ws, spec.name)
    return Plan(
        project=spec.name,
        digest=digest_json(declared),
        items=tuple(_items(applied, declared)),
        refusals=(*_refusals(spec), *_column_refusals(ws, spec)),
        notes=tuple(_notes(spec)),
    )


def apply(ws: Workspace, spec: ProjectSpec, *, before_reading: bool = False) -> Plan:
    """Make the declaration the one that runs: record it and bring the schedules in line.

    Args:
        before_reading: The sources are read next, so that their columns are not known yet.

    Raises:
        Invalid: an option would have no effect here; the first is named with its line.
    """
    planned = plan(ws, spec)
    refusals = tuple(_refusals(spec)) if before_reading else planned.refusals
    if refusals:
        first = refusals[0]
        more = f" (and {len(refusals) - 1} more: mainspring plan)" if len(refusals) > 1 else ""
        raise Invalid(first.message + more, hint=first.hint, where=first.where)
    if planned.has_changes:
        with ws.change(spec.name) as change:
            _declare(change, planned.digest, declared_parts(spec), [i for i in planned.items if i.action != "keep"])
    return planned


def undo(ws: Workspace, project: str) -> str:
    """Bring back the declaration before the present one; return its digest.

    The project file is not touched: the next `apply` of it makes it current again.

    Raises:
        Conflict: there is none before it.
    """
    with ws.read() as tx:
        rows = tx.execute(_history(project).limit(2)).all()
    if len(rows) < 2:
        raise Conflict(f"project {project!r} has no declaration before the present one", hint="mainspring plan")
    with ws.change(project) as change:
        change.execute(
            declarations.delete().where(declarations.c.project == project, declarations.c.digest == rows[0].digest)
        )
        _declare(change, rows[1].digest, rows[1].spec, list(_items(rows[0].spec, rows[1].spec)))
    return str(rows[1].digest)


def current(ws: Workspace, project: str) -> dict[str, Any]:
    """Return the parts of the declaration that runs, empty when none was applied."""
    with ws.read() as tx:
        row = tx.execute(_history(project).limit(1)).first()
    return dict(row.spec) if row else {}


def _history(project: str) -> sa.Select[Any]:
    return (
        sa.select(declarations)
        .where(declarations.c.project == project)
        .order_by(declarations.c.applied_at.desc(), declarations.c.digest)
    )


def declared_parts(spec: ProjectSpec) -> dict[str, Any]:
    """Return the declaration as JSON-able parts by `kind:name`."""
    parts: dict[str, Any] = {f"project:{spec.name}": {"owner": spec.owner, "oncall": spec.oncall}}
    for entry in spec.datasets.values():
        data = entry.dataset
        parts[f"dataset:{data.name}"] = {
            "source": describe(data.source.describe()),
            "key": list(data.key),
            "time": data.time,
            "pii": dict(data.pii),
            "on_bad": data.on_bad,
            "checks": describe(data.checks),
            "retain": describe(data.retain),
            "start": describe(data.start),
            "window": describe(data.window_kind),
            "schedule": entry.schedule,
            "zone": entry.zone,
        }
    for labels in spec.labels.values():
        parts[f"labels:{labels.name}"] = {
            "source": describe(labels.dataset.source.describe()),
            "key": labels.key,
            "time": labels.time,
            "value": labels.value,
            "matures": describe(labels.matures),
            "absent": labels.absent,
        }
    for view in spec.features.values():
        parts[f"feature:{view.name}"] = view.to_json()
    for model in spec.models.values():
        parts[f"model:{model.name}"] = _model_part(model)
    return parts


def _model_part(model: ModelDef) -> dict[str, Any]:
    predicts = model.predicts
    target = f"labels:{predicts.name}" if isinstance(predicts, LabelsDef) else str(predicts)
    part: dict[str, Any] = describe(model)
    uses = None if model.uses is None else [getattr(use, "name", None) or describe(use) for use in model.uses]
    return part | {"predicts": target, "uses": uses}


def _items(before: dict[str, Any], after: dict[str, Any]) -> Iterator[Item]:
    for ref in [*after, *(ref for ref in before if ref not in after)]:
        kind, _, name = ref.partition(":")
        if ref not in before:
            yield Item(kind, name, "add")
        elif ref not in after:
            yield Item(kind, name, "remove")
        elif before[ref] == after[ref]:
            yield Item(kind, name, "keep")
        else:
            yield Item(kind, name, "change", tuple(_changed(before[ref], after[ref])))


def _changed(before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    for key in sorted(before.keys() | after.keys()):
        if before.get(key) != after.get(key):
            if key == "code":
                yield "the function's code"
            else:
                yield f"{key}: {_short(before.get(key))} -> {_short(after.get(key))}"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _declare(change: Change, digest: str, parts: dict[str, Any], items: list[Item]) -> None:
    change.execute(
        declarations.delete().where(declarations.c.project == change.project, declarations.c.digest == digest)
    )
    change.execute(
        declarations.insert().values(
            project=change.project, digest=digest, applied_at=change.clock.now(), actor=change.actor, spec=parts
        )
    )
    wanted = _schedules(parts)
    kept = {
        row.name: row for row in change.execute(sa.select(schedules).where(schedules.c.project == change.project)).all()
    }
    for name in kept.keys() - wanted.keys():
        change.execute(schedules.delete().where(schedules.c.project == change.project, schedules.c.name == name))
    for name, (cron, zone, action) in wanted.items():
        if name not in kept:
            change.execute(
                schedules.insert().values(
                    project=change.project,
                    name=name,
                    cron=cron,
                    zone=zone,
                    misfire="latest",
                    action=action,
                    created_at=change.clock.now(),
                )
            )
        elif (kept[name].cron, kept[name].zone) != (cron, zone):
            # A new rhythm starts now: slots of the old one that were missed are not made up for.
            change.execute(
                schedules.update()
                .where(schedules.c.project == change.project, schedules.c.name == name)
                .values(cron=cron, zone=zone, action=action, created_at=change.clock.now())
            )
    change.event(
        "declaration.applied",
        f"project:{change.project}",
        {"digest": digest, "changes": [f"{i.action} {i.kind}:{i.name}" for i in items]},
    )


def _schedules(parts: dict[str, Any]) -> dict[str, tuple[str, str, dict[str, Any]]]:
    """Return cron, zone and action of each schedule; the action names the pipeline, as the worker builds it."""
    found: dict[str, tuple[str, str, dict[str, Any]]] = {}
    for ref, part in parts.items():
        kind, _, name = ref.partition(":")
        if kind == "dataset" and part["schedule"]:
            found[f"ingest-{name}"] = (part["schedule"], part["zone"], {"pipeline": f"ingest-{name}"})
        if kind == "model":
            if part["schedule"]:
                found[f"run-{name}"] = (part["schedule"], part["zone"], {"pipeline": name})
            for number, batch in enumerate(part["batch"]):
                if batch["schedule"]:
                    scored = f"score-{name}-{number}"
                    found[scored] = (batch["schedule"], batch["zone"], {"pipeline": scored})
    return found


def _notes(spec: ProjectSpec) -> Iterator[str]:
    for model in spec.models.values():
        windowed = _windowed(spec, model)
        if windowed and model.serve is None:
            yield (
                f"model:{model.name} gets no endpoint: {', '.join(windowed)} looks back over a window, "
                "which is computed in batch"
            )
        if not model.gates:
            yield f"model:{model.name} has no gates: every version goes live as soon as it is trained"


def _windowed(spec: ProjectSpec, model: ModelDef) -> list[str]:
    from mainspring.features.views import closure

    wanted = [use.name for use in model.uses or () if not isinstance(use, (ColumnRef, Rest))]
    return [view.name for view in closure(spec.features.values(), wanted) if view.kind == "window"]


def _refusals(spec: ProjectSpec) -> Iterator[Refusal]:
    for entry in spec.datasets.values():
        yield from _cron_refusal(entry.schedule, entry.zone, entry.where)
    for model in spec.models.values():
        yield from _model_refusals(spec, model)


def _model_refusals(spec: ProjectSpec, model: ModelDef) -> Iterator[Refusal]:
    from mainspring.evaluation.metrics import METRICS
    from mainspring.training.baselines import BASELINES

    yield from _cron_refusal(model.schedule, model.zone, model.where)
    for gate in model.gates:
        named = gate.options.get("baseline") if gate.name == "beats_baseline" else None
        if named is not None and named not in BASELINES:
            yield Refusal(
                gate.where or model.where,
                f"there is no baseline {named!r}{nearest(named, BASELINES)}",
                f"baselines: {', '.join(BASELINES)}",
            )
        if not gate.built:
            yield Refusal(
                gate.where or model.where,
                f"the gate {gate.name}() is not built yet",
                "remove it; docs/reference/gates.md lists the gates that work",
            )
    if model.serve is not None:
        place = model.serve.where
        if model.serve.rollout is not None:
            first = model.serve.rollout.stages[0]
            yield Refusal(
                place,
                f"a staged release ({first.kind}) is not built yet",
                "write .serve(): a version that passes its gates replaces the old one at once",
            )
        if model.serve.abort_if:
            yield Refusal(
                option_line(place, "abort_if"),
                "abort_if acts during a staged release, which is not built yet",
                'watch the endpoint instead: .watch(alert_if=["error_rate > 0.5%"])',
            )
        if windowed := _windowed(spec, model):
            yield Refusal(
                place,
                f"{', '.join(windowed)} looks back over a window, and serving that is not built yet",
                "leave .serve() out and score in batch, or use features of the request",
            )
    for batch in model.batch:
        yield from _cron_refusal(batch.schedule, batch.zone, batch.where)
        if not batch.to.endswith((".parquet", ".csv")) and not batch.to.startswith(TABLES):
            yield Refusal(
                option_line(batch.where, "to"),
                f"scores cannot be written to {batch.to!r}",
                'write to="scores.parquet", "scores.csv", "postgresql://host/base#table" or "secret://env/NAME#table"',
            )
        if batch.of is not None and batch.of not in spec.datasets:
            yield Refusal(batch.where, f"there is no dataset {batch.of!r}", f"datasets: {', '.join(spec.datasets)}")
    if model.metric is not None and model.metric not in METRICS:
        yield Refusal(model.where, f"unknown metric {model.metric!r}", f"metrics: {', '.join(sorted(METRICS))}")
    if isinstance(model.predicts, LabelsDef):
        yield from _label_refusals(spec, model.predicts)
    if model.watch is not None:
        yield from _watch_refusals(model)


def _label_refusals(spec: ProjectSpec, labels: LabelsDef) -> Iterator[Refusal]:
    for entry in spec.datasets.values():
        treatment = entry.dataset.pii.get(labels.key, "keep")
        if labels.key in entry.dataset.key and treatment != "keep":
            yield Refusal(
                option_line(entry.where, "pii"),
                f"labels {labels.name!r} are joined by {labels.key!r}, of which dataset {entry.dataset.name!r} "
                f"keeps {'a hash' if treatment == 'hash' else 'nothing'}",
                'join by a key that is not personal, or write "keep" for it',
            )


def _column_refusals(ws: Workspace, spec: ProjectSpec) -> Iterator[Refusal]:
    """Refuse columns that a dataset's newest version does not have; of one that was never read nothing is known."""
    from mainspring.data.datasets import latest

    known: dict[str, Collection[str] | None] = {}
    for model in spec.models.values():
        named = [("predicts", model.predicts), *(("uses", use) for use in model.uses or ())]
        for option, use in named:
            if not isinstance(use, (ColumnRef, Rest)):
                continue
            if use.dataset not in known:
                version = latest(ws, spec.name, use.dataset)
                pii = spec.datasets[use.dataset].dataset.pii if use.dataset in spec.datasets else {}
                # A personal column that is no longer dropped is there from the next reading on.
                kept = [column for column, action in pii.items() if action != "drop"]
                known[use.dataset] = None if version is None else (*version.schema.names, *kept)
            columns = known[use.dataset]
            for column in (use.column,) if isinstance(use, ColumnRef) else use.excluded:
                if columns is not None and column not in columns:
                    yield Refusal(
                        option_line(model.where, option),
                        f"dataset {use.dataset!r} has no column {column!r}{nearest(column, columns)}",
                        f"columns: {', '.join(columns)}; if the source has gained it: "
                        f"mainspring data ingest {use.dataset}",
                    )


def _watch_refusals(model: ModelDef) -> Iterator[Refusal]:
    from mainspring.evaluation.metrics import METRICS
    from mainspring.monitoring.monitors import DRIFT_MEASURES, ENDPOINT_FIGURES

    assert model.watch is not None
    place = model.watch.where
    rules: list[tuple[str, Condition, Collection[str]]] = [("score", rule, METRICS) for rule in model.watch.score]
    rules += [("alert_if", rule, ENDPOINT_FIGURES) for rule in model.watch.guards]
    if model.watch.drift is not None:
        rules.append(("drift", model.watch.drift, DRIFT_MEASURES))
    for option, rule, known in rules:
        if rule.metric not in known:
            yield Refusal(
                option_line(place, option),
                f"{option}= names {rule.metric!r}, which is not measured",
                f"figures: {', '.join(sorted(known))}",
            )


def _cron_refusal(cron: str | None, zone: str, where: Where) -> Iterator[Refusal]:
    if cron is None:
        return
    from mainspring.orchestration.schedule import Cron

    try:
        Cron(cron, zone)
    except MainspringError as error:
        yield Refusal(option_line(where, "schedule"), error.message, error.hint)
