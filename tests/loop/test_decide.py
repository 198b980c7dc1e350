"""The decision follows from the facts, and each bound holds."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from mainspring.loop.decide import HealFacts, next_action
from mainspring.monitoring.monitors import Drift

NOW = datetime(2026, 1, 10, tzinfo=UTC)
DAY = timedelta(days=1)
SHIFT = Drift("amount", "shift", 0.4, 0.6, 1e-9, 1)
BROKEN = Drift("amount", "missing", 0.5, 0.6, 1e-9, 1)
WELL = HealFacts(
    now=NOW, allowed=("retrain", "rollback"), cooldown=DAY, version=2, previous=1, healthy=5, live_since=NOW - 20 * DAY
)
ILL = replace(WELL, performance=("roc_auc is 0.6; roc_auc >= 0.75 must hold",), onset=NOW - 3 * DAY)


@pytest.mark.parametrize(
    ("facts", "action", "reason"),
    [
        (WELL, "wait", "nothing is wrong"),
        (ILL, "retrain", "roc_auc is 0.6"),
        (replace(WELL, drift=(SHIFT,)), "retrain", "amount has shifted"),
        (replace(ILL, allowed=()), "page", "allows no healing"),
        (replace(ILL, allowed=("rollback",)), "page", "would not do better"),
        (replace(ILL, healthy=0), "rollback", "not been well in any window"),
        (replace(ILL, healthy=0, previous=None), "retrain", "roc_auc"),
        (replace(ILL, healthy=0, is_healed=True), "retrain", "roc_auc"),
        (replace(ILL, healthy=0, allowed=("retrain",)), "retrain", "roc_auc"),
        (replace(WELL, endpoint=("p99 is 2",)), "page", "does not mend an endpoint"),
        (replace(WELL, endpoint=("p99 is 2",), healthy=0), "rollback", "p99 is 2"),
        (replace(ILL, drift=(BROKEN,)), "page", "would learn the fault"),
        (replace(ILL, drift=(BROKEN,), live_since=NOW - DAY), "rollback", "may have learned from it"),
        (replace(ILL, ripe_at=NOW + DAY), "wait", "not ripe to learn from"),
        (replace(ILL, ripe_at=NOW), "retrain", "roc_auc"),
        (replace(ILL, last_at=NOW - DAY / 2, last_outcome="kept"), "wait", "cooldown of 1d"),
        (replace(ILL, last_at=NOW - DAY, recent=1), "retrain", "roc_auc"),
        (replace(ILL, last_at=NOW - DAY, recent=3), "page", "have not helped"),
        (replace(ILL, healthy=0, last_at=NOW - DAY / 2), "wait", "cooldown"),
        (replace(WELL, drift=(SHIFT,), travelled=4.9), "page", "without a person looking"),
    ],
)
def test_an_action_follows_from_the_facts(facts: HealFacts, action: str, reason: str) -> None:
    decision = next_action(facts)
    assert decision.action == action
    assert any(reason in text for text in decision.reasons), decision.reasons


def test_a_decision_can_be_recorded_with_the_facts_it_stood_on() -> None:
    decision: Any = next_action(replace(ILL, drift=(SHIFT,)))
    facts = json.loads(json.dumps(decision.facts))
    assert facts["version"] == 2
    assert facts["effect"] == pytest.approx(0.24)
    assert facts["onset"] == "2026-01-07T00:00:00+00:00"
