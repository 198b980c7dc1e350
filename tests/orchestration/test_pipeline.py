"""A pipeline's graph is checked when it is written down."""

from __future__ import annotations

import pytest

from mainspring.core.errors import Invalid
from mainspring.orchestration.pipeline import Pipeline, Step


def step(name: str, *after: str) -> Step:
    return Step(name, lambda context: {}, after=after)


def test_steps_are_put_in_an_order_that_honours_what_they_come_after() -> None:
    pipeline = Pipeline("p", (step("c", "a", "b"), step("b", "a"), step("a"), step("d")))
    assert [s.name for s in pipeline.steps] == ["a", "b", "c", "d"]


def test_a_step_sees_everything_it_comes_after_directly_or_not() -> None:
    pipeline = Pipeline("p", (step("a"), step("b", "a"), step("c", "b"), step("x")))
    assert pipeline.ancestors["c"] == {"a", "b"}


def test_steps_without_a_common_past_are_ready_together() -> None:
    pipeline = Pipeline("p", (step("a"), step("b", "a"), step("c", "a"), step("d", "b", "c")))
    assert [s.name for s in pipeline.ready(done={"a"}, started={"a"})] == ["b", "c"]
    assert pipeline.ready(done={"a", "b"}, started={"a", "b", "c"}) == []


def test_a_cycle_is_refused_and_named() -> None:
    with pytest.raises(Invalid, match="cycle among 'a', 'b'"):
        Pipeline("p", (step("a", "b"), step("b", "a"), step("c")))


def test_an_unknown_step_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(Invalid, match="no step of 'p'; the nearest name is \"ingest\""):
        Pipeline("p", (step("ingest"), step("train", "ingst")))


def test_two_steps_of_one_name_are_refused() -> None:
    with pytest.raises(Invalid, match="two steps called 'a'"):
        Pipeline("p", (step("a"), step("a")))


def test_a_pipeline_without_steps_is_refused() -> None:
    with pytest.raises(Invalid, match="no steps"):
        Pipeline("p", ())


@pytest.mark.parametrize("options", [{"retries": -1}, {"backoff_s": -1.0}, {"timeout_s": 0.0}])
def test_impossible_step_options_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(Invalid, match="at least 0"):
        Step("a", lambda context: {}, **options)  # type: ignore[arg-type]
