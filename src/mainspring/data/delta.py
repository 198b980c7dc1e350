"""Tables on Delta Lake: atomic commits that carry our own facts, time travel, and rows in the order they came."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import polars as pl

from mainspring.core.errors import Invalid, Refused, Unavailable

WINDOW = "_mainspring_window"
ROW = "_mainspring_row"
_FACTS = "mainspring"
# Delta holds a path as a URL, and takes these for something else in it; windows are folders named `column=value`.
_MISREAD = re.compile(r"[\[\]^|\\]|%[0-9A-Fa-f]{2}")
# Time travel is the point of these tables: the log is never cleaned up behind our back.
_CONFIGURATION = {"delta.logRetentionDuration": "interval 36500 days", "delta.enableExpiredLogCleanup": "false"}


@dataclass(frozen=True, slots=True)
class Commit:
    """One commit of ours: its Delta version and the facts it carries."""

    version: int
    facts: dict[str, Any]


def write(path: Path, frame: pl.DataFrame, facts: dict[str, Any], *, window: str | None = None) -> int:
    """Replace a table's rows, or those of one window, in one atomic commit; return its version, from 1.

    A killed writer leaves the table as it was. The commit and its files are on disk when this returns.

    Args:
        path: Folder of the table, made at the first write.
        frame: The rows, in canonical types.
        facts: JSON-able facts that `commits` gives back.
        window: Replace this window only; a table has windows always or never.

    Raises:
        Invalid: two column names differ only in case, or one is reserved; the folder's own name cannot be held.
    """
    from deltalake import CommitProperties, DeltaTable, write_deltalake

    _check_names(frame.columns)
    _check_folder(path.resolve(), windows=window is not None)
    frame = frame.with_columns(pl.int_range(pl.len(), dtype=pl.Int64).alias(ROW))
    if window is not None:
        frame = frame.with_columns(pl.lit(window, dtype=pl.String).alias(WINDOW))
    if not DeltaTable.is_deltatable(str(path)):
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        DeltaTable.create(
            str(path), schema=frame.to_arrow().schema, partition_by=None if window is None else [WINDOW],
            configuration=_CONFIGURATION,
        )  # fmt: skip
    # One writer at a time (the caller's lock), so a conflict means a second installation: fail, do not retry.
    properties = CommitProperties(custom_metadata={_FACTS: json.dumps(facts)}, max_commit_retries=0)
    write_deltalake(
        str(path), frame, mode="overwrite", schema_mode="overwrite" if window is None else "merge",
        predicate=None if window is None else f"{WINDOW} = '{window}'", commit_properties=properties,
    )  # fmt: skip
    version = int(_open(path).version())
    _sync(path, version)
    return version


def delete(path: Path, predicate: str, facts: dict[str, Any]) -> int:
    """Delete the rows for which an SQL predicate holds, in one commit; return its version."""
    from deltalake import CommitProperties

    table = _open(path)
    table.delete(predicate, commit_properties=CommitProperties(custom_metadata={_FACTS: json.dumps(facts)}))
    version = int(_open(path).version())
    _sync(path, version)
    return version


def vacuum(path: Path) -> int:
    """Remove every file that the newest version does not use; older versions cannot be read afterwards."""
    return len(_open(path).vacuum(retention_hours=0, dry_run=False, enforce_retention_duration=False))


def commits(path: Path, after: int) -> list[Commit]:
    """Return our commits with a version above `after`, oldest first.

    Raises:
        Unavailable: the table ends before `after`: it is gone, or an older copy stands in its place.
    """
    from deltalake import DeltaTable

    table = _open(path) if DeltaTable.is_deltatable(str(path)) else None
    newest = int(table.version()) if table else 0
    if newest < after:
        held = f"ends at version {newest}" if newest else "is gone"
        raise Unavailable(f"the table of {path.name} {held}, and version {after} was recorded",
                          hint=f"restore {path} from a backup")  # fmt: skip
    if table is None:
        return []
    newer = max(0, newest - max(after, -1))
    found = [Commit(int(entry["version"]), json.loads(entry[_FACTS]))
             for entry in (table.history(newer) if newer else []) if _FACTS in entry]  # fmt: skip
    return sorted((commit for commit in found if commit.version > after), key=lambda commit: commit.version)


def scan(path: Path, version: int, *, windows: bool, columns: Sequence[str]) -> pl.LazyFrame:
    """Return a version's columns lazily, rows by window and then in the order in which they were written."""
    order = [WINDOW, ROW] if windows else [ROW]
    return _lazy(path, version).sort(order).select(columns)


