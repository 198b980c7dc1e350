"""Logical windows of time: the hour, day, week or month that a piece of data belongs to."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import ClassVar, Self

from mainspring.core.errors import Invalid


@dataclass(frozen=True, order=True, slots=True)
class Window:
    """A half-open stretch of UTC time, `[start, end)`, named by its text; law: `parse(str(w)) == w`."""

    start: datetime
    kind: ClassVar[str] = "window"
    example: ClassVar[str] = ""

    def __str__(self) -> str:
        raise TypeError("a Window is one of Hour, Day, Week, Month")

    def __format__(self, spec: str) -> str:
        return self.start.strftime(spec) if spec else str(self)

    @classmethod
    def floor(cls, instant: datetime) -> datetime:
        """Return the start of the window that holds `instant`."""
        raise TypeError("a Window is one of Hour, Day, Week, Month")

    @classmethod
    def of(cls, instant: datetime | date) -> Self:
        """Return the window that holds an instant."""
        if not isinstance(instant, datetime):
            instant = datetime(instant.year, instant.month, instant.day, tzinfo=UTC)
        return cls(cls.floor(instant.astimezone(UTC) if instant.tzinfo else instant.replace(tzinfo=UTC)))

    @property
    def end(self) -> datetime:
        """The first instant after the window."""
        return self.floor(self.start + timedelta(days=32)) if self.kind == "month" else self.start + _LENGTH[self.kind]

    def next(self) -> Self:
        """Return the window that follows."""
        return type(self)(self.end)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the window that `text` names.

        Raises:
            Invalid: the text does not name a window of this kind.
        """
        try:
            window = cls.of(cls._read(text))
            if str(window) == text:
                return window
        except ValueError:
            pass
        raise Invalid(f"{text!r} does not name a {cls.kind}", hint=f"write it as {cls.example}")

    @classmethod
    def _read(cls, text: str) -> datetime:
        return datetime.fromisoformat(text)


class Hour(Window):
    """An hour, written `2026-11-20T05`."""

    __slots__ = ()
    kind = "hour"
    example = "2026-11-20T05"

    def __str__(self) -> str:
        return self.start.strftime("%Y-%m-%dT%H")

    @classmethod
    def floor(cls, instant: datetime) -> datetime:
        return instant.replace(minute=0, second=0, microsecond=0)


class Day(Window):
    """A day, written `2026-11-20`."""

    __slots__ = ()
    kind = "day"
    example = "2026-11-20"

    def __str__(self) -> str:
        return self.start.strftime("%Y-%m-%d")

    @classmethod
    def floor(cls, instant: datetime) -> datetime:
        return instant.replace(hour=0, minute=0, second=0, microsecond=0)


class Week(Window):
    """An ISO week, written `2026-W47`."""

    __slots__ = ()
    kind = "week"
    example = "2026-W47"

    def __str__(self) -> str:
        year, week, _ = self.start.isocalendar()
        return f"{year}-W{week:02d}"

    @classmethod
    def floor(cls, instant: datetime) -> datetime:
        return Day.floor(instant) - timedelta(days=instant.weekday())


class Month(Window):
    """A calendar month, written `2026-11`."""

    __slots__ = ()
    kind = "month"
    example = "2026-11"

    def __str__(self) -> str:
        return self.start.strftime("%Y-%m")

    @classmethod
    def floor(cls, instant: datetime) -> datetime:
        return Day.floor(instant).replace(day=1)

    @classmethod
    def _read(cls, text: str) -> datetime:
        if not re.fullmatch(r"\d{4}-\d{2}", text):
            raise ValueError(text)
        return datetime.fromisoformat(f"{text}-01")


_LENGTH = {"hour": timedelta(hours=1), "day": timedelta(days=1), "week": timedelta(days=7)}
KINDS: dict[str, type[Window]] = {kind.kind: kind for kind in (Hour, Day, Week, Month)}


def windows_between(kind: type[Window], start: datetime, end: datetime) -> Iterator[Window]:
    """Yield the windows that lie wholly in `[start, end)`, oldest first.

    >>> [str(w) for w in windows_between(Day, datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 3, 12, tzinfo=UTC))]
    ['2026-01-01', '2026-01-02']
    """
    window: Window = kind.of(start)
    if window.start < start:
        window = window.next()
    while window.end <= end:
        yield window
        window = window.next()
