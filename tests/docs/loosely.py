"""Whether a command said what a page shows: figures, ids and instants may differ, the words and their order may not."""

from __future__ import annotations

import json
import re
from typing import Any

_INSTANT = re.compile(r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|[+-]\d\d:?\d\d)?)?")
_ID = re.compile(r"\b(?:[0-9a-f]{8}-[0-9a-f-]{27}(?:\.\d+)?|(?:sha256:)?(?=[0-9]*[a-f])[0-9a-f]{12,64})\b")
_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:,\d{3})*(?:\.\d+)?(?:e[+-]?\d+)?")


def plain(line: str) -> str:
    """Return a line without what differs between two runs.

    >>> plain("roc_auc is 0.7273; at least 0.6 is needed (2.3 s)")
    'roc_auc is #; at least # is needed (# s)'
    """
    for pattern in (_INSTANT, _ID, _NUMBER):
        line = pattern.sub("#", line)
    return " ".join(line.split())


def missing_line(shown: str, said: str) -> str:
    """Return the first shown line that was not said, in the order shown; empty when all were. `...` stands for anything.

    >>> missing_line("a 1\\n...\\nc", "a 2\\nb\\nc")
    ''
    >>> missing_line("a\\nc", "c\\na")
    'c'
    """
    lines = [plain(line) for line in said.splitlines()]
    at = 0
    for line in shown.splitlines():
        wanted = plain(line)
        if not wanted or wanted == "...":
            continue
        pattern = re.compile(".*".join(re.escape(part.strip()) for part in wanted.split("...")).replace(".*", r".*"))
        while at < len(lines) and not pattern.fullmatch(lines[at]):
            at += 1
        if at == len(lines):
            return line
        at += 1
    return ""


def json_differs(shown: Any, said: Any, place: str = "") -> str:
    """Return where two JSON values differ in form: keys that are shown must be there, of the same kind."""
    if shown == "...":
        return ""
    if isinstance(shown, dict) and isinstance(said, dict):
        for key, value in shown.items():
            if key not in said:
                return f"{place}/{key} is not there"
            if differs := json_differs(value, said[key], f"{place}/{key}"):
                return differs
        return ""
    if isinstance(shown, list) and isinstance(said, list):
        if len(said) < len(shown):
            return f"{place} has {len(said)} items"
        return next((d for i, v in enumerate(shown) if (d := json_differs(v, said[i], f"{place}/{i}"))), "")
    kinds = {type(shown), type(said)}
    if kinds <= {int, float} or (kinds == {str} and plain(shown) == plain(said)) or shown == said:
        return ""
    return f"{place} is {json.dumps(said)[:80]}, not {json.dumps(shown)[:80]}"
