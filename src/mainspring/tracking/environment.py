"""Where a run happened: interpreter, packages, hardware, and the code with its uncommitted changes."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from mainspring.core.ref import digest

MAX_DIFF_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Environment:
    """What is needed to run the same code again.

    Args:
        python: Version of the interpreter.
        platform: Operating system and machine.
        packages: The installed packages, one `name==version` a line, sorted.
        packages_digest: Digest of that text.
        hardware: `cpus` that this process may use, `memory_bytes`, `cpu` model.
        commit: Git commit of the project's folder, or an empty string outside a repository.
        diff: What differs from the commit, as text, at most 1 MB: changes of tracked files, names of new ones.
        diff_digest: Digest of the whole difference; empty when there is none.
        seed: The run's seed.
    """

    python: str
    platform: str
    packages: str
    packages_digest: str
    hardware: dict[str, Any]
    commit: str
    diff: str
    diff_digest: str
    seed: int

    @property
    def is_dirty(self) -> bool:
        """Whether the code differs from its commit."""
        return bool(self.diff_digest)

    def as_tags(self) -> dict[str, Any]:
        """Return the environment as tags of a run; the texts belong among its artifacts."""
        tags = {
            "python": self.python,
            "platform": self.platform,
            "packages": self.packages_digest,
            "cpus": self.hardware["cpus"],
            "memory_bytes": self.hardware["memory_bytes"],
            "seed": self.seed,
        }
        if self.commit:
            tags |= {"mlflow.source.git.commit": self.commit, "git.commit": self.commit, "git.dirty": self.is_dirty}
        return tags


def capture(directory: Path, *, seed: int = 0) -> Environment:
    """Describe this process and the code in `directory`; takes about 20 milliseconds in a repository."""
    packages = installed_packages(tuple(sys.path))
    commit, diff = _code(directory)
    return Environment(
        python=platform.python_version(),
        platform=f"{platform.system()} {platform.machine()}",
        packages=packages,
        packages_digest=digest(packages.encode()),
        hardware=_hardware(),
        commit=commit,
        diff=diff[:MAX_DIFF_BYTES].decode(errors="replace"),
        diff_digest=digest(diff) if diff else "",
        seed=seed,
    )


@lru_cache(maxsize=4)
def installed_packages(paths: Sequence[str]) -> str:
    """Return the packages importable from `paths`, one `name==version` a line, sorted; the first of a name wins.

    Reads folder names only: opening the metadata of every package takes thirty times as long.
    """
    found: dict[str, str] = {}
    for path in paths:
        folder = Path(path or ".")
        if not folder.is_dir():
            continue
        for entry in os.scandir(folder):
            stem, _, kind = entry.name.rpartition(".")
            name, _, version = stem.partition("-")
            if kind == "dist-info" and version:
                found.setdefault(name.lower().replace("_", "-").replace(".", "-"), version)
    return "".join(sorted(f"{name}=={version}\n" for name, version in found.items()))


def _code(directory: Path) -> tuple[str, bytes]:
    """Return the commit of the folder's repository, and all that differs from it under the folder."""
    commit = _git(directory, "rev-parse", "--verify", "--quiet", "HEAD").decode().strip()
    if not commit:
        return "", b""
    changed = _git(directory, "diff", "--no-ext-diff", "--no-textconv", "--no-color", "HEAD", "--", ".")
    new = _git(directory, "ls-files", "--others", "--exclude-standard")
    return commit, changed + (b"new files:\n" + new if new else b"")


def _git(directory: Path, *arguments: str) -> bytes:
    # No optional locks and no monitor: looking must not write to the user's repository, nor start its programs.
    command = ["git", "--no-optional-locks", "-c", "core.fsmonitor=false", "-C", str(directory), *arguments]
    try:
        return subprocess.run(command, capture_output=True, timeout=10, check=True, stdin=subprocess.DEVNULL).stdout
    except (OSError, subprocess.SubprocessError):
        return b""


@lru_cache(maxsize=1)
def _hardware() -> dict[str, Any]:
    affinity = getattr(os, "sched_getaffinity", None)
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        memory = 0
    return {
        "cpus": len(affinity(0)) if affinity else os.cpu_count() or 1,
        "memory_bytes": memory,
        "cpu": platform.processor() or platform.machine(),
    }
