"""Gates: rules that a model version passes before it goes live, each answered by a verdict with reasons."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from mainspring.core.errors import Invalid, Where
from mainspring.core.records import Finding, MetricValue, Verdict
from mainspring.core.ref import digest_json
from mainspring.core.schema import Label, Task
from mainspring.core.units import duration
from mainspring.evaluation.metrics import better_by, check_metric, compute_metrics, encode, improvement
from mainspring.evaluation.slices import SliceMetric

Array = npt.NDArray[Any]

DEFAULT_MARGIN = 0.01  # of the live figure


@dataclass(frozen=True, slots=True)
class Gate:
    """One declared rule; `built` is False for a rule that can be written down but not checked yet."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    where: Where | None = field(default=None, compare=False)
    built: bool = True

    def __str__(self) -> str:
        return f"{self.name}({', '.join(f'{k}={v!r}' for k, v in self.options.items())})"

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "options": dict(self.options)}


@dataclass(frozen=True, slots=True)
class ParityFacts:
    """How the packaged model agrees with the trained one: `largest` difference of a score, `flips` of decisions."""

    format: str
    agrees: bool
    rows: int
    largest: float
    flips: int
    note: str = ""


@dataclass(frozen=True, slots=True)
class ApprovalFacts:
    """A recorded approval and the digests it was given for."""

    actor: str
    role: str
    bundle_digest: str
    report_digest: str
    policy_digest: str


@dataclass(frozen=True, slots=True)
class GateFacts:
    """All that the gates decide from; None means that it was not measured, which fails the gate that needs it.

    Args:
        task: The task; with `metric`, the metric that decides.
        y_true: Outcomes of the held-out rows, shape (n,); original labels for classes.
        scores: The candidate's scores on them, in the shape of the task.
        classes: As in the signature.
        metrics: The candidate's metrics by name.
        baselines: Scores of simple models on the same rows, by name.
        live: Scores of the live version on the same rows, or None when nothing is live.
        live_version: Which version that is.
        parity: Agreement of the packaged model.
        latency_ms: Times of single-row predictions by the packaged model.
        slices: Metrics on slices, by metric and column: `{"recall": {"country": (...)}}`.
        findings: What the leakage sentinel found.
        approvals: The approvals recorded so far.
        author: Who trained the version; bound to the three digests below.
    """

    task: Task
    metric: str
    y_true: Array
    scores: Array
    classes: tuple[Label, ...] = ()
    metrics: Mapping[str, MetricValue] = field(default_factory=dict)
    baselines: Mapping[str, Array] = field(default_factory=dict)
    live: Array | None = None
    live_version: int | None = None
    parity: ParityFacts | None = None
    latency_ms: Array | None = None
    slices: Mapping[str, Mapping[str, tuple[SliceMetric, ...]]] = field(default_factory=dict)
    findings: tuple[Finding, ...] | None = None
    approvals: tuple[ApprovalFacts, ...] = ()
    author: str = ""
    bundle_digest: str = ""
    report_digest: str = ""
    policy_digest: str = ""
    seed: int = 0


def check_gates(gates: tuple[Gate, ...], facts: GateFacts) -> tuple[Verdict, ...]:
    """Return a verdict for each gate, in order; too little evidence and NaN fail, never pass.

    Raises:
        Invalid: a gate is not built yet.
    """
    for gate in gates:
        if not gate.built:
            raise Invalid(f"the gate {gate.name}() is not built yet", hint="remove it", where=gate.where)
    return tuple(_CHECKS[gate.name](facts, **gate.options) for gate in gates)


def policy_digest(gates: tuple[Gate, ...]) -> str:
    """Return the digest of what the gates demand, whatever line they stand on."""
    return digest_json([gate.to_json() for gate in gates])


def slices_needed(gates: tuple[Gate, ...], metric: str) -> tuple[tuple[str, str], ...]:
    """Return the (metric, column) pairs that the gates judge; `metric` is the model's own."""
    pairs = [(g.options["metric"] or metric, g.options["column"]) for g in gates if g.name == "slices"]
    return tuple(dict.fromkeys(pairs))


