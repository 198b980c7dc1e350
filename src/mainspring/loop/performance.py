"""The judgement of a window by its outcomes: the rules on quality, and the evidence of a growing loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from mainspring.core.errors import MainspringError
from mainspring.loop.outcomes import Judged, Truth, judge, loss_metric, losses
from mainspring.monitoring.windows import JUDGED, Window
from mainspring.project.definition import ModelDef, ProjectSpec, WatchDef
from mainspring.store.workspace import Workspace

if TYPE_CHECKING:
    import polars as pl

    from mainspring.core.schema import Signature
    from mainspring.monitoring.reference import Reference

LOOKBACK = 16
FEWEST_LABELS = 20
FEWEST_COVERED = 0.5
LOSS_EFFECT = 0.05


@dataclass(frozen=True, slots=True)
class Performance:
    """Judges windows whose outcomes have matured.

    Args:
        predictions: Gives the log between two instants.
        reference: Gives what a version knew, and its signature.
        earlier: Windows judged before, oldest first; the caller adds those judged now.
        notes: Receives what is worth knowing.
    """

    ws: Workspace
    spec: ProjectSpec
    model: ModelDef
    watch: WatchDef
    now: datetime
    truth: Truth
    predictions: Callable[[datetime, datetime], pl.DataFrame]
    reference: Callable[[int], tuple[Reference | None, Signature | None]]
    earlier: Sequence[Window]
    notes: list[str]

    def window(self, of: Window) -> Window | None:
        """Return the judgement of a window's outcomes; None while too few of them are known and more may come."""
        assert of.version is not None
        _, signature = self.reference(of.version)
        if signature is None:
            return _window(of, 0, "no-reference", version=of.version)
        judged = self._judged(of.start, of.end, of.version, signature)
        facts: dict[str, Any] = {
            "version": of.version, "coverage": judged.coverage, "mature": judged.mature, "unknown": judged.unknown,
            "as_of": self.now.isoformat(),
        }  # fmt: skip
        covered = judged.coverage >= FEWEST_COVERED or judged.n >= self.watch.min_rows
        if not covered or judged.n < min(FEWEST_LABELS, judged.mature):
            if self.now - of.end - self.truth.matures < LOOKBACK * self.watch.every:
                return None
            return _window(of, judged.n, "no-labels", **facts)
        facts |= self._loss(of, judged, signature)
        pooled = self._pooled(of, judged, signature)
        metrics = self._metrics(pooled, signature) if pooled.n >= self.watch.min_rows else {}
        says, broken = self._judge_rules(of, metrics)
        if facts.get("cusum_over"):
            says.append(
                f"{facts['loss_name']} has been {facts['loss']:.3f} in production against {facts['loss_expected']:.3f} "
                "when it was proven, and the evidence adds up"
            )
        says = [f"{text} (labels of {judged.coverage:.0%}, {pooled.n} rows)" for text in says]
        state = "alarm" if says else "ok" if metrics or "z" in facts else "too-few"
        return _window(of, judged.n, state, metrics=metrics, broken=broken, says=says, **facts)

    def _judged(self, start: datetime, end: datetime, version: int, signature: Signature) -> Judged:
        import polars as pl

        rows = self.predictions(start, end).filter(pl.col("version") == version)
        return judge(rows, self.truth, signature.task, signature.classes, self.now)

    def _pooled(self, of: Window, judged: Judged, signature: Signature) -> Judged:
        """Return the window's outcomes, with those of windows before it while they are too few to judge."""
        assert of.version is not None
        for windows in (4, LOOKBACK):
            if judged.n >= self.watch.min_rows:
                break
            judged = self._judged(of.end - windows * self.watch.every, of.end, of.version, signature)
        return judged

    def _metrics(self, judged: Judged, signature: Signature) -> dict[str, Any]:
        from mainspring.evaluation.metrics import compute_metrics, default_metric

        names = {self.model.metric or default_metric(signature.task), *(rule.metric for rule in self.watch.score)}
        try:
            found = compute_metrics(
                signature.task,
                judged.y_true,
                judged.scores,
                signature.classes,
                only=sorted(names),
                seed=self.model.seed,
            )
        except MainspringError as error:
            self.notes.append(f"performance could not be computed: {error.message}")
            return {}
        return {
            name: {"value": m.value, "low": m.interval.low if m.interval else None,
                   "high": m.interval.high if m.interval else None}
            for name, m in found.items() if math.isfinite(m.value)
        }  # fmt: skip

    def _judge_rules(self, of: Window, metrics: dict[str, Any]) -> tuple[list[str], list[str]]:
        """Return sentences on the rules that are broken beyond doubt, and the names of all that are broken.

        A rule is broken beyond doubt when the whole interval breaks it, or when it was broken in one of the two
        windows before too: the figure of a single window swings.
        """
        judged = [w for w in self.earlier if w.version == of.version and w.state in JUDGED and w.start < of.start]
        before = [name for w in judged[-2:] for name in w.result.get("broken", ())]
        says, broken = [], []
        for rule in self.watch.score:
            figure = metrics.get(rule.metric)
            if figure is None or rule.holds(figure["value"]):
                continue
            broken.append(str(rule))
            ends = [figure[end] for end in ("low", "high") if figure[end] is not None]
            if str(rule) in before or (ends and not any(rule.holds(end) for end in ends)):
                shown = f", {ends[0]:.3f} to {ends[1]:.3f}" if len(ends) == 2 else ""
                says.append(f"{rule.metric} is {figure['value']:.3f}{shown}; {rule} must hold")
        return says, broken

    def _loss(self, of: Window, judged: Judged, signature: Signature) -> dict[str, Any]:
        """Return the window's loss, standardised against the proof of its version, and the evidence up to here."""
        from mainspring.registry.models import get_version
        from mainspring.stats.sequential import SLACK, cusum, cusum_limit

        assert of.version is not None
        name = loss_metric(signature.task)
        expected = get_version(self.ws, self.spec.name, self.model.name, of.version).metrics.get(name)
        reference, _ = self.reference(of.version)
        rows = losses(signature.task, judged, signature.classes)
        spread = float(rows.std(ddof=1)) if len(rows) > 1 else 0.0
        if expected is None or reference is None or spread == 0:
            return {}
        proven_on = max(1, reference.score.sketch.rows)
        z = (float(rows.mean()) - expected) / (spread / math.sqrt(len(rows)))
        # The proof itself was a sample; its error is the same in every window and must not add up as evidence.
        slack = SLACK + 2 * math.sqrt(len(rows) / proven_on)
        facts: dict[str, Any] = {
            "z": z,
            "slack": slack,
            "loss": float(rows.mean()),
            "loss_expected": expected,
            "loss_name": name,
        }
        same = [w for w in self.earlier if w.version == of.version and "z" in w.result and w.start < of.start]
        pairs = [(w.result["z"], w.result["slack"]) for w in same] + [(z, slack)]
        limit = cusum_limit(max(100.0, 1 / max(self.watch.false_alarms * (self.watch.every / timedelta(days=1)), 1e-9)))
        found = cusum([p[0] for p in pairs], limit=limit, slack=[p[1] for p in pairs])
        onset = [*same, of][found.onset].start.isoformat() if found.onset is not None else None
        matters = bool(rows.mean() > expected * (1 + LOSS_EFFECT))
        return facts | {"cusum": found.value, "cusum_limit": limit, "cusum_onset": onset,
                        "cusum_over": found.is_over and matters}  # fmt: skip


def _window(of: Window, rows: int, state: str, **result: Any) -> Window:
    return Window("performance", of.start, of.end, rows, state, result)
