"""The evaluation report: one HTML file that a stakeholder can read and an auditor can keep."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from importlib import resources
from typing import Any

import numpy as np
import numpy.typing as npt

from mainspring.core.records import DatasetVersion, MetricValue, Verdict
from mainspring.evaluation.explain import Attribution
from mainspring.evaluation.gates import GateFacts
from mainspring.evaluation.metrics import METRICS, compute_metrics, encode, improvement
from mainspring.evaluation.plots import (
    Series,
    Whisker,
    bar_plot,
    density_plot,
    histogram,
    line_plot,
    matrix_plot,
    whisker_plot,
)
from mainspring.evaluation.slices import SliceMetric

Array = npt.NDArray[Any]

# A figure of very few people says something about each of them, so it is not shown.
ROWS_TO_SHOW = 20
_CLASSES_TO_DRAW, _ROWS_TO_LIST = 12, 25


@dataclass(frozen=True, slots=True)
class ReportContext:
    """What the report says besides the gate facts; everything may be left out.

    Args:
        created_at: When the evaluation was made, for the run's logical time.
        split: How the held-out rows were chosen, in words.
        datasets: The dataset versions read.
        times: Event time of each held-out row, datetime64, shape (n,); draws the forecast over time.
        attributions: From `evaluation.explain`.
        parameters, environment: As key and value.
        notes: Sentences the reader should know.
    """

    project: str
    model: str
    created_at: datetime
    run_id: str = ""
    owner: str = ""
    split: str = ""
    train_rows: int | None = None
    datasets: Sequence[DatasetVersion] = ()
    times: Array | None = None
    attributions: Sequence[Attribution] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()


def render_report(facts: GateFacts, verdicts: Sequence[Verdict], about: ReportContext) -> str:
    """Return the report as one HTML page without scripts and without anything fetched from elsewhere.

    Every text is escaped: names, labels and slice values come from data. The same facts give the same bytes.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["figure"] = _figure
    template = environment.from_string(resources.files(__package__).joinpath("report.html").read_text(encoding="utf-8"))
    finite = _is_finite(facts)
    status, headline = _status(verdicts)
    return template.render(
        about=about, facts=facts, verdicts=verdicts, status=status, headline=headline, n=len(facts.y_true),
        sentences=_summary(facts) if finite else ["The model gave scores that are not numbers; it says nothing."],
        cards=_cards(facts), comparison=_comparison(facts) if finite else "",
        plots=_plots(facts, about) if finite else [], slices=_slices(facts, verdicts),
        confusions=_confusions(facts) if finite else [], metrics=METRICS,
        drivers=bar_plot([(a.feature, a.share) for a in about.attributions[:15]]) if about.attributions else "",
        latency=_latency(facts),
    )  # fmt: skip


def _is_finite(facts: GateFacts) -> bool:
    return bool(len(facts.y_true)) and bool(np.isfinite(np.asarray(facts.scores, dtype=np.float64)).all())


def _status(verdicts: Sequence[Verdict]) -> tuple[str, str]:
    failed = [verdict for verdict in verdicts if not verdict.passed]
    if not verdicts:
        return "plain", "No gates are declared"
    if not failed:
        return "good", "The gate passed" if len(verdicts) == 1 else f"All {len(verdicts)} gates passed"
    if all(verdict.facts.get("pending") for verdict in failed):
        return "wait", "Proven; waits for an approval"
    return "bad", "The gate failed" if len(verdicts) == 1 else f"{len(failed)} of {len(verdicts)} gates failed"


def _summary(facts: GateFacts) -> list[str]:
    """Return what happened in sentences that need no statistics."""
    main = facts.metrics[facts.metric]
    sentences = [f"Measured on {main.n:,} rows that the model did not see in training."]
    if main.interval:
        between = f"between {_figure(main.interval.low)} and {_figure(main.interval.high)} with 95 % confidence"
    else:
        between = "without an interval"
    sentences.append(f"Its {facts.metric}, {METRICS[facts.metric].title}, is {_figure(main.value)} ({between}).")
    if facts.baselines:
        values = {name: _value(facts, scores) for name, scores in facts.baselines.items()}
        sign = 1 if METRICS[facts.metric].direction == "higher" else -1
        best = max(values, key=lambda name: sign * values[name] if math.isfinite(values[name]) else -math.inf)
        sentences.append(
            _against(facts, facts.baselines[best], f"the best simple model ({best}, {_figure(values[best])})")
        )
    if facts.live is not None and np.isfinite(facts.live).all():
        name = "the live version" + (f" {facts.live_version}" if facts.live_version is not None else "")
        sentences.append(_against(facts, facts.live, f"{name} ({_figure(_value(facts, facts.live))})"))
    return sentences


