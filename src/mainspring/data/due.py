"""Which logical windows of a dataset are to be read."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime, timedelta

from mainspring.core.clock import parse_instant
from mainspring.core.errors import Invalid
from mainspring.core.windows import Window, windows_between

FIRST_WINDOWS = 30


def due_windows(
    kind: type[Window], held: Collection[str], now: datetime, *, start: datetime | str | None = None,
    retain: timedelta | None = None, asked: Iterable[Window | str] | None = None, rerun: bool = False,
) -> list[Window]:  # fmt: skip
    """Return the windows to read, oldest first: those that are over and missing, or those that are asked for.

    Args:
        kind: Kind of window.
        held: Names of the windows that were read before.
        now: A window that ends later is not over.
        start: The first window is the one that starts here or next; without it the oldest that is held, and where
            none is, the last 30 that are over.
        retain: Windows that start longer ago are left out.
        asked: Only these.
        rerun: Also those that are held.

    Raises:
        Invalid: what is asked for is of another kind, or not over.
    """
    if asked is not None:
        windows = [kind.parse(item) if isinstance(item, str) else item for item in asked]
        for window in windows:
            if not isinstance(window, kind) or window.end > now:
                why = "is not over yet" if isinstance(window, kind) else f"is not a {kind.kind}"
                raise Invalid(f"window {window} {why}", hint=f"name one that is over, like {kind.example}")
        return sorted({window for window in windows if rerun or str(window) not in held})
    if start is not None:
        first = parse_instant(start if isinstance(start, str) else start.isoformat())
    elif held:
        first = kind.parse(min(held)).start
    else:
        first = kind.of(now).start
        for _ in range(FIRST_WINDOWS):
            first = kind.of(first - timedelta(microseconds=1)).start
    if retain is not None:
        first = max(first, now - retain)
    return [window for window in windows_between(kind, first, now) if rerun or str(window) not in held]
