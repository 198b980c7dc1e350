"""Frozen records that areas hand to one another."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from mainspring.core.schema import Schema


@dataclass(frozen=True, slots=True)
class Interval:
    """A confidence interval; `level` is its coverage, 0 to 1."""

    low: float
    high: float
    level: float = 0.95


@dataclass(frozen=True, slots=True)
class MetricValue:
    """One figure of quality over `n` rows, with its uncertainty where it was computed."""

    name: str
    value: float
    n: int
    interval: Interval | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of one gate, with its reason in a sentence and the figures it stood on."""

    gate: str
    passed: bool
    reason: str
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Finding:
    """Something a check noticed; `rows` are examples (0-based positions), `count` is how many there are."""

    code: str
    column: str
    message: str
    severity: Literal["error", "warning"]
    rows: tuple[int, ...] = ()
    count: int = 0


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do next and why."""

    action: str
    reasons: tuple[str, ...]
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DatasetVersion:
    """An immutable version of a dataset; `version` is the Delta version, `window` the logical window that made it."""

    project: str
    name: str
    version: int
    digest: str
    rows: int
    schema: Schema
    created_at: datetime
    window: str | None = None
    previous: int | None = None

    @property
    def ref(self) -> str:
        return f"dataset:{self.name}@{self.version}"


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """An immutable version of a model and what was proven of it."""

    project: str
    model: str
    version: int
    bundle_digest: str
    run_id: str
    report_digest: str
    policy_digest: str
    metrics: dict[str, float]
    verdicts: tuple[Verdict, ...]
    author: str
    status: str
    created_at: datetime

    @property
    def ref(self) -> str:
        return f"model:{self.model}@{self.version}"

    @property
    def is_proven(self) -> bool:
        """Whether every gate passed."""
        return all(verdict.passed for verdict in self.verdicts)