def read(path: Path, version: int, *, windows: bool, columns: Sequence[str]) -> pl.DataFrame:
    """Return a version's columns, rows by window and then in the order in which they were written.

    Raises:
        Unavailable: the version's files are not there.
        Refused: a file is not the Parquet file that was written.
    """
    _check_files(path, version)
    order = [WINDOW, ROW] if windows else [ROW]
    lazy = _lazy(path, version).select([*columns, *order])
    try:
        frame = lazy.collect()
    except pl.exceptions.ComputeError as error:
        raise _changed(path, version) from error
    # Files nearly always come back in the order of writing; sorting then would only cost.
    sorted_already = frame.select(pl.struct(order).is_sorted() if windows else pl.col(ROW).is_sorted()).item()
    return (frame if sorted_already else frame.sort(order)).select(columns)


def _open(path: Path, version: int | None = None) -> Any:
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError

    try:
        return DeltaTable(str(path), version=version)
    except DeltaError as error:
        # Its message ends in a trace of the library's own.
        raise Unavailable(f"the table of {path.name} cannot be read: {str(error).splitlines()[0]}",
                          hint=f"restore {path} from a backup")  from error  # fmt: skip


def _lazy(path: Path, version: int) -> pl.LazyFrame:
    from deltalake import DeltaTable

    class Table(DeltaTable):
        """The folder comes back percent-encoded, and Polars opens the name as it stands."""

        def file_uris(self, partition_filters: Any = None, *, file_pruning_predicate: Any = None) -> list[str]:
            root = self.table_uri.removeprefix("file://")
            found = super().file_uris(partition_filters, file_pruning_predicate=file_pruning_predicate)
            return found if root == unquote(root) else [str(path.resolve() / uri.removeprefix(root)) for uri in found]

    table = Table(str(path), version=version)
    return pl.scan_delta(table)


def _check_files(path: Path, version: int) -> None:
    """Raise unless every file of a version is there in its full length (Polars stops the program at a short one)."""
    files = pl.DataFrame(_open(path, version).get_add_actions(flatten=True))
    for name, size in files.select("path", "size_bytes").rows() if files.height else ():
        file = path / unquote(name)
        if not file.exists():
            raise Unavailable(f"{name} of {path.name} version {version} is gone", hint="mainspring doctor --deep")
        if file.stat().st_size != size:
            raise _changed(path, version)


def _changed(path: Path, version: int) -> Refused:
    return Refused(f"a file of {path.name} version {version} was changed on disk",
                   hint="restore the table from a backup; mainspring doctor --deep")  # fmt: skip


def _check_names(names: Sequence[str]) -> None:
    seen: dict[str, str] = {}
    for name in names:
        if name in (WINDOW, ROW):
            raise Invalid(f"the column name {name!r} is reserved", hint="rename the column")
        other = seen.setdefault(name.lower(), name)
        if other != name:
            raise Invalid(f"the columns {other!r} and {name!r} differ only in case", hint="rename one of them")


def _check_folder(path: Path, *, windows: bool) -> None:
    found = _MISREAD.search(str(path)) or (re.search("=", str(path)) if windows else None)
    if found:
        raise Invalid(f"tables cannot be kept in {path}: its name holds {found.group()!r}",
                      hint="move the project, or set MAINSPRING_HOME to another folder")  # fmt: skip


def _sync(path: Path, version: int) -> None:
    """Bring a commit to the disk: its data files, its log entry and their folders."""
    entry = path / "_delta_log" / f"{version:020d}.json"
    added = [json.loads(line)["add"]["path"] for line in entry.read_text().splitlines() if '"add"' in line[:8]]
    files = [path / unquote(name) for name in added]
    for place in dict.fromkeys([*files, *(file.parent for file in files), entry, entry.parent, path]):
        descriptor = os.open(place, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
