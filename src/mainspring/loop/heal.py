"""Healing: the decision carried out through the same gates as any training, recorded, and told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

import sqlalchemy as sa

from mainspring.core.errors import MainspringError
from mainspring.core.records import Decision
from mainspring.loop.decide import TRAVEL_WINDOW, HealFacts, next_action
from mainspring.loop.watch import WatchReport
from mainspring.project.definition import LabelsDef, ModelDef, ProjectSpec
from mainspring.store.tables import heal_actions
from mainspring.store.workspace import Workspace

RELEASED = "released"


class Trained(Protocol):
    """What healing reads of a training's report; `loop.train.RunReport` is one."""

    @property
    def outcome(self) -> str: ...
    @property
    def version(self) -> int | None: ...
    @property
    def run_id(self) -> str: ...


@dataclass(frozen=True, slots=True)
class HealReport:
    """What was decided and what came of it.

    Args:
        action: retrain, rollback, wait or page.
        outcome: What came of it, a sentence; empty for wait.
        version: The version that healing put live, None when it changed nothing.
    """

    action: str
    reasons: tuple[str, ...]
    outcome: str
    version: int | None


def heal(
    ws: Workspace,
    spec: ProjectSpec,
    model_name: str | None,
    report: WatchReport,
    *,
    retrain: Callable[..., Trained] | None = None,
) -> HealReport:
    """Do what the report calls for within what the owner allows, record it, and tell the owner when it did not help.

    A retrained version goes live only through its gates; where it is not better the old one stays.

    Args:
        retrain: Trains in place of `loop.train.run_model`, called as that is.
    """
    from mainspring.monitoring.alerts import deliver_alerts

    model = spec.model(model_name)
    if model.watch is None or report.version is None:
        return HealReport("wait", ("nothing is watched",), "", None)
    decision = next_action(gather(ws, spec, model, report))
    key = f"heal/{model.name}"
    if decision.action == "wait":
        if not report.alarms:
            _resolve(ws, spec, key)
        return HealReport("wait", decision.reasons, "", None)
    if decision.action == "page":
        done = _page(ws, spec, model, report, decision)
    else:
        done = _act(ws, spec, model, report, decision, retrain)
    deliver_alerts(ws)
    return done


def gather(ws: Workspace, spec: ProjectSpec, model: ModelDef, report: WatchReport) -> HealFacts:
    """Return the facts that a decision on this report stands on."""
    from mainspring.registry.models import history, previous

    assert model.watch is not None
    assert report.version is not None
    now = report.at
    before = previous(ws, spec.name, model.name)
    taken = list_actions(ws, spec.name, model.name, since=now - TRAVEL_WINDOW)
    acted = [row for row in taken if row["action"] != "page"]
    moves = history(ws, spec.name, model.name)
    helped = [row for row in acted if (row["outcome"] or "").startswith(RELEASED)]
    onset = min(report.onset.values(), default=None)
    alarming = "performance" if report.alarms_of("performance") else "endpoint"
    return HealFacts(
        now=now,
        allowed=model.watch.heal,
        cooldown=model.watch.cooldown,
        version=report.version,
        previous=before.version if before else None,
        drift=report.drift,
        performance=report.alarms_of("performance"),
        endpoint=report.alarms_of("endpoint"),
        healthy=report.healthy.get(alarming, 0),
        onset=onset,
        ripe_at=_ripe_at(ws, spec, model, report, onset),
        live_since=moves[-1].at if moves else None,
        is_healed=any(row["facts"].get("made") == report.version for row in helped),
        last_at=acted[-1]["at"] if acted else None,
        last_outcome=(acted[-1]["outcome"] or "") if acted else "",
        recent=sum(row["at"] > now - timedelta(days=1) for row in acted),
        travelled=sum(float(row["facts"].get("effect", 0.0)) for row in helped),
    )


def list_actions(ws: Workspace, project: str, model: str, *, since: datetime, limit: int = 200) -> list[dict[str, Any]]:
    """Return the healing actions since an instant, oldest first."""
    table = heal_actions
    query = (
        sa.select(table)
        .where(table.c.project == project, table.c.model == model, table.c.at >= since)
        .order_by(table.c.at.desc(), table.c.id.desc())
        .limit(limit)
    )
    with ws.read() as tx:
        return [dict(row) for row in tx.execute(query).mappings()][::-1]


def _ripe_at(
    ws: Workspace, spec: ProjectSpec, model: ModelDef, report: WatchReport, onset: datetime | None
) -> datetime | None:
    """Return when a training first learns from a window since the onset: past the test rows, its outcomes known."""
    from mainspring.data.splits import ByTime

    assert model.watch is not None
    if onset is None or not isinstance(model.predicts, LabelsDef):
        return None
    held_out = timedelta(0)
    if isinstance(model.split, ByTime):
        for part in (model.split.test, model.split.validation):
            held_out += part if isinstance(part, timedelta) else part * _span(ws, spec, model, report)
    return onset + model.watch.every + model.predicts.matures + held_out


def _span(ws: Workspace, spec: ProjectSpec, model: ModelDef, report: WatchReport) -> timedelta:
    import json

    from mainspring.registry.models import get_lineage

    assert report.version is not None
    digest = get_lineage(ws, spec.name, model.name, report.version).get("reference")
    return timedelta(seconds=json.loads(ws.objects.get(digest))["span"]) if digest else timedelta(0)


