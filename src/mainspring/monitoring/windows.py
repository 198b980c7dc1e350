"""Judged windows: what each monitor found, kept for the windows after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from mainspring.store.tables import monitor_windows
from mainspring.store.workspace import Workspace

MONITORS = ("endpoint", "drift", "performance")
JUDGED = ("ok", "info", "alarm")


@dataclass(frozen=True, slots=True)
class Window:
    """One monitor's result over [start, end).

    Args:
        state: `ok`; `alarm`; `info`, for what is real and does not matter; `no-data`; `too-few`; `no-reference`;
            `no-labels`, when none came in time.
        result: The figures; `says` holds them in sentences.
    """

    monitor: str
    start: datetime
    end: datetime
    rows: int
    state: str
    result: dict[str, Any]

    @property
    def version(self) -> int | None:
        version: int | None = self.result.get("version")
        return version

    @property
    def says(self) -> tuple[str, ...]:
        return tuple(self.result.get("says", ()))


def list_windows(ws: Workspace, project: str, model: str, monitor: str, *, limit: int = 100) -> list[Window]:
    """Return the newest windows of a monitor, oldest first."""
    table = monitor_windows
    query = (
        sa.select(*(table.c[name] for name in ("monitor", "start", "end", "rows", "state", "result")))
        .where(table.c.project == project, table.c.model == model, table.c.monitor == monitor)
        .order_by(table.c.start.desc())
        .limit(limit)
    )
    with ws.read() as tx:
        return [Window(**row) for row in tx.execute(query).mappings()][::-1]


def store_windows(ws: Workspace, project: str, model: str, windows: Sequence[Window]) -> None:
    """Record windows; one judged before is replaced."""
    table, now = monitor_windows, ws.clock.now()
    with ws.change(project) as change:
        for w in windows:
            change.execute(
                table.delete().where(
                    table.c.project == project, table.c.model == model, table.c.monitor == w.monitor,
                    table.c.start == w.start,
                )
            )  # fmt: skip
            change.execute(
                table.insert().values(
                    project=project, model=model, monitor=w.monitor, start=w.start, end=w.end, rows=w.rows,
                    state=w.state, result=w.result, computed_at=now,
                )
            )  # fmt: skip
