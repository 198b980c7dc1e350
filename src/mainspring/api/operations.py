"""Every operation, once: its name, its permission, its effect, and the function that does it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from mainspring.api import oversight
from mainspring.api.spec import Operation, operation
from mainspring.core.clock import parse_instant
from mainspring.core.errors import Conflict, NotFound, nearest
from mainspring.core.records import DatasetVersion, ModelVersion
from mainspring.governance import access, approvals, audit
from mainspring.governance.access import Actor
from mainspring.governance.approvals import Approval
from mainspring.store import tables
from mainspring.store.workspace import Workspace

if TYPE_CHECKING:
    from mainspring.data.datasets import IngestResult
    from mainspring.loop.release import AliasMove
    from mainspring.loop.score import Scored
    from mainspring.loop.train import RunReport
    from mainspring.loop.why import Dossier
    from mainspring.orchestration.journal import RunRecord
    from mainspring.project.definition import ProjectSpec
    from mainspring.project.plan import Plan
    from mainspring.tracking.compare import RunComparison

PAGE = 50


@dataclass(frozen=True, slots=True)
class ProjectInfo:
    """A project, and what the declaration that runs holds."""

    name: str
    models: tuple[str, ...]
    datasets: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ModelDetail:
    """A version, where it is live, what it came from and who approved it."""

    version: ModelVersion
    aliases: tuple[str, ...]
    lineage: dict[str, Any]
    approvals: tuple[Approval, ...]


@operation("project.list", "system.read", "read")
def project_list(ws: Workspace, *, actor: Actor) -> list[ProjectInfo]:
    """List the projects that the actor has a part in."""
    from mainspring.project.plan import current

    found = []
    for name in audit.logged_projects(ws):
        if name not in ("", access.INSTALLATION) and actor.sees(name):
            parts = [ref.partition(":") for ref in current(ws, name)]
            of = {kind: tuple(part[2] for part in parts if part[0] == kind) for kind in ("model", "dataset")}
            found.append(ProjectInfo(name, of["model"], of["dataset"]))
    return found


@operation("project.plan", "project.read", "read")
def project_plan(ws: Workspace, project: str) -> Plan:
    """Show the difference between what is declared and what runs."""
    from mainspring.project.plan import plan

    return plan(ws, _declared(ws, project))


@operation("project.apply", "project.apply", "write")
def project_apply(ws: Workspace, project: str) -> Plan:
    """Make the declaration the one that runs."""
    from mainspring.project.plan import apply

    return apply(ws, _declared(ws, project))


@operation("project.undo", "project.apply", "write")
def project_undo(ws: Workspace, project: str) -> str:
    """Bring back the declaration before the present one; returns its digest."""
    from mainspring.project.plan import undo

    return undo(ws, project)


@operation("models.list", "models.read", "read")
def models_list(ws: Workspace, project: str, model: str = "") -> list[ModelDetail]:
    """List the versions of a project's models, newest first, with the aliases that point at them."""
    from mainspring.registry.models import list_versions

    query = sa.select(tables.model_versions.c.model).where(tables.model_versions.c.project == project).distinct()
    with ws.read() as tx:
        names = sorted(tx.execute(query).scalars())
        pointed = tx.execute(sa.select(tables.aliases).where(tables.aliases.c.project == project)).all()
    if model and model not in names:
        raise NotFound(
            f"no model {model!r} in project {project!r}{nearest(model, names)}", hint="mainspring models list"
        )
    return [
        ModelDetail(
            version, tuple(row.alias for row in pointed if (row.model, row.version) == (name, version.version)), {}, ()
        )
        for name in ([model] if model else names)
        for version in list_versions(ws, project, name)
    ]  # fmt: skip


@operation("models.show", "models.read", "read")
def models_show(ws: Workspace, project: str, model: str, version: str = "production") -> ModelDetail:
    """Show one version: its figures, the verdicts of its gates, its lineage and approvals."""
    from mainspring.registry.models import get_lineage

    found = _version(ws, project, model, version)
    pointing = sa.select(tables.aliases.c.alias).where(
        tables.aliases.c.project == project, tables.aliases.c.model == model, tables.aliases.c.version == found.version
    )
    with ws.read() as tx:
        names = tuple(sorted(tx.execute(pointing).scalars()))
    given = approvals.list_approvals(ws, project, model, found.version)
    return ModelDetail(found, names, get_lineage(ws, project, model, found.version), tuple(given))


