"""What a contract finds in a table: every check in one pass, with the rows and the reasons."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from mainspring.core.clock import parse_instant
from mainspring.core.errors import nearest
from mainspring.core.schema import DType
from mainspring.core.units import human_duration
from mainspring.data.checks import Check, is_pandera, whole_match
from mainspring.data.frames import dtype_of
from mainspring.data.profile import Profile, shift

Array = npt.NDArray[Any]
SHOWN = 5


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What one check found: how many rows break it, the first positions (0-based), and the reason in a sentence."""

    check: str
    passed: bool
    reason: str
    bad_rows: int = 0
    sample_rows: tuple[int, ...] = ()
    level: Literal["row", "table"] = "table"


class CheckReport:
    """What a contract found. Not a record: its arrays, one value per row, are for callers and never leave as JSON.

    Args:
        results: What each check found, in the order of the contract.
        bad_rows: Marks the rows that break any rule on rows, shape (n,).
        marks: The same for each rule that some row breaks.
    """

    __slots__ = ("bad_rows", "marks", "results")

    def __init__(self, results: Sequence[CheckResult], bad_rows: Array, marks: Mapping[str, Array]) -> None:
        self.results, self.bad_rows, self.marks = tuple(results), bad_rows, marks

    @property
    def passed(self) -> bool:
        return all(result.passed for result in self.results)

    @property
    def failures(self) -> tuple[CheckResult, ...]:
        return tuple(result for result in self.results if not result.passed)

    @property
    def only_rows_fail(self) -> bool:
        """Whether setting the bad rows aside leaves a table that keeps the contract."""
        return all(result.level == "row" for result in self.failures)

    def reasons(self) -> list[str]:
        """Return which rules each bad row breaks, in the order of the rows."""
        found: list[list[str]] = [[] for _ in range(int(self.bad_rows.sum()))]
        for rule, mask in self.marks.items():
            for position in np.flatnonzero(mask[self.bad_rows]):
                found[position].append(rule)
        return ["; ".join(rules) for rules in found]

    def __str__(self) -> str:
        return "\n".join(f"{'ok  ' if r.passed else 'FAIL'} {r.check}: {r.reason}" for r in self.results)

    def to_json(self) -> dict[str, Any]:
        return {
            "passed": self.passed, "rows": int(self.bad_rows.size), "bad_rows": int(self.bad_rows.sum()),
            "results": [
                {"check": r.check, "passed": r.passed, "reason": r.reason, "level": r.level, "bad_rows": r.bad_rows,
                 "sample_rows": list(r.sample_rows)} for r in self.results
            ],
        }  # fmt: skip


def run_checks(
    frame: pl.DataFrame, checks: Sequence[Check], *, now: datetime, time: str | None = None,
    reference: Profile | None = None, private: Sequence[str] = (),
) -> CheckReport:  # fmt: skip
    """Return what a contract finds in a table; a check that cannot be made (an absent column) fails with its reason.

    Args:
        frame: The table.
        checks: The contract.
        now: What `fresh` measures from.
        time: The dataset's time column.
        reference: Figures of the last good version, for `stable`.
        private: Columns whose values no reason may show.
    """
    # Missing is one thing: a NaN fails or passes a rule exactly as a null does.
    frame = frame.with_columns(pl.selectors.float().fill_nan(None))
    facts = _Facts(frame, now, time, reference, private)
    found: dict[int, CheckResult] = {}
    rules: dict[int, pl.Expr] = {}
    masks: dict[int, Array] = {}
    for position, item in enumerate(checks):
        try:
            if item.kind in _TABLE:
                found[position] = _TABLE[item.kind](facts, item)
            elif item.kind == "model":
                masks[position], reasons, table = _run_model(frame, item.function)
                found[position] = _model_result(item, masks[position], reasons, table)
            else:
                rules[position] = _broken(frame, item)
        except _CannotCheck as error:
            found[position] = CheckResult(str(item), False, str(error))
    masks |= _evaluate(frame, rules)
    for position in rules:
        found[position] = _row_result(frame, checks[position], masks.get(position), private)
    bad = np.zeros(frame.height, dtype=bool)
    for mask in masks.values():
        bad |= mask
    marks = {str(checks[position]): masks[position] for position in sorted(masks)}
    return CheckReport([found[position] for position in range(len(checks))], bad, marks)


def _evaluate(frame: pl.DataFrame, rules: dict[int, pl.Expr]) -> dict[int, Array]:
    """Count what breaks each rule in one pass; return the rows of those that are broken."""
    if not rules or not frame.height:
        return {}
    counts = frame.lazy().select(rule.sum().alias(str(at)) for at, rule in rules.items()).collect().row(0, named=True)
    failing = [at for at in rules if counts[str(at)]]
    marked = frame.select(rules[at].alias(str(at)) for at in failing)
    return {at: marked.get_column(str(at)).to_numpy() for at in failing}