# --- what a project file writes: ms.gate.at_least("roc_auc", 0.8) ----------------------------------------------------


def beats_baseline(by: float = 0.0, *, baseline: str | None = None, confidence: float = 0.95) -> Gate:
    """Be better than the best simple model (or the one named) by `by`, and surely better than it at all."""
    return _gate(
        "beats_baseline", {"by": _number("by", by), "baseline": baseline, "confidence": _confidence(confidence)}
    )


def not_worse_than_live(confidence: float = 0.95, *, margin: float | None = None) -> Gate:
    """Be, with that confidence, not worse than the live version by more than `margin`, on the same rows.

    Without a margin it is one percent of the live figure: a margin of 0 would ask an equal version to be better.
    """
    limit = None if margin is None else _number("margin", margin)
    return _gate("not_worse_than_live", {"confidence": _confidence(confidence), "margin": limit})


def at_least(metric: str, value: float, *, confidence: float | None = None, min_rows: int = 50) -> Gate:
    """Reach a value of a metric; with a confidence, the low end of its interval reaches it."""
    return _bound("at_least", metric, value, confidence, min_rows)


def at_most(metric: str, value: float, *, confidence: float | None = None, min_rows: int = 50) -> Gate:
    """Stay at or below a value of a metric; with a confidence, the high end of its interval stays there."""
    return _bound("at_most", metric, value, confidence, min_rows)


def parity() -> Gate:
    """Have the packaged model agree with the trained one on test rows and edge rows."""
    return _gate("parity", {})


def latency(*, p50: str | None = None, p95: str | None = None, p99: str | None = None) -> Gate:
    """Answer one row within a time: `latency(p99="50ms")`."""
    limits = {"p50": p50, "p95": p95, "p99": p99}
    for value in limits.values():
        if value is not None:
            duration(value)
    if not any(limits.values()):
        raise Invalid("latency() needs a limit", hint='ms.gate.latency(p99="50ms")', where=_calling_line())
    return _gate("latency", {name: value for name, value in limits.items() if value is not None})


def slices(
    column: str,
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    metric: str | None = None,
    min_rows: int = 50,
) -> Gate:
    """Reach a value of a metric on every slice of a column; slices below `min_rows` may hold 5 % of the rows in all."""
    if (at_least is None) == (at_most is None):
        raise Invalid(f"slices({column!r}) needs either at_least or at_most", where=_calling_line(),
                      hint=f'ms.gate.slices("{column}", at_least=0.75)')  # fmt: skip
    if metric is not None:
        check_metric(metric)
    return _gate(
        "slices",
        {"column": str(column), "at_least": at_least, "at_most": at_most, "metric": metric, "min_rows": int(min_rows)},
    )


def no_leakage() -> Gate:
    """Have no column that gives the outcome away, and no test row in training."""
    return _gate("no_leakage", {})


def approved(by: str = "approver") -> Gate:
    """Be approved by an actor in that role who is not the author, for exactly these bytes, proof and policy."""
    return _gate("approved", {"by": by})


def fair(column: str, *, gap: float = 0.10) -> Gate:
    """Not built yet: keep the difference between groups below `gap`."""
    return _gate("fair", {"column": column, "gap": gap}, built=False)


def replay(window: str) -> Gate:
    """Not built yet: do better on the recorded traffic of the last `window`."""
    return _gate("replay", {"window": window}, built=False)


def _gate(name: str, options: Mapping[str, Any], *, built: bool = True) -> Gate:
    return Gate(name, dict(options), _calling_line(), built)


def _calling_line() -> Where | None:
    frame = inspect.currentframe()
    while frame and frame.f_code.co_filename == __file__:
        frame = frame.f_back
    return Where(frame.f_code.co_filename, frame.f_lineno) if frame else None