def _against(facts: GateFacts, scores: Array, name: str) -> str:
    gain, interval = improvement(facts.metric, facts.task, facts.y_true, scores, facts.scores, facts.classes,
                                 level=0.95, seed=facts.seed)  # fmt: skip
    if not math.isfinite(gain) or interval is None:
        return f"It could not be compared with {name}."
    if interval.low <= 0 <= interval.high:
        return f"It is about as good as {name}: the difference of {_figure(abs(gain))} may be chance."
    return f"It is {'better' if gain > 0 else 'worse'} than {name} by {_figure(abs(gain))}, and that is not chance."


def _value(facts: GateFacts, scores: Array) -> float:
    found = compute_metrics(facts.task, facts.y_true, scores, facts.classes, intervals=False, only=[facts.metric])
    return found[facts.metric].value


def _cards(facts: GateFacts) -> list[MetricValue]:
    """Return the metrics, the deciding one first."""
    first = [facts.metrics[facts.metric]] if facts.metric in facts.metrics else []
    return first + [metric for name, metric in facts.metrics.items() if name != facts.metric]


def _comparison(facts: GateFacts) -> str:
    rows = [_whisker("this model", facts.metrics[facts.metric], "s0")]
    others = [("live version" + (f" {facts.live_version}" if facts.live_version else ""), facts.live, "s1")]
    others += [(f"baseline: {name}", scores, "s2") for name, scores in facts.baselines.items()]
    for label, scores, style in others:
        if scores is not None:
            found = compute_metrics(
                facts.task, facts.y_true, scores, facts.classes, seed=facts.seed, only=[facts.metric]
            )
            rows.append(_whisker(label, found[facts.metric], style))
    return whisker_plot(rows, facts.metric) if len(rows) > 1 else ""


def _whisker(label: str, metric: MetricValue, style: str, note: str = "") -> Whisker:
    low, high = (metric.interval.low, metric.interval.high) if metric.interval else (None, None)
    return Whisker(label, metric.value, low, high, note or _figure(metric.value), style)


def _slices(facts: GateFacts, verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    limits = {(v.facts.get("metric"), v.facts.get("column")): v.facts.get("needed") for v in verdicts}
    found = []
    for metric, columns in facts.slices.items():
        for column, parts in columns.items():
            shown = [part for part in parts if part.n >= ROWS_TO_SHOW]
            if shown:
                found.append({"metric": metric, "column": column, "hidden": len(parts) - len(shown),
                              "plot": whisker_plot([_slice_row(part) for part in shown], metric,
                                                   limit=limits.get((metric, column)))})  # fmt: skip
    return found


def _slice_row(part: SliceMetric) -> Whisker:
    return _whisker(part.value, part.metric, "s0", f"{_figure(part.metric.value)} · {part.n:,} rows")


def _latency(facts: GateFacts) -> dict[str, float]:
    if facts.latency_ms is None or not len(facts.latency_ms):
        return {}
    return {f"p{q}": float(np.quantile(facts.latency_ms, q / 100)) for q in (50, 95, 99)}


# --- plots by task ---------------------------------------------------------------------------------------------------


def _plots(facts: GateFacts, about: ReportContext) -> list[dict[str, Any]]:
    y, scores = np.asarray(facts.y_true), np.asarray(facts.scores, dtype=np.float64)
    if facts.task == "binary":
        return _binary_plots(facts, encode(y, facts.classes), scores)
    if facts.task == "multiclass":
        if len(facts.classes) > _CLASSES_TO_DRAW:
            return []
        known = encode(y, facts.classes)
        return [_plot("Which class is taken for which", _matrix(known, scores.argmax(axis=1), facts.classes),
                      "Rows are the truth, columns the answer. Everything off the diagonal is a mistake.")]  # fmt: skip
    return _number_plots(y.astype(np.float64), scores, about.times)


def _plot(title: str, svg: str, text: str, *, wide: bool = False) -> dict[str, Any]:
    return {"title": title, "svg": svg, "text": text, "wide": wide}


def _binary_plots(facts: GateFacts, y: Array, p: Array) -> list[dict[str, Any]]:
    order = np.argsort(-p, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(p[order])), len(p) - 1)
    found, missed = np.cumsum(y[order])[ends], np.cumsum(1 - y[order])[ends]
    recall, alarms = found / max(y.sum(), 1), missed / max((1 - y).sum(), 1)
    precision = found / (found + missed)
    unit = (0.0, 1.0)
    roc = [Series("ROC", np.append(0.0, alarms), np.append(0.0, recall))]
    return [
        _plot("Ranking", line_plot(roc, "false alarms among negatives", "positives found", x_range=unit, y_range=unit,
                                   diagonal=True),
              "ROC curve. The further it bends to the upper left, the better positives are told from negatives; "
              "the dashed line is guessing."),
        _plot("Finding against being right", line_plot([Series("PR", recall, precision)], "positives found (recall)",
                                                       "alarms that are right (precision)", x_range=unit, y_range=unit),
              f"How many alarms are right when more positives are found. Guessing would stay at {y.mean():.1%}."),
        _plot("Are the probabilities honest", _calibration(y, p),
              "Each dot is a tenth of the rows: what was predicted against what happened. On the dashed line a "
              "prediction of 30 % comes true 30 % of the time."),
        _plot("How the scores spread", histogram([(str(facts.classes[0]), p[y == 0], "s2"),
                                                  (str(facts.classes[1]), p[y == 1], "s0")],
                                                 f"probability of {facts.classes[1]}", span=unit),
              "The further apart the two shapes, the easier the decision."),
        _plot("Decisions at 50 %", _matrix(y, (p >= 0.5).astype(int), facts.classes),
              "Rows are the truth, columns the answer."),
    ]  # fmt: skip


