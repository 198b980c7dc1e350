"""Steps and the graph they form, checked when it is written down."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from mainspring.core.errors import Invalid, nearest
from mainspring.core.ref import check_name
from mainspring.store.workspace import Change, Workspace

Json = Any
Output = dict[str, Json]
PHASES = ("before", "during", "after")


class Stopped(BaseException):
    """The run was cancelled, timed out, or taken over; not an Exception, so that user code does not swallow it."""


@dataclass(frozen=True, slots=True)
class StepContext:
    """What a step may know and touch.

    Args:
        ws: The workspace.
        project: The project the run belongs to.
        run_id: The run, the same over all attempts.
        logical_time: The instant the run is about, UTC; not the present.
        params: The run's parameters.
        inputs: The outputs of the steps this one comes after, directly or not, by step name.
        attempt: 1 for the first try of this step in this process; grows with retries.
        fence: Grows each time the run is taken over by another process.
        step: The step's own name.
        report: Takes a share done (0 to 1, or None) and a text.
        stop: Says why the run must stop, or returns an empty text.
        guard_change: Raises inside a transaction when the run was taken over.
    """

    ws: Workspace
    project: str
    run_id: str
    logical_time: datetime
    params: dict[str, Json]
    inputs: Mapping[str, Output]
    attempt: int
    fence: int
    step: str
    report: Callable[[float | None, str], None] = lambda fraction, text: None
    stop: Callable[[], str] = lambda: ""
    guard_change: Callable[[Change], None] = lambda change: None

    def progress(self, fraction: float | None = None, text: str = "") -> None:
        """Tell how far the step is; also the place where a cancelled or timed out step stops.

        Raises:
            Stopped: the run must not go on.
        """
        if reason := self.stop():
            raise Stopped(reason)
        self.report(fraction, text)

    def guard(self, change: Change) -> None:
        """Refuse a write when another process has taken the run over; call it first inside the transaction.

        Raises:
            Conflict: this attempt is fenced off.
        """
        self.guard_change(change)

    def kill_point(self) -> None:
        """Mark a moment between two effects of the step, for tests that kill the process there."""
        kill_point(self.step, "during")


@dataclass(frozen=True, slots=True)
class Step:
    """One unit of work; it may run more than once, so its effects must be idempotent.

    Args:
        name: Unique in its pipeline.
        run: The work; returns a small JSON object of references, never tables.
        after: Steps whose outputs it needs.
        retries: How often to try again after an error that might pass.
        backoff_s: Wait before the first retry, in seconds; doubles each time, at most 300.
        timeout_s: Fail after this long. A thread cannot be killed: the work goes on until its next
            `context.progress()`, fenced off from the run.
        cache: Returns what the output depends on, by name: code, inputs, parameters, environment digests.
    """

    name: str
    run: Callable[[StepContext], Output | None]
    after: tuple[str, ...] = ()
    retries: int = 0
    backoff_s: float = 1.0
    timeout_s: float | None = None
    cache: Callable[[StepContext], dict[str, str]] | None = None

    def __post_init__(self) -> None:
        check_name(self.name, "step")
        if self.retries < 0 or self.backoff_s < 0 or (self.timeout_s is not None and self.timeout_s <= 0):
            raise Invalid(f"step {self.name!r}: retries and backoff_s are at least 0, timeout_s is more than 0")


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Steps in an order that honours what each comes after.

    Raises:
        Invalid: no step, a name twice, an unknown name in `after`, or a cycle.
    """

    name: str
    steps: tuple[Step, ...]
    ancestors: dict[str, frozenset[str]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_name(self.name, "pipeline")
        steps = tuple(self.steps)
        names = [step.name for step in steps]
        if not steps:
            raise Invalid(f"pipeline {self.name!r} has no steps")
        for name in {name for name in names if names.count(name) > 1}:
            raise Invalid(f"pipeline {self.name!r} has two steps called {name!r}", hint="give each step its own name")
        for step in steps:
            for before in step.after:
                if before not in names:
                    raise Invalid(f"step {step.name!r} comes after {before!r}, which is no step of {self.name!r}"
                                  f"{nearest(before, names)}", hint=f"steps: {', '.join(names)}")  # fmt: skip
        ordered = _in_order(self.name, steps)
        ancestors: dict[str, frozenset[str]] = {}
        for step in ordered:
            ancestors[step.name] = frozenset(step.after).union(*(ancestors[name] for name in step.after))
        object.__setattr__(self, "steps", ordered)
        object.__setattr__(self, "ancestors", ancestors)

    def ready(self, done: Iterable[str], started: Iterable[str]) -> list[Step]:
        """Return the steps that may start now: not started, all before them done."""
        done, started = set(done), set(started)
        return [step for step in self.steps if step.name not in started and done.issuperset(step.after)]


def kill_point(step: str, phase: str) -> None:
    """Kill this process outright when `MAINSPRING_KILL_AT` names this step and phase; the seam of the crash tests."""
    wanted, _, when = os.environ.get("MAINSPRING_KILL_AT", "").partition(":")
    if wanted == step and (when or "before") == phase:
        os.kill(os.getpid(), signal.SIGKILL)


def _in_order(pipeline: str, steps: tuple[Step, ...]) -> tuple[Step, ...]:
    """Return the steps topologically sorted, keeping the written order where the graph leaves it open."""
    ordered: list[Step] = []
    done: set[str] = set()
    waiting = list(steps)
    while waiting:
        step = next((step for step in waiting if done.issuperset(step.after)), None)
        if step is None:
            names = ", ".join(repr(step.name) for step in waiting)
            raise Invalid(f"pipeline {pipeline!r} has a cycle among {names}", hint="a step cannot wait for itself")
        waiting.remove(step)
        ordered.append(step)
        done.add(step.name)
    return tuple(ordered)