@operation("models.compare", "models.read", "read")
def models_compare(ws: Workspace, project: str, model: str, before: str, after: str) -> dict[str, Any]:
    """Compare two versions figure by figure."""
    first, second = _version(ws, project, model, before), _version(ws, project, model, after)
    names = sorted({*first.metrics, *second.metrics})
    rows = [(name, first.metrics.get(name), second.metrics.get(name)) for name in names]
    return {
        "before": first.ref,
        "after": second.ref,
        "same_bundle": first.bundle_digest == second.bundle_digest,
        "same_policy": first.policy_digest == second.policy_digest,
        "metrics": [
            {"name": name, "before": old, "after": new, "change": None if old is None or new is None else new - old}
            for name, old, new in rows
        ],
    }


@operation("models.card", "models.read", "read")
def models_card(ws: Workspace, project: str, model: str, version: str = "production") -> str:
    """Return the model card of a version, as Markdown."""
    from mainspring.registry.card import render_card

    return render_card(ws, _version(ws, project, model, version))


@operation("models.report", "models.read", "read")
def models_report(ws: Workspace, project: str, model: str, version: str = "production") -> str:
    """Return the evaluation report of a version, as one HTML page."""
    return ws.objects.get(_version(ws, project, model, version).report_digest).decode()


@operation("models.windows", "models.read", "read")
def models_windows(
    ws: Workspace, project: str, model: str, monitor: str = "", limit: int = PAGE
) -> list[dict[str, Any]]:
    """List what the monitors found of a model, window by window, oldest first; `monitor` narrows to one of them."""
    from mainspring.monitoring.windows import MONITORS, list_windows

    if monitor and monitor not in MONITORS:
        raise NotFound(f"no monitor {monitor!r}{nearest(monitor, MONITORS)}", hint=f"monitors: {', '.join(MONITORS)}")
    found = [
        window
        for name in ([monitor] if monitor else MONITORS)
        for window in list_windows(ws, project, model, name, limit=limit)
    ]
    return [
        {
            "start": w.start,
            "end": w.end,
            "monitor": w.monitor,
            "rows": w.rows,
            "state": w.state,
            "says": "; ".join(w.says),
            "result": w.result,
        }
        for w in sorted(found, key=lambda w: (w.start, w.monitor))[-limit:]
    ]


@operation("models.history", "models.read", "read")
def models_history(ws: Workspace, project: str, model: str, alias: str = "production") -> list[dict[str, Any]]:
    """List the moves of an alias, newest first: what was live when, who moved it and why."""
    moves = tables.alias_moves
    query = sa.select(moves).where(moves.c.project == project, moves.c.model == model, moves.c.alias == alias)
    with ws.read() as tx:
        return [dict(row) for row in tx.execute(query.order_by(moves.c.seq.desc()).limit(200)).mappings()]


@operation("models.promote", "models.promote", "write")
def models_promote(
    ws: Workspace,
    project: str,
    model: str,
    version: str,
    alias: str = "production",
    reason: str = "",
    expected: int | None = None,
) -> AliasMove:
    """Point an alias at a version; production takes only one that passed its gates."""
    from mainspring.loop.release import promote

    number = _version(ws, project, model, version).version
    return promote(ws, project, model, number, alias=alias, reason=reason, expected=expected)


@operation("models.rollback", "models.promote", "write")
def models_rollback(ws: Workspace, project: str, model: str, to: int | None = None, reason: str = "") -> AliasMove:
    """Bring back the version that was live before and block the present one."""
    from mainspring.loop.release import rollback

    return rollback(ws, project, model, to=to, reason=reason)


@operation("models.approve", "models.approve", "write")
def models_approve(
    ws: Workspace, project: str, model: str, version: str, comment: str = "", *, actor: Actor
) -> dict[str, str]:
    """Approve a version that another actor made; it is released when nothing else was missing."""
    from mainspring.loop.release import approve

    found = _version(ws, project, model, version)
    outcome = approve(ws, project, model, found.version, role=actor.role, comment=comment)
    return {"version": found.ref, "outcome": outcome}