class _CannotCheck(Exception):
    """A check does not fit the table."""


@dataclass(frozen=True, slots=True)
class _Facts:
    """What a check on the table as a whole may look at."""

    frame: pl.DataFrame
    now: datetime
    time: str | None
    reference: Profile | None
    private: Sequence[str]


def _broken(frame: pl.DataFrame, item: Check) -> pl.Expr:
    """Return the expression that is true for rows that break the rule."""
    for name in item.columns:
        _need(frame, name)
    if item.kind == "not_null":
        return pl.any_horizontal(pl.col(name).is_null() for name in item.columns)
    if item.kind == "unique":
        present = pl.all_horizontal(pl.col(name).is_not_null() for name in item.columns)
        rows = pl.col(item.columns[0]) if len(item.columns) == 1 else pl.struct(item.columns)
        return ~rows.is_first_distinct() & present
    if item.kind == "satisfies":
        return (~_rule(frame, item)).fill_null(False)
    name = item.columns[0]
    value, dtype = pl.col(name), dtype_of(frame.schema[name])
    if item.kind == "matches":
        if dtype != "string":
            raise _CannotCheck(f"{name} is {dtype}, not text")
        return (~value.cast(pl.String).str.contains(whole_match(item.options["pattern"]))).fill_null(False)
    if item.kind == "one_of":
        allowed = [_bound(name, dtype, allowed) for allowed in item.options["values"] if allowed is not None]
        kind = pl.String if dtype == "string" else pl.Float64 if dtype in ("int64", "float64") else frame.schema[name]
        return (~value.cast(kind).is_in(pl.Series(allowed, dtype=kind, strict=False).implode())).fill_null(False)
    low, high = (_bound(name, dtype, item.options[side]) for side in ("low", "high"))
    if dtype == "datetime":
        value = value.dt.replace_time_zone("UTC") if getattr(frame.schema[name], "time_zone", None) is None else value
    below = value < low if low is not None else pl.lit(False)
    above = value > high if high is not None else pl.lit(False)
    return (below | above).fill_null(False)


_EXPECTED: dict[DType, tuple[type, ...]] = {
    "int64": (int, float), "float64": (int, float), "bool": (bool,), "string": (str,), "date": (date,),
    "datetime": (datetime,),
}  # fmt: skip


def _bound(name: str, dtype: DType | None, value: Any) -> Any:
    """Return a bound in the column's own kind."""
    if value is None:
        return None
    if dtype in ("date", "datetime") and isinstance(value, str):
        value = parse_instant(value)
    if dtype == "datetime" and isinstance(value, date):
        moment = value if isinstance(value, datetime) else datetime(value.year, value.month, value.day)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    if dtype == "date" and isinstance(value, datetime):
        return value.date()
    if dtype is None or not isinstance(value, _EXPECTED[dtype]) or (isinstance(value, bool) and dtype != "bool"):
        raise _CannotCheck(f"{name} is {dtype}, and {value!r} is {type(value).__name__}")
    return value


def _rule(frame: pl.DataFrame, item: Check) -> pl.Expr:
    try:
        rule = item.function if isinstance(item.function, pl.Expr) else item.function(frame)
        if isinstance(rule, pl.Series):
            rule = pl.lit(rule)
        if not isinstance(rule, pl.Expr):
            raise _CannotCheck(f"the function returned {type(rule).__name__}, not an expression or a column of bool")
        for name in rule.meta.root_names():
            _need(frame, name)
        trial = frame.head(1).select(rule) if item.function is rule else frame.select(rule)
    except (pl.exceptions.PolarsError, TypeError, ValueError, KeyError, AttributeError) as error:
        raise _CannotCheck(f"the rule failed with {type(error).__name__}: {str(error).splitlines()[0]}") from error
    if trial.dtypes != [pl.Boolean]:
        raise _CannotCheck(f"the rule gives {trial.dtypes[0]}, not true or false")
    if trial.height not in (frame.height, min(1, frame.height)):
        raise _CannotCheck(f"the rule gives {trial.height} values for {frame.height} rows")
    return rule


def _row_result(frame: pl.DataFrame, item: Check, mask: Array | None, private: Sequence[str]) -> CheckResult:
    if mask is None:
        return CheckResult(str(item), True, "every row", level="row")
    positions = np.flatnonzero(mask)
    sample = tuple(int(row) for row in positions[:SHOWN])
    shown = [name for name in item.columns if name not in private]
    seen = "" if item.kind == "not_null" else "".join(
        f"; {name} is {_short(frame, name, sample)}" for name in shown
    )  # fmt: skip
    share = f"{positions.size} of {frame.height} rows break it, first {', '.join(map(str, sample))}"
    return CheckResult(str(item), False, share + seen, positions.size, sample, "row")


