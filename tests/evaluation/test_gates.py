"""Gates: proven passes, worse fails, and too little evidence or NaN never passes."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mainspring.core.errors import Invalid
from mainspring.core.records import Finding, Verdict
from mainspring.evaluation import gates as gate
from mainspring.evaluation.gates import ApprovalFacts, Gate, GateFacts, ParityFacts, check_gates, policy_digest
from mainspring.evaluation.metrics import compute_metrics
from mainspring.evaluation.slices import slice_metrics

RNG = np.random.default_rng(5)
N = 3_000
Y = RNG.integers(0, 2, N)


def scores(strength: float, n: int = N) -> Any:
    return np.clip(0.5 + strength * (Y[:n] - 0.5) + RNG.normal(0, 0.2, n), 0, 1)


GOOD, WEAK, CHANCE = scores(0.5), scores(0.2), np.full(N, 0.5)


def facts(candidate: Any = GOOD, n: int = N, **more: Any) -> GateFacts:
    y, p = Y[:n], candidate[:n]
    more = {k: ({name: s[:n] for name, s in v.items()} if k == "baselines" else v) for k, v in more.items()}
    return GateFacts(
        "binary", "roc_auc", y, p, (0, 1), compute_metrics("binary", y, p, (0, 1), intervals=n > 20), **more
    )


def verdict(one: Gate, given: GateFacts) -> Verdict:
    [found] = check_gates((one,), given)
    json.dumps(found.facts, allow_nan=False)  # facts go into the log as they are
    return found


def test_a_model_beats_the_best_baseline_and_not_only_the_worst() -> None:
    baselines = {"majority": CHANCE, "linear": WEAK}
    found = verdict(gate.beats_baseline(by=0.02), facts(baselines=baselines))
    assert found.passed
    assert found.facts["baseline"] == "linear"
    assert not verdict(gate.beats_baseline(by=0.02), facts(WEAK, baselines={"majority": CHANCE, "linear": GOOD})).passed
    assert verdict(
        gate.beats_baseline(baseline="majority"), facts(WEAK, baselines={"majority": CHANCE, "x": GOOD})
    ).passed


def test_a_gain_that_may_be_chance_is_not_enough_evidence() -> None:
    slightly = np.clip(GOOD + RNG.normal(0, 0.003, N) + 0.0006 * (Y - 0.5), 0, 1)
    found = verdict(gate.beats_baseline(), facts(slightly, baselines={"linear": GOOD}))
    assert not found.passed
    same = verdict(gate.beats_baseline(), facts(GOOD, baselines={"linear": GOOD}))
    assert not same.passed
    assert "not enough evidence" in same.reason


def test_no_baseline_fails() -> None:
    assert "no baseline was trained" in verdict(gate.beats_baseline(), facts()).reason
    assert "there are linear" in verdict(gate.beats_baseline(baseline="x"), facts(baselines={"linear": WEAK})).reason


@pytest.mark.parametrize("n", [1, 5, 49])
def test_too_few_rows_never_pass(n: int) -> None:
    given = facts(Y.astype(float), n, baselines={"majority": CHANCE}, live=CHANCE[:n])
    for one in (gate.beats_baseline(), gate.not_worse_than_live(), gate.at_least("accuracy", 0.1)):
        found = verdict(one, given)
        assert not found.passed
        assert "not enough evidence" in found.reason


def test_too_few_rows_of_the_rarer_class_never_pass() -> None:
    y = np.zeros(500, dtype=int)
    y[:3] = 1
    given = GateFacts(
        "binary", "roc_auc", y, y.astype(float), (0, 1), compute_metrics("binary", y, y.astype(float), (0, 1))
    )
    found = verdict(gate.at_least("roc_auc", 0.9), given)
    assert (found.passed, found.reason.split(":")[0]) == (False, "not enough evidence")


def test_nan_never_passes() -> None:
    broken = GOOD.copy()
    broken[7] = math.nan
    given = facts(broken, baselines={"majority": CHANCE}, live=CHANCE, parity=ParityFacts("onnx", True, 9, math.nan, 0),
                  latency_ms=np.full(300, math.nan))  # fmt: skip
    given = replace(
        given, slices={"roc_auc": {"c": slice_metrics("roc_auc", "binary", Y, broken, (0, 1), {"c": Y})["c"]}}
    )
    generous = (gate.beats_baseline(), gate.not_worse_than_live(), gate.at_least("roc_auc", 0.0), gate.parity(),
                gate.at_most("brier", 9.0), gate.slices("c", at_least=0.0), gate.latency(p99="9h"))  # fmt: skip
    for one in generous:
        assert not verdict(one, given).passed, one


def test_a_live_model_is_replaced_only_by_one_that_is_surely_not_worse() -> None:
    assert verdict(gate.not_worse_than_live(), facts()).reason == "nothing is live yet"
    assert verdict(gate.not_worse_than_live(), facts(GOOD, live=WEAK)).passed
    assert verdict(gate.not_worse_than_live(), facts(GOOD, live=GOOD)).passed, "the same model is not worse"
    worse = verdict(gate.not_worse_than_live(), facts(WEAK, live=GOOD))
    assert worse.reason.startswith("worse")
    noisy = np.clip(GOOD + RNG.normal(0, 0.02, N), 0, 1)
    unsure = verdict(gate.not_worse_than_live(margin=0.0), facts(noisy, live=GOOD))
    assert not unsure.passed
    assert verdict(gate.not_worse_than_live(margin=0.01), facts(noisy, live=GOOD)).passed
    assert verdict(gate.not_worse_than_live(), facts(noisy, live=GOOD)).passed, "one percent worse is as good"
    assert not verdict(gate.not_worse_than_live(), facts(GOOD[::-1].copy(), live=GOOD)).passed


def test_a_bound_is_met_by_the_value_or_by_the_end_of_its_interval() -> None:
    value = facts().metrics["roc_auc"].value
    assert verdict(gate.at_least("roc_auc", value), facts()).passed
    assert not verdict(gate.at_least("roc_auc", value, confidence=0.95), facts()).passed
    assert not verdict(gate.at_least("roc_auc", value + 1e-6), facts()).passed
    assert verdict(gate.at_most("brier", 0.9), facts()).passed
    assert "not measured" in verdict(gate.at_least("rmse", 1), facts()).reason


def test_parity_and_latency_need_to_be_measured() -> None:
    assert not verdict(gate.parity(), facts()).passed
    assert verdict(gate.parity(), facts(parity=ParityFacts("onnx", True, 900, 1e-7, 0))).passed
    flipped = verdict(gate.parity(), facts(parity=ParityFacts("onnx", True, 900, 0.4, 3, "float32 thresholds")))
    assert "3 decisions flipped; float32 thresholds" in flipped.reason
    times = np.linspace(1, 40, 500)
    assert verdict(gate.latency(p50="25ms", p99="50ms"), facts(latency_ms=times)).passed
    assert not verdict(gate.latency(p99="30ms"), facts(latency_ms=times)).passed
    assert "not enough evidence" in verdict(gate.latency(p99="1s"), facts(latency_ms=times[:50])).reason


def test_every_slice_has_to_be_good() -> None:
    country = np.array(["de"] * 1_500 + ["fr"] * 1_460 + ["lu"] * 40, dtype=object)
    mixed = np.where(country == "fr", CHANCE, GOOD)
    for candidate, passed in ((GOOD, True), (mixed, False)):
        parts = slice_metrics("roc_auc", "binary", Y, candidate, (0, 1), {"country": country})
        found = verdict(gate.slices("country", at_least=0.75), facts(candidate, slices={"roc_auc": parts}))
        assert found.passed is passed
        assert ("too small to judge: lu" if passed else "'fr' 0.5 on 1460 rows") in found.reason
    assert "not measured" in verdict(gate.slices("city", at_least=0.5), facts(slices={"roc_auc": parts})).reason


def test_slices_too_small_to_judge_may_not_hide_many_rows() -> None:
    group = np.array(["a"] * 2_500 + [f"g{i % 15}" for i in range(500)], dtype=object)
    parts = slice_metrics("roc_auc", "binary", Y, GOOD, (0, 1), {"g": group})
    found = verdict(gate.slices("g", at_least=0.5), facts(slices={"roc_auc": parts}))
    assert not found.passed
    assert "not enough evidence" in found.reason


def test_a_leak_fails_and_a_warning_does_not() -> None:
    warning = Finding("too-good", "tenure", "tenure alone predicts well", "warning")
    leak = Finding("copy", "registered", "casual + registered is the target", "error")
    assert not verdict(gate.no_leakage(), facts()).passed
    assert verdict(gate.no_leakage(), facts(findings=(warning,))).passed
    assert "casual + registered" in verdict(gate.no_leakage(), facts(findings=(warning, leak))).reason


BOUND: dict[str, Any] = {"bundle_digest": "b", "report_digest": "r", "policy_digest": "p"}


@pytest.mark.parametrize(
    ("approval", "says"),
    [
        (None, "waits for an approval"),
        ({"actor": "ann"}, "ann trained it and cannot approve it too"),
        ({"role": "operator"}, "bob approved it as operator"),
        ({"bundle_digest": "other"}, "other bytes, another proof or another policy"),
        ({"policy_digest": "other"}, "other bytes, another proof or another policy"),
        ({}, "approved by bob (approver)"),
    ],
)
def test_an_approval_is_by_someone_else_and_for_exactly_this(approval: dict[str, str] | None, says: str) -> None:
    given = () if approval is None else (ApprovalFacts(**{"actor": "bob", "role": "approver", **BOUND, **approval}),)
    found = verdict(gate.approved(), facts(author="ann", approvals=given, **BOUND))
    assert found.passed is (approval == {})
    assert says in found.reason


def test_an_approval_of_nothing_is_no_approval() -> None:
    blank = ApprovalFacts("bob", "approver", "", "", "")
    assert not verdict(gate.approved(), facts(author="ann", approvals=(blank,))).passed


def test_a_gate_knows_its_line_and_its_policy_does_not_depend_on_it() -> None:
    one = gate.at_least("roc_auc", 0.8)
    two = gate.at_least("roc_auc", 0.8)
    assert one.where is not None
    assert two.where is not None
    assert (one.where.file, two.where.line - one.where.line) == (__file__, 1)
    assert policy_digest((one,)) == policy_digest((two,)) != policy_digest((gate.at_least("roc_auc", 0.7),))


def test_gates_that_are_not_built_say_so() -> None:
    for one in (gate.fair("gender", gap=0.1), gate.replay("7d")):
        assert not one.built
        with pytest.raises(Invalid, match="is not built yet"):
            check_gates((one,), facts())


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: gate.at_least("roc_acu", 0.8), 'nearest name is "roc_auc"'),
        (lambda: gate.at_least("roc_auc", "80%"), "is not a number"),
        (lambda: gate.at_least("roc_auc", math.nan), "is not a number"),
        (lambda: gate.latency(), "needs a limit"),
        (lambda: gate.latency(p99="50"), "no unit"),
        (lambda: gate.slices("country"), "either at_least or at_most"),
        (lambda: gate.not_worse_than_live(95), "between 0.5 and 1"),
    ],
)
def test_a_gate_that_makes_no_sense_is_refused_where_it_is_written(make: Any, says: str) -> None:
    with pytest.raises(Invalid, match=says):
        make()
