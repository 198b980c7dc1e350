"""Fraud: fraud changes its ways, the loop notices, trains again when outcomes allow it, and a better model goes live."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from .conftest import Endpoint, Place


def live_through(fraud: Place, endpoint: Endpoint, day: int) -> tuple[float, str]:
    """Play a day of March: its payments come in, then its file. Return the share of frauds caught, and the last id."""
    fraud.set_clock(f"2026-03-{day:02d}T12:00:00Z")
    said = fraud.script("pay.py", f"2026-03-{day:02d}", str(endpoint.port))
    caught, frauds = map(int, re.findall(r"(\d+) of (\d+) frauds", said)[0])
    fraud.script("make_data.py", f"2026-03-{day + 1:02d}")
    fraud.set_clock(f"2026-03-{day + 1:02d}T00:30:00Z")
    return caught / frauds, said.split()[-1]


@pytest.mark.slow
def test_a_change_of_fraud_is_noticed_and_healed_through_the_same_gates(example: Callable[[str], Place]) -> None:
    fraud = example("fraud")
    fraud.script("make_data.py", "2026-03-21")
    fraud.set_clock("2026-03-21T00:30:00Z")
    trained = fraud.ask("run")
    assert (trained["outcome"], trained["version"]) == ("released", 1)
    # Payments younger than two days have no outcome to learn from yet.
    assert any("wait for their outcome" in note for note in trained["notes"])
    versions = {version["name"]: version for version in fraud.ask("data", "list")}
    assert versions["payments"]["rows"] == 20 * 400
    assert "card-" not in str(fraud.ask("data", "show", "payments"))

    with fraud.served() as endpoint:
        caught = {day: live_through(fraud, endpoint, day)[0] for day in (21, 22)}
        fraud.ask("worker", "--once")
        assert fraud.ask("alerts", "list") == []
        assert min(caught.values()) > 0.5

        # From the 23rd on fraud is another: it slips through, and the inputs have shifted.
        caught = {day: live_through(fraud, endpoint, day)[0] for day in (23, 24)}
        assert max(caught.values()) < 0.2
        fraud.ask("worker", "--once")
        assert any("has shifted" in alert["title"] for alert in fraud.ask("alerts", "list"))

        # A day later outcomes confirm it. There is nothing to learn the new fraud from yet, so nothing is trained.
        live_through(fraud, endpoint, 25)
        assert "scorer: waits, because" in fraud.say("worker", "--once")
        assert any("roc_auc" in alert["title"] for alert in fraud.ask("alerts", "list"))
        assert len(fraud.ask("runs", "list")) == 1

        for day in (26, 27):
            _, last = live_through(fraud, endpoint, day)
        assert "scorer: retrain, because" in fraud.say("worker", "--once")
        runs = fraud.ask("runs", "list")
        assert [run["trigger"] for run in runs] == ["heal", "manual"]
        endpoint.wait_until(lambda: endpoint.version_of("scorer") == "2")
        assert fraud.ask("alerts", "list") == []
        assert live_through(fraud, endpoint, 28)[0] > 0.5

        # A prediction of the first version can still be explained and computed again, and that version brought back.
        why = fraud.ask("why", last)
        assert (why["version"], why["agrees"], why["live_then"]) == (1, True, 1)
        moved = fraud.ask("models", "rollback", "scorer", "--reason", "drill")
        assert (moved["version"], moved["previous"]) == (1, 2)
        endpoint.wait_until(lambda: endpoint.version_of("scorer") == "1")

    log = [event["type"] for event in fraud.ask("audit", "log", "--limit", "200")]
    assert {"model.alias_moved", "dataset.ingested", "declaration.applied"} <= set(log)
    assert fraud.ask("audit", "verify")["whole"] is True