def _short(frame: pl.DataFrame, name: str, positions: tuple[int, ...]) -> str:
    values = dict.fromkeys(str(frame.get_column(name)[row]) for row in positions)
    return ", ".join(repr(value[:40]) for value in list(values)[:3])


def _run_model(frame: pl.DataFrame, schema: Any) -> tuple[Array, list[str], list[str]]:
    """Return the rows that a model refuses, why, and what it says of the table as a whole."""
    if is_pandera(schema):
        from mainspring.data.pandera import validate

        return validate(frame, schema)
    bad, reasons = np.zeros(frame.height, dtype=bool), dict[str, None]()
    for position, row in enumerate(frame.iter_rows(named=True)):
        try:
            schema.model_validate(row)
        except ValueError as error:  # pydantic's ValidationError is one; its text holds the row, its errors() need not
            bad[position] = True
            if len(reasons) < SHOWN:
                for problem in error.errors() if hasattr(error, "errors") else []:
                    reasons[f"{'.'.join(map(str, problem['loc']))}: {problem['type']}"] = None
    return bad, list(reasons), []


def _model_result(item: Check, mask: Array, reasons: list[str], table: list[str]) -> CheckResult:
    positions = np.flatnonzero(mask)
    if not positions.size and not table:
        return CheckResult(str(item), True, "every row is valid", level="row")
    text = "; ".join([*table, *([f"{positions.size} rows are not valid"] if positions.size else []), *reasons[:SHOWN]])
    return CheckResult(str(item), False, text, positions.size, tuple(int(row) for row in positions[:SHOWN]),
                       "table" if table else "row")  # fmt: skip


def _fresh(facts: _Facts, item: Check) -> CheckResult:
    name = item.columns[0] if item.columns else facts.time
    if not name:
        raise _CannotCheck('no time column is declared; say time="..." or check.fresh("26h", "at")')
    _need(facts.frame, name)
    if dtype_of(facts.frame.schema[name]) not in ("date", "datetime"):
        raise _CannotCheck(f"{name} is {facts.frame.schema[name]}, not a date or an instant")
    newest = facts.frame.get_column(name).max()
    if newest is None:
        return CheckResult(str(item), False, f"{name} holds no instant")
    assert isinstance(newest, date)
    moment = _bound(name, "datetime", newest)
    if dtype_of(facts.frame.schema[name]) == "date":
        moment += timedelta(days=1)  # a date is as new as its last moment
    age = max(facts.now - moment, timedelta(0))
    limit = item.options["age"]
    at = f"{moment:%Y-%m-%dT%H:%M:%SZ}"
    text = f"the newest {name} is {human_duration(age)} old ({at}), {human_duration(limit)} allowed"
    return CheckResult(str(item), age <= limit, text)


def _rows(facts: _Facts, item: Check) -> CheckResult:
    low, high = item.options["low"], item.options["high"]
    good = facts.frame.height >= low and (high is None or facts.frame.height <= high)
    wanted = f"at least {low}" if high is None else f"{low} to {high}"
    return CheckResult(str(item), good, f"{facts.frame.height} rows, {wanted} wanted")


def _types(facts: _Facts, item: Check) -> CheckResult:
    wrong = []
    for name, wanted in item.options["types"].items():
        found = dtype_of(facts.frame.schema[name]) if name in facts.frame.columns else None
        if name not in facts.frame.columns:
            wrong.append(f"no column {name!r}{nearest(name, facts.frame.columns)}")
        elif found != wanted:
            wrong.append(f"{name} is {found or facts.frame.schema[name]}, not {wanted}")
    return CheckResult(str(item), not wrong, "; ".join(wrong) or "every column")


def _stable(facts: _Facts, item: Check) -> CheckResult:
    for name in item.columns:
        _need(facts.frame, name)
    if facts.reference is None:
        return CheckResult(str(item), True, "there is no earlier version to compare with")
    names = item.columns or tuple(name for name in facts.frame.columns if name in facts.reference.columns)
    moved, seen = [], 0
    for name in names:
        # What was hashed or dropped at ingest cannot be compared with what comes in.
        if name in facts.private or name not in facts.reference.columns:
            continue
        found = shift(facts.reference.columns[name], facts.frame.get_column(name))
        seen += found is not None
        if found is not None and found.effect > item.options["psi"]:
            moved.append(f"{name} moved: psi {found.psi:.2f}, of which {found.noise:.2f} is chance")
    return CheckResult(str(item), not moved, "; ".join(moved) or f"{seen} columns compared with the last good version")


_TABLE: dict[str, Callable[[_Facts, Check], CheckResult]]
_TABLE = {"fresh": _fresh, "rows": _rows, "types": _types, "stable": _stable}


def _need(frame: pl.DataFrame, name: str) -> None:
    if name not in frame.columns:
        raise _CannotCheck(f"no column {name!r}{nearest(name, frame.columns)}")
