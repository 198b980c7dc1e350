"""A search tries settings on rows kept for it, and gives up hopeless ones early on a large table."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mainspring.loop.fitting import code_digest
from shop import PROJECT, visits

Run = Callable[..., subprocess.CompletedProcess[str]]
TUNED = PROJECT.replace(
    "value_per_page])", 'value_per_page], tune={"C": (1e-7, 10.0, "log")}, trials=12, metric="log_loss")'
)


def _searched(folder: Path, mainspring: Run) -> list[dict[str, Any]]:
    """Run the tuned project and return its trials as the run store has them."""
    (folder / "project.py").write_text(TUNED)
    done = mainspring(folder, "--json", "run")
    assert done.returncode == 0, done.stderr + done.stdout
    report = json.loads(done.stdout)
    shown = mainspring(folder, "--json", "runs", "show", report["run_id"])
    params = next(step for step in json.loads(shown.stdout)["steps"] if step["name"] == "train")["output"]["params"]
    (journal,) = (folder / ".mainspring" / "search").glob("*.journal")
    entries = [json.loads(line) for line in journal.read_text().splitlines()]
    assert "C" in params
    return [entry for entry in entries if "trial_id" in entry and entry.get("state") in (1, 2, 3)]  # ended


def test_a_small_table_is_searched_in_full(shop: Path, mainspring: Run) -> None:
    ended = _searched(shop, mainspring)
    assert [trial["state"] for trial in ended].count(2) == 0  # 2 is Optuna's PRUNED
    assert len(ended) == 12


def test_hopeless_settings_are_pruned_on_a_large_table(shop: Path, mainspring: Run) -> None:
    visits(40_000).write_csv(shop / "visits.csv")
    states = [trial["state"] for trial in _searched(shop, mainspring)]
    assert len(states) == 12
    assert 0 < states.count(2) < 12


RATE = 0.1


def _helper(x: float) -> float:
    return x * RATE


def _model(X: Any, y: Any) -> float:
    return _helper(1.0)


def test_the_code_digest_follows_what_a_function_reaches_and_not_its_layout(tmp_path: Path) -> None:
    before = code_digest(_model)
    global RATE
    RATE = 0.2
    try:
        assert code_digest(_model) != before
    finally:
        RATE = 0.1
    assert code_digest(_model) == before
