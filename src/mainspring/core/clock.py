"""Time and ids as arguments: a clock to pass around, and ids that sort by time."""

from __future__ import annotations

import os
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

from mainspring.core.errors import Invalid


class Clock(Protocol):
    """Tells the time. `now` is UTC and may jump; `monotonic` (seconds) never goes back and is for durations."""

    def now(self) -> datetime: ...

    def monotonic(self) -> float: ...

    def sleep(self, seconds: float) -> None: ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


class FixedClock:
    """A clock that moves only when told to; sleeping moves it."""

    def __init__(self, start: datetime | str = "2026-01-01T00:00:00Z") -> None:
        self._now = parse_instant(start) if isinstance(start, str) else start
        self._monotonic = 0.0

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    def sleep(self, seconds: float) -> None:
        self.advance(timedelta(seconds=seconds))

    def advance(self, by: timedelta) -> None:
        """Move the clock forward."""
        self._now += by
        self._monotonic += by.total_seconds()


class FileClock(SystemClock):
    """A clock whose instant stands in a file, so that several processes share one simulated time."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def now(self) -> datetime:
        return parse_instant(self._path.read_text().strip())


class OffsetClock(SystemClock):
    """The machine's clock, shifted so that it starts at a given instant."""

    def __init__(self, start: datetime) -> None:
        self._shift = start - datetime.now(UTC)

    def now(self) -> datetime:
        return datetime.now(UTC) + self._shift


def clock_from_env(environment: dict[str, str] | os._Environ[str] = os.environ) -> Clock:
    """Return the clock that `MAINSPRING_CLOCK` names: an ISO instant to start at, or a file that holds one."""
    text = environment.get("MAINSPRING_CLOCK", "")
    if not text:
        return SystemClock()
    if Path(text).is_file():
        return FileClock(Path(text))
    return OffsetClock(parse_instant(text))


def parse_instant(text: str) -> datetime:
    """Return the UTC instant that an ISO 8601 text names; without a zone it is UTC.

    Raises:
        Invalid: the text is not an ISO 8601 instant.

    >>> parse_instant("2026-01-01T01:00:00+01:00").isoformat()
    '2026-01-01T00:00:00+00:00'
    """
    try:
        instant = datetime.fromisoformat(text)
    except ValueError as error:
        raise Invalid(f"{text!r} is not an instant", hint="write it as 2026-01-31 or 2026-01-31T08:00:00Z") from error
    return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)


_LAST_ID = 0
_ID_LOCK = threading.Lock()
_ID_TAIL = 2**62


def new_id(clock: Clock) -> str:
    """Return a fresh UUID version 7 (RFC 9562); of two made in one process and millisecond the later sorts later."""
    global _LAST_ID
    milliseconds = int(clock.now().timestamp() * 1000) & 0xFFFFFFFFFFFF
    random = int.from_bytes(os.urandom(10), "big")
    value = (milliseconds << 80) | (0x7 << 76) | (((random >> 64) & 0xFFF) << 64) | (0b10 << 62) | (random % _ID_TAIL)
    with _ID_LOCK:
        if value >> 80 == _LAST_ID >> 80 and value <= _LAST_ID:
            value = _LAST_ID + 1 + (random & 0xFFFFFFFF)
        _LAST_ID = value
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
