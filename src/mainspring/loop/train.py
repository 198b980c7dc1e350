"""The training pipeline: from data to a proven, registered version, and to the endpoint if its gates pass."""

from __future__ import annotations

import time as wall
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from mainspring.core.errors import Conflict, Unavailable
from mainspring.core.records import Verdict
from mainspring.core.ref import digest_json
from mainspring.loop import table as tables
from mainspring.loop.fitting import code_digest
from mainspring.orchestration.pipeline import Pipeline, Step, StepContext
from mainspring.project.definition import LabelsDef, ModelDef, ProjectSpec, describe
from mainspring.project.plan import apply
from mainspring.store.workspace import Workspace

if TYPE_CHECKING:
    import polars as pl

    from mainspring.orchestration.journal import Failure, StepRecord

Outputs = dict[str, Any]


@dataclass(frozen=True, slots=True)
class RunReport:
    """What a run did.

    Args:
        outcome: "released", "kept" (a gate failed; the live version stays), "waiting" (for an approval), "unchanged"
            (the version of this bundle exists and is live), or "failed".
        version: The version registered, None when the run failed before.
    """

    project: str
    model: str
    run_id: str
    status: str
    outcome: str
    version: int | None
    bundle_digest: str
    metrics: Mapping[str, float]
    verdicts: tuple[Verdict, ...]
    notes: tuple[str, ...]
    report_digest: str
    live_version: int | None
    seconds: float
    steps: tuple[StepRecord, ...]
    error: Failure | None = None


def run_model(
    ws: Workspace,
    spec: ProjectSpec,
    name: str | None = None,
    *,
    trigger: str = "manual",
    logical_time: datetime | None = None,
    on_event: Callable[[Any], None] | None = None,
) -> RunReport:
    """Train, prove, register and release a model; resumes an unfinished run of it first.

    Args:
        logical_time: The instant the run stands for; data and outcomes later than it are not used. Now when None.
        on_event: Receives progress.

    Raises:
        Invalid: the declaration or the data is wrong.
        Refused: the data breaks its contract, or holds a leak under `no_leakage`.
    """
    from mainspring.orchestration.engine import Engine
    from mainspring.registry.models import get_version, live

    began = wall.monotonic()
    model = spec.model(name)
    planned = apply(ws, spec, before_reading=True)
    result = Engine(ws).run(
        spec.name,
        training_pipeline(ws, spec, model),
        # An interrupted run is gone on with only where what is declared and coded is still the same.
        params={"declaration": planned.digest, "code": code_digest(model.function)},
        trigger=trigger,
        logical_time=logical_time,
        on_event=on_event,
    )
    done = result.outputs
    registered = done.get("register", {})
    version = registered.get("version")
    current = live(ws, spec.name, model.name)
    proven = get_version(ws, spec.name, model.name, version) if version else None
    return RunReport(
        project=spec.name,
        model=model.name,
        run_id=result.run_id,
        status=result.status,
        outcome=done.get("release", {}).get("outcome", "failed"),
        version=version,
        bundle_digest=done.get("train", {}).get("bundle", ""),
        metrics=dict(proven.metrics) if proven else {},
        verdicts=proven.verdicts if proven else (),
        notes=tuple(note for output in done.values() for note in output.get("notes", ())),
        report_digest=done.get("evaluate", {}).get("report", ""),
        live_version=current.version if current else None,
        seconds=wall.monotonic() - began,
        steps=result.steps,
        error=result.error,
    )


def training_pipeline(ws: Workspace, spec: ProjectSpec, model: ModelDef) -> Pipeline:
    """Return the steps that make a version of the model; what passes between them is references."""
    work = _Training(spec, model)
    return Pipeline(
        model.name,
        (
            Step("ingest", work.ingest, retries=2),
            Step("features", work.features, after=("ingest",), cache=work.features_key),
            Step("train", work.train, after=("features",), cache=work.train_key),
            Step("evaluate", work.evaluate, after=("train",)),
            Step("register", work.register, after=("evaluate",), retries=3),
            Step("gate", work.gate, after=("register",), retries=3),
            Step("release", work.release, after=("gate",), retries=3),
            Step("notify", work.notify, after=("release",), retries=3),
        ),
    )


