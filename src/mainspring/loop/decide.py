"""The decision what to do about a model that is unwell: facts in, an action with its reasons out."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from mainspring.core.records import Decision
from mainspring.core.units import human_duration

if TYPE_CHECKING:
    from mainspring.monitoring.monitors import Drift

ACTIONS_PER_DAY = 3
TRAVEL_LIMIT = 5.0
TRAVEL_WINDOW = timedelta(days=90)


@dataclass(frozen=True, slots=True)
class HealFacts:
    """What a decision stands on.

    Args:
        allowed: Actions the owner allows, in order of preference.
        version: The live version; `previous` is the one to go back to, None when there is none.
        drift: What drifts and matters.
        performance: What is wrong with the outcomes, a sentence each.
        endpoint: What is wrong with the endpoint, a sentence each.
        healthy: Windows of the live version that were found well, of performance or of the endpoint where that alarms.
        onset: Since when something has been wrong.
        ripe_at: When a training can learn from rows since the onset; None when nothing has to be waited for.
        live_since: When the live version went live.
        is_healed: Whether the live version is itself a retraining in answer to an alarm.
        last_at: When the last action was taken; `last_outcome` is what came of it.
        recent: Actions in the last 24 hours.
        travelled: Drift that retrainings have followed without a person in the last 90 days, as weighted PSI.
    """

    now: datetime
    allowed: tuple[str, ...]
    cooldown: timedelta
    version: int
    previous: int | None = None
    drift: tuple[Drift, ...] = ()
    performance: tuple[str, ...] = ()
    endpoint: tuple[str, ...] = ()
    healthy: int = 0
    onset: datetime | None = None
    ripe_at: datetime | None = None
    live_since: datetime | None = None
    is_healed: bool = False
    last_at: datetime | None = None
    last_outcome: str = ""
    recent: int = 0
    travelled: float = 0.0

    @property
    def effect(self) -> float:
        """How far the inputs have moved, as PSI weighted by what the model makes of them."""
        return sum(d.effect * d.weight for d in self.drift if d.kind == "shift" and not d.column.startswith("("))


def next_action(facts: HealFacts) -> Decision:
    """Return retrain, rollback, wait or page, with the reasons in sentences; looks at nothing but the facts.

    In order: a broken feed is never learned from; a version that was never well goes back to the one before; an
    endpoint that fails needs a person; drift and lost quality are retrained, within cooldown, budget and travel limit.
    """
    wrong = (*facts.performance, *facts.endpoint, *(str(d) for d in facts.drift))
    if not wrong:
        return _decide(facts, "wait", "nothing is wrong")
    if not facts.allowed:
        return _decide(facts, "page", *wrong, "the declaration allows no healing")
    broken = [d for d in facts.drift if d.is_broken]
    is_suspect = facts.previous is not None and facts.healthy == 0 and not facts.is_healed
    if broken:
        return _of_broken_feed(facts, broken)
    if (facts.performance or facts.endpoint) and is_suspect and "rollback" in facts.allowed:
        if (wait := _bounds(facts)) is not None:
            return wait
        return _decide(
            facts, "rollback", *(facts.performance or facts.endpoint),
            f"version {facts.version} has not been well in any window since it went live; {facts.previous} was before",
        )  # fmt: skip
    if facts.endpoint and not (facts.performance or facts.drift):
        return _decide(facts, "page", *facts.endpoint, "training again does not mend an endpoint that was well before")
    if "retrain" not in facts.allowed:
        return _decide(facts, "page", *wrong, f"version {facts.previous or 'before'} would not do better on such data")
    return _of_retraining(facts, wrong)


def _of_broken_feed(facts: HealFacts, broken: list[Drift]) -> Decision:
    reasons = [f"{d}, which looks like a broken feed" for d in broken]
    came_with = facts.onset and facts.live_since and facts.live_since >= facts.onset - facts.cooldown
    if came_with and facts.previous is not None and "rollback" in facts.allowed:
        reasons.append(f"version {facts.version} may have learned from it; {facts.previous} did not")
        return _bounds(facts) or _decide(facts, "rollback", *reasons)
    return _decide(facts, "page", *reasons, "a model trained on it would learn the fault")


def _of_retraining(facts: HealFacts, wrong: tuple[str, ...]) -> Decision:
    if (wait := _bounds(facts)) is not None:
        return wait
    if facts.travelled + facts.effect > TRAVEL_LIMIT:
        return _decide(
            facts, "page", *wrong,
            f"retrainings have followed a drift of {facts.travelled:.1f} in 90 days without a person looking, and "
            f"{facts.effect:.1f} more would pass {TRAVEL_LIMIT:g}",
        )  # fmt: skip
    if facts.ripe_at is not None and facts.now < facts.ripe_at:
        since = f"{facts.onset:%Y-%m-%d %H:%MZ}" if facts.onset else "then"
        return _decide(
            facts, "wait",
            f"outcomes since {since} are not ripe to learn from: a training sees the first at "
            f"{facts.ripe_at:%Y-%m-%d %H:%MZ}",
        )  # fmt: skip
    return _decide(facts, "retrain", *wrong)


def _bounds(facts: HealFacts) -> Decision | None:
    """Return the decision that cooldown and budget impose, None when they leave the way free."""
    if facts.last_at is not None and facts.now - facts.last_at < facts.cooldown:
        until = facts.last_at + facts.cooldown
        why = f"the last action was at {facts.last_at:%Y-%m-%d %H:%MZ} ({facts.last_outcome or 'not over yet'})"
        return _decide(facts, "wait", f"{why}; the cooldown of {human_duration(facts.cooldown)} ends {until:%H:%MZ}")
    if facts.recent >= ACTIONS_PER_DAY:
        return _decide(facts, "page", f"{facts.recent} actions in 24 hours have not helped")
    return None


def _decide(facts: HealFacts, action: str, *reasons: str) -> Decision:
    stood_on = {k: v for k, v in asdict(facts).items() if v not in (None, (), "") and k not in ("now", "cooldown")}
    told = {k: v.isoformat() if isinstance(v, datetime) else v for k, v in stood_on.items()}
    return Decision(action, tuple(reasons), told | {"effect": round(facts.effect, 4)})
