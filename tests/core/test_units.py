"""One grammar for durations, sizes, rates and conditions."""

from __future__ import annotations

import math
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring.core.errors import Invalid
from mainspring.core.units import duration, frequency, human_duration, parse_condition, rate, size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("1h30m", 5400), ("7d", 604800), ("1w", 604800), ("50ms", 0.05), ("1 h", 3600), ("2min", 120)],
)
def test_a_duration_is_the_sum_of_its_parts(text: str, seconds: float) -> None:
    assert duration(text).total_seconds() == pytest.approx(seconds)


@pytest.mark.parametrize(("text", "column"), [("7x", 1), ("h", 0), ("1h 30", 5), ("--", 0), ("1hh", 1), ("5", 1)])
def test_a_wrong_duration_is_pointed_at_by_its_character(text: str, column: int) -> None:
    with pytest.raises(Invalid) as caught:
        duration(text)
    lines = caught.value.message.splitlines()
    assert lines[1] == f"  {text}"
    assert lines[2] == f"  {' ' * column}^"
    assert "7d" in caught.value.hint


@given(st.integers(1, 10**8))
def test_a_duration_in_whole_seconds_survives_being_written_and_read(seconds: int) -> None:
    length = timedelta(seconds=seconds)
    assert duration(human_duration(length)) == length


@given(st.text(max_size=20))
def test_any_text_is_a_duration_or_a_clear_error(text: str) -> None:
    try:
        length = duration(text)
    except Invalid as error:
        length = timedelta(0) if error.hint else None
    assert length is not None


def test_sizes_count_in_thousands_and_in_1024s_by_their_unit() -> None:
    assert (size("64MB"), size("1.5GiB"), size(7)) == (64_000_000, 1_610_612_736, 7)


@pytest.mark.parametrize(("text", "value"), [("0.5%", 0.005), ("100%", 1.0), (0.2, 0.2), ("0.2", 0.2)])
def test_a_rate_is_a_share(text: str | float, value: float) -> None:
    assert rate(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["120%", -0.1, "abc", "5 %%", 1.01])
def test_a_rate_outside_0_to_1_is_refused(text: str | float) -> None:
    with pytest.raises(Invalid):
        rate(text)


@pytest.mark.parametrize(("text", "per_day"), [("1/week", 1 / 7), ("3/day", 3), ("1/12h", 2), ("2/weeks", 2 / 7)])
def test_a_frequency_is_counted_per_day(text: str, per_day: float) -> None:
    assert frequency(text) == pytest.approx(per_day)


@pytest.mark.parametrize(
    ("text", "metric", "op", "value"),
    [
        ("roc_auc >= 0.80", "roc_auc", ">=", 0.8),
        ("error_rate > 0.5%", "error_rate", ">", 0.005),
        ("p99>150ms", "p99", ">", 0.15),
        ("bias < -3", "bias", "<", -3.0),
    ],
)
def test_a_condition_has_a_figure_an_operator_and_a_value(text: str, metric: str, op: str, value: float) -> None:
    rule = parse_condition(text)
    assert (rule.metric, rule.op, rule.value) == (metric, op, pytest.approx(value))


@pytest.mark.parametrize("text", ["", "psi", "psi >", "psi ~ 1", "psi > big", "> 1", "p99 > 1 parsec"])
def test_a_wrong_condition_is_an_error_with_an_example(text: str) -> None:
    with pytest.raises(Invalid) as caught:
        parse_condition(text)
    assert "^" in caught.value.message
    assert "roc_auc >= 0.80" in caught.value.hint


def test_nothing_and_nan_never_hold() -> None:
    rule = parse_condition("psi < 1")
    assert not rule.holds(None)
    assert not rule.holds(math.nan)
    assert rule.holds(0.5)
