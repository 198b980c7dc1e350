"""The report is one page that runs nothing, fetches nothing, and says what the verdicts say."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from mainspring.core.records import DatasetVersion, Finding
from mainspring.core.schema import Schema
from mainspring.evaluation import gates as gate
from mainspring.evaluation.explain import Attribution
from mainspring.evaluation.gates import GateFacts, ParityFacts, check_gates
from mainspring.evaluation.metrics import compute_metrics, default_metric
from mainspring.evaluation.report import ReportContext, render_report
from mainspring.evaluation.slices import slice_metrics

RNG = np.random.default_rng(2)
NOW = datetime(2026, 1, 1, tzinfo=UTC)
N = 400


def binary(classes: tuple[str, str] = ("no", "yes"), **more: Any) -> GateFacts:
    y = np.array(classes, dtype=object)[np.arange(N) % 2]
    p = np.clip((np.arange(N) % 2) * 0.4 + RNG.random(N) * 0.6, 0, 1)
    facts = GateFacts("binary", "roc_auc", y, p, classes, compute_metrics("binary", y, p, classes), {"linear": 1 - p})
    return replace(facts, **more)


def numbers(task: Any = "forecast") -> GateFacts:
    y = RNG.normal(100, 20, N)
    p = y + RNG.normal(0, 5, N)
    return GateFacts(task, default_metric(task), y, p, (), compute_metrics(task, y, p), {"mean": np.full(N, 100.0)})


def classes(k: int) -> GateFacts:
    names = tuple(f"class {i}" for i in range(k))
    y, p = np.array(names, dtype=object)[RNG.integers(0, k, N)], RNG.dirichlet(np.ones(k), N)
    return GateFacts("multiclass", "macro_f1", y, p, names, compute_metrics("multiclass", y, p, names))


class Page(HTMLParser):
    """Collect what a browser would make of the page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.open: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag not in ("meta", "br", "rect", "line", "circle", "polyline", "polygon"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


def render(facts: GateFacts, *gates: Any, **about: Any) -> str:
    context = ReportContext(**{"project": "shop", "model": "churn", "created_at": NOW, **about})
    return render_report(facts, check_gates(gates, facts), context)


TASKS = [
    (binary(), {}),
    (classes(4), {}),
    (classes(30), {}),
    (numbers(), {"times": np.datetime64("2026-01-01") + np.arange(N).astype("m8[h]")}),
    (numbers("regression"), {}),
]


@pytest.mark.parametrize(("facts", "about"), TASKS, ids=["binary", "four classes", "thirty", "forecast", "regression"])
def test_every_task_gives_a_whole_page_that_needs_nothing_else(facts: GateFacts, about: dict[str, Any]) -> None:
    html = render(facts, gate.no_leakage(), **about)
    page = Page(html)
    assert page.open == [], "every element is closed"
    assert not page.tags & {"script", "link", "img", "iframe", "object", "embed", "base", "form"}
    assert not page.attributes & {"src", "href", "srcset", "action"}
    assert "http://" not in html
    assert "https://" not in html
    assert not re.search(r"\bnan\b|\binf\b|undefined|None\b", page.text), "no figure is shown that is none"
    assert len(html) < 150_000


@pytest.mark.parametrize("facts", [binary(), numbers()])
def test_the_same_facts_give_the_same_bytes(facts: GateFacts) -> None:
    assert render(facts, gate.no_leakage()) == render(facts, gate.no_leakage())


POLYGLOTS = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</style></title></textarea><svg onload=alert(1)>",
    "javascript:alert(1)//'\"`<a href=x>",
    "{{ 7*7 }}{% for x in y %}",
    "<!--<iframe>-->",
    "\u2028]]></text><foreignObject><body onload=alert(1)>",
]


@pytest.mark.parametrize("bad", POLYGLOTS)
def test_no_text_from_data_becomes_markup(bad: str) -> None:
    column = np.array([bad, "b"], dtype=object)[np.arange(N) % 2]
    facts = binary((bad, bad + "2"))
    parts = slice_metrics("accuracy", "binary", facts.y_true, facts.scores, facts.classes, {bad: column})
    facts = replace(
        facts, slices={"accuracy": parts}, findings=(Finding(bad, bad, bad, "error"),), author=bad, bundle_digest=bad,
        baselines={bad: facts.baselines["linear"]}, parity=ParityFacts(bad, True, 9, 0.0, 0, bad),
    )  # fmt: skip
    plain = Page(render(replace(binary(), slices={"accuracy": parts})))
    page = Page(render(
        facts, gate.no_leakage(), gate.slices(bad, at_least=0.1, metric="accuracy"), gate.parity(), project=bad,
        model=bad, run_id=bad, owner=bad, split=bad, notes=[bad], parameters={bad: bad}, environment={bad: bad},
        attributions=[Attribution(bad, 1.0, 1.0, "tree")],
        datasets=[DatasetVersion(bad, bad, 1, bad, 1, Schema(), NOW)],
    ))  # fmt: skip
    assert page.tags - plain.tags <= {"table", "details", "summary", "span", "tr", "td", "code"}
    assert not {name for name in page.attributes if name.startswith("on")}
    assert page.open == []
    assert bad in page.text


def test_the_first_line_says_what_the_gates_say() -> None:
    facts = binary(findings=())
    assert "All 2 gates passed" in render(facts, gate.no_leakage(), gate.at_least("roc_auc", 0.5))
    assert "1 of 2 gates failed" in render(facts, gate.no_leakage(), gate.parity())
    assert "Proven; waits for an approval" in render(facts, gate.no_leakage(), gate.approved())
    assert "No gates are declared" in render(facts)


def test_the_summary_tells_better_from_worse_and_from_chance() -> None:
    facts = binary()
    assert "It is better than the best simple model (linear" in Page(render(facts)).text
    worse = replace(
        facts, baselines={"oracle": (facts.y_true == "yes").astype(float)}, live=facts.scores, live_version=3
    )
    text = Page(render(worse)).text
    assert "It is worse than the best simple model (oracle, 1)" in text
    assert "It is about as good as the live version 3" in text


def test_a_slice_of_very_few_people_is_not_shown() -> None:
    facts = binary()
    column = np.array(["secret"] * 19 + ["many"] * (N - 19), dtype=object)
    parts = slice_metrics("accuracy", "binary", facts.y_true, facts.scores, facts.classes, {"ward": column})
    text = Page(render(replace(facts, slices={"accuracy": parts}))).text
    assert "secret" not in text
    assert "1 part is too small to show" in text


def test_scores_that_are_not_numbers_still_give_a_report() -> None:
    broken = np.full(N, math.nan)
    y = binary().y_true
    facts = GateFacts(
        "binary", "roc_auc", y, broken, ("no", "yes"), compute_metrics("binary", y, broken, ("no", "yes"))
    )
    page = Page(render(facts, gate.at_least("roc_auc", 0.5)))
    assert "The gate failed" in page.text
    assert "not numbers" in page.text


def test_constant_predictions_and_a_single_class_do_not_break_a_plot() -> None:
    y = np.array(["yes"] * 60, dtype=object)
    p = np.full(60, 0.7)
    one = GateFacts("binary", "accuracy", y, p, ("no", "yes"), compute_metrics("binary", y, p, ("no", "yes")))
    assert Page(render(one)).open == []
    flat = GateFacts(
        "regression", "rmse", np.zeros(60), np.zeros(60), (), compute_metrics("regression", np.zeros(60), np.zeros(60))
    )
    assert Page(render(flat)).open == []