def _calibration(y: Array, p: Array) -> str:
    tenths = np.array_split(np.argsort(p, kind="stable"), min(10, len(p)))
    said = np.array([p[part].mean() for part in tenths])
    happened = np.array([y[part].mean() for part in tenths])
    return line_plot([Series("calibration", said, happened, dots=True)], "predicted probability", "share that happened",
                     x_range=(0.0, 1.0), y_range=(0.0, 1.0), diagonal=True)  # fmt: skip


def _matrix(truth: Array, said: Array, classes: Sequence[Any]) -> str:
    k, inside = len(classes), truth < len(classes)
    counts = np.bincount(truth[inside] * k + said[inside], minlength=k * k).reshape(k, k)
    return matrix_plot(counts, [str(name) for name in classes])


def _number_plots(y: Array, predicted: Array, times: Array | None) -> list[dict[str, Any]]:
    error = predicted - y
    bound = float(np.quantile(np.abs(error), 0.99)) or 1.0
    plots = [
        _plot("Predicted and true values", density_plot(y, predicted, "true value", "predicted value"),
              "Each cell holds rows; darker holds more. On the dashed line a prediction is exact."),
        _plot("How large the errors are",
              histogram([("error", error, "s0")], "predicted minus true", span=(-bound, bound)),
              "Centred on 0 is unbiased; narrow is precise. The outermost percent is drawn at the edges."),
    ]  # fmt: skip
    if times is not None and len(times) > 1:
        text = "Prediction and truth over the held-out time, averaged where rows are dense."
        plots.insert(0, _plot("Over time", _timeline(np.asarray(times), y, predicted), text, wide=True))
    return plots


def _timeline(times: Array, y: Array, predicted: Array) -> str:
    order = np.argsort(times, kind="stable")
    parts = np.array_split(order, min(len(order), 150))
    at = times.astype("datetime64[us]").astype(np.int64) / 1e6
    x = np.array([at[part].mean() for part in parts])
    lines = [Series("truth", x, np.array([y[part].mean() for part in parts]), "s2"),
             Series("prediction", x, np.array([predicted[part].mean() for part in parts]))]  # fmt: skip
    names = [(second, str(np.datetime64(int(second), "s"))[:10]) for second in np.linspace(x[0], x[-1], 7)[1:-1]]
    return line_plot(lines, "time (UTC)", "value", wide=True, x_names=names)


def _confusions(facts: GateFacts) -> list[tuple[str, str, int, float]]:
    """Return the most frequent mistakes between classes: truth, answer, rows, share of the truth's rows."""
    if facts.task != "multiclass":
        return []
    truth, said = encode(np.asarray(facts.y_true), facts.classes), np.asarray(facts.scores).argmax(axis=1)
    names = [*map(str, facts.classes), "(unknown to the model)"]
    pairs, counts = np.unique(np.stack([truth, said])[:, truth != said], axis=1, return_counts=True)
    sizes = np.bincount(truth, minlength=len(names))
    top = np.argsort(-counts, kind="stable")[: _ROWS_TO_LIST if len(facts.classes) > _CLASSES_TO_DRAW else 5]
    return [(names[t], names[s], int(c), c / sizes[t]) for t, s, c in zip(*pairs[:, top], counts[top], strict=True)]


def _figure(value: float | None) -> str:
    """Return a number as a reader wants it: the figures that matter, thousands apart."""
    if value is None or not math.isfinite(value):
        return "—"
    if 0 < abs(value) < 1:
        return f"{value:.3f}" if abs(value) >= 0.01 else f"{value:.2g}"
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:,.1f}" if abs(value) >= 1_000 else f"{value:.4g}"
