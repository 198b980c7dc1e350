"""What differs between two runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mainspring.tracking.records import RunRecord


@dataclass(frozen=True, slots=True)
class Difference:
    """One name whose value differs; None where a run has none. `change` is after minus before, for figures."""

    name: str
    before: Any
    after: Any
    change: float | None = None


@dataclass(frozen=True, slots=True)
class RunComparison:
    """Two runs side by side; equal parameters and tags are left out, metrics are all there."""

    before: str
    after: str
    metrics: tuple[Difference, ...]
    params: tuple[Difference, ...]
    tags: tuple[Difference, ...]


def compare_runs(before: RunRecord, after: RunRecord) -> RunComparison:
    """Return what the second run did otherwise, and what came of it; pure."""
    return RunComparison(
        before=before.run_id,
        after=after.run_id,
        metrics=tuple(
            Difference(name, old, new, None if old is None or new is None else new - old)
            for name, old, new in _pairs(before.metrics, after.metrics)
        ),
        params=_changed(before.params, after.params),
        tags=_changed(before.tags, after.tags),
    )


def _changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[Difference, ...]:
    # Its own id differs in every run, and says nothing.
    return tuple(
        Difference(name, old, new)
        for name, old, new in _pairs(before, after)
        if old != new and name != "mainspring.run_id"
    )


def _pairs(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    return [(name, before.get(name), after.get(name)) for name in sorted({*before, *after})]