def _bound(name: str, metric: str, value: float, confidence: float | None, min_rows: int) -> Gate:
    check_metric(metric)
    level = None if confidence is None else _confidence(confidence)
    return _gate(
        name, {"metric": metric, "value": _number("value", value), "confidence": level, "min_rows": int(min_rows)}
    )


def _number(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise Invalid(f"{name}={value!r} is not a number", hint=f"write {name}=0.02", where=_calling_line())
    return float(value)


def _confidence(value: float) -> float:
    if not 0.5 < _number("confidence", value) < 1:
        raise Invalid(f"confidence={value!r} is not between 0.5 and 1", hint="0.95 is usual", where=_calling_line())
    return float(value)


# --- the verdicts ----------------------------------------------------------------------------------------------------

_ROWS_TO_COMPARE, _ROWS_OF_A_CLASS = 50, 10
_SHARE_UNJUDGED = 0.05


def _say(gate: str, passed: bool, reason: str, **facts: Any) -> Verdict:
    plain = {key: (None if isinstance(v, float) and not math.isfinite(v) else v) for key, v in facts.items()}
    return Verdict(gate, bool(passed), reason, plain)


def _too_little(facts: GateFacts, rows: int = _ROWS_TO_COMPARE) -> str:
    """Return what is missing for a verdict on the held-out rows, or an empty string."""
    n = len(facts.y_true)
    if n < rows:
        return f"not enough evidence: {n} held-out rows, and {rows} are needed"
    if facts.task == "binary":
        rarest = int(np.bincount(encode(np.asarray(facts.y_true), facts.classes), minlength=2)[:2].min())
        if rarest < min(_ROWS_OF_A_CLASS, rows):
            return f"not enough evidence: {rarest} held-out rows of the rarer class, and {_ROWS_OF_A_CLASS} are needed"
    return ""


def _compare(facts: GateFacts, before: Array, confidence: float) -> tuple[float, float, float]:
    """Return the gain over `before` and the ends of the interval that leaves 1 - confidence on either side."""
    gain, interval = improvement(facts.metric, facts.task, facts.y_true, before, facts.scores, facts.classes,
                                 level=2 * confidence - 1, seed=facts.seed)  # fmt: skip
    return (gain, interval.low, interval.high) if interval else (gain, math.nan, math.nan)


def _check_beats_baseline(facts: GateFacts, by: float, baseline: str | None, confidence: float) -> Verdict:
    gate = "beats_baseline"
    candidates = {k: v for k, v in facts.baselines.items() if baseline in (None, k)}
    if not candidates:
        there = f"; there are {', '.join(facts.baselines)}" if facts.baselines else ""
        wanted = f"no baseline {baseline!r}" if baseline else "no baseline"
        return _say(gate, False, f"not measured: {wanted} was trained{there}")
    if lacking := _too_little(facts):
        return _say(gate, False, lacking, rows=len(facts.y_true))
    gains = {name: _compare(facts, scores, confidence) for name, scores in candidates.items()}
    name = min(gains, key=lambda key: math.inf if math.isnan(gains[key][0]) else gains[key][0])
    gain, low, high = gains[name]
    known = {"metric": facts.metric, "baseline": name, "gain": gain, "low": low, "high": high, "needed": by}
    if math.isnan(gain) or math.isnan(low):
        return _say(gate, False, f"{facts.metric} cannot be computed for the model and the baselines", **known)
    shown = f"{facts.metric} {_signed(gain)} against the baseline {name!r} [{_signed(low)}, {_signed(high)}]"
    if gain < by:
        return _say(gate, False, f"{shown}; {_signed(by)} is needed", **known)
    if low <= 0:
        return _say(gate, False, f"not enough evidence: {shown} may be chance", **known)
    return _say(gate, True, shown + (f"; {_signed(by)} was needed" if by else ""), **known)


def _check_not_worse_than_live(facts: GateFacts, confidence: float, margin: float | None) -> Verdict:
    gate = "not_worse_than_live"
    if facts.live is None:
        return _say(gate, True, "nothing is live yet")
    if lacking := _too_little(facts):
        return _say(gate, False, lacking, rows=len(facts.y_true))
    gain, low, high = _compare(facts, facts.live, confidence)
    known = {"metric": facts.metric, "live": facts.live_version, "gain": gain, "low": low, "high": high}
    if math.isnan(gain) or math.isnan(low):
        return _say(gate, False, f"{facts.metric} cannot be computed for both versions", **known)
    shown = f"{facts.metric} {_signed(gain)} against the live version [{_signed(low)}, {_signed(high)}]"
    if margin is None:
        figures = compute_metrics(
            facts.task, facts.y_true, facts.live, facts.classes, intervals=False, only=[facts.metric]
        )
        margin = DEFAULT_MARGIN * abs(figures[facts.metric].value)
    known["margin"] = margin
    if gain < -margin:
        return _say(gate, False, f"worse: {shown}; up to {_figure(margin)} worse is allowed", **known)
    if low < -margin:
        reason = f"not enough evidence: {shown} may be more than {_figure(margin)} worse"
        return _say(gate, False, reason, **known)
    return _say(gate, True, f"{shown}; up to {_figure(margin)} worse was allowed", **known)


def _check_bound(
    gate: str, facts: GateFacts, metric: str, value: float, confidence: float | None, min_rows: int
) -> Verdict:
    found = facts.metrics.get(metric)
    if found is None:
        return _say(gate, False, f"not measured: {metric} is no metric of a {facts.task} model")
    known = {"metric": metric, "value": found.value, "needed": value, "rows": found.n}
    if lacking := _too_little(facts, min_rows):
        return _say(gate, False, lacking, **known)
    figure, shown = found.value, f"{metric} is {_figure(found.value)}"
    if confidence is not None and not math.isnan(figure):
        if found.interval is None:
            return _say(gate, False, f"not enough evidence: {metric} has no interval", **known)
        figure = found.interval.low if gate == "at_least" else found.interval.high
        shown += f", and surely {_figure(figure)} or {'more' if gate == 'at_least' else 'less'}"
    if math.isnan(figure):
        return _say(gate, False, f"{metric} cannot be computed (NaN)", **known)
    passed = figure >= value if gate == "at_least" else figure <= value
    return _say(gate, passed, f"{shown}; {gate.replace('_', ' ')} {_figure(value)} is needed", **known)


def _check_parity(facts: GateFacts) -> Verdict:
    found = facts.parity
    if found is None or found.rows == 0:
        return _say("parity", False, "not measured: the packaged model was not compared with the trained one")
    known = {"format": found.format, "rows": found.rows, "largest": found.largest, "flips": found.flips}
    passed = found.agrees and found.flips == 0 and not math.isnan(found.largest)
    reason = f"{found.format} {'agrees' if passed else 'does not agree'} with the trained model on {found.rows} rows: "
    reason += f"largest difference {found.largest:.2g}"
    reason += f", {found.flips} decisions flipped" if found.flips else ""
    return _say("parity", passed, reason + (f"; {found.note}" if found.note else ""), **known)


def _check_latency(facts: GateFacts, **limits: str) -> Verdict:
    times = None if facts.latency_ms is None else np.asarray(facts.latency_ms, dtype=np.float64)
    # A quantile is only seen when some answers lie beyond it.
    needed = max({"p50": 20, "p95": 100, "p99": 200}[name] for name in limits)
    if times is None or len(times) < needed:
        n = 0 if times is None else len(times)
        return _say("latency", False, f"not enough evidence: {n} timed answers, and {needed} are needed")
    found = {name: float(np.quantile(times, int(name[1:]) / 100)) for name in limits}
    allowed = {name: duration(limit).total_seconds() * 1000 for name, limit in limits.items()}
    passed = all(found[name] <= allowed[name] for name in limits)
    reason = ", ".join(f"{name} {found[name]:.3g} ms (at most {limits[name]})" for name in limits)
    return _say("latency", passed, reason, rows=len(times), **{f"{k}_ms": v for k, v in found.items()})


def _check_slices(
    facts: GateFacts, column: str, at_least: float | None, at_most: float | None, metric: str | None, min_rows: int
) -> Verdict:
    name = metric or facts.metric
    parts = facts.slices.get(name, {}).get(column)
    if not parts:
        return _say("slices", False, f"not measured: {name} by {column}")
    judged = [part for part in parts if part.n >= min_rows]
    unjudged = [part for part in parts if part.n < min_rows]
    limit = at_least if at_least is not None else at_most
    bad = [part for part in judged if not _within(part.metric.value, at_least, at_most)]
    known = {"metric": name, "column": column, "needed": limit,
             "slices": {part.value: [part.n, _plain(part.metric.value)] for part in parts}}  # fmt: skip
    if bad:
        worst = ", ".join(f"{part.value!r} {_figure(part.metric.value)} on {part.n} rows" for part in bad[:5])
        more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
        bound = f"at {'least' if at_least is not None else 'most'} {limit}"
        return _say("slices", False, f"{name} by {column}: {worst}{more}; {bound} is needed", **known)
    if not judged or sum(part.share for part in unjudged) > _SHARE_UNJUDGED:
        small = ", ".join(f"{part.value!r} ({part.n})" for part in unjudged[:5])
        return _say("slices", False, f"not enough evidence: fewer than {min_rows} rows in {small}", **known)
    worst_one = min(judged, key=lambda part: better_by(name, part.metric.value, 0.0))
    aside = f"; too small to judge: {', '.join(part.value for part in unjudged)}" if unjudged else ""
    reason = f"{name} by {column}: the weakest of {len(judged)} slices is {worst_one.value!r} at "
    return _say("slices", True, reason + _figure(worst_one.metric.value) + aside, **known)


def _check_no_leakage(facts: GateFacts) -> Verdict:
    if facts.findings is None:
        return _say("no_leakage", False, "not measured: the data was not inspected")
    leaks = [finding for finding in facts.findings if finding.severity == "error"]
    if leaks:
        return _say("no_leakage", False, "; ".join(finding.message for finding in leaks[:5]),
                    columns=[finding.column for finding in leaks])  # fmt: skip
    warned = ", ".join(finding.column for finding in facts.findings[:5])
    return _say("no_leakage", True, "no leak found" + (f"; worth a look: {warned}" if warned else ""))


def _check_approved(facts: GateFacts, by: str) -> Verdict:
    mine = (facts.bundle_digest, facts.report_digest, facts.policy_digest)
    fitting = [a for a in facts.approvals if (a.bundle_digest, a.report_digest, a.policy_digest) == mine and all(mine)]
    others = [approval for approval in fitting if approval.actor != facts.author]
    for approval in others:
        if approval.role in (by, "admin"):  # an admin's approval counts for every role
            return _say("approved", True, f"approved by {approval.actor} ({approval.role})", actor=approval.actor)
    reason = f"waits for an approval by the role {by!r}"
    if others:
        reason += f"; {others[0].actor} approved it as {others[0].role}"
    elif fitting:
        reason += f"; {facts.author} trained it and cannot approve it too"
    elif facts.approvals:
        reason += "; the approval on record is of other bytes, another proof or another policy"
    return _say("approved", False, reason, pending=True, by=by)


def _within(value: float, low: float | None, high: float | None) -> bool:
    return (
        (value >= low if low is not None else True) and (value <= high if high is not None else True) and value == value
    )


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _figure(value: float) -> str:
    return f"{value:.4g}"


def _signed(value: float) -> str:
    return f"{value:+.3g}" if value else "0"


_CHECKS: dict[str, Callable[..., Verdict]] = {
    "beats_baseline": _check_beats_baseline,
    "not_worse_than_live": _check_not_worse_than_live,
    "at_least": lambda facts, **options: _check_bound("at_least", facts, **options),
    "at_most": lambda facts, **options: _check_bound("at_most", facts, **options),
    "parity": _check_parity,
    "latency": _check_latency,
    "slices": _check_slices,
    "no_leakage": _check_no_leakage,
    "approved": _check_approved,
}
