"""Results as text for people: aligned tables, short values, one fact per line."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import typer

_WIDEST = 60
MARKS = {"ok": "ok  ", "warning": "warn", "error": "FAIL", True: "pass", False: "FAIL"}


def table(rows: Sequence[Sequence[Any]], headers: Sequence[str], empty: str = "nothing here yet") -> str:
    """Return rows under headers, numbers to the right."""
    if not rows:
        return empty
    cells = [[short(value) for value in row] for row in rows]
    widths = [max(len(header), *(len(row[i]) for row in cells)) for i, header in enumerate(headers)]
    is_number = [all(isinstance(row[i], int | float) or row[i] is None for row in rows) for i in range(len(headers))]

    def line(values: Sequence[str]) -> str:
        aligned = [v.rjust(w) if right else v.ljust(w) for v, w, right in zip(values, widths, is_number, strict=True)]
        return "  ".join(aligned).rstrip()

    return "\n".join([bold(line(headers)), *map(line, cells)])


def facts(pairs: Mapping[str, Any]) -> str:
    """Return one `name  value` per line; what is empty is left out."""
    shown = {name: value for name, value in pairs.items() if value not in (None, "", [], {}, ())}
    width = max(map(len, shown), default=0)
    return "\n".join(f"{name.ljust(width)}  {short(value, 2000)}" for name, value in shown.items())


def short(value: Any, widest: int = _WIDEST) -> str:
    """Return a value in few characters: four significant digits, instants to the second, digests by their head."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return short(", ".join(short(item) for item in value), widest)
    text = str(value)
    if len(text) >= 20 and text[4:5] == "-" and text[10:11] == "T":
        return text[:19].replace("T", " ")
    if text.startswith("sha256:"):
        return text[7:19]
    text = " ".join(text.split())
    return text if len(text) <= widest else text[: widest - 1] + "…"


def bold(text: str) -> str:
    """Return text in bold on a terminal, as it is elsewhere."""
    return typer.style(text, bold=True) if sys.stdout.isatty() else text


def columns(*names: str, **computed: Callable[[Any], Any]) -> Callable[[list[dict[str, Any]]], str]:
    """Return a renderer of a list of records: fields by name, then computed columns."""

    def render(records: list[dict[str, Any]]) -> str:
        rows = [[record.get(name) for name in names] + [get(record) for get in computed.values()] for record in records]
        return table(rows, [name.replace("_", " ") for name in (*names, *computed)])

    return render


def verdicts(found: Sequence[Mapping[str, Any]]) -> str:
    """Return gate verdicts, one per line with its reason."""
    width = max((len(verdict["gate"]) for verdict in found), default=0)
    return "\n".join(
        f"  {MARKS[verdict['passed']]}  {verdict['gate'].ljust(width)}  {verdict['reason']}" for verdict in found
    )


class Progress:
    """Says what a run does: a line per step, and the share done on a terminal while a step works."""

    def __init__(self) -> None:
        self._is_terminal = sys.stderr.isatty()
        self._started: dict[str, Any] = {}

    def __call__(self, event: Any) -> None:
        kind, step = event.kind, event.step
        if kind == "step_started":
            self._started[step] = event.at
            self._same_line(f"  {step} ...")
        elif kind == "step_progress":
            share = "" if event.fraction is None else f" {event.fraction:4.0%}"
            self._same_line(f"  {step}{share}  {event.message}")
        elif kind in ("step_finished", "step_cached", "step_recovered", "step_failed", "step_retry"):
            began = self._started.get(step)
            took = f"{(event.at - began).total_seconds():6.1f} s" if began else " " * 8
            how = {"step_cached": "cached", "step_recovered": "done before", "step_failed": "FAILED",
                   "step_retry": "again"}.get(kind, "")  # fmt: skip
            self._line(f"  {step.ljust(10)} {took}  {' '.join(filter(None, (how, event.message)))}")

    def _same_line(self, text: str) -> None:
        if self._is_terminal:
            typer.echo(f"\r\033[K{text[:110]}", nl=False, err=True)

    def _line(self, text: str) -> None:
        typer.echo(("\r\033[K" if self._is_terminal else "") + text.rstrip(), err=True)
