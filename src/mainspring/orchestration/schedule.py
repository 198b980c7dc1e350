"""Cron in a named zone, read so that daylight saving neither loses a slot nor fires one twice."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import islice, takewhile
from typing import Any
from zoneinfo import ZoneInfo

from mainspring.core.errors import Invalid

GRACE = timedelta(minutes=1)
MAX_CATCH_UP = 10_000
_ALIASES = {"@hourly": "0 * * * *", "@daily": "0 0 * * *", "@midnight": "0 0 * * *", "@weekly": "0 0 * * 0",
            "@monthly": "0 0 1 * *", "@yearly": "0 0 1 1 *", "@annually": "0 0 1 1 *"}  # fmt: skip
_DAYS = ("Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")
_TICK = timedelta(seconds=1)
_FAR = timedelta(days=2)


@dataclass(frozen=True, slots=True)
class Firing:
    """One slot that is due.

    Args:
        slot_local: The slot's name in local time, unique within its schedule: `2026-10-25T02:30`, with the UTC offset
            when the schedule follows real time and an hour may come twice.
        instant: When it was to run, UTC.
        catch_up: Whether it runs late because nobody was there in time.
    """

    slot_local: str
    instant: datetime
    catch_up: bool = False


@dataclass(frozen=True, slots=True)
class Cron:
    """A five-field cron expression in an IANA zone; day of month and day of week are alternatives, as in cron.

    A schedule of fixed hours fires once per nominal local slot: one that the clock skips fires at the first valid
    instant after the gap, one that comes twice fires the first time. A schedule of every hour or oftener (its hour
    field is `*`) follows real time: it neither bunches up after a gap nor pauses in a repeated hour.

    Raises:
        Invalid: the expression or the zone cannot be read, or no date ever matches.

    >>> Cron("30 2 * * *", "Europe/Berlin").next(datetime(2026, 3, 28, 12, tzinfo=UTC)).instant.isoformat()
    '2026-03-29T01:00:00+00:00'
    """

    text: str
    zone: str = "UTC"

    def __post_init__(self) -> None:
        _zone(self.zone)
        _fields(self.text)

    @property
    def follows_real_time(self) -> bool:
        """Whether every hour of a day has a slot."""
        return _fields(self.text)[1] in (["*"], list(range(24)))

    def next(self, after: datetime) -> Firing:
        """Return the first slot whose instant is later than `after`."""
        return self._real_time_after(after) if self.follows_real_time else self._nominal_after(after)

    def backwards(self, until: datetime) -> Iterator[Firing]:
        """Yield the slots whose instant is not later than `until`, newest first, without end."""
        return self._real_time_before(until) if self.follows_real_time else self._nominal_before(until)

    def describe(self) -> str:
        """Return the schedule in words, or the expression where words would be longer.

        >>> Cron("0 2 * * MON-FRI", "Europe/Berlin").describe()
        'every weekday at 02:00 Europe/Berlin'
        """
        minute, hour, day, month, weekday = _fields(self.text)
        every_day = day == ["*"] and month == ["*"]
        if every_day and weekday == ["*"] and hour == ["*"]:
            if minute == ["*"]:
                return "every minute"
            if len(minute) == 1:
                return "every hour" if minute == [0] else f"every hour at :{minute[0]:02d}"
            step = minute[1] - minute[0]
            if minute == list(range(0, 60, step)) and 60 % step == 0:
                return f"every {step} minutes"
        if len(minute) == len(hour) == 1 and "*" not in (minute[0], hour[0]) and month == ["*"]:
            at = f"at {hour[0]:02d}:{minute[0]:02d} {self.zone}"
            if every_day and weekday == ["*"]:
                return f"every day {at}"
            if every_day and sorted(weekday) == [1, 2, 3, 4, 5]:
                return f"every weekday {at}"
            if every_day and len(weekday) == 1:
                return f"every {_DAYS[weekday[0]]} {at}"
            if weekday == ["*"] and len(day) == 1 and isinstance(day[0], int):
                return f"on day {day[0]} of every month {at}"
        return f"{self.text} {self.zone}"

    def _nominal_after(self, after: datetime) -> Firing:
        zone = _zone(self.zone)
        step = _steps(self.text, _wall(after, zone))
        while True:
            nominal = step.get_next(datetime)
            instant = _first_instant(nominal, zone)
            if instant > after:
                return Firing(_name(nominal), instant)

    def _nominal_before(self, until: datetime) -> Iterator[Firing]:
        zone = _zone(self.zone)
        # Inside a repeated hour, slots later on the wall clock have already had their first occurrence.
        repeated = max(_offset(until - timedelta(days=1), zone) - _offset(until, zone), timedelta(0))
        step = _steps(self.text, _wall(until, zone) + repeated + _TICK)
        while True:
            nominal = step.get_prev(datetime)
            instant = _first_instant(nominal, zone)
            if instant <= until:
                yield Firing(_name(nominal), instant)

    def _real_time_after(self, after: datetime) -> Firing:
        zone = _zone(self.zone)
        offset = _offset(after, zone)
        while True:
            nominal = _steps(self.text, (after + offset).replace(tzinfo=None)).get_next(datetime)
            instant = nominal.replace(tzinfo=UTC) - offset
            if instant - after > _FAR:  # nothing matches in between; come near, so that at most one change lies ahead
                after = instant - _FAR
                offset = _offset(after, zone)
            elif _offset(instant, zone) == offset:
                return Firing(_name(nominal, offset), instant)
            else:
                after = _change(after, instant, zone)
                offset = _offset(after, zone)
                after -= _TICK

    def _real_time_before(self, until: datetime) -> Iterator[Firing]:
        zone = _zone(self.zone)
        offset = _offset(until, zone)
        while True:
            nominal = _steps(self.text, (until + offset).replace(tzinfo=None) + _TICK).get_prev(datetime)
            instant = nominal.replace(tzinfo=UTC) - offset
            if until - instant > _FAR:
                until = instant + _FAR
                offset = _offset(until, zone)
            elif _offset(instant, zone) == offset:
                yield Firing(_name(nominal, offset), instant)
                until = instant - _TICK
                offset = _offset(until, zone)
            else:
                until = _change(instant, until, zone) - _TICK
                offset = _offset(until, zone)


def due_firings(
    cron: Cron, last: datetime, now: datetime, *, misfire: str = "latest", grace: timedelta = GRACE
) -> list[Firing]:
    """Return the slots to run now, oldest first: those after `last` and not after `now`, as the misfire policy has it.

    Args:
        cron: The schedule.
        last: The instant of the last slot that was run, or when the schedule was made.
        now: The present.
        misfire: What to do with slots nobody was there for: `skip` them, run the `latest`, or `all(n)`, at most n.
        grace: How late a slot may start and still be on time.

    Raises:
        Invalid: no such policy.

    >>> night = datetime(2026, 1, 3, 4, tzinfo=UTC)
    >>> [f.slot_local for f in due_firings(Cron("0 2 * * *"), night - timedelta(days=3), night, misfire="all(2)")]
    ['2026-01-02T02:00', '2026-01-03T02:00']
    """
    policy, most = parse_misfire(misfire)
    oldest = max(last, now - grace - timedelta(microseconds=1)) if policy == "skip" else last
    found = list(islice(takewhile(lambda firing: firing.instant > oldest, cron.backwards(now)), most))
    return [Firing(f.slot_local, f.instant, catch_up=f.instant < now - grace) for f in reversed(found)]


def parse_misfire(text: str) -> tuple[str, int]:
    """Return the policy's name and the most slots it runs at once.

    >>> parse_misfire("all(24)")
    ('all', 24)
    """
    match = re.fullmatch(r"(skip|latest)|all\((\d{1,5})\)", text)
    if not match or (match.group(2) and not 1 <= int(match.group(2)) <= MAX_CATCH_UP):
        raise Invalid(f"{text!r} is not a misfire policy", hint=f"use skip, latest or all(N), N at most {MAX_CATCH_UP}")
    return (match.group(1), 1) if match.group(1) else ("all", int(match.group(2)))


@lru_cache(maxsize=64)
def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise Invalid(f"{name!r} is not a time zone", hint="use an IANA name such as Europe/Berlin or UTC") from error


@lru_cache(maxsize=256)
def _fields(text: str) -> list[list[Any]]:
    """Return what each of the five fields allows, `["*"]` for anything."""
    from croniter import croniter

    hint = 'write minute, hour, day, month and weekday, as in "0 2 * * *"'
    plain = _ALIASES.get(text, text) if isinstance(text, str) else ""
    # croniter also takes seconds, years and random fields; a schedule that drifts or hides is worth refusing.
    if len(plain.split()) != 5 or re.search(r"(?<![A-Za-z])[HhRr](?![A-Za-z])", plain):
        raise Invalid(f"{text!r} is not a cron expression of five fields", hint=hint)
    try:
        step = croniter(plain, datetime(2024, 1, 1))
        step.get_next(datetime)
    except ValueError as error:
        raise Invalid(f"{text!r} is not a cron expression: {error}", hint=hint) from error
    fields: list[list[Any]] = step.expanded
    return fields


def _steps(text: str, start: datetime) -> Any:
    from croniter import croniter

    return croniter(_ALIASES.get(text, text), start.replace(microsecond=0))


def _name(nominal: datetime, offset: timedelta | None = None) -> str:
    if offset is None:
        return nominal.strftime("%Y-%m-%dT%H:%M")
    sign, minutes = ("-" if offset < timedelta(0) else "+"), abs(offset) // timedelta(minutes=1)
    return f"{nominal:%Y-%m-%dT%H:%M}{sign}{minutes // 60:02d}:{minutes % 60:02d}"


def _offset(instant: datetime, zone: ZoneInfo) -> timedelta:
    return instant.astimezone(zone).utcoffset() or timedelta(0)


def _wall(instant: datetime, zone: ZoneInfo) -> datetime:
    return instant.astimezone(zone).replace(tzinfo=None, fold=0)


def _first_instant(nominal: datetime, zone: ZoneInfo) -> datetime:
    """Return when a local time first comes; for one that never does, the first instant after the gap."""
    instant = nominal.replace(tzinfo=zone, fold=0).astimezone(UTC)
    if _wall(instant, zone) == nominal:
        return instant
    return _change(nominal.replace(tzinfo=zone, fold=1).astimezone(UTC), instant, zone)


def _change(before: datetime, after: datetime, zone: ZoneInfo) -> datetime:
    """Return the first instant in `(before, after]` that has another offset than `before`, to the second."""
    offset, low, high = _offset(before, zone), before.replace(microsecond=0), after
    while high - low > _TICK:
        middle = (low + (high - low) / 2).replace(microsecond=0)
        low, high = (middle, high) if _offset(middle, zone) == offset else (low, middle)
    return high