class _Training:
    """The steps of one model's training; each reads what earlier steps wrote and writes references."""

    def __init__(self, spec: ProjectSpec, model: ModelDef) -> None:
        self.spec = spec
        self.model = model

    def ingest(self, ctx: StepContext) -> Outputs:
        """Bring every dataset up to date, each under its contract."""
        from mainspring.data.datasets import ingest, table_path
        from mainspring.data.quarantine import FOLDER
        from mainspring.data.retention import apply_retention
        from mainspring.tracking.runs import Runs

        Runs(ctx.ws).warm()  # the run store opens while data is read; a cold one takes a second
        found: dict[str, Any] = {}
        notes: list[str] = []
        for name in tables.datasets_of(self.spec, self.model):
            ctx.progress(None, f"reading {name}")
            result = ingest(ctx.ws, self.spec.name, self.spec.dataset(name), now=ctx.logical_time)
            version = (
                apply_retention(ctx.ws, self.spec.name, self.spec.dataset(name), ctx.logical_time) or result.version
            )
            ctx.kill_point()
            found[name] = {"version": version.version, "digest": version.digest, "rows": version.rows}
            if result.quarantined:
                aside = table_path(ctx.ws, self.spec.name, name) / FOLDER
                notes.append(f"{result.quarantined} bad rows of {name} were set aside, with the reasons, in {aside}")
        return {"datasets": found, "notes": notes}

    def features_key(self, ctx: StepContext) -> dict[str, str]:
        views = tables.views_of(self.spec, self.model)
        timed = isinstance(self.model.predicts, LabelsDef)
        return {
            "code": digest_json({"views": [view.to_json() for view in views], "uses": describe(self.model.uses)}),
            "data": digest_json({n: d["digest"] for n, d in ctx.inputs["ingest"]["datasets"].items()}),
            "parameters": digest_json(
                {
                    "predicts": describe(self.model.predicts),
                    "task": self.model.task,
                    "positive": self.model.positive,
                    "split": str(self.model.split),
                }
            ),
            # Outcomes mature with time, so labels make the instant an input; a column target does not.
            "time": ctx.logical_time.isoformat() if timed else "",
        }

    def features(self, ctx: StepContext) -> Outputs:
        """Build the table to learn from and store it."""
        from mainspring.data.datasets import read
        from mainspring.data.frames import schema_of

        found = ctx.inputs["ingest"]["datasets"]
        frames = {n: read(ctx.ws, self.spec.name, n, found[n]["version"]) for n in found}
        ctx.progress(None, "building the training table")
        table = tables.build(self.spec, self.model, frames, ctx.logical_time)
        ctx.kill_point()
        task, classes, positive, why = tables.resolve_task(self.model, table.frame[tables.TARGET])
        return {
            "table": ctx.ws.objects.put(tables.to_parquet(table.frame)),
            "rows": table.frame.height,
            "model_inputs": table.model_inputs.to_json(),
            "table_schema": schema_of(table.frame).to_json(),
            "signature": tables.signature_of(table, task, classes, positive).to_json(),
            "time": table.time,
            "key": list(table.key),
            "notes": [*table.notes, *([] if self.model.task else [f"task: {task}, because {why}"])],
        }

    def train_key(self, ctx: StepContext) -> dict[str, str]:
        from mainspring.tracking.environment import capture

        model = self.model
        return {
            "code": code_digest(model.function),
            "data": ctx.inputs["features"]["table"],
            "parameters": digest_json(
                {
                    "tune": describe(model.tune),
                    "trials": model.trials,
                    "seed": model.seed,
                    "metric": model.metric,
                    "split": str(model.split),
                    "signature": ctx.inputs["features"]["signature"],
                    "trust_pickle": model.trust_pickle,
                }
            ),
            "environment": capture(ctx.ws.settings.directory).packages_digest,
        }

    def train(self, ctx: StepContext) -> Outputs:
        """Search, fit, and pack the model with its baselines' answers beside it."""
        from mainspring.loop.fitting import fit

        return fit(ctx, self.spec, self.model, self._frame(ctx))

    def evaluate(self, ctx: StepContext) -> Outputs:
        """Measure the bundle on rows it never saw, beside its baselines and the live version."""
        from mainspring.loop.proof import evaluate

        return evaluate(ctx, self.spec, self.model, self._frame(ctx))

    def register(self, ctx: StepContext) -> Outputs:
        """Give the bundle a version number; a bundle that has one keeps it."""
        from mainspring.registry.models import register

        trained, proven = ctx.inputs["train"], ctx.inputs["evaluate"]
        policy = proven["policy"]
        version = register(
            ctx.ws,
            self.spec.name,
            self.model.name,
            bundle_digest=trained["bundle"],
            run_id=ctx.run_id,
            report_digest=proven["report"],
            policy_digest=policy,
            metrics=proven["metrics"],
            verdicts=(),
            author=ctx.ws.actor,
            lineage={
                "datasets": ctx.inputs["ingest"]["datasets"],
                "table": ctx.inputs["features"]["table"],
                "code": trained["code"],
                "environment": trained["environment"],
                "reference": proven["reference"],
                "importance": proven["importance"],
                "format": trained["format"],
                "metric": proven["metric"],
                "baselines": proven["baselines"],
                "params": trained["params"],
                "split": trained["split"],
            },
        )
        ctx.kill_point()
        return {"version": version.version, "new": version.run_id == ctx.run_id, "policy": policy}

    def gate(self, ctx: StepContext) -> Outputs:
        """Hold the version against its gates and record every verdict."""
        from mainspring.loop.proof import judge
        from mainspring.registry.models import get_version

        registered = ctx.inputs["register"]
        version = get_version(ctx.ws, self.spec.name, self.model.name, registered["version"])
        is_judged = not registered["new"] and version.status != "registered"
        verdicts = (
            version.verdicts if is_judged else judge(ctx.ws, self.model, version, ctx.inputs["evaluate"]["verdicts"])
        )
        ctx.kill_point()
        failed = [verdict.gate for verdict in verdicts if not verdict.passed]
        return {"passed": not failed, "failed": failed, "waiting": failed == ["approved"]}

    def release(self, ctx: StepContext) -> Outputs:
        """Put a proven version live; an unproven one leaves the live one alone."""
        from mainspring.loop.release import promote, sync_endpoint
        from mainspring.registry.models import get_version, live

        version, gate = ctx.inputs["register"]["version"], ctx.inputs["gate"]
        current = live(ctx.ws, self.spec.name, self.model.name)
        if current is not None and current.version == version:
            moved_here = ctx.inputs["register"]["new"]
            sync_endpoint(ctx.ws, self.spec.name, self.model.name)  # an attempt killed halfway moved the alias alone
            return {"outcome": "released" if moved_here else "unchanged", "live": version}
        if not gate["passed"]:
            outcome = "waiting" if gate["waiting"] else "kept"
            return {"outcome": outcome, "live": current.version if current else None}
        is_blocked = get_version(ctx.ws, self.spec.name, self.model.name, version).status == "blocked"
        is_older = current is not None and current.version > version and not ctx.inputs["register"]["new"]
        if is_blocked or is_older:
            # It was live once and was rolled back or replaced: only a person brings it back.
            return {"outcome": "kept", "live": current.version if current else None}
        try:
            promote(
                ctx.ws,
                self.spec.name,
                self.model.name,
                version,
                reason=f"run {ctx.run_id} passed its gates",
                # What it was judged against; another version that went live meanwhile was not in the comparison.
                expected=ctx.inputs["evaluate"]["live_version"] or 0,
            )
        except Conflict:
            now = live(ctx.ws, self.spec.name, self.model.name)
            note = f"version {now.version if now else 'none'} went live while this one was judged: run again to compare"
            return {"outcome": "kept", "live": now.version if now else None, "notes": [note]}
        ctx.kill_point()
        return {"outcome": "released", "live": version}

    def notify(self, ctx: StepContext) -> Outputs:
        """Tell the owner when a version was not let through."""
        from mainspring.monitoring.alerts import raise_alert, resolve_alert
        from mainspring.tracking.runs import Runs

        Runs(ctx.ws).mirror_registry()
        outcome, version = ctx.inputs["release"]["outcome"], ctx.inputs["register"]["version"]
        key = f"release/{self.model.name}"
        if outcome not in ("kept", "waiting"):
            resolve_alert(ctx.ws, self.spec.name, key)
            ctx.kill_point()
            return {"told": False}
        failed = ", ".join(ctx.inputs["gate"]["failed"]) or "it was rolled back or replaced before"
        title = (
            f"{self.model.name}@{version} waits for an approval"
            if outcome == "waiting"
            else f"{self.model.name}@{version} was not released: {failed}"
        )
        raise_alert(
            ctx.ws,
            self.spec.name,
            key,
            severity="info" if outcome == "waiting" else "warning",
            title=title,
            body={
                "model": self.model.name,
                "version": version,
                "failed": ctx.inputs["gate"]["failed"],
                "owner": self.spec.owner,
                "next": f"mainspring models show {self.model.name}@{version}",
            },
            dedup_id=ctx.run_id,
        )
        return {"told": True}

    def _frame(self, ctx: StepContext) -> pl.DataFrame:
        return tables.from_parquet(ctx.ws.objects.get(ctx.inputs["features"]["table"]))


def raise_if_failed(report: RunReport) -> None:
    """Raise the error that stopped a run, for callers that want one.

    Raises:
        MainspringError: of the failure's own kind; `Unavailable` when the run was lost or killed.
    """
    if report.error is not None:
        raise report.error.as_error()
    if report.status != "SUCCEEDED":
        raise Unavailable(
            f"run {report.run_id} of {report.model!r} ended {report.status}",
            hint="mainspring run: it goes on where it stopped",
        )
