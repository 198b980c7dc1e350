"""The pages of the documentation as lists of blocks, with the directives that stand in comments before them.

A block is run unless it is the output of the one before. Directives are HTML comments, which no reader sees:

    <!-- setup: shop -->       the page starts in a copy of a prepared folder (see `setups`)
    <!-- needs: postgresql --> the page needs a service
    <!-- slow -->              the page is left out of the quick suite
    <!-- file: project.py -->  the next block is written to a file; `append:` adds to one
    <!-- exit: 1 -->           the next shell block ends with this code
    <!-- background -->        the next shell block keeps running until the page ends
    <!-- drawing -->           the next text block is a picture, and nobody's output
    <!-- clock: INSTANT -->    from here on the page's clock stands there
    <!-- run ... -->           shell lines that are run and not shown
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SHELL = ("sh", "bash", "console")
OUTPUT = ("text", "json")
_FENCE = re.compile(r"^```(\S*)\s*$")
_DIRECTIVE = re.compile(r"^<!-- ([a-z]+)(?:: (.*?))? -->$")
_FLAGS = ("setup", "needs", "slow", "file", "append", "exit", "background", "drawing", "clock")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block, or hidden shell lines: its language, its text, the line it starts at, and its directives."""

    language: str
    text: str
    line: int
    directives: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Page:
    """One page; `directives` hold for the whole of it."""

    path: Path
    blocks: tuple[Block, ...]
    directives: dict[str, str]

    def __str__(self) -> str:
        return self.path.relative_to(ROOT).as_posix()


def all_pages() -> list[Page]:
    """Return every page of the documentation, README first."""
    top = [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")]
    return [read_page(path) for path in (*top, *sorted((ROOT / "docs").rglob("*.md")))]


def read_page(path: Path) -> Page:
    """Return the blocks of a page in order.

    Raises:
        AssertionError: a block is not closed, or a directive is unknown.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    blocks: list[Block] = []
    page: dict[str, str] = {}
    waiting: dict[str, str] = {}
    at = 0
    while at < len(lines):
        line, start = lines[at], at
        at += 1
        if fence := _FENCE.match(line):
            at = _closing(lines, at, "```", f"{path.name}:{start + 1}")
            blocks.append(Block(fence.group(1), "\n".join(lines[start + 1 : at - 1]) + "\n", start + 2, waiting))
            waiting = {}
        elif line == "<!-- run":
            at = _closing(lines, at, "-->", f"{path.name}:{start + 1}")
            blocks.append(Block("sh", "\n".join(lines[start + 1 : at - 1]) + "\n", start + 2, {"hidden": ""}))
        elif directive := _DIRECTIVE.match(line):
            name, value = directive.group(1), directive.group(2) or ""
            assert name in _FLAGS, f"{path.name}:{start + 1}: unknown directive {name!r}"
            if name == "clock":
                blocks.append(Block(name, value, start + 1))
            else:
                (page if name in ("setup", "needs", "slow") else waiting)[name] = value
    return Page(path, tuple(blocks), page)


def _closing(lines: list[str], at: int, mark: str, where: str) -> int:
    while at < len(lines) and lines[at].strip() != mark:
        at += 1
    assert at < len(lines), f"{where}: the block is not closed"
    return at + 1
