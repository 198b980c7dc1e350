"""Deletion of rows that are older than a dataset may keep them."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa

from mainspring.core.records import DatasetVersion
from mainspring.core.schema import Schema
from mainspring.data import delta, quarantine
from mainspring.data.datasets import EXPIRED, Dataset, facts_of, lock, read, record, retained, row_of, table_path
from mainspring.data.frames import content_digest
from mainspring.store.tables import dataset_windows
from mainspring.store.workspace import Workspace


def apply_retention(
    ws: Workspace, project: str, spec: Dataset, now: datetime | None = None
) -> DatasetVersion | None:  # fmt: skip
    """Delete rows older than `spec.retain` by event time, or whole windows; return the version without them.

    The rows leave the disk: older versions stay on record as tombstones and cannot be read. Where nothing is too old,
    nothing changes and None is returned. Rows in quarantine go by the time they were set aside.
    """
    now = now or ws.clock.now()
    if not spec.retain:
        return None
    with lock(ws, project, spec.name):
        row, path = row_of(ws, project, spec.name), table_path(ws, project, spec.name)
        quarantine.expire(path, now - spec.retain)
        if row is None:
            return None
        facts = facts_of(spec, "retention", Schema.from_json(row["schema"]), now, ws.actor)
        facts |= {"before": (now - spec.retain).isoformat(), "profile": row["profile_digest"]}
        if spec.window_kind:
            old = _old_windows(ws, project, spec, now)
            if not old:
                return None
            facts |= {"windows": sorted(old), "deleted": sum(old.values())}
            names = ", ".join(f"'{window}'" for window in sorted(old))
            version = delta.delete(path, f"{delta.WINDOW} IN ({names})", facts)
        else:
            frame = read(ws, project, spec.name)
            kept = retained(frame, spec, now)
            if kept.height == frame.height:
                return None
            facts |= {"digest": content_digest(kept), "rows": kept.height, "deleted": frame.height - kept.height}
            version = delta.write(path, kept, facts)
        return record(ws, project, spec.name, delta.Commit(version, facts))


def _old_windows(ws: Workspace, project: str, spec: Dataset, now: datetime) -> dict[str, int]:
    """Return the windows that ended before what is kept begins, with their rows."""
    assert spec.window_kind is not None
    assert spec.retain is not None
    table = dataset_windows
    query = sa.select(table.c.window, table.c.rows).where(
        table.c.project == project, table.c.name == spec.name, table.c.digest != EXPIRED
    )
    with ws.read() as connection:
        held = {row.window: row.rows for row in connection.execute(query)}
    return {name: rows for name, rows in held.items() if spec.window_kind.parse(name).end <= now - spec.retain}
