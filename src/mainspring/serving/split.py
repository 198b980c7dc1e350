"""What to serve, as a file: written whole by a release, read by serving processes that need nothing else."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import msgspec

from mainspring.core.errors import Invalid
from mainspring.core.ref import check_name
from mainspring.store.objects import write_durably


@dataclass(frozen=True, slots=True)
class SplitFile:
    """Which version of a model answers.

    Args:
        version: The version that answers every request.
        bundle_digest: Its bundle, `sha256:<hex>`.
        since: When it was released, ISO 8601 UTC.
        actor: Who released it; `approver`: who approved it, empty when no approval was asked for.
        previous: The version and bundle it replaced, for a rollback.
    """

    project: str
    model: str
    version: int
    bundle_digest: str
    since: str
    actor: str = ""
    approver: str = ""
    previous: tuple[int, str] | None = None


def write_split(home: Path, project: str, model: str, split: SplitFile) -> Path:
    """Write the split; readers see the old file or the new one, never half of one, after a power cut too."""
    path = _path(home, project, model, "json")
    write_durably(path, msgspec.json.format(msgspec.json.encode(asdict(split))) + b"\n")
    return path


def read_split(home: Path, project: str, model: str) -> SplitFile | None:
    """Return the split of a model, or None when it was never released.

    Raises:
        Invalid: the file is not a split.
    """
    return _read(_path(home, project, model, "json"))


def read_good(home: Path, project: str, model: str) -> SplitFile | None:
    """Return the split that a server last loaded with success, or None."""
    return _read(_path(home, project, model, "good"))


def write_good(home: Path, split: SplitFile) -> None:
    """Remember that a server loaded this split, to fall back on it when a later one does not load."""
    write_durably(_path(home, split.project, split.model, "good"), msgspec.json.encode(asdict(split)))


def list_splits(home: Path, project: str) -> dict[str, tuple[int, int]]:
    """Return each model that has a split, with a mark that changes when the file does; cheap enough to poll."""
    folder = home / "serving" / check_name(project, "project")
    marks = {}
    for path in folder.glob("*.json") if folder.is_dir() else ():
        try:
            status = path.stat()
        except FileNotFoundError:
            continue
        marks[path.name.removesuffix(".json")] = (status.st_mtime_ns, status.st_ino)
    return marks


def bundle_directory(home: Path, digest: str) -> Path:
    """Return where a serving process keeps its own copy of a bundle."""
    return home / "serving" / "bundles" / digest.removeprefix("sha256:")


def _path(home: Path, project: str, model: str, kind: str) -> Path:
    return home / "serving" / check_name(project, "project") / f"{check_name(model, 'model')}.{kind}"


def _read(path: Path) -> SplitFile | None:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        document: dict[str, Any] = msgspec.json.decode(data, type=dict[str, Any])
        known = {field.name for field in fields(SplitFile)}
        # A newer release may write more; an older server reads what it knows.
        return msgspec.convert({k: v for k, v in document.items() if k in known}, SplitFile)
    except msgspec.DecodeError as error:
        raise Invalid(
            f"{path.name} is not a split file: {error}", hint="mainspring models promote MODEL@VERSION"
        ) from error
