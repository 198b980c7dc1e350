"""The proof of a version: the bundle measured on rows it never saw, its gates, and the report of both."""

from __future__ import annotations

import io
from dataclasses import asdict
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mainspring.core.records import Finding, ModelVersion, Verdict
from mainspring.core.ref import canonical_json
from mainspring.core.schema import Schema, Signature
from mainspring.data.frames import to_columns
from mainspring.loop.fitting import outcomes, split_of
from mainspring.loop.release import load_scorer
from mainspring.loop.table import TARGET
from mainspring.project.definition import ModelDef, ProjectSpec
from mainspring.store.workspace import Workspace

if TYPE_CHECKING:
    import polars as pl

    from mainspring.evaluation.explain import Attribution
    from mainspring.evaluation.gates import GateFacts
    from mainspring.evaluation.report import ReportContext
    from mainspring.orchestration.pipeline import StepContext
    from mainspring.serving.runtime import Scorer

Array = npt.NDArray[Any]
TIMED_ANSWERS = 1200
WARM_UP = 50


def evaluate(ctx: StepContext, spec: ProjectSpec, model: ModelDef, frame: pl.DataFrame) -> dict[str, Any]:
    """Measure the packed bundle, hold it against every gate but the approval, and store the report.

    What is measured is what would be served: the bundle answers from request columns, features included.
    """
    from mainspring.evaluation.gates import check_gates, policy_digest
    from mainspring.evaluation.report import render_report
    from mainspring.monitoring.reference import build as build_reference
    from mainspring.tracking.runs import Runs

    found, trained = ctx.inputs["features"], ctx.inputs["train"]
    signature = Signature.from_json(found["signature"])
    parts = split_of(model, frame, found["time"], tuple(found["key"]))
    test = frame[parts.test]
    scorer = load_scorer(ctx.ws, trained["bundle"])
    ctx.progress(None, f"measuring on {test.height} rows")
    facts = _facts(ctx, spec, model, frame[np.sort(np.concatenate([parts.train, parts.validation]))], test, scorer)
    verdicts = check_gates(tuple(gate for gate in model.gates if gate.name != "approved"), facts)
    ctx.kill_point()
    ctx.progress(None, "writing the report")
    importance = _importance(scorer, facts, test)
    report = render_report(facts, verdicts, _about(ctx, spec, model, test, importance, len(parts.train)))
    metrics = {name: value.value for name, value in facts.metrics.items() if np.isfinite(value.value)}
    weights = {item.feature: item.share for item in importance}
    reference = build_reference(
        frame[parts.train].select(signature.inputs.names),
        facts.scores,
        signature,
        time=frame[parts.train][found["time"]].to_numpy() if found["time"] else None,
        importance=weights,
    )
    with Runs(ctx.ws).start(spec.name, model.name, ctx.run_id) as run:
        run.log_metrics({f"test_{name}": value for name, value in metrics.items()})
        run.log_artifact(report.encode(), "report.html")
    return {
        "report": ctx.ws.objects.put(report.encode()),
        "metrics": metrics,
        "metric": facts.metric,
        "verdicts": [asdict(verdict) for verdict in verdicts],
        "policy": policy_digest(model.gates),
        "test_rows": test.height,
        "train_rows": len(parts.train),
        "live_version": facts.live_version,
        "task": signature.task,
        "findings": [asdict(finding) for finding in facts.findings or ()],
        "baselines": _baseline_metrics(facts),
        "importance": weights,
        "reference": ctx.ws.objects.put(canonical_json(reference)),
        "notes": [f"{f.severity}: {f.message}" for f in facts.findings or () if f.severity == "error"],
    }


def judge(ws: Workspace, model: ModelDef, version: ModelVersion, measured: list[dict[str, Any]]) -> tuple[Verdict, ...]:
    """Return all verdicts on a version, in the order of its gates, and record them; `measured` need no approval."""
    from mainspring.evaluation.gates import ApprovalFacts, GateFacts, check_gates
    from mainspring.governance.approvals import list_approvals
    from mainspring.registry.models import record_verdicts

    known = iter([Verdict(**item) for item in measured])
    approvals = tuple(
        ApprovalFacts(a.actor, a.role, a.bundle_digest, a.report_digest, a.policy_digest)
        for a in list_approvals(ws, version.project, version.model, version.version)
    )
    facts = GateFacts(
        "binary",
        "",
        np.empty(0),
        np.empty(0),
        approvals=approvals,
        author=version.author,
        bundle_digest=version.bundle_digest,
        report_digest=version.report_digest,
        policy_digest=version.policy_digest,
    )
    verdicts = tuple(check_gates((gate,), facts)[0] if gate.name == "approved" else next(known) for gate in model.gates)
    record_verdicts(ws, version.project, version.model, version.version, verdicts)
    return verdicts


