"""Sources made of plain tables, for tests of what happens after reading."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import polars as pl

from mainspring.core.windows import Window


class TableSource:
    """Gives one table, and counts how often it is read."""

    def __init__(self, frame: pl.DataFrame, fingerprint: str = "") -> None:
        self.frame, self.state, self.reads = frame, fingerprint, 0

    def read(self, window: Window | None) -> pl.DataFrame:
        self.reads += 1
        return self.frame

    def describe(self) -> dict[str, Any]:
        return {"kind": "table"}

    def fingerprint(self) -> str:
        return self.state


class WindowSource:
    """Gives what a function returns for a window, and remembers the windows."""

    def __init__(self, function: Callable[[Window], pl.DataFrame]) -> None:
        self.function, self.asked = function, list[str]()

    def read(self, window: Window | None) -> pl.DataFrame:
        assert window is not None
        self.asked.append(str(window))
        return self.function(window)

    def describe(self) -> dict[str, Any]:
        return {"kind": "function"}

    def fingerprint(self) -> str:
        return ""