def _act(
    ws: Workspace,
    spec: ProjectSpec,
    model: ModelDef,
    report: WatchReport,
    decision: Decision,
    retrain: Callable[..., Trained] | None,
) -> HealReport:
    """Carry out a retraining or a rollback; it is on record before it begins, so that a crash counts as an action."""
    id = ws.new_id()
    _begin(ws, spec, model, id, decision)
    run_id, made = None, None
    try:
        if decision.action == "retrain":
            trained = (retrain or _run_model)(ws, spec, model.name, trigger="heal")
            run_id = trained.run_id
            made = trained.version if trained.outcome == RELEASED else None
            outcome = _said_of(trained, model.name, report.version)
        else:
            from mainspring.loop.release import rollback

            made = rollback(ws, spec.name, model.name, reason="; ".join(decision.reasons)).version
            outcome = f"{model.name}@{made} is live again in place of {report.version}"
    except MainspringError as error:
        outcome = f"failed: {error.message}"
    _end(ws, spec, model, id, outcome, run_id, decision.facts | {"made": made})
    key = f"heal/{model.name}"
    if made is not None:
        for monitor in ("drift", "performance", "endpoint"):
            _resolve(ws, spec, f"{monitor}/{model.name}", reason=outcome)
        _resolve(ws, spec, key, reason=outcome)
    else:
        _tell(ws, spec, model, "warning", f"{model.name}: {decision.action} did not help: {outcome}", decision, id)
    return HealReport(decision.action, decision.reasons, outcome, made)


def _run_model(ws: Workspace, spec: ProjectSpec, name: str, *, trigger: str) -> Trained:
    from mainspring.loop.train import raise_if_failed, run_model

    report = run_model(ws, spec, name, trigger=trigger)
    raise_if_failed(report)
    return report


def _said_of(trained: Trained, model: str, live: int | None) -> str:
    if trained.outcome == RELEASED:
        return f"{RELEASED}: {model}@{trained.version} passed its gates and is live in place of {live}"
    why = {
        "kept": f"{model}@{trained.version} did not pass its gates, {model}@{live} stays live",
        "waiting": f"{model}@{trained.version} waits for an approval, {model}@{live} stays live until then",
        "unchanged": f"training gave the version again that is live, {model}@{live}",
    }
    return f"{trained.outcome}: {why.get(trained.outcome, f'{model}@{live} stays live')}"


def _page(ws: Workspace, spec: ProjectSpec, model: ModelDef, report: WatchReport, decision: Decision) -> HealReport:
    from mainspring.monitoring.alerts import list_alerts

    outcome = f"{spec.oncall or spec.owner or 'the owner'} was told; {model.name}@{report.version} stays live"
    if all(alert.key != f"heal/{model.name}" for alert in list_alerts(ws, spec.name, "open", limit=500)):
        id = ws.new_id()
        _begin(ws, spec, model, id, decision)
        _end(ws, spec, model, id, outcome, None, decision.facts)
    title = f"{model.name}@{report.version} needs a person: {decision.reasons[-1]}"
    _tell(ws, spec, model, "critical", title, decision, report.at.isoformat())
    return HealReport("page", decision.reasons, outcome, None)


def _begin(ws: Workspace, spec: ProjectSpec, model: ModelDef, id: str, decision: Decision) -> None:
    with ws.change(spec.name) as change:
        change.execute(
            heal_actions.insert().values(
                id=id, project=spec.name, model=model.name, at=ws.clock.now(), action=decision.action,
                reasons=list(decision.reasons), facts=decision.facts,
            )
        )  # fmt: skip
        change.event(
            "heal.decided", f"model:{model.name}", {"action": decision.action, "reasons": list(decision.reasons)}
        )


def _end(
    ws: Workspace, spec: ProjectSpec, model: ModelDef, id: str, outcome: str, run_id: str | None, facts: dict[str, Any]
) -> None:
    with ws.change(spec.name) as change:
        change.execute(
            heal_actions.update()
            .where(heal_actions.c.id == id)
            .values(outcome=outcome, run_id=run_id, ended_at=ws.clock.now(), facts=facts)
        )
        change.event("heal.ended", f"model:{model.name}", {"outcome": outcome, "run_id": run_id or ""})


def _tell(
    ws: Workspace, spec: ProjectSpec, model: ModelDef, severity: Any, title: str, decision: Decision, occurrence: str
) -> None:
    from mainspring.monitoring.alerts import raise_alert

    body = {
        "decision": decision.action,
        "reasons": list(decision.reasons),
        "owner": spec.owner,
        "oncall": spec.oncall,
        "next": f"mainspring models list {model.name}",
    }
    raise_alert(ws, spec.name, f"heal/{model.name}", severity=severity, title=title, body=body, dedup_id=occurrence)


def _resolve(ws: Workspace, spec: ProjectSpec, key: str, *, reason: str = "nothing is wrong any more") -> None:
    from mainspring.monitoring.alerts import resolve_alert

    resolve_alert(ws, spec.name, key, reason=reason)
