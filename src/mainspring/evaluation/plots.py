"""Plots as inline SVG that follow the page's colours; every text is escaped here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_POINTS_AT_MOST = 240


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a plot; `style` is a class of the page's style sheet."""

    label: str
    x: Array
    y: Array
    style: str = "s0"
    dots: bool = False


@dataclass(frozen=True, slots=True)
class Whisker:
    """One row of an interval plot."""

    label: str
    value: float
    low: float | None = None
    high: float | None = None
    note: str = ""
    style: str = "s0"


def line_plot(
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    *,
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
    diagonal: bool = False,
    wide: bool = False,
    x_names: Sequence[tuple[float, str]] = (),
) -> str:
    """Return lines over common axes, with a legend when there are several; `x_names` takes the place of x ticks."""
    axes = _Axes(
        *(x_range or _span([s.x for s in series])), *(y_range or _span([s.y for s in series])),
        width=920 if wide else 440, height=300 if wide else 340, legend=len(series) > 1,
    )  # fmt: skip
    parts = [axes.draw(x_label, y_label, x_names)]
    if diagonal:
        ends = f"{_n(axes.x(0))},{_n(axes.y(0))} {_n(axes.x(1))},{_n(axes.y(1))}"
        parts.append(f'<polyline class="guide" points="{ends}"/>')
    for one in series:
        keep = np.unique(np.linspace(0, len(one.x) - 1, _POINTS_AT_MOST * (4 if wide else 1)).astype(int))
        points = [(axes.x(x), axes.y(y)) for x, y in zip(one.x[keep], one.y[keep], strict=True) if x == x and y == y]
        parts.append(f'<polyline class="line {one.style}" points="{" ".join(f"{_n(x)},{_n(y)}" for x, y in points)}"/>')
        if one.dots:
            parts += [f'<circle class="dot {one.style}" cx="{_n(x)}" cy="{_n(y)}" r="3.5"/>' for x, y in points]
    if len(series) > 1:
        parts += _legend([(one.label, one.style) for one in series], axes)
    return _svg(axes.width, axes.height, parts, f"{y_label} against {x_label}")


def histogram(
    groups: Sequence[tuple[str, Array, str]], x_label: str, *, span: tuple[float, float] | None = None
) -> str:
    """Return overlaid histograms, each scaled to its own number of rows."""
    low, high = span or _span([values for _, values, _ in groups])
    edges = np.linspace(low, high, 31)
    shares = [np.histogram(np.clip(values, low, high), edges)[0] / max(len(values), 1) for _, values, _ in groups]
    tallest = max(float(max(s.max() for s in shares)) * 1.08, 1e-9)
    axes = _Axes(low, high, 0.0, tallest, legend=len(groups) > 1)
    parts = [axes.draw(x_label, "share of rows")]
    for (_, _, style), share in zip(groups, shares, strict=True):
        steps = " ".join(f"{_n(axes.x(a))},{_n(axes.y(v))} {_n(axes.x(b))},{_n(axes.y(v))}"
                         for a, b, v in zip(edges[:-1], edges[1:], share, strict=True))  # fmt: skip
        base = _n(axes.y(0))
        parts.append(
            f'<polygon class="area {style}" points="{_n(axes.x(low))},{base} {steps} {_n(axes.x(high))},{base}"/>'
        )
    if len(groups) > 1:
        parts += _legend([(label, style) for label, _, style in groups], axes)
    return _svg(axes.width, axes.height, parts, f"Distribution of {x_label}")


def density_plot(x: Array, y: Array, x_label: str, y_label: str) -> str:
    """Return where the rows lie as shaded cells, with the line on which both are equal."""
    low, high = _span([x, y])
    axes = _Axes(low, high, low, high)
    counts, edges, _ = np.histogram2d(x, y, bins=44, range=[[low, high], [low, high]])
    side = axes.x(edges[1]) - axes.x(edges[0])
    tall = axes.y(edges[0]) - axes.y(edges[1])
    parts = [axes.draw(x_label, y_label)]
    for i, j in zip(*np.nonzero(counts), strict=True):
        shade = 0.15 + 0.85 * (counts[i, j] / counts.max()) ** 0.4
        parts.append(f'<rect class="cell" x="{_n(axes.x(edges[i]))}" y="{_n(axes.y(edges[j + 1]))}" width="{_n(side)}" '
                     f'height="{_n(tall)}" fill-opacity="{shade:.2f}"/>')  # fmt: skip
    ends = f"{_n(axes.x(low))},{_n(axes.y(low))} {_n(axes.x(high))},{_n(axes.y(high))}"
    return _svg(
        axes.width, axes.height, [*parts, f'<polyline class="guide" points="{ends}"/>'], f"{y_label} by {x_label}"
    )


