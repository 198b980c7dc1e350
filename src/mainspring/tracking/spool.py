"""What a run says, kept on disk until the tracking store has it."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

Operation = dict[str, Any]

_OPERATIONS = "operations.jsonl"
_FILES = "files"
_IDENTITY = "mlflow.json"


def spools_of(home: Path) -> list[Path]:
    """Return the folders of what is not delivered yet, in the order of their ids."""
    root = home / "tracking"
    return sorted(path for path in root.iterdir() if (path / _OPERATIONS).exists()) if root.is_dir() else []


class Spool:
    """Appends the operations of one run; threads may share it, processes take turns.

    The folder disappears when all of it is delivered. One that is appended to after that starts again with `opening`,
    by which the store finds the run it has already. A process that dies in mid-write leaves half a line: it is cut off
    by the next append, and what a resumed step says again is the same.
    """

    def __init__(self, folder: Path, opening: Operation) -> None:
        self.folder = folder
        self._opening = opening
        self._lock = threading.Lock()
        self._descriptor = -1

    def append(self, *operations: Operation, files: Mapping[str, bytes | Path] | None = None) -> None:
        """Hand operations, and the files they speak of, to the operating system in one write."""
        with self._lock, self._locked() as descriptor:
            for name, content in (files or {}).items():
                target = self.folder / _FILES / name
                target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                _place(content, target)
            os.write(descriptor, b"".join(_line(operation) for operation in operations))

    def close(self) -> None:
        """Let go of the file; a later append opens it again."""
        with self._lock:
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1

    @contextmanager
    def _locked(self) -> Iterator[int]:
        while True:
            if self._descriptor < 0:
                self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                flags = os.O_RDWR | os.O_CREAT | os.O_APPEND
                try:
                    self._descriptor = os.open(self.folder / _OPERATIONS, flags, 0o600)
                except FileNotFoundError:  # the delivered folder was removed between the two calls
                    continue
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            if os.fstat(self._descriptor).st_nlink:
                break
            os.close(self._descriptor)
            self._descriptor = -1
        try:
            size = _cut_torn_line(self._descriptor)
            if size == 0:
                os.write(self._descriptor, _line(self._opening))
            yield self._descriptor
        finally:
            if self._descriptor >= 0:
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)


class SpoolReader:
    """Reads the operations of one run from where it stopped; one process at a time does."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._offset = 0

    def read(self) -> tuple[list[Operation], int]:
        """Return the whole operations after the last `advance`, and the offset they end at."""
        try:
            with (self.folder / _OPERATIONS).open("rb") as file:
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return [], self._offset
        whole = data[: data.rfind(b"\n") + 1]
        return [json.loads(line) for line in whole.splitlines()], self._offset + len(whole)

    def advance(self, offset: int) -> None:
        """Count everything before `offset` as delivered."""
        self._offset = offset

    def file(self, name: str) -> Path:
        """Return the path of a file that an operation speaks of."""
        return self.folder / _FILES / name

    def identify(self, identity: Mapping[str, str]) -> None:
        """Tell the process that writes under which ids the store knows the run."""
        temporary = self.folder / f"{_IDENTITY}.new"
        temporary.write_text(json.dumps(identity))
        temporary.replace(self.folder / _IDENTITY)

    def remove(self) -> bool:
        """Remove the folder if nothing was appended since; return whether it is gone."""
        path = self.folder / _OPERATIONS
        descriptor = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if os.fstat(descriptor).st_size > self._offset:
                return False
            shutil.rmtree(self.folder / _FILES, ignore_errors=True)
            (self.folder / _IDENTITY).unlink(missing_ok=True)
            path.unlink()
            with suppress(OSError):  # a writer that came back in between keeps its new folder
                self.folder.rmdir()
            return True
        finally:
            os.close(descriptor)


def identity_of(folder: Path) -> dict[str, str] | None:
    """Return the store's own ids of the run, once it has them."""
    try:
        found: dict[str, str] = json.loads((folder / _IDENTITY).read_text())
    except FileNotFoundError:
        return None
    return found


def _line(operation: Operation) -> bytes:
    return json.dumps(operation, separators=(",", ":")).encode() + b"\n"


def _place(content: bytes | Path, target: Path) -> None:
    if isinstance(content, bytes):
        target.write_bytes(content)
    elif content.is_dir():
        shutil.copytree(content, target, dirs_exist_ok=True)
    else:
        shutil.copyfile(content, target)


def _cut_torn_line(descriptor: int) -> int:
    """Cut the file after its last line end; return its size."""
    size = os.fstat(descriptor).st_size
    if size == 0 or os.pread(descriptor, 1, size - 1) == b"\n":
        return size
    # Half a line is the end of one append; lines hold no more than one batch, so a look at the last part is enough.
    start = max(0, size - (1 << 24))
    end = start + os.pread(descriptor, size - start, start).rfind(b"\n") + 1
    os.ftruncate(descriptor, end)
    return end
