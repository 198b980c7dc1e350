"""Logical windows of time."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring.core.errors import Invalid
from mainspring.core.windows import KINDS, Day, Month, Window, windows_between

INSTANTS = st.datetimes(datetime(1970, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))
SOME_KIND = st.sampled_from(sorted(KINDS))


@given(SOME_KIND, INSTANTS)
def test_a_window_survives_being_written_and_read(kind: str, instant: datetime) -> None:
    window = KINDS[kind].of(instant)
    assert KINDS[kind].parse(str(window)) == window


@given(SOME_KIND, INSTANTS)
def test_a_window_holds_its_instant_and_touches_the_next(kind: str, instant: datetime) -> None:
    window = KINDS[kind].of(instant)
    assert window.start <= instant < window.end
    assert window.next().start == window.end


@given(SOME_KIND, INSTANTS, st.integers(0, 40))
def test_the_windows_between_two_instants_are_whole_and_follow_each_other(
    kind: str, start: datetime, days: int
) -> None:
    end = start + timedelta(days=days)
    found: list[Window] = list(windows_between(KINDS[kind], start, end))
    assert all(start <= window.start and window.end <= end for window in found)
    assert all(a.end == b.start for a, b in itertools.pairwise(found))


def test_a_window_is_formatted_as_its_text_or_by_a_time_pattern() -> None:
    day = Day.parse("2026-11-20")
    assert f"raw/{day}.parquet" == "raw/2026-11-20.parquet"
    assert f"{day:%Y/%m/%d}" == "2026/11/20"


def test_a_month_ends_where_the_next_begins() -> None:
    assert Month.parse("2028-02").end == datetime(2028, 3, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("kind", "text"), [("day", "2026-13-01"), ("day", "yesterday"), ("week", "2026-11"), ("month", "2026-11-02")]
)
def test_a_text_that_names_no_window_is_refused_with_the_form_that_works(kind: str, text: str) -> None:
    with pytest.raises(Invalid) as caught:
        KINDS[kind].parse(text)
    assert KINDS[kind].example in caught.value.hint