@operation("models.block", "models.block", "write")
def models_block(ws: Workspace, project: str, model: str, version: str, reason: str) -> ModelVersion:
    """Keep a version from ever going live; the reason is recorded."""
    from mainspring.registry.models import block, get_version

    number = _version(ws, project, model, version).version
    block(ws, project, model, number, reason=reason)
    return get_version(ws, project, model, number)


@operation("models.unblock", "models.block", "write")
def models_unblock(ws: Workspace, project: str, model: str, version: str, reason: str) -> ModelVersion:
    """Let a blocked version go live again; the reason is recorded."""
    from mainspring.registry.models import BLOCKED, get_version, unblock

    found = _version(ws, project, model, version)
    if found.status != BLOCKED:
        raise Conflict(f"{found.ref} is not blocked; it is {found.status}", hint=f"mainspring models list {model}")
    number = found.version
    unblock(ws, project, model, number, reason=reason)
    return get_version(ws, project, model, number)


@operation("models.run", "runs.start", "local")
def models_run(
    ws: Workspace,
    project: str,
    model: str | None = None,
    trigger: str = "manual",
    at: str | None = None,
    *,
    on_event: Callable[[Any], None] | None = None,
) -> RunReport:
    """Run a model's pipeline here and now: data, features, training, proof, release; raises what stopped it."""
    from mainspring.loop.train import raise_if_failed, run_model

    when = parse_instant(at) if at else None
    report = run_model(ws, _declared(ws, project), model, trigger=trigger, logical_time=when, on_event=on_event)
    raise_if_failed(report)
    return report


@operation("models.score", "predictions.read", "local")
def models_score(
    ws: Workspace,
    project: str,
    model: str | None = None,
    to: str | None = None,
    of: str | None = None,
    version: str = "production",
) -> Scored:
    """Score a dataset's newest version with a model and publish the answers."""
    from mainspring.loop.score import score

    wanted = int(version) if version.isdecimal() else version
    return score(ws, _declared(ws, project), model, to=to, of=of, version=wanted)


@operation("runs.start", "runs.start", "run")
def runs_start(ws: Workspace, project: str, model: str | None = None) -> dict[str, str]:
    """Ask for a run of a model's pipeline, of the only one when none is named; a worker starts it."""
    from mainspring.orchestration.journal import request_run
    from mainspring.project.plan import current

    models = [ref.partition(":")[2] for ref in current(ws, project) if ref.startswith("model:")]
    if model is None and len(models) == 1:
        model = models[0]
    if model not in models:
        said = f"no model {model!r}{nearest(model, models)}" if model else f"{len(models)} models"
        known = f"models: {', '.join(models)}" if models else "mainspring apply"
        raise NotFound(f"project {project!r} runs {said}", hint=known)
    with ws.change(project) as change:
        return {"run_id": request_run(change, project, model, trigger="manual")}


@operation("runs.list", "runs.read", "read")
def runs_list(ws: Workspace, project: str, model: str = "", status: str = "", limit: int = PAGE) -> list[RunRecord]:
    """List runs, newest first."""
    from mainspring.orchestration.journal import list_runs

    statuses = [status.upper()] if status else []
    return list_runs(ws, project, pipeline=model, statuses=statuses, limit=max(1, min(limit, 500)))


@operation("runs.show", "runs.read", "read")
def runs_show(ws: Workspace, project: str, run_id: str) -> RunRecord:
    """Show one run and its steps."""
    return _run(ws, project, run_id)


@operation("runs.cancel", "runs.cancel", "write")
def runs_cancel(ws: Workspace, project: str, run_id: str, reason: str = "") -> RunRecord:
    """Ask a run to stop."""
    from mainspring.orchestration.journal import cancel_run

    cancel_run(ws, _run(ws, project, run_id).id, reason=reason)
    return _run(ws, project, run_id)


@operation("runs.compare", "runs.read", "read")
def runs_compare(ws: Workspace, project: str, before: str, after: str) -> RunComparison:
    """Compare two tracked runs: parameters that differ, and every metric."""
    from mainspring.tracking.compare import compare_runs
    from mainspring.tracking.runs import Runs

    tracked = Runs(ws)
    return compare_runs(tracked.get(project, before), tracked.get(project, after))


@operation("data.list", "data.read", "read")
def data_list(ws: Workspace, project: str) -> list[DatasetVersion]:
    """List the newest version of each dataset."""
    from mainspring.data.datasets import history

    query = sa.select(tables.dataset_versions.c.name).where(tables.dataset_versions.c.project == project).distinct()
    with ws.read() as tx:
        names = sorted(tx.execute(query).scalars())
    return [history(ws, project, name)[0] for name in names]


