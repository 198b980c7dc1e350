"""Folders that pages start from, each made once for a test session and copied."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from shop import PROJECT, visits


def _shop(folder: Path) -> None:
    (folder / "project.py").write_text(PROJECT.lstrip(), encoding="utf-8")
    visits().write_csv(folder / "visits.csv")


def _shop_live(folder: Path) -> None:
    _shop(folder)
    known = {name: value for name, value in os.environ.items() if not name.startswith("MAINSPRING_")}
    command = [sys.executable, "-m", "mainspring.cli.main", "-C", str(folder), "run"]
    done = subprocess.run(command, env=known, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


SETUPS: dict[str, Callable[[Path], None]] = {"shop": _shop, "shop-live": _shop_live}


class Setups:
    """The prepared folders of one test session."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def copy(self, name: str, folder: Path) -> None:
        """Put a copy of the set-up `name` into `folder`."""
        source = self._root / name
        if not source.exists():
            source.mkdir(parents=True)
            SETUPS[name](source)
        shutil.copytree(source, folder, dirs_exist_ok=True)
