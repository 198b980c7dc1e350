"""What changed between two versions of a dataset: columns, rows, distributions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import polars as pl

from mainspring.core.records import DatasetVersion
from mainspring.core.schema import SchemaDiff
from mainspring.data.datasets import get_version, read, row_of
from mainspring.data.profile import Scalar, profile, shift
from mainspring.store.workspace import Workspace

SHOWN = 5
_ROW = "__row"


@dataclass(frozen=True, slots=True)
class ColumnDelta:
    """How one column moved: missing values, mean and range before and after, and its shift beyond chance (PSI)."""

    name: str
    missing: tuple[int, int]
    mean: tuple[float | None, float | None]
    low: tuple[Scalar, Scalar]
    high: tuple[Scalar, Scalar]
    psi: float | None


@dataclass(frozen=True, slots=True)
class VersionDiff:
    """What changed from one version to another.

    With a key that names each row once, rows are matched by it and `changed` counts those with another value; without
    one, rows are compared whole, `changed` is None and `examples` is empty.
    """

    before: DatasetVersion
    after: DatasetVersion
    schema: SchemaDiff
    added: int
    removed: int
    changed: int | None
    examples: dict[str, list[dict[str, Any]]]
    columns: tuple[ColumnDelta, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "before": self.before.ref, "after": self.after.ref, "schema": asdict(self.schema),
            "rows": [self.before.rows, self.after.rows], "added": self.added, "removed": self.removed,
            "changed": self.changed, "examples": self.examples, "columns": [asdict(column) for column in self.columns],
        }  # fmt: skip


def diff(
    ws: Workspace, project: str, name: str, before: int, after: int | None = None, *, key: Sequence[str] | None = None
) -> VersionDiff:
    """Return what changed from version `before` to version `after` (the newest when None).

    Args:
        ws: The workspace.
        project: Project of the dataset.
        name: The dataset.
        before: Earlier version.
        after: Later version.
        key: Columns that name a row; the declared key of `after` when None. Their values are the examples.

    Raises:
        NotFound: no such version, or retention has deleted its rows.
    """
    first, second = get_version(ws, project, name, before), get_version(ws, project, name, after)
    old, new = read(ws, project, name, first.version), read(ws, project, name, second.version)
    if key is None:
        record = row_of(ws, project, name, second.version)
        key = record["source"]["key"] if record else ()
    names = [column for column in key if column in old.columns and column in new.columns]
    usable = bool(names) and all(
        frame.select(names).n_unique() == frame.height and not any(frame.select(names).null_count().row(0))
        for frame in (old, new)
    )
    counts = _by_key(old, new, names) if usable else _by_row(old, new)
    return VersionDiff(first, second, first.schema.diff(second.schema), *counts, _columns(old, new))


def _by_key(
    old: pl.DataFrame, new: pl.DataFrame, key: list[str]
) -> tuple[int, int, int | None, dict[str, list[dict[str, Any]]]]:
    added, removed = new.join(old, on=key, how="anti"), old.join(new, on=key, how="anti")
    values = [c for c in old.columns if c in new.columns and c not in key and old.schema[c] == new.schema[c]]
    both = old.select(*key, *values).join(new.select(*key, *values), on=key, suffix="_after")
    moved = pl.any_horizontal(pl.col(c).ne_missing(pl.col(f"{c}_after")) for c in values) if values else pl.lit(False)
    changed = both.filter(moved)
    sets = {"added": added, "removed": removed, "changed": changed}
    examples = {what: frame.select(key).head(SHOWN).to_dicts() for what, frame in sets.items() if frame.height}
    return added.height, removed.height, changed.height, examples


def _by_row(
    old: pl.DataFrame, new: pl.DataFrame
) -> tuple[int, int, int | None, dict[str, list[dict[str, Any]]]]:  # fmt: skip
    """Count whole rows that one side has more often than the other."""
    names = [c for c in old.columns if c in new.columns and old.schema[c] == new.schema[c]]
    counts = [frame.select(pl.struct(names).alias(_ROW)).group_by(_ROW).len() for frame in (old, new)]
    both = counts[0].join(counts[1], on=_ROW, how="full", coalesce=True, suffix="_after").fill_null(0)
    change = both["len_after"].cast(pl.Int64) - both["len"].cast(pl.Int64)
    return int(change.clip(lower_bound=0).sum()), int((-change).clip(lower_bound=0).sum()), None, {}


def _columns(old: pl.DataFrame, new: pl.DataFrame) -> tuple[ColumnDelta, ...]:
    before, after = profile(old).columns, profile(new).columns
    found = []
    for name in old.columns:
        if name in after and before[name].dtype == after[name].dtype:
            a, b = before[name], after[name]
            moved = shift(a, new.get_column(name))
            found.append(ColumnDelta(name, (a.missing, b.missing), (a.mean, b.mean), (a.low, b.low), (a.high, b.high),
                                     None if moved is None else round(moved.effect, 4)))  # fmt: skip
    return tuple(found)
