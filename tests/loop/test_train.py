"""A run goes from a file to a live version, through its gates, and back."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from mainspring.core.settings import load_settings
from mainspring.registry.models import get_version, record_verdicts, register, set_alias
from mainspring.store.workspace import open_workspace
from shop import PROJECT, visits

Run = Callable[..., subprocess.CompletedProcess[str]]


def _json(done: subprocess.CompletedProcess[str], code: int = 0) -> Any:
    assert done.returncode == code, done.stderr + done.stdout
    return json.loads(done.stdout)


def _split(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / ".mainspring" / "serving" / "shop" / "buyer.json").read_text())
    return found


def test_a_run_goes_from_a_file_to_a_live_version(shop: Path, mainspring: Run) -> None:
    done = _json(mainspring(shop, "--json", "run"))
    assert done["outcome"] == "released"
    assert done["version"] == done["live_version"] == 1
    assert {verdict["gate"] for verdict in done["verdicts"]} == {"parity", "at_least"}
    assert all(verdict["passed"] for verdict in done["verdicts"])
    assert done["metrics"]["roc_auc"] > 0.7


def test_a_second_run_of_the_same_thing_changes_nothing(shop: Path, mainspring: Run) -> None:
    first = _json(mainspring(shop, "--json", "run"))
    second = _json(mainspring(shop, "--json", "run"))
    assert (second["outcome"], second["version"]) == ("unchanged", 1)
    assert second["bundle_digest"] == first["bundle_digest"]
    assert any("same code" in (step["cache_reason"] or "") for step in second["steps"])


def test_a_version_that_fails_a_gate_leaves_the_live_one_alone(shop: Path, mainspring: Run) -> None:
    _json(mainspring(shop, "--json", "run"))
    (shop / "project.py").write_text(PROJECT.replace('"roc_auc", 0.6', '"roc_auc", 0.999'))
    kept = _json(mainspring(shop, "--json", "run"), code=1)
    assert (kept["outcome"], kept["live_version"]) == ("kept", 1)
    assert [verdict["gate"] for verdict in kept["verdicts"] if not verdict["passed"]] == ["at_least"]
    assert _split(shop)["version"] == 1
    alerts = _json(mainspring(shop, "--json", "alerts", "list"))
    assert any("was not released" in alert["title"] for alert in alerts)


def test_changed_data_makes_a_new_version_and_a_rollback_brings_the_old_one_back(shop: Path, mainspring: Run) -> None:
    _json(mainspring(shop, "--json", "run"))
    visits(500, seed=1).write_csv(shop / "visits.csv")
    assert _json(mainspring(shop, "--json", "run"))["live_version"] == 2
    moved = _json(mainspring(shop, "--json", "models", "rollback", "buyer"))
    assert (moved["version"], moved["previous"]) == (1, 2)
    assert _split(shop)["version"] == 1
    # What was rolled back does not come back by itself.
    again = mainspring(shop, "--json", "run")
    assert json.loads(again.stdout)["live_version"] == 1


def test_an_error_in_the_model_function_is_one_message_with_the_line_and_code_2(shop: Path, mainspring: Run) -> None:
    (shop / "project.py").write_text(PROJECT.replace("LogisticRegression(C=C)", "LogisticRegression(C='a lot')"))
    failed = mainspring(shop, "run")
    assert failed.returncode == 2
    assert "project.py:" in failed.stderr
    assert "hint:" in failed.stderr
    assert "Traceback" not in failed.stderr + failed.stdout


def test_an_approval_is_waited_for_bound_and_not_given_by_the_author(shop: Path, mainspring: Run) -> None:
    (shop / "project.py").write_text(PROJECT.replace("ms.gate.parity(),", "ms.gate.parity(), ms.gate.approved(),"))
    waiting = _json(mainspring(shop, "--json", "run", MAINSPRING_ACTOR="ann"), code=1)
    assert (waiting["outcome"], waiting["live_version"]) == ("waiting", None)
    assert mainspring(shop, "models", "promote", "buyer@1", MAINSPRING_ACTOR="ann").returncode == 1
    own = mainspring(shop, "models", "approve", "buyer@1", MAINSPRING_ACTOR="ann")
    assert own.returncode == 2
    assert "forbidden" in own.stderr
    approved = mainspring(shop, "models", "approve", "buyer@1", MAINSPRING_ACTOR="bob")
    assert approved.returncode == 0, approved.stderr
    assert _split(shop)["version"] == 1
    assert _split(shop)["approver"] == "bob"


def test_the_report_of_a_version_is_one_page_on_disk(shop: Path, mainspring: Run) -> None:
    _json(mainspring(shop, "--json", "run"))
    written = _json(mainspring(shop, "--json", "models", "report", "buyer@1", "--to", "proof.html"))
    page = (shop / written["file"]).read_text()
    assert page.startswith("<!doctype html>")
    assert "buyer" in page
    assert "roc_auc" in page
    assert "<script" not in page


def test_a_changed_copy_of_a_bundle_is_made_anew_from_the_store(shop: Path, mainspring: Run) -> None:
    done = _json(mainspring(shop, "--json", "run"))
    copy = shop / ".mainspring" / "serving" / "bundles" / done["bundle_digest"].removeprefix("sha256:")
    (copy / "signature.json").write_text("{}")
    visits(500, seed=1).write_csv(shop / "visits.csv")
    assert _json(mainspring(shop, "--json", "run"))["live_version"] == 2
    assert _json(mainspring(shop, "--json", "models", "rollback", "buyer"))["version"] == 1
    assert (copy / "signature.json").read_text() != "{}"


def test_a_version_does_not_replace_one_that_it_was_not_judged_against(shop: Path, mainspring: Run) -> None:
    interrupted = mainspring(shop, "run", MAINSPRING_KILL_AT="release:before")
    assert interrupted.returncode == -signal.SIGKILL
    with closing(open_workspace(load_settings(shop, environment={}))) as ws:
        first = get_version(ws, "shop", "buyer", 1)
        facts = {"report_digest": first.report_digest, "metrics": first.metrics, "verdicts": (), "author": "bob"}
        register(
            ws, "shop", "buyer", bundle_digest=first.bundle_digest, run_id="another", policy_digest="other", **facts
        )
        record_verdicts(ws, "shop", "buyer", 2, first.verdicts)
        set_alias(ws, "shop", "buyer", "production", 2, reason="meanwhile")
    resumed = _json(mainspring(shop, "--json", "run"), code=1)
    assert (resumed["outcome"], resumed["version"], resumed["live_version"]) == ("kept", 1, 2)
    assert any("went live while this one was judged" in note for note in resumed["notes"])
