"""What a window of production is judged by: drift against the reference, and the figures of the endpoint."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

import polars as pl

from mainspring.core.units import Condition
from mainspring.monitoring.reference import Known, Reference
from mainspring.stats.drift import Distance, benjamini_hochberg, cauchy_combination, compare
from mainspring.stats.sketch import sketch

DRIFT_MEASURES = {
    "psi": "population stability index over ten bins; 0 is no change",
    "ks": "largest distance between the two cumulative distributions, 0 to 1",
    "js": "Jensen-Shannon distance over the fine bins, base 2, 0 to 1",
    "missing": "change of the share of rows without a value, -1 to 1",
    "unseen": "share of rows with a category that training never saw, 0 to 1",
}
ENDPOINT_FIGURES = {
    "error_rate": "share of requests that failed through no fault of the caller, 0 to 1",
    "refused_rate": "share of requests that were refused as wrong, 0 to 1",
    "p50": "median latency of an answered request in seconds",
    "p95": "latency that 95 % of answered requests stay under, in seconds",
    "p99": "latency that 99 % of answered requests stay under, in seconds",
    "requests": "requests in the window",
    "predictions": "predictions in the window",
}

SCORE = "(score)"
SCALES = (1, 4, 16)
LEVEL = 0.01  # of hypotheses that fall in a window, the share that may fall wrongly
EFFECT = {"shift": 0.02, "missing": 0.01, "unseen": 0.005}
PAGING = 0.01
PERSISTENCE = (2, 3)
# So far from the reference, or so much more missing, is no change of the world but a broken feed.
BROKEN = {"shift": 3.0, "missing": 0.1, "unseen": 0.5}
FEWEST_REQUESTS = 10


@dataclass(frozen=True, slots=True)
class Drift:
    """One way in which one column drifts.

    Args:
        column: The input, or `(score)` for the model's answers.
        kind: shift of its values, more or less missing, or values never seen.
        effect: PSI beyond chance and season; for missing and unseen the share of rows.
        weight: The share of the column in the model's answers, 0 to 1; 1 for the answers themselves.
        windows: Over how many windows it shows best.
    """

    column: str
    kind: str
    effect: float
    weight: float
    p: float
    windows: int

    @property
    def name(self) -> str:
        return f"{self.column}/{self.kind}"

    @property
    def pages(self) -> bool:
        """Whether it matters to the answers."""
        return abs(self.effect) * self.weight >= PAGING * (1.0 if self.kind == "shift" else 0.5)

    @property
    def is_broken(self) -> bool:
        """Whether it looks like a broken feed and not like a change of the world."""
        return self.column != SCORE and abs(self.effect) >= BROKEN[self.kind]

    def __str__(self) -> str:
        over = f" over {self.windows} windows" if self.windows > 1 else ""
        if self.kind == "shift":
            return f"{self.column} has shifted: psi {self.effect:.3f} beyond chance and season{over}"
        if self.kind == "missing":
            than = "more" if self.effect > 0 else "fewer"
            return f"{self.column} is missing in {abs(self.effect):.1%} {than} rows{over}"
        return f"{self.column} holds values never seen in training in {self.effect:.1%} of rows{over}"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def count_window(reference: Reference, frame: pl.DataFrame) -> dict[str, Any]:
    """Return the counts of a window's predictions over the reference's bins, as JSON-able data.

    Args:
        frame: Answered rows, as `read_predictions` gives them.
    """
    counts = {
        name: sketch(frame[f"in.{name}"], known.sketch).counts_json()
        for name, known in reference.columns.items()
        if f"in.{name}" in frame.columns
    }
    answered = frame["label"].cast(pl.String) if reference.task == "multiclass" else frame["score"]
    return counts | {SCORE: sketch(answered, reference.score.sketch).counts_json()}


def find_drift(
    reference: Reference,
    counted: Sequence[Mapping[str, Any]],
    *,
    end: datetime,
    every: timedelta,
    min_rows: int,
    level: float = LEVEL,
) -> tuple[Drift, ...]:
    """Return what drifts in the last of the windows, most telling first; one window is not yet an alarm.

    Every column is tested for shift, missing and unseen values over the last 1, 4 and 16 windows, each length held
    against the season of that length; the lengths are combined (Cauchy), the columns controlled (Benjamini-Hochberg),
    and what is real but too small to matter is left out.

    Args:
        counted: From `count_window`, oldest first, the last 16 at most.
        end: The end of the last window.
        min_rows: A length with fewer rows is not tested.
        level: Share of what is found that may be found wrongly.
    """
    drifts = [
        drift
        for name, known in (*reference.columns.items(), (SCORE, reference.score))
        for drift in _tested(reference, name, known, counted, end, every, min_rows)
    ]
    fallen = benjamini_hochberg([drift.p for drift in drifts], level) if drifts else ()
    kept = [d for d, fell in zip(drifts, fallen, strict=True) if fell and abs(d.effect) >= EFFECT[d.kind]]
    return tuple(sorted(kept, key=lambda d: -abs(d.effect) * d.weight))


def persistent(found: Sequence[Drift], before: Sequence[Collection[str]]) -> tuple[Drift, ...]:
    """Return the drifts that were also found in one of the two judged windows before.

    Args:
        before: The names of what was found in earlier windows, oldest first.
    """
    needed, of = PERSISTENCE
    recent = list(before)[-(of - 1) :]
    return tuple(d for d in found if 1 + sum(d.name in names for names in recent) >= needed)


def break_rule(
    reference: Reference, counts: Mapping[str, Any], rule: Condition, *, every: timedelta
) -> list[tuple[str, float, str]]:
    """Return each column of which the rule is true as it is written: its name, its figure, and a sentence.

    The sentence holds what chance and season alone give at this number of rows.
    """
    found = []
    for name, known in (*reference.columns.items(), (SCORE, reference.score)):
        if name in counts:
            distance = _distance(known, [counts[name]], every)
            value = float(getattr(distance, rule.metric))
            if rule.holds(value):
                noise = f"; chance alone gives {distance.noise:.3f}" if rule.metric == "psi" else ""
                found.append(
                    (name, value, f"{rule.metric} of {name} is {value:.3f} ({rule}) on {distance.n} rows{noise}")
                )
    return sorted(found, key=lambda item: -abs(item[1]))


def distances(reference: Reference, counts: Mapping[str, Any], *, every: timedelta) -> dict[str, dict[str, float]]:
    """Return the figures of each column of one window, for charts."""
    named = {**reference.columns, SCORE: reference.score}
    return {
        name: {m: round(float(getattr(d, m)), 6) for m in (*DRIFT_MEASURES, "noise")}
        for name in counts
        for d in (_distance(named[name], [counts[name]], every),)
    }


def endpoint_figures(frame: pl.DataFrame) -> dict[str, float]:
    """Return the figures of a window's requests; a rate or a latency of fewer than ten is left out.

    Args:
        frame: All rows of the window, those of failed requests included.
    """
    requests = frame.with_columns(pl.col("prediction_id").str.split(".").list.first().alias("request")).unique(
        "request"
    )
    answered = requests.filter(pl.col("status") == 200)["latency_ms"] / 1000
    n = requests.height
    figures = {"requests": float(n), "predictions": float((frame["status"] == 200).sum())}
    if n >= FEWEST_REQUESTS:
        failed = requests["status"]
        figures["error_rate"] = float((failed >= 500).sum()) / n
        figures["refused_rate"] = float(((failed >= 400) & (failed < 500)).sum()) / n
    if len(answered) >= FEWEST_REQUESTS:
        for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99)):
            figures[name] = float(answered.quantile(share, "linear") or 0.0)
    return figures


def _tested(
    reference: Reference,
    name: str,
    known: Known,
    counted: Sequence[Mapping[str, Any]],
    end: datetime,
    every: timedelta,
    min_rows: int,
) -> list[Drift]:
    windows = [item[name] for item in counted if name in item]
    measured: list[tuple[int, Distance]] = []
    for scale in SCALES:
        recent = windows[-scale:]
        if measured and len(recent) <= measured[-1][0]:
            break
        if sum(map(_rows, recent)) >= min_rows and recent:
            measured.append((len(recent), _distance(known, recent, every, end)))
    if not measured:
        return []
    weight = 1.0 if name == SCORE else reference.weight(name)
    found = []
    # What is over must not alarm for as long as the longest length remembers it.
    recent_of = next((item for item in reversed(measured) if item[0] <= SCALES[1]), measured[0])
    for kind, field in (("shift", "excess"), ("missing", "missing"), ("unseen", "unseen")):
        best = min(measured, key=lambda item: float(getattr(item[1], f"p_{kind}")))
        p = cauchy_combination([getattr(distance, f"p_{kind}") for _, distance in measured])
        judged_by = (best, recent_of) if best[0] > SCALES[1] else (best,)
        effect = min((float(getattr(item[1], field)) for item in judged_by), key=abs)
        found.append(Drift(name, kind, effect, weight, p, best[0]))
    return found


def _rows(counts: Mapping[str, Any]) -> int:
    return int(sum(counts["counts"]) + counts["nulls"] + counts["unseen"])


def _distance(
    known: Known, windows: Sequence[Mapping[str, Any]], every: timedelta, end: datetime | None = None
) -> Distance:
    """Return the distance of the windows' sum from the reference, or from its hours of the day up to `end`."""
    length = every * len(windows)
    season, season_missing = known.season_of(length.total_seconds())
    before = known.at(end - length, end) if end is not None else None
    return compare(
        known.sketch, known.sketch.counted(windows), before=before, season=season, season_missing=season_missing
    )
