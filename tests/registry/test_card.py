"""A model card says what a version is, in text that Markdown cannot misread."""

from __future__ import annotations

from mainspring.core.records import Verdict
from mainspring.registry import models
from mainspring.registry.card import render_card
from mainspring.store.workspace import Workspace


def test_the_card_holds_quality_gates_origin_and_history(local_workspace: Workspace) -> None:
    version = models.register(
        local_workspace, "churn", "model", bundle_digest="sha256:b", run_id="run-1", report_digest="sha256:r",
        policy_digest="sha256:p", metrics={"accuracy": 0.81234, "roc_auc": 0.9}, author="alice",
        verdicts=(Verdict("parity", True, "equal on 1,409 rows"), Verdict("slices", False, "low | <b>x</b>\n# no")),
        lineage={"metric": "roc_auc", "datasets": {"customers": {"version": 3, "digest": "sha256:d"}}},
    )  # fmt: skip
    models.set_alias(local_workspace, "churn", "model", "production", 1, reason="run run-1 passed its gates")

    card = render_card(local_workspace, version)

    assert card.startswith("# model, version 1\n")
    assert "| roc\\_auc (chosen) | 0.9 |\n| accuracy | 0.8123 |" in card
    assert "| slices | failed | low \\| \\<b\\>x\\</b\\> \\# no |" in card
    assert "| dataset customers | 3 sha256:d |" in card
    assert "| 2026-01-01 00:00 UTC | alice | run run-1 passed its gates |" in card


def test_a_blocked_version_says_so_at_the_top(local_workspace: Workspace) -> None:
    models.register(
        local_workspace, "churn", "model", bundle_digest="b", run_id="run-1", report_digest="", policy_digest="",
        metrics={}, verdicts=(), author="alice",
    )  # fmt: skip
    models.block(local_workspace, "churn", "model", 1, reason="bad")
    card = render_card(local_workspace, models.get_version(local_workspace, "churn", "model", 1))
    assert "must not go live" in card.splitlines()[2]
    assert "## Gates" not in card
