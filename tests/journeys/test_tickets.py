"""Tickets: every Monday the model learns from one more week, by itself, and a version that is no worse goes live."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import polars as pl
import pytest

from .conftest import Place

ASKED = {"text": "I lost my card on the train this morning"}


@pytest.mark.slow
def test_the_weekly_schedule_learns_from_new_tickets_and_the_endpoint_follows(
    example: Callable[[str], Place], data_dir: Path
) -> None:
    tickets = example("tickets")
    tickets.script("get_data.py", str(data_dir), "1")
    with (tickets.folder / "data" / "questions.csv").open("a") as questions:
        questions.write("hi,card_arrival\nhi,card_arrival\n")
    tickets.set_clock("2026-03-06T12:00:00Z")  # a Friday
    first = tickets.ask("run")
    assert (first["outcome"], first["live_version"]) == ("released", 1)
    assert first["metrics"]["macro_f1"] > 0.8
    # What teaches nothing is set aside with the reason, and the run says where.
    aside = Path(next(note for note in first["notes"] if "were set aside" in note).rpartition(" in ")[2])
    rows = pl.read_parquet(aside / "*.parquet").filter(pl.col("text") == "hi")
    assert rows.height == 2
    assert rows["broken_checks"].str.contains("matches").all()
    # What cannot be translated faithfully keeps its own safe format, and the run says so.
    assert any("TfidfVectorizer" in note for note in first["notes"])
    assert next(v for v in first["verdicts"] if v["gate"] == "parity")["facts"]["format"] == "skops"
    due = {schedule["name"]: datetime.fromisoformat(schedule["next"]) for schedule in tickets.ask("schedules")}
    assert due["run-router"] == datetime.fromisoformat("2026-03-09T05:00:00+00:00")  # six o'clock in Amsterdam

    with tickets.served() as endpoint:
        answer = endpoint.predict("router", ASKED, {"text": "¿Por qué? 💳"})
        assert answer["predictions"][0]["label"] == "lost_or_stolen_card"
        assert tickets.ask("why", answer["prediction_ids"][0])["agrees"] is True

        with tickets.working() as worker:
            tickets.script("get_data.py", str(data_dir), "2")
            time.sleep(2)  # the worker looks every second, and finds that nothing is due on a Friday
            assert [run["trigger"] for run in tickets.ask("runs", "list", "router")] == ["manual"]
            tickets.set_clock("2026-03-09T05:00:30Z")
            endpoint.wait_until(lambda: endpoint.version_of("router") == "2", worker)
        runs = tickets.ask("runs", "list", "router")
        assert [run["trigger"].partition(":")[0] for run in runs] == ["schedule", "manual"]
        assert endpoint.predict("router", ASKED)["model_version"] == "2"

        compared = {row["name"]: row for row in tickets.ask("models", "compare", "router@1", "router@2")["metrics"]}
        assert compared["macro_f1"]["change"] is not None
        moved = tickets.ask("models", "rollback", "router", "--reason", "agents complain")
        assert (moved["version"], moved["previous"], moved["served"]) == (1, 2, True)
        endpoint.wait_until(lambda: endpoint.version_of("router") == "1")
        assert endpoint.predict("router", ASKED)["predictions"] == answer["predictions"][:1]

    history = tickets.ask("models", "history", "router")
    assert [(move["version"], move["previous"]) for move in history] == [(1, 2), (2, 1), (1, None)]
    assert history[0]["reason"] == "agents complain"
