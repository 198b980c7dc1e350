"""Why a prediction was made: the record of it, what it came from, who let it live, and the same answer once more."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from mainspring.core.errors import NotFound
from mainspring.data.frames import POLARS_TYPES, to_columns
from mainspring.loop.release import PRODUCTION, load_scorer
from mainspring.loop.table import from_parquet
from mainspring.store.events import read_events
from mainspring.store.workspace import Workspace

if TYPE_CHECKING:
    from mainspring.serving.runtime import Scorer

BACKGROUND_ROWS = 100


@dataclass(frozen=True, slots=True)
class Dossier:
    """Everything known of one prediction.

    Args:
        recorded: The answer that was given.
        reexecuted: The answer that the same bundle gives now for the recorded request.
        agrees: Whether the two are the same number.
        live_then: The version that production pointed at when the prediction was made.
        contributions: How far each column of this request moved this score, against other rows' values of it.
        history: Events of the version, oldest first: registered, gated, approved, promoted.
    """

    prediction_id: str
    model: str
    version: int
    at: datetime
    request: dict[str, Any]
    extras: dict[str, Any]
    recorded: Any
    reexecuted: Any
    agrees: bool
    live_then: int | None
    bundle_digest: str
    code_digest: str
    environment_digest: str
    run_id: str
    datasets: dict[str, Any]
    features: list[dict[str, Any]]
    author: str
    approvals: list[dict[str, Any]]
    verdicts: list[dict[str, Any]]
    contributions: dict[str, float]
    history: list[dict[str, Any]]


def why(ws: Workspace, project: str, prediction_id: str) -> Dossier:
    """Return the dossier of a prediction, its answer computed again from the recorded request.

    Raises:
        NotFound: no log of the project holds that prediction.
    """
    from mainspring.governance.approvals import list_approvals
    from mainspring.monitoring.capture import find_prediction
    from mainspring.registry.models import as_of, get_lineage, get_version

    found = find_prediction(ws.home, project, prediction_id)
    if found is None:
        raise NotFound(
            f"no prediction {prediction_id!r} in the logs of project {project!r}",
            hint="an answer carries its prediction_id; mainspring models list",
        )
    model, record = found
    if record["score"] is None:
        raise NotFound(
            f"request {prediction_id!r} failed with status {record['status']}; no prediction was made",
            hint=f"mainspring models show {model}",
        )
    inputs = {name.removeprefix("in."): value for name, value in record.items() if name.startswith("in.")}
    recorded = record.get("scores") or record["score"]
    version = get_version(ws, project, model, record["version"])
    lineage = get_lineage(ws, project, model, version.version)
    scorer = load_scorer(ws, version.bundle_digest)
    row = _one_row(scorer, inputs)
    again = scorer.score(row, 1)
    live_then = as_of(ws, project, model, PRODUCTION, record["at"])
    with ws.read() as tx:
        history = read_events(tx, project, subject=version.ref)
    return Dossier(
        prediction_id=prediction_id,
        model=model,
        version=version.version,
        at=record["at"],
        request=inputs,
        extras={name.removeprefix("extra."): v for name, v in record.items() if name.startswith("extra.")},
        recorded=recorded,
        reexecuted=np.asarray(again[0]).tolist(),
        agrees=_same(recorded, again[0]),
        live_then=live_then,
        bundle_digest=version.bundle_digest,
        code_digest=lineage.get("code", ""),
        environment_digest=lineage.get("environment", ""),
        run_id=version.run_id,
        datasets=lineage.get("datasets", {}),
        features=[view.to_json() for view in scorer.views],
        author=version.author,
        approvals=[
            {"actor": a.actor, "role": a.role, "at": a.at.isoformat(), "comment": a.comment}
            for a in list_approvals(ws, project, model, version.version)
        ],
        verdicts=[{"gate": v.gate, "passed": v.passed, "reason": v.reason} for v in version.verdicts],
        contributions=_contributions(ws, scorer, row, lineage),
        history=[{"type": e.type, "at": e.at.isoformat(), "actor": e.actor, "data": e.data} for e in history],
    )


def _contributions(ws: Workspace, scorer: Scorer, row: dict[str, Any], lineage: dict[str, Any]) -> dict[str, float]:
    """Return the effect of each column on this score; the background is rows that the version learned from."""
    from mainspring.evaluation.explain import row_attributions

    names, inputs = list(scorer.signature.inputs.names), scorer.signature.inputs
    known = from_parquet(ws.objects.get(lineage["table"])).select(names)
    background = known[np.linspace(0, known.height - 1, min(BACKGROUND_ROWS, known.height)).astype(int)]

    def of_class(columns: Mapping[str, Any], n: int) -> Any:
        scores = scorer.score(columns, n)
        return scores if scores.ndim == 1 else scores[:, chosen]

    scores = scorer.score(row, 1)
    chosen = int(scores[0].argmax()) if scores.ndim == 2 else 0
    return row_attributions(of_class, row, to_columns(background, inputs))


def _one_row(scorer: Scorer, values: dict[str, Any]) -> dict[str, Any]:
    inputs = scorer.signature.inputs
    schema = {column.name: POLARS_TYPES[column.dtype] for column in inputs}
    return to_columns(pl.DataFrame([{name: values[name] for name in schema}], schema=schema), inputs)


def _same(recorded: Any, again: Any) -> bool:
    before, after = np.atleast_1d(np.asarray(recorded, float)), np.atleast_1d(np.asarray(again, float))
    # One request alone may take another path through the runtime than a batch did: the last bit is allowed to differ.
    return before.shape == after.shape and all(
        math.isclose(a, b, rel_tol=1e-6) for a, b in zip(before, after, strict=True)
    )
