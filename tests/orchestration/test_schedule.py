"""Schedules against golden lists of three zones' clock changes, and against laws that hold for any cron."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mainspring.core.errors import Invalid
from mainspring.orchestration.schedule import Cron, due_firings


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def fired(cron: Cron, start: str, end: str) -> list[tuple[str, str]]:
    firings, at = [], utc(start)
    while (firing := cron.next(at)).instant <= utc(end):
        firings.append((firing.slot_local, firing.instant.strftime("%d %H:%M")))
        at = firing.instant
    return firings


# Each list was worked out by hand from the zone's published change: what the wall clock shows, and the instant in UTC.
GOLDEN = {
    "Berlin springs forward, 02:00 becomes 03:00": (
        Cron("30 2 * * *", "Europe/Berlin"), "2026-03-27T12:00", "2026-03-31T12:00",
        [("2026-03-28T02:30", "28 01:30"), ("2026-03-29T02:30", "29 01:00"), ("2026-03-30T02:30", "30 00:30"),
         ("2026-03-31T02:30", "31 00:30")],
    ),
    "Berlin falls back, 03:00 becomes 02:00": (
        Cron("30 2 * * *", "Europe/Berlin"), "2026-10-23T12:00", "2026-10-26T12:00",
        [("2026-10-24T02:30", "24 00:30"), ("2026-10-25T02:30", "25 00:30"), ("2026-10-26T02:30", "26 01:30")],
    ),
    "a quarter-hourly job in Berlin's gap keeps its pace": (
        Cron("*/15 * * * *", "Europe/Berlin"), "2026-03-29T00:25", "2026-03-29T01:20",
        [("2026-03-29T01:30+01:00", "29 00:30"), ("2026-03-29T01:45+01:00", "29 00:45"),
         ("2026-03-29T03:00+02:00", "29 01:00"), ("2026-03-29T03:15+02:00", "29 01:15")],
    ),
    "a half-hourly job in Berlin's repeated hour keeps its pace": (
        Cron("*/30 * * * *", "Europe/Berlin"), "2026-10-24T23:45", "2026-10-25T02:00",
        [("2026-10-25T02:00+02:00", "25 00:00"), ("2026-10-25T02:30+02:00", "25 00:30"),
         ("2026-10-25T02:00+01:00", "25 01:00"), ("2026-10-25T02:30+01:00", "25 01:30"),
         ("2026-10-25T03:00+01:00", "25 02:00")],
    ),
    "New York springs forward": (
        Cron("15 2 * * *", "America/New_York"), "2026-03-07T00:00", "2026-03-09T12:00",
        [("2026-03-07T02:15", "07 07:15"), ("2026-03-08T02:15", "08 07:00"), ("2026-03-09T02:15", "09 06:15")],
    ),
    "New York falls back": (
        Cron("30 1 * * *", "America/New_York"), "2026-10-31T00:00", "2026-11-02T12:00",
        [("2026-10-31T01:30", "31 05:30"), ("2026-11-01T01:30", "01 05:30"), ("2026-11-02T01:30", "02 06:30")],
    ),
    "Lord Howe springs forward by half an hour, 02:00 becomes 02:30": (
        Cron("15 2 * * *", "Australia/Lord_Howe"), "2026-10-02T16:00", "2026-10-05T00:00",
        [("2026-10-04T02:15", "03 15:30"), ("2026-10-05T02:15", "04 15:15")],
    ),
    "Lord Howe falls back by half an hour, 02:00 becomes 01:30": (
        Cron("45 1 * * *", "Australia/Lord_Howe"), "2026-04-04T00:00", "2026-04-06T00:00",
        [("2026-04-05T01:45", "04 14:45"), ("2026-04-06T01:45", "05 15:15")],
    ),
    "a quarter-hourly job in Lord Howe's repeated half hour": (
        Cron("*/15 * * * *", "Australia/Lord_Howe"), "2026-04-04T14:20", "2026-04-04T15:35",
        [("2026-04-05T01:30+11:00", "04 14:30"), ("2026-04-05T01:45+11:00", "04 14:45"),
         ("2026-04-05T01:30+10:30", "04 15:00"), ("2026-04-05T01:45+10:30", "04 15:15"),
         ("2026-04-05T02:00+10:30", "04 15:30")],
    ),
    "29 February comes every fourth year": (
        Cron("0 0 29 2 *", "UTC"), "2024-01-01T00:00", "2036-12-31T00:00",
        [("2024-02-29T00:00", "29 00:00"), ("2028-02-29T00:00", "29 00:00"), ("2032-02-29T00:00", "29 00:00"),
         ("2036-02-29T00:00", "29 00:00")],
    ),
    "the last day of February moves": (
        Cron("0 6 L 2 *", "Europe/Berlin"), "2027-01-01T00:00", "2028-12-31T00:00",
        [("2027-02-28T06:00", "28 05:00"), ("2028-02-29T06:00", "29 05:00")],
    ),
    "Samoa skipped a whole day": (
        Cron("0 9 * * *", "Pacific/Apia"), "2011-12-29T00:00", "2011-12-31T10:00",
        [("2011-12-29T09:00", "29 19:00"), ("2011-12-30T09:00", "30 10:00"), ("2011-12-31T09:00", "30 19:00")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", GOLDEN)
def test_a_schedule_fires_as_its_golden_list_says(name: str) -> None:
    cron, start, end, expected = GOLDEN[name]
    assert fired(cron, start, end) == expected


@pytest.mark.parametrize("name", GOLDEN)
def test_walking_backwards_meets_the_same_slots(name: str) -> None:
    cron, _start, end, expected = GOLDEN[name]
    back = list(islice(cron.backwards(utc(end)), len(expected)))
    assert [firing.slot_local for firing in reversed(back)] == [slot for slot, _ in expected]


@settings(max_examples=60, deadline=None)
@given(
    zone=st.sampled_from(["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "UTC"]),
    minute=st.sampled_from(["0", "30", "*/7", "59"]),
    hour=st.sampled_from(["*", "0", "1", "2", "*/3", "1-3"]),
    start=st.datetimes(datetime(2025, 1, 1), datetime(2027, 12, 1)),
)
def test_no_slot_is_named_twice_and_both_directions_agree(zone: str, minute: str, hour: str, start: datetime) -> None:
    cron = Cron(f"{minute} {hour} * * *", zone)
    at, forward = start.replace(tzinfo=UTC), []
    for _ in range(60):
        forward.append(firing := cron.next(at))
        at = firing.instant
    assert len({firing.slot_local for firing in forward}) == 60
    assert all(a.instant < b.instant for a, b in pairwise(forward))
    back = [f for f in islice(cron.backwards(at), 400) if f.instant > start.replace(tzinfo=UTC)]
    # Two slots of one gap share their instant: going forward by instants passes them as one.
    assert {f.instant for f in forward} == {f.instant for f in back}


@settings(max_examples=20, deadline=None)
@given(st.datetimes(datetime(2025, 1, 1), datetime(2027, 12, 1)))
def test_a_job_every_ten_minutes_never_pauses_nor_bunches_up(start: datetime) -> None:
    firings = islice(Cron("*/10 * * * *", "Europe/Berlin").backwards(start.replace(tzinfo=UTC)), 300)
    assert {a.instant - b.instant for a, b in pairwise(firings)} == {timedelta(minutes=10)}


DAILY = Cron("0 2 * * *", "Europe/Berlin")


def slots(policy: str, now: str, last: str = "2026-01-01T01:00") -> list[tuple[str, bool]]:
    return [(f.slot_local, f.catch_up) for f in due_firings(DAILY, utc(last), utc(now), misfire=policy)]


def test_a_slot_met_in_time_is_not_a_catch_up() -> None:
    assert slots("latest", "2026-01-02T01:00:30") == [("2026-01-02T02:00", False)]


def test_skip_passes_over_what_was_missed() -> None:
    assert slots("skip", "2026-01-04T05:00") == []
    assert slots("skip", "2026-01-04T01:00:10") == [("2026-01-04T02:00", False)]


def test_latest_runs_one_of_many_missed_slots() -> None:
    assert slots("latest", "2026-01-04T05:00") == [("2026-01-04T02:00", True)]


def test_all_runs_the_newest_n_oldest_first() -> None:
    assert slots("all(2)", "2026-01-04T05:00") == [("2026-01-03T02:00", True), ("2026-01-04T02:00", True)]
    assert len(slots("all(100)", "2026-01-04T05:00")) == 3


def test_nothing_is_due_twice() -> None:
    assert slots("all(9)", "2026-01-04T05:00", last="2026-01-04T01:00") == []


def test_a_clock_set_back_fires_nothing_again() -> None:
    assert slots("all(9)", "2026-01-01T00:00", last="2026-01-04T01:00") == []


def test_years_of_absence_cost_no_more_than_what_runs() -> None:
    every_minute = Cron("* * * * *", "Europe/Berlin")
    due = due_firings(every_minute, utc("2006-01-01T00:00"), utc("2026-01-01T00:00"), misfire="all(3)")
    assert [f.slot_local[11:16] for f in due] == ["00:58", "00:59", "01:00"]


@pytest.mark.parametrize(
    "text", ["", "x", "61 * * * *", "* * * * * *", "H * * * *", "R * * * *", "0 0 30 2 *", "@reboot", "0 0 * *", None]
)
def test_what_is_not_a_cron_expression_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(Invalid, match="cron expression") as caught:
        Cron(text)
    assert "0 2 * * *" in caught.value.hint


def test_an_unknown_zone_is_refused() -> None:
    with pytest.raises(Invalid, match="'Mars/Base' is not a time zone"):
        Cron("0 2 * * *", "Mars/Base")


@pytest.mark.parametrize("text", ["all", "all(0)", "all(99999)", "first", "all(-1)"])
def test_an_unknown_misfire_policy_is_refused(text: str) -> None:
    with pytest.raises(Invalid, match="misfire policy"):
        due_firings(DAILY, utc("2026-01-01"), utc("2026-01-02"), misfire=text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("* * * * *", "every minute"),
        ("*/15 * * * *", "every 15 minutes"),
        ("@hourly", "every hour"),
        ("5 * * * *", "every hour at :05"),
        ("0 2 * * *", "every day at 02:00 Europe/Berlin"),
        ("30 6 * * 1", "every Monday at 06:30 Europe/Berlin"),
        ("0 0 1 * *", "on day 1 of every month at 00:00 Europe/Berlin"),
        ("0 8,17 * * *", "0 8,17 * * * Europe/Berlin"),
        ("*/7 * * * *", "*/7 * * * * Europe/Berlin"),
    ],
)
def test_a_schedule_says_itself_in_words(text: str, words: str) -> None:
    assert Cron(text, "Europe/Berlin").describe() == words
