"""Hyper-parameter search with Optuna: pruned, kept in a journal, and the same after a kill as without one."""

from __future__ import annotations

import fcntl
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from mainspring.core.errors import Invalid, Where
from mainspring.core.ref import digest_json
from mainspring.tracking.records import Trial
from mainspring.training.trainer import ModelFunction, defaults_of

Report = Callable[[int, float], None]
Objective = Callable[[dict[str, Any], Report], float]
Direction = Literal["maximize", "minimize"]

_CHOICES = (str, int, float, bool, type(None))


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The best point of a search, and every trial in order."""

    best_params: dict[str, Any]
    best_value: float
    trials: tuple[Trial, ...]


def check_space(space: Mapping[str, Any], where: Where | None = None) -> None:
    """Say whether a search space is well formed.

    A parameter's values are `(low, high)` for a range, whole numbers if both ends are; `(low, high, "log")` for a range
    over magnitudes; a list for choices.

    Raises:
        Invalid: an entry has none of these forms; it names the entry.

    >>> check_space({"depth": (2, 8), "rate": (0.01, 0.3, "log"), "kind": ["a", "b"]})
    """
    for name, spec in space.items():
        if isinstance(spec, list) and spec and all(isinstance(choice, _CHOICES) for choice in spec):
            continue
        if isinstance(spec, tuple) and len(spec) in (2, 3) and all(_is_number(end) for end in spec[:2]):
            low, high = spec[:2]
            is_log = spec[2:] == ("log",)
            if low < high and (len(spec) == 2 or is_log) and not (is_log and low <= 0):
                continue
        raise Invalid(
            f"tune[{name!r}] is {spec!r}, which is neither a range nor choices",
            hint='write (low, high) with low < high, (low, high, "log") with low > 0, or a list of choices',
            where=where,
        )


def search(
    objective: Objective,
    space: Mapping[str, Any],
    trials: int,
    seed: int,
    *,
    direction: Direction,
    journal: Path,
    function: ModelFunction | None = None,
    timeout_s: float | None = None,
    on_trial: Callable[[int, float], None] | None = None,
) -> SearchResult:
    """Evaluate `trials` points of a space and return the best.

    Each point follows from the seed and the trials before it. A search that is killed goes on from its journal:
    finished trials are kept, the interrupted one is run again at the same point, and the outcome is that of an
    undisturbed search (unless `timeout_s` cuts it).

    Args:
        objective: Takes a point and `report(step, value)`; returns the value. Reporting may end a hopeless trial early,
            by an exception that must be let through. An exception of its own makes the trial fail, not the search.
        space: See `check_space`.
        trials: How many points in all, those in the journal included.
        seed: Decides every draw.
        direction: Whether more or less is better.
        journal: File that keeps the trials; one process at a time works on it.
        function: The model function; its own defaults are tried first where the space holds them.
        timeout_s: Begin no further trial after this many seconds.
        on_trial: Called after each trial with how many there are and the best value so far (NaN while there is none).

    Raises:
        Invalid: the space is malformed, or every trial failed.
    """
    check_space(space)
    if trials < 1:
        raise Invalid(f"trials={trials} searches nothing", hint="trials must be at least 1")
    started = time.monotonic()
    with _study(journal, space, seed, direction) as study:
        done = _finished(study)
        while len(done) < trials and (timeout_s is None or not done or time.monotonic() - started < timeout_s):
            first = _fixed(space, defaults_of(function)) if function and not done else {}
            _evaluate(study, objective, space, first, seed + len(done))
            done = _finished(study)
            if on_trial:
                best = _best(done, direction)
                on_trial(len(done), math.nan if best is None else best.value or 0.0)
    return _result(done, direction)


def _result(done: list[Trial], direction: Direction) -> SearchResult:
    best = _best(done, direction)
    if best is None:
        raise Invalid(
            f"none of {len(done)} trials succeeded; the first: {done[0].error or done[0].status}",
            hint="call the model function with its defaults first",
        )
    return SearchResult(best.params, best.value or 0.0, tuple(done))


def _best(done: list[Trial], direction: Direction) -> Trial | None:
    good = [trial for trial in done if trial.status == "SUCCEEDED" and trial.value is not None]
    sign = 1 if direction == "minimize" else -1
    return min(good, key=lambda trial: (sign * (trial.value or 0.0), trial.number), default=None)


def _evaluate(study: Any, objective: Objective, space: Mapping[str, Any], fixed: Mapping[str, Any], seed: int) -> None:
    """Draw one point, evaluate it and write down the outcome."""
    import optuna

    # A new sampler for each trial: its draws follow from the seed and the history, not from what this process drew.
    study.sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=False)
    if fixed and not any(trial.state.name == "WAITING" for trial in study.get_trials(deepcopy=False)):
        study.enqueue_trial(dict(fixed))
    trial = study.ask(_distributions(space))
    params = {name: trial.params[name] for name in space}
    reports: list[float] = []

    def report(step: int, value: float) -> None:
        reports.append(value)
        trial.report(value, step)
        if trial.should_prune():
            raise optuna.TrialPruned

    try:
        value = float(objective(params, report))
        if not math.isfinite(value):
            raise Invalid(f"the objective is {value}")
    except optuna.TrialPruned:
        study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    except Exception as error:  # one bad point (a solver that does not take a penalty) must not end the search
        trial.set_user_attr("error", f"{type(error).__name__}: {error}"[:1000])
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
    else:
        study.tell(trial, value)


@contextmanager
def _study(journal: Path, space: Mapping[str, Any], seed: int, direction: Direction) -> Iterator[Any]:
    """Open the journal's study of this very search, alone; trials that a dead process left running are closed."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    class Held(JournalFileOpenLock):
        """Optuna's own lock outlives a killed process by thirty seconds; the kernel's, held all the time, does not."""

        def acquire(self) -> bool:
            return True

        def release(self) -> None:
            return

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    journal.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(journal, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        _cut_torn_line(descriptor, journal)
        study = optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(journal), Held(str(journal)))),
            study_name=digest_json([{name: list(spec) for name, spec in space.items()}, seed, direction]),
            direction=direction,
            pruner=optuna.pruners.MedianPruner(n_startup_trials=4),
            load_if_exists=True,
        )
        for trial in study.get_trials(deepcopy=False):
            if trial.state.name == "RUNNING":
                study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        yield study
    finally:
        os.close(descriptor)