def matrix_plot(counts: Array, names: Sequence[str]) -> str:
    """Return a confusion matrix: rows are the truth, columns the answer, shades are shares of the row."""
    k, cell = len(names), max(34, min(96, 380 // len(names)))
    left, top = 18 + 7 * min(max(len(name) for name in names), 18), 34
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    parts = [_text(left + k * cell / 2, 12, "answer", "axis-title", "middle")]
    for i, name in enumerate(names):
        parts.append(_text(left - 8, top + (i + 0.5) * cell + 4, _short(name), "tick", "end"))
        parts.append(_text(left + (i + 0.5) * cell, top - 7, _short(name, cell // 7), "tick", "middle"))
        for j in range(k):
            style = "cell" if i == j else "cell wrong"
            x, y = left + j * cell, top + i * cell
            parts.append(f'<rect class="{style}" x="{x + 1}" y="{y + 1}" width="{cell - 2}" height="{cell - 2}" rx="3" '
                         f'fill-opacity="{0.06 + 0.8 * shares[i, j]:.2f}"/>')  # fmt: skip
            shade = "on-dark" if shares[i, j] > 0.55 else "value"
            parts.append(
                _text(x + cell / 2, y + cell / 2 + (0 if cell > 60 else 4), f"{counts[i, j]:,.0f}", shade, "middle")
            )
            if cell > 60:
                parts.append(_text(x + cell / 2, y + cell / 2 + 16, f"{shares[i, j]:.0%}", f"{shade} small", "middle"))
    return _svg(left + k * cell + 6, top + k * cell + 8, parts, "Confusion matrix: rows are the truth")


def whisker_plot(rows: Sequence[Whisker], label: str, *, limit: float | None = None) -> str:
    """Return one row per value with its interval, and a line at `limit`."""
    known = [v for row in rows for v in (row.value, row.low, row.high) if v is not None and math.isfinite(v)]
    known += [] if limit is None else [limit]
    low, high = _span([np.array(known or [0.0, 1.0])])
    left, right, step = 18 + 7 * min(max(len(row.label) for row in rows), 30), 150, 28
    width, bottom = 920, 12 + step * len(rows)
    inner = width - left - right

    def at(value: float) -> float:
        return left + inner * (value - low) / (high - low)

    parts = []
    for tick in _ticks(low, high, 6):
        parts.append(f'<line class="grid" x1="{_n(at(tick))}" x2="{_n(at(tick))}" y1="8" y2="{bottom}"/>')
        parts.append(_text(at(tick), bottom + 16, _number(tick), "tick", "middle"))
    if limit is not None:
        parts.append(f'<line class="limit" x1="{_n(at(limit))}" x2="{_n(at(limit))}" y1="4" y2="{bottom}"/>')
    for i, row in enumerate(rows):
        y = 12 + step * (i + 0.5)
        parts.append(_text(left - 10, y + 4, _short(row.label, 30), "tick strong", "end"))
        parts.append(_text(width - right + 12, y + 4, row.note, "tick", "start"))
        if not math.isfinite(row.value):
            continue
        if row.low is not None and row.high is not None:
            parts.append(f'<line class="line {row.style}" x1="{_n(at(row.low))}" x2="{_n(at(row.high))}" '
                         f'y1="{_n(y)}" y2="{_n(y)}"/>')  # fmt: skip
        parts.append(f'<circle class="dot {row.style}" cx="{_n(at(row.value))}" cy="{_n(y)}" r="4.5"/>')
    parts.append(_text(left + inner / 2, bottom + 34, label, "axis-title", "middle"))
    return _svg(width, bottom + 42, parts, label)


def bar_plot(rows: Sequence[tuple[str, float]], *, style: str = "s0") -> str:
    """Return horizontal bars of shares, 0 to 1 of the whole."""
    left, step, width = 18 + 7 * min(max(len(label) for label, _ in rows), 30), 26, 920
    longest = max(max(value for _, value in rows), 1e-9)
    parts = []
    for i, (label, value) in enumerate(rows):
        y, length = 4 + i * step, (width - left - 70) * value / longest
        parts.append(_text(left - 10, y + 15, _short(label, 30), "tick strong", "end"))
        parts.append(
            f'<rect class="bar {style}" x="{left}" y="{y + 3}" width="{_n(max(length, 1))}" height="16" rx="3"/>'
        )
        parts.append(_text(left + length + 8, y + 15, f"{value:.1%}", "tick", "start"))
    return _svg(width, 8 + step * len(rows), parts, "Shares")


class _Axes:
    """The box of a plot: where values lie, its grid and its labels."""

    def __init__(
        self, x0: float, x1: float, y0: float, y1: float, *, width: int = 440, height: int = 340, legend: bool = False
    ) -> None:
        self.width, self.height = width, height
        self.left, self.right, self.top, self.bottom = 62, width - 14, 34 if legend else 12, height - 48
        self._x, self._y = (x0, x1 - x0 or 1.0), (y0, y1 - y0 or 1.0)

    def x(self, value: float) -> float:
        return self.left + (self.right - self.left) * (float(value) - self._x[0]) / self._x[1]

    def y(self, value: float) -> float:
        return self.bottom - (self.bottom - self.top) * (float(value) - self._y[0]) / self._y[1]

    def draw(self, x_label: str, y_label: str, x_names: Sequence[tuple[float, str]] = ()) -> str:
        parts = []
        for tick in _ticks(self._y[0], self._y[0] + self._y[1], 5):
            y = _n(self.y(tick))
            parts.append(f'<line class="grid" x1="{self.left}" x2="{self.right}" y1="{y}" y2="{y}"/>')
            parts.append(_text(self.left - 8, self.y(tick) + 4, _number(tick), "tick", "end"))
        plain = [(tick, _number(tick)) for tick in _ticks(self._x[0], self._x[0] + self._x[1], 5)]
        for tick, name in x_names or plain:
            parts.append(_text(self.x(tick), self.bottom + 18, name, "tick", "middle"))
        parts.append(f'<line class="axis" x1="{self.left}" x2="{self.right}" y1="{self.bottom}" y2="{self.bottom}"/>')
        parts.append(_text((self.left + self.right) / 2, self.height - 8, x_label, "axis-title", "middle"))
        middle = (self.top + self.bottom) / 2
        turned = f'transform="rotate(-90 14 {_n(middle)})"'
        parts.append(_text(14, middle, y_label, "axis-title", "middle", turned))
        return "".join(parts)


def _svg(width: float, height: float, parts: Sequence[str], title: str) -> str:
    box = f'viewBox="0 0 {_n(width)} {_n(height)}" style="max-width:{_n(width)}px"'
    return f'<svg {box} role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>'


def _text(x: float, y: float, text: str, style: str, anchor: str, more: str = "") -> str:
    return f'<text x="{_n(x)}" y="{_n(y)}" class="{style}" text-anchor="{anchor}" {more}>{escape(str(text))}</text>'


def _legend(entries: Sequence[tuple[str, str]], axes: _Axes) -> list[str]:
    """Return the legend, a row above the box, where no line runs."""
    parts, x = [], float(axes.left)
    for label, style in entries:
        parts.append(f'<rect class="bar {style}" x="{_n(x)}" y="9" width="10" height="10" rx="2"/>')
        parts.append(_text(x + 16, 18, _short(label, 22), "tick", "start"))
        x += 40 + 7 * min(len(label), 22)
    return parts


def _short(text: str, at_most: int = 18) -> str:
    return text if len(text) <= max(at_most, 3) else text[: max(at_most, 3) - 1] + "…"


def _n(value: float) -> str:
    return f"{float(value):.1f}".removesuffix(".0")


def _number(value: float) -> str:
    if value and (abs(value) >= 1e6 or abs(value) < 1e-3):
        return f"{value:.2g}"
    return f"{value:,.4f}".rstrip("0").rstrip(".")


def _span(columns: Sequence[Array]) -> tuple[float, float]:
    finite = np.concatenate([column[np.isfinite(column)] for column in columns])
    if not len(finite):
        return 0.0, 1.0
    low, high = float(finite.min()), float(finite.max())
    room = (high - low) * 0.04 or abs(low) * 0.1 or 1.0
    return low - room, high + room


def _ticks(low: float, high: float, count: int) -> list[float]:
    """Return round numbers between the ends."""
    rough = (high - low) / max(count, 1)
    scale = 10.0 ** math.floor(math.log10(rough)) if rough > 0 else 1.0
    step = next(m * scale for m in (1, 2, 2.5, 5, 10) if m * scale >= rough * 0.999)
    return [round(i * step, 12) for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]