def _facts(
    ctx: StepContext, spec: ProjectSpec, model: ModelDef, learned: pl.DataFrame, test: pl.DataFrame, scorer: Scorer
) -> GateFacts:
    from mainspring.evaluation.gates import GateFacts, ParityFacts, slices_needed
    from mainspring.evaluation.metrics import compute_metrics
    from mainspring.evaluation.slices import slice_metrics

    found, trained = ctx.inputs["features"], ctx.inputs["train"]
    signature, y_true = scorer.signature, outcomes(test)
    columns = to_columns(test.select(signature.inputs.names), signature.inputs)
    scores = scorer.score(columns, test.height)
    baselines = dict(np.load(io.BytesIO(ctx.ws.objects.get(trained["baselines"])), allow_pickle=False))
    seasonal = baselines.get("seasonal_naive")
    live, live_version = _live_scores(ctx.ws, spec, model, test)
    slices: dict[str, dict[str, Any]] = {}
    for metric, column in slices_needed(model.gates, trained["metric"]):
        if column in test.columns:
            values = to_columns(test.select(column), Schema.from_json(found["table_schema"]).only((column,)))
            slices.setdefault(metric, {}).update(
                slice_metrics(metric, signature.task, y_true, scores, signature.classes, values)
            )
    parity = trained["parity"]
    return GateFacts(
        task=signature.task,
        metric=trained["metric"],
        y_true=y_true,
        scores=scores,
        classes=signature.classes,
        metrics=compute_metrics(signature.task, y_true, scores, signature.classes, seasonal=seasonal, seed=model.seed),
        baselines=baselines,
        live=live,
        live_version=live_version,
        parity=ParityFacts(
            trained["format"],
            parity["agrees"],
            parity["rows"],
            parity["largest"],
            parity["flips"],
            parity.get("note", ""),
        ),
        latency_ms=_latencies(scorer, columns, test.height) if any(g.name == "latency" for g in model.gates) else None,
        slices=slices,
        findings=_findings(learned, test, found, signature),
        author=ctx.ws.actor,
        seed=model.seed,
    )


def _live_scores(
    ws: Workspace, spec: ProjectSpec, model: ModelDef, test: pl.DataFrame
) -> tuple[Array | None, int | None]:
    """Return what the live version answers on the same rows; None when nothing is live or it cannot take them."""
    from mainspring.registry.models import live

    current = live(ws, spec.name, model.name)
    if current is None:
        return None, None
    scorer = load_scorer(ws, current.bundle_digest)
    if any(name not in test.columns for name in scorer.signature.inputs.names):
        return np.full(test.height, np.nan), current.version  # a gate that compares must not pass on nothing
    columns = to_columns(test.select(scorer.signature.inputs.names), scorer.signature.inputs)
    return scorer.score(columns, test.height), current.version


def _latencies(scorer: Scorer, columns: dict[str, Array], n: int) -> Array:
    """Return the milliseconds of single-row answers, features included."""
    times = np.empty(TIMED_ANSWERS)
    for i in range(-WARM_UP, TIMED_ANSWERS):
        row = {name: values[i % n : i % n + 1] for name, values in columns.items()}
        began = perf_counter()
        scorer.score(row, 1)
        if i >= 0:
            times[i] = (perf_counter() - began) * 1000
    return times


def _findings(
    learned: pl.DataFrame, test: pl.DataFrame, found: dict[str, Any], signature: Signature
) -> tuple[Finding, ...]:
    from mainspring.data.leakage import inspect_leakage

    inputs = [column["name"] for column in found["model_inputs"]]
    keep = list(dict.fromkeys([*inputs, TARGET, *found["key"], *([found["time"]] if found["time"] else [])]))
    return inspect_leakage(
        learned.select(keep),
        test.select(keep),
        TARGET,
        key=tuple(found["key"]),
        time=found["time"],
        task=signature.task,
    )


def _baseline_metrics(facts: GateFacts) -> dict[str, float]:
    from mainspring.evaluation.metrics import compute_metrics

    return {
        name: compute_metrics(facts.task, facts.y_true, scores, facts.classes, intervals=False)[facts.metric].value
        for name, scores in facts.baselines.items()
    }


def _importance(scorer: Scorer, facts: GateFacts, test: pl.DataFrame) -> tuple[Attribution, ...]:
    """Return how much the answers depend on each column of a request; what drifts is weighed by it."""
    from mainspring.evaluation.explain import attributions

    columns = to_columns(test.select(scorer.signature.inputs.names), scorer.signature.inputs)
    return attributions(
        scorer.score,
        columns,
        facts.y_true,
        metric=facts.metric,
        task=facts.task,
        classes=facts.classes,
        seed=facts.seed,
    )


def _about(
    ctx: StepContext,
    spec: ProjectSpec,
    model: ModelDef,
    test: pl.DataFrame,
    importance: tuple[Attribution, ...],
    train_rows: int,
) -> ReportContext:
    from mainspring.data.datasets import get_version
    from mainspring.evaluation.report import ReportContext

    found, trained = ctx.inputs["features"], ctx.inputs["train"]
    return ReportContext(
        project=spec.name,
        model=model.name,
        created_at=ctx.logical_time,
        run_id=ctx.run_id,
        owner=spec.owner,
        split=trained["split"],
        train_rows=train_rows,
        datasets=[
            get_version(ctx.ws, spec.name, name, item["version"])
            for name, item in ctx.inputs["ingest"]["datasets"].items()
        ],
        times=test[found["time"]].to_numpy() if found["time"] else None,
        attributions=importance,
        parameters=trained["params"],
        environment={"packages": trained["environment"], "code": trained["code"], "format": trained["format"]},
        notes=[*found["notes"], *trained["notes"]],
    )