def _finished(study: Any) -> list[Trial]:
    """Return the trials that were evaluated to an end; one that a kill interrupted is none."""
    found: list[Trial] = []
    for trial in study.get_trials(deepcopy=False):
        error = trial.user_attrs.get("error", "")
        if trial.state.name not in ("COMPLETE", "PRUNED") and not error:
            continue
        status = {"COMPLETE": "SUCCEEDED", "PRUNED": "PRUNED"}.get(trial.state.name, "FAILED")
        reports = tuple(sorted(trial.intermediate_values.items()))
        found.append(
            Trial(
                number=len(found),
                params=dict(trial.params),
                value=trial.value if trial.value is not None else (reports[-1][1] if reports else None),
                status=status,
                started_at=_utc(trial.datetime_start),
                ended_at=_utc(trial.datetime_complete),
                reports=reports,
                error=error,
            )
        )
    return found


def _distributions(space: Mapping[str, Any]) -> dict[str, Any]:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    found: dict[str, Any] = {}
    for name, spec in space.items():
        if isinstance(spec, list):
            found[name] = CategoricalDistribution(spec)
        else:
            low, high = spec[:2]
            whole = isinstance(low, int) and isinstance(high, int)
            found[name] = (IntDistribution if whole else FloatDistribution)(low, high, log=len(spec) == 3)
    return found


def _fixed(space: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return those defaults that the space holds; the user left the others out of it on purpose."""
    return {
        name: defaults[name]
        for name, spec in space.items()
        if name in defaults
        and (
            defaults[name] in spec
            if isinstance(spec, list)
            else _is_number(defaults[name]) and spec[0] <= defaults[name] <= spec[1]
        )
    }


def _cut_torn_line(descriptor: int, journal: Path) -> None:
    data = journal.read_bytes()
    os.ftruncate(descriptor, data.rfind(b"\n") + 1)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _utc(local: datetime) -> datetime:
    return local.astimezone(UTC)
