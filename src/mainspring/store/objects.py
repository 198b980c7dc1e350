"""Content-addressed objects: bytes under their digest, on local disk or any fsspec URL."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from mainspring.core.errors import Invalid, MissingExtra, Refused, Unavailable
from mainspring.core.ref import digest

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class Objects:
    """A store of immutable blobs; what is under a digest has that digest, checked at every reading.

    A blob is whole or absent: written beside, synced, renamed, and the folder synced, so that what was acknowledged
    survives a power cut.

    Args:
        url: `file://` for the local disk, else any URL that fsspec knows (`s3://bucket/prefix`, `memory://x`).
        cache: Folder of local copies of remote blobs.
    """

    def __init__(self, url: str, cache: Path) -> None:
        parsed = urlparse(url)
        self.url = url
        self._local = Path(unquote(parsed.path)) if parsed.scheme in ("file", "") else None
        self._cache = self._local or cache
        self._remote: Any = None
        self._prefix = ""
        if self._local is None:
            import fsspec

            try:
                self._remote, self._prefix = fsspec.core.url_to_fs(url)
            except ImportError as error:
                raise MissingExtra(f"objects at {parsed.scheme}:// need a driver", extra=parsed.scheme) from error

    def put(self, data: bytes) -> str:
        """Store `data` and return its digest; storing the same bytes again costs a look."""
        name = digest(data)
        if self._remote is not None:
            target = self._remote_path(name)
            if not self._remote.exists(target):
                self._remote.pipe_file(target, data)
            return name
        path = self._path(name)
        if not path.exists():
            write_durably(path, data)
        return name

    def put_file(self, path: Path) -> str:
        """Store the content of a file and return its digest."""
        return self.put(path.read_bytes())

    def get(self, name: str) -> bytes:
        """Return the bytes under a digest.

        Raises:
            Unavailable: nothing is stored under it.
            Refused: the bytes do not have that digest any more.
        """
        path = self._path(name)
        if path.exists():
            data = path.read_bytes()
        elif self._remote is not None:
            try:
                data = self._remote.cat_file(self._remote_path(name))
            except FileNotFoundError as error:
                raise _lost(name) from error
        else:
            raise _lost(name)
        if digest(data) != name:
            raise Refused(
                f"the object {name} was changed on disk",
                hint="restore the object store from a backup; mainspring doctor --deep lists what is broken",
            )
        return data

    def open_path(self, name: str) -> Path:
        """Return the path of a local, verified copy of the object; the file must not be written to."""
        data = self.get(name)
        path = self._path(name)
        if not path.exists():
            write_durably(path, data)
        return path

    def exists(self, name: str) -> bool:
        """Return whether something is stored under the digest."""
        return self._path(name).exists() or (self._remote is not None and self._remote.exists(self._remote_path(name)))

    def materialise(self, files: Mapping[str, str], directory: Path) -> Path:
        """Write each object to its relative path under `directory`, verified; return `directory`."""
        root = directory.resolve()
        for relative, name in files.items():
            target = (root / relative).resolve()
            if not target.is_relative_to(root) or target == root:
                raise Refused(f"the path {relative!r} leaves its folder")
            target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_durably(target, self.get(name))
        return directory

    def digests(self) -> list[str]:
        """Return every digest in the store."""
        if self._remote is not None:
            found = self._remote.find(self._prefix)
        else:
            found = [str(path) for path in self._cache.glob("??/*")]
        return sorted(f"sha256:{Path(path).name}" for path in found if len(Path(path).name) == 64)

    def _path(self, name: str) -> Path:
        if not _DIGEST.fullmatch(name):
            raise Invalid(f"{name!r} is not a digest", hint="a digest is sha256: and 64 hexadecimal digits")
        plain = name.removeprefix("sha256:")
        return self._cache / plain[:2] / plain

    def _remote_path(self, name: str) -> str:
        plain = name.removeprefix("sha256:")
        return f"{self._prefix}/{plain[:2]}/{plain}"


def _lost(name: str) -> Unavailable:
    hint = "restore the object store from a backup; mainspring doctor --deep lists what is missing"
    return Unavailable(f"an object is missing from the store: {name}", hint=hint)


def write_durably(path: Path, data: bytes) -> None:
    """Write a file that is whole or absent after a power cut, mode 0600."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".tmp-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            Path(temporary).unlink()
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def file_digest(path: Path) -> str:
    """Return the digest of a file's content without holding it in memory."""
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
