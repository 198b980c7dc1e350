"""Folders of files by content: what a folder holds, kept once per content, and given back as it was."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import polars as pl

from mainspring.core.errors import Conflict, Invalid, NotFound, Refused
from mainspring.store.objects import Objects, file_digest, write_durably

FILES_SCHEMA = {"path": pl.String(), "digest": pl.String(), "bytes": pl.Int64(), "label": pl.String()}
_WORKERS = 8
_SETTLED_NS = 2_000_000_000
_Stamp = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class FolderStatus:
    """How a folder differs from a list of files, paths in order."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]

    @property
    def is_clean(self) -> bool:
        return not (self.added or self.removed or self.changed)


def list_files(directory: Path, index: Path | None = None) -> pl.DataFrame:
    """Return a row per file, by path: `path` (relative, with /), `digest`, `bytes` and `label` (its parent folder).

    Hidden files and folders are left out.

    Args:
        directory: The folder.
        index: Where digests are remembered by size, time of change and inode, so that only files that changed are
            read again.

    Raises:
        NotFound: no such folder.
        Refused: a link leads out of the folder.
        Invalid: a file name is not UTF-8.
    """
    root = directory.resolve()
    if not root.is_dir():
        raise NotFound(f"no folder {directory}", hint="check the path; it is relative to the project file")
    known = _load(index)
    found: dict[str, tuple[_Stamp, str]] = {}
    for path, entry in _walk(root, root):
        status = entry.stat()
        stamp = (status.st_size, status.st_mtime_ns, status.st_ino)
        before = known.get(path)
        found[path] = (stamp, before[1] if before and before[0] == stamp else "")
    unread = [path for path, (_, name) in found.items() if not name]
    with ThreadPoolExecutor(_WORKERS) as pool:
        for path, name in zip(unread, pool.map(lambda path: file_digest(root / path), unread), strict=True):
            found[path] = (found[path][0], name)
    if index is not None and (unread or len(found) != len(known)):
        # A file of the last moments may change again within one tick of its clock, and look the same.
        settled = time.time_ns() - _SETTLED_NS
        old = {path: value for path, value in found.items() if value[0][1] < settled}
        write_durably(index, json.dumps(old, separators=(",", ":")).encode())
    rows = [
        (path, name, stamp[0], PurePosixPath(path).parent.name or None) for path, (stamp, name) in sorted(found.items())
    ]
    return pl.DataFrame(rows, schema=FILES_SCHEMA, orient="row")


def keep_files(objects: Objects, directory: Path, files: pl.DataFrame) -> int:
    """Store the content of every listed file that is not stored yet; return how many were.

    Raises:
        Conflict: a file changed after it was listed; list the folder again.
    """
    first = files.unique("digest", keep="first", maintain_order=True)
    missing = [row for row in first.select("path", "digest").rows() if not objects.exists(row[1])]

    def keep(row: tuple[str, str]) -> None:
        if objects.put_file(directory / row[0]) != row[1]:
            raise Conflict(f"{row[0]} changed while its folder was read", hint="run it again when nobody writes there")

    # Each object is synced to the disk; several at a time wait together.
    with ThreadPoolExecutor(_WORKERS) as pool:
        for _ in pool.map(keep, missing):
            pass
    return len(missing)


def compare_files(files: pl.DataFrame, directory: Path, index: Path | None = None) -> FolderStatus:
    """Return how a folder differs from a list of its files."""
    before = dict(files.select("path", "digest").rows())
    after = dict(list_files(directory, index).select("path", "digest").rows())
    return FolderStatus(
        tuple(sorted(after.keys() - before.keys())), tuple(sorted(before.keys() - after.keys())),
        tuple(sorted(path for path in before.keys() & after.keys() if before[path] != after[path])),
    )  # fmt: skip


def check_out(objects: Objects, files: pl.DataFrame, directory: Path) -> Path:
    """Lay the listed files out under `directory`, which must be empty or absent; return it.

    A file is a read-only hard link to the stored object, or a copy where the disk cannot link. What is stored is
    verified first.

    Raises:
        Conflict: the directory holds files.
        Refused: a stored object was changed, or a path leaves the directory.
    """
    root = directory.resolve()
    if root.exists() and any(root.iterdir()):
        raise Conflict(f"{directory} is not empty", hint="name a new folder")
    for path, name in files.select("path", "digest").rows():
        target = (root / path).resolve()
        if not target.is_relative_to(root):
            raise Refused(f"the path {path!r} leaves its folder")
        source = objects.open_path(name)
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Writing through a link would change the object itself: nobody may.
        source.chmod(0o400)
        try:
            target.hardlink_to(source)
        except OSError:
            target.write_bytes(source.read_bytes())
            target.chmod(0o400)
    return directory


def _walk(root: Path, folder: Path) -> Iterator[tuple[str, os.DirEntry[str]]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_symlink() and not Path(entry.path).resolve().is_relative_to(root):
                raise Refused(f"{entry.name} is a link that leads out of {root.name}", hint="copy the file instead")
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(root, Path(entry.path))
            elif entry.is_file():
                try:
                    entry.name.encode()
                except UnicodeEncodeError as error:
                    raise Invalid(f"the file name {entry.name!r} is not UTF-8", hint="rename the file") from error
                yield Path(entry.path).relative_to(root).as_posix(), entry


def _load(index: Path | None) -> dict[str, tuple[_Stamp, str]]:
    if index is None or not index.exists():
        return {}
    try:
        stored = json.loads(index.read_bytes())
        return {path: ((stamp[0], stamp[1], stamp[2]), name) for path, (stamp, name) in stored.items()}
    except (ValueError, TypeError, IndexError, KeyError, AttributeError):
        return {}  # an index only saves reading; without one every file is read
