"""One grammar for durations, sizes, rates and conditions, with errors that point at the character."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from mainspring.core.errors import Invalid

_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_BYTES = {
    "B": 1,
    "kB": 10**3,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}
_PERIODS = {"second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 86400.0, "week": 604800.0, "month": 2629746.0}
_NUMBER = re.compile(r"(\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)")
_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
    "==": operator.eq,
}


def _fail(text: str, position: int, message: str, hint: str) -> Invalid:
    return Invalid(f"{message}\n  {text}\n  {' ' * position}^", hint=hint)


def _quantity(text: str, units: dict[str, float] | dict[str, int], what: str, example: str) -> float:
    """Return the sum of `number unit` pairs, as in `1h30m`."""
    hint = f"write a {what} like {example}; units: {', '.join(units)}"
    if not isinstance(text, str):
        raise Invalid(f"{text!r} is not a {what}", hint=hint)
    position, total = len(text) - len(text.lstrip()), 0.0
    end = len(text.rstrip())
    if position >= end:
        raise _fail(text, 0, f"an empty text is not a {what}", hint)
    while position < end:
        number = _NUMBER.match(text, position)
        if not number:
            raise _fail(text, position, f"expected a number in the {what}", hint)
        start = number.end() + (1 if text[number.end() : number.end() + 1] == " " else 0)
        unit = re.compile(r"[A-Za-z]*").match(text, start)
        assert unit is not None
        if unit.group() not in units:
            raise _fail(
                text,
                start,
                f"unknown unit {unit.group()!r} in the {what}" if unit.group() else f"the {what} has no unit",
                hint,
            )
        total += float(number.group()) * units[unit.group()]
        position = unit.end()
        while position < end and text[position] == " ":
            position += 1
    return total


def duration(text: str | timedelta) -> timedelta:
    """Return a length of time from `"15m"`, `"1h30m"`, `"7d"`, `"50ms"`.

    Raises:
        Invalid: not a duration; the message points at the character.

    >>> duration("1h30m")
    datetime.timedelta(seconds=5400)
    """
    if isinstance(text, timedelta):
        return text
    try:
        return timedelta(seconds=_quantity(text, _SECONDS, "duration", '"15m", "1h30m" or "7d"'))
    except OverflowError as error:
        raise Invalid(f"{text!r} is longer than can be counted", hint="the longest duration is 999999999d") from error


def size(text: str | int) -> int:
    """Return a number of bytes from `"64MB"`, `"1.5GiB"` or a plain int.

    >>> size("64MB")
    64000000
    """
    if isinstance(text, int):
        return int(text)
    return int(_quantity(text, _BYTES, "size", '"64MB" or "1.5GiB"'))


def rate(text: str | float) -> float:
    """Return a share between 0 and 1 from `"0.5%"` or a plain number.

    Raises:
        Invalid: not a share, or outside 0 to 1.

    >>> rate("0.5%")
    0.005
    """
    hint = 'write a rate like "0.5%" or 0.005'
    if isinstance(text, str):
        number = _NUMBER.match(text.strip())
        rest = text.strip()[number.end() :].strip() if number else ""
        if not number or rest not in ("", "%"):
            raise _fail(text, number.end() if number else 0, f"{text!r} is not a rate", hint)
        value = float(number.group()) / (100 if rest else 1)
    else:
        value = float(text)
    if not 0 <= value <= 1:
        raise Invalid(f"the rate {text!r} is outside 0 to 1", hint=hint)
    return value


def frequency(text: str) -> float:
    """Return events per day from `"1/week"`, `"3/day"`, `"1/2w"`.

    >>> round(frequency("1/week"), 3)
    0.143
    """
    hint = 'write a frequency like "1/week", "3/day" or "1/12h"'
    count, slash, period = text.partition("/") if isinstance(text, str) else ("", "", "")
    number = _NUMBER.fullmatch(count.strip())
    if not slash or not number:
        raise _fail(str(text), len(count), f"{text!r} is not a frequency", hint)
    seconds = _PERIODS.get(period.strip().removesuffix("s"))
    if seconds is None:
        seconds = duration(period.strip() if period.strip()[:1].isdigit() else f"1{period.strip()}").total_seconds()
    return float(number.group()) * 86400.0 / seconds


@dataclass(frozen=True, slots=True)
class Condition:
    """A rule on one figure, as in `p99 > 150ms`; durations are held in seconds, percent as a rate."""

    metric: str
    op: str
    value: float

    def __str__(self) -> str:
        return f"{self.metric} {self.op} {self.value:g}"

    def holds(self, value: float | None) -> bool:
        """Return whether the rule is true of `value`; of nothing and of NaN it never is."""
        return value is not None and not math.isnan(value) and _OPERATORS[self.op](value, self.value)


def parse_condition(text: str) -> Condition:
    """Return the rule that `text` spells.

    Raises:
        Invalid: not of the form `metric op value`; the message points at the character.

    >>> parse_condition("p99 > 150ms")
    Condition(metric='p99', op='>', value=0.15)
    >>> parse_condition("error_rate > 0.5%").holds(0.01)
    True
    """
    hint = 'write a condition like "roc_auc >= 0.80", "error_rate > 0.5%" or "p99 > 150ms"'
    if not isinstance(text, str):
        raise Invalid(f"{text!r} is not a condition", hint=hint)
    name = re.compile(r"\s*([A-Za-z_][A-Za-z0-9_]*)\s*").match(text)
    if not name:
        raise _fail(text, 0, "expected the name of a figure", hint)
    op = next((o for o in _OPERATORS if text.startswith(o, name.end())), None)
    if op is None:
        raise _fail(text, name.end(), "expected one of >= <= > < ==", hint)
    start = name.end() + len(op)
    rest = text[start:].strip()
    number = re.fullmatch(r"(-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)\s*([A-Za-z%]*)", rest)
    offset = start + len(text[start:]) - len(text[start:].lstrip())
    if not number or (number.group(2) and number.group(2) not in _SECONDS and number.group(2) != "%"):
        raise _fail(text, offset, "expected a number with an optional unit", hint)
    scale = 0.01 if number.group(2) == "%" else _SECONDS.get(number.group(2), 1.0)
    return Condition(name.group(1), op, float(number.group(1)) * scale)


def human_duration(length: timedelta) -> str:
    """Return a length of time as `duration` reads it back, to the second.

    >>> human_duration(timedelta(hours=26))
    '1d2h'
    """
    seconds = int(length.total_seconds())
    parts = []
    for unit, step in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, seconds = divmod(seconds, step)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or f"{length.total_seconds() * 1000:g}ms"
