"""The contract of a dataset, as data: the checks that a project declares."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import polars as pl

from mainspring.core.errors import Invalid, Where, nearest
from mainspring.core.schema import DType
from mainspring.core.units import duration, human_duration

Rule = pl.Expr | Callable[[pl.DataFrame], "pl.Expr | pl.Series"]


@dataclass(frozen=True, slots=True)
class Check:
    """One rule of a contract; `str()` is the call that declared it.

    Rows with a missing value pass every rule but `not_null`. `function` is what a rule in Python runs; it takes no part
    in equality, `text` does.
    """

    kind: str
    columns: tuple[str, ...]
    text: str
    options: dict[str, Any] = field(default_factory=dict, compare=False)
    function: Any = field(default=None, compare=False)
    where: Where | None = field(default=None, compare=False)

    def __str__(self) -> str:
        return self.text


def unique(*columns: str) -> Check:
    """No two rows agree in all of `columns`; the first of equal rows is the good one."""
    return _declare("unique", _named(columns, "unique"), f"unique({_list(columns)})")


def not_null(*columns: str) -> Check:
    """No value is missing (null, or NaN in a float)."""
    return _declare("not_null", _named(columns, "not_null"), f"not_null({_list(columns)})")


def between(column: str, low: Any = None, high: Any = None) -> Check:
    """Values lie in `[low, high]`; None leaves a side open. Instants may be ISO text."""
    if low is None and high is None:
        raise Invalid("between needs a low or a high bound", hint=f'check.between("{column}", 0, 100)')
    if low is not None and high is not None and type(low) is type(high) and low > high:
        raise Invalid(f"between({column!r}, {low!r}, {high!r}) holds for no value", hint="give the lower bound first")
    text = f"between({str(column)!r}, {low!r}, {high!r})"
    return _declare("between", (str(column),), text, {"low": low, "high": high})


def one_of(column: str, values: Iterable[Any]) -> Check:
    """Values are among `values`."""
    allowed = [values] if isinstance(values, str) else list(values)
    if not allowed:
        raise Invalid(f"one_of({str(column)!r}) allows no value", hint='check.one_of("country", ["DE", "FR"])')
    return _declare("one_of", (str(column),), f"one_of({str(column)!r}, {allowed!r})", {"values": allowed})


def matches(column: str, pattern: str) -> Check:
    """The whole text matches a regular expression (Rust syntax: no look-around)."""
    try:
        pl.select(pl.lit("").str.contains(whole_match(pattern)))
    except pl.exceptions.ComputeError as error:
        detail = next((line for line in str(error).splitlines() if line.startswith("error")), "it does not compile")
        raise Invalid(f"{pattern!r} is not a regular expression: {detail}",
                      hint="look-around and back-references are not supported") from error  # fmt: skip
    return _declare("matches", (str(column),), f"matches({str(column)!r}, {pattern!r})", {"pattern": pattern})


def fresh(age: str | timedelta, column: str | None = None) -> Check:
    """The newest row is at most `age` old, by `column` (default: the dataset's time)."""
    length = duration(age)
    text = f"fresh({human_duration(length)!r}{f', {str(column)!r}' if column else ''})"
    return _declare("fresh", (str(column),) if column else (), text, {"age": length})


def rows(at_least: int = 1, at_most: int | None = None) -> Check:
    """The table has at least and at most so many rows."""
    if at_most is not None and at_most < at_least:
        raise Invalid(f"rows({at_least}, {at_most}) holds for no table", hint="give the lower bound first")
    return _declare("rows", (), f"rows({at_least}, {at_most})", {"low": at_least, "high": at_most})


def types(**columns: DType) -> Check:
    """Each named column is there and holds the type: int64, float64, bool, string, datetime or date."""
    known = ("int64", "float64", "bool", "string", "datetime", "date")
    for name, dtype in columns.items():
        if dtype not in known:
            raise Invalid(f"{dtype!r} is not a type for {name!r}{nearest(str(dtype), known)}",
                          hint=f"use one of {', '.join(known)}")  # fmt: skip
    text = f"types({', '.join(f'{name}={dtype!r}' for name, dtype in columns.items())})"
    return _declare("types", (), text, {"types": dict(columns)})


def stable(column: str | None = None, psi: float = 0.2) -> Check:
    """The distribution has not moved from the last good version by more than `psi`, beyond what chance gives.

    Without a column, every column is compared. The first version passes: there is nothing to compare it with.
    """
    text = f"stable({f'{str(column)!r}, ' if column else ''}psi={psi:g})"
    return _declare("stable", (str(column),) if column else (), text, {"psi": float(psi)})


def satisfies(rule: Rule, name: str = "") -> Check:
    """Every row makes `rule` true: a Polars expression, or a function from the table to one (or to a column of bool).

    >>> str(satisfies(pl.col("paid") <= pl.col("billed"), "paid at most what was billed"))
    "satisfies('paid at most what was billed')"
    """
    if not isinstance(rule, pl.Expr) and not callable(rule):
        raise Invalid(f"{rule!r} is not a rule", hint='pass an expression: check.satisfies(pl.col("a") <= pl.col("b"))')
    label = name or (str(rule) if isinstance(rule, pl.Expr) else getattr(rule, "__name__", "rule"))
    shown = {"rule": str(rule)} if isinstance(rule, pl.Expr) else {}
    return _declare("satisfies", (), f"satisfies({label!r})", shown, rule)


def model(schema: Any) -> Check:
    """Every row is valid for a Pydantic model, or the table for a Pandera model or schema."""
    if not (is_pandera(schema) or hasattr(schema, "model_validate")):
        raise Invalid(f"{schema!r} is neither a Pydantic nor a Pandera model", hint="pass the class, not an instance")
    name = getattr(schema, "__name__", None) or getattr(schema, "name", None) or type(schema).__name__
    return _declare("model", (), f"model({name})", function=schema)


def _declare(
    kind: str, columns: tuple[str, ...], text: str, options: dict[str, Any] | None = None, function: Any = None
) -> Check:
    caller = sys._getframe(2)
    return Check(kind, columns, text, options or {}, function, Where(caller.f_code.co_filename, caller.f_lineno))


def is_pandera(schema: Any) -> bool:
    """Return whether `schema` is a Pandera model or schema, without importing Pandera."""
    kinds = schema.__mro__ if isinstance(schema, type) else type(schema).__mro__
    return any(kind.__module__.partition(".")[0] == "pandera" for kind in kinds)


def whole_match(pattern: str) -> str:
    """Return the pattern that only a whole text matches."""
    return f"^(?:{pattern})$"


def _named(columns: Sequence[str], what: str) -> tuple[str, ...]:
    if not columns:
        raise Invalid(f"{what} names no column", hint=f'check.{what}("id")')
    return tuple(str(name) for name in columns)


def _list(columns: Sequence[str]) -> str:
    return ", ".join(repr(str(name)) for name in columns)