@operation("data.history", "data.read", "read")
def data_history(ws: Workspace, project: str, dataset: str) -> list[DatasetVersion]:
    """List the versions of a dataset, newest first."""
    from mainspring.data.datasets import history

    return history(ws, project, dataset)


@operation("data.diff", "data.read", "read")
def data_diff(ws: Workspace, project: str, dataset: str, before: int, after: int | None = None) -> dict[str, Any]:
    """Show what changed between two versions of a dataset: schema, rows by key, and the profile of each column."""
    from mainspring.data.diff import diff

    found = diff(ws, project, dataset, before, after).to_json()
    # Rows as they are stay in the workspace: what is shown of data here are counts and profiles.
    return {key: value for key, value in found.items() if key != "examples"}


@operation("data.ingest", "data.write", "write")
def data_ingest(ws: Workspace, project: str, dataset: str, rerun: bool = False) -> IngestResult:
    """Bring a dataset up to date, under its contract."""
    from mainspring.data.datasets import ingest

    return ingest(ws, project, _declared(ws, project).dataset(dataset), now=ws.clock.now(), rerun=rerun)


@operation("data.backfill", "data.write", "write")
def data_backfill(ws: Workspace, project: str, dataset: str, start: str, end: str) -> IngestResult:
    """Read the windows of a dataset between two instants again."""
    from mainspring.data.datasets import backfill

    spec = _declared(ws, project).dataset(dataset)
    return backfill(ws, project, spec, parse_instant(start), parse_instant(end))


@operation("features.list", "project.read", "read")
def features_list(ws: Workspace, project: str) -> list[dict[str, Any]]:
    """List the features of the declaration that runs."""
    from mainspring.project.plan import current

    parts = current(ws, project)
    return [{"name": ref.partition(":")[2], **part} for ref, part in parts.items() if ref.startswith("feature:")]


@operation("schedules.list", "project.read", "read")
def schedules_list(ws: Workspace, project: str) -> list[dict[str, Any]]:
    """List the schedules that run, in words, with their next firing."""
    from mainspring.orchestration.schedule import Cron

    query = sa.select(tables.schedules).where(tables.schedules.c.project == project).order_by(tables.schedules.c.name)
    with ws.read() as tx:
        rows = tx.execute(query).all()
    found = []
    for row in rows:
        cron = Cron(row.cron, row.zone)
        following = None if row.paused_at else cron.next(ws.clock.now()).instant
        found.append({"name": row.name, "cron": row.cron, "zone": row.zone, "in_words": cron.describe(),
                      "does": row.action, "next": following, "paused_at": row.paused_at})  # fmt: skip
    return found


@operation("predictions.why", "predictions.read", "read")
def predictions_why(ws: Workspace, project: str, prediction_id: str) -> Dossier:
    """Explain one prediction from its id, and compute it again."""
    from mainspring.loop.why import why

    return why(ws, project, prediction_id)


OPERATIONS: dict[str, Operation] = {
    value.name: value
    for value in (*globals().copy().values(), *vars(oversight).values())
    if isinstance(value, Operation)
}


def _declared(ws: Workspace, project: str) -> ProjectSpec:
    from mainspring.project.loading import load_project

    if ws.settings.project_file is None:
        raise NotFound(
            f"no project file in {ws.settings.directory}", hint="mainspring init NAME --from data.csv --target column"
        )
    spec = load_project(ws.settings.project_file)
    if spec.name != project:
        raise NotFound(f'no project "{project}" is declared here', hint=f'the project file declares "{spec.name}"')
    return spec


def _version(ws: Workspace, project: str, model: str, version: str) -> ModelVersion:
    from mainspring.registry.models import get_version

    return get_version(ws, project, model, int(version) if version.isdecimal() else version)


def _run(ws: Workspace, project: str, run_id: str) -> RunRecord:
    from mainspring.orchestration.journal import get_run

    missing = NotFound(f"no run {run_id[:64]!r} in project {project!r}", hint="mainspring runs list")
    try:
        found = get_run(ws, run_id)
    except NotFound as error:
        raise missing from error
    if found.project != project:
        raise missing
    return found
