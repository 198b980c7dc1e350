"""What tracking remembers: runs, their metric points, trials of a search."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One run as stored; values of parameters and tags are text, metrics hold the last value of each.

    Args:
        status: RUNNING, SUCCEEDED, FAILED or KILLED.
        parent: The id of the run it is a trial of, or an empty string.
        mlflow_run_id: What MLflow and its UI call the run.
    """

    project: str
    run_id: str
    name: str
    status: str
    started_at: datetime
    ended_at: datetime | None
    params: dict[str, str]
    metrics: dict[str, float]
    tags: dict[str, str]
    parent: str
    mlflow_run_id: str


@dataclass(frozen=True, slots=True, order=True)
class MetricPoint:
    """One value of a metric at one step."""

    step: int
    value: float
    at: datetime


@dataclass(frozen=True, slots=True)
class Trial:
    """One evaluated point of a search.

    Args:
        number: Position in the search, from 0; the same after a resume.
        value: What the objective returned; None when the trial failed, the last report when it was pruned.
        status: SUCCEEDED, PRUNED or FAILED.
        reports: Intermediate (step, value) pairs.
    """

    number: int
    params: dict[str, Any]
    value: float | None
    status: str
    started_at: datetime
    ended_at: datetime
    reports: tuple[tuple[int, float], ...] = field(default=())
    error: str = ""
