"""Splits of a table into training, validation and test rows, by time, by group or by chance, always the same way."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from mainspring.core.errors import Invalid, NotFound, nearest
from mainspring.core.units import duration, human_duration, rate

Array = npt.NDArray[Any]
Share = float | timedelta
MAX_STRATA = 200


@dataclass(frozen=True, slots=True)
class ByTime:
    """The newest rows are the test; `test` and `validation` are shares of the rows or lengths of time."""

    test: Share
    validation: Share = 0.0

    def __str__(self) -> str:
        return f"by_time(test={_text(self.test)}, validation={_text(self.validation)})"


@dataclass(frozen=True, slots=True)
class ByGroup:
    """Whole groups (customers, machines) go to one side."""

    column: str
    test: float
    validation: float = 0.0
    seed: int = 0

    def __str__(self) -> str:
        return f"by_group({self.column!r}, test={self.test:g}, validation={self.validation:g}, seed={self.seed})"


@dataclass(frozen=True, slots=True)
class ByChance:
    """Rows are drawn by a hash; rows that agree in `together` go to one side."""

    test: float
    validation: float = 0.0
    seed: int = 0
    stratify: bool = True
    together: tuple[str, ...] = ()

    def __str__(self) -> str:
        options = {name: value for name, value in asdict(self).items() if value not in (0.0, ())}
        return f"by_chance({', '.join(f'{name}={value!r}' for name, value in options.items())})"


SplitSpec = ByTime | ByGroup | ByChance


@dataclass(frozen=True, eq=False, slots=True)
class Split:
    """Row positions of each part (a split by time has them in time order), and why each row is where it is."""

    train: Array
    validation: Array
    test: Array
    reason: str


def by_time(test: str | float | timedelta = 0.2, validation: str | float | timedelta = 0.0) -> ByTime:
    """Test on the newest rows: `"14d"` (the last fourteen days), `"20%"` or 0.2 (the newest fifth)."""
    return ByTime(_share(test, "test"), _share(validation, "validation", least=0.0))


def by_group(column: str, test: str | float = 0.2, validation: str | float = 0.0, seed: int = 0) -> ByGroup:
    """Test on groups that training never saw; all rows with one value of `column` stay together."""
    return ByGroup(str(column), _rate(test, "test"), _rate(validation, "validation", least=0.0), seed)


def by_chance(
    test: str | float = 0.2, validation: str | float = 0.0, seed: int = 0, stratify: bool = True,
    together: str | Sequence[str] = (),
) -> ByChance:  # fmt: skip
    """Test on rows drawn by a hash of their key, or of their whole content where no key is declared.

    The draw does not depend on the order of the rows, and equal rows are never on two sides.

    Args:
        test: Share of rows.
        validation: Share of rows.
        seed: Another seed draws other rows.
        stratify: Draw the same share of each class of the target.
        together: Columns; rows equal in them stay on one side (default: the key, else all but the target).
    """
    columns = (together,) if isinstance(together, str) else tuple(together)
    return ByChance(_rate(test, "test"), _rate(validation, "validation", least=0.0), seed, stratify, columns)


def split(
    frame: pl.DataFrame, spec: SplitSpec, *, time: str | None = None, target: str | None = None, key: Sequence[str] = ()
) -> Split:
    """Return which rows train, validate and test; every row is in exactly one part.

    Raises:
        Invalid: a part would be empty, or a split by time lacks a time column or meets a missing time.
        NotFound: a named column is absent.
    """
    if isinstance(spec, ByTime):
        return _by_time(frame, spec, time)
    if isinstance(spec, ByGroup):
        _present(frame, (spec.column,))
        drawn = _hashes(frame, (spec.column,), spec.seed)
        parts = _draw(drawn, np.zeros(frame.height, np.int64), spec.test, spec.validation)
        sides = [np.unique(drawn[part]).size for part in parts]
        reason = f"drawn by group: {sides[2]} of {sum(sides)} values of {spec.column} are kept for the test"
        return _checked(frame, spec, *parts, reason)
    columns = spec.together or tuple(key) or tuple(name for name in frame.columns if name != target)
    _present(frame, columns)
    strata, stratified = _strata(frame, target if spec.stratify else None)
    parts = _draw(_hashes(frame, columns, spec.seed), strata, spec.test, spec.validation)
    whole = not spec.together and not key
    reason = f"drawn by a hash of {'the whole row' if whole else ', '.join(columns)}, seed {spec.seed}"
    return _checked(frame, spec, *parts, reason + (f", the same share of each {target}" if stratified else ""))


def _by_time(frame: pl.DataFrame, spec: ByTime, time: str | None) -> Split:
    if not time:
        raise Invalid("a split by time needs a time column", hint='declare it: project.dataset(..., time="at")')
    _present(frame, (time,))
    instants = frame.get_column(time)
    if not instants.dtype.is_temporal() and not instants.dtype.is_numeric():
        raise Invalid(f"the time column {time!r} is {instants.dtype}", hint="read it as an instant or a number")
    if instants.null_count():
        raise Invalid(f"{instants.null_count()} rows have no {time!r}", hint=f"drop them, or check.not_null({time!r})")
    if instants.dtype.is_temporal():
        ticks = instants.cast(pl.Datetime("us")).to_physical().to_numpy()
    elif isinstance(spec.test, timedelta) or isinstance(spec.validation, timedelta):
        raise Invalid(f"{time!r} is a number, so a length of time cannot be counted on it", hint='use a share: "20%"')
    else:
        ticks = instants.to_numpy()
    order = np.argsort(ticks, kind="stable")
    values = ticks[order]
    start_test = _cut(values, len(values), spec.test)
    start_validation = _cut(values, start_test, spec.validation) if spec.validation else start_test
    parts = order[:start_validation], order[start_validation:start_test], order[start_test:]
    first = instants[int(order[start_test])] if start_test < len(order) else "the end"
    return _checked(frame, spec, *parts, f"the newest {_text(spec.test)} by {time}: the test starts at {first}")


def _cut(values: Array, end: int, share: Share) -> int:
    """Return the position where the newest `share` of `values[:end]` starts; equal times stay on one side."""
    if not end:
        return 0
    if isinstance(share, timedelta):
        bound = values[end - 1] - share // timedelta(microseconds=1)
        return int(np.searchsorted(values[:end], bound, side="right"))
    position = min(end - 1, round(end * (1 - share)))
    return int(np.searchsorted(values[:end], values[position], side="left"))


def _hashes(frame: pl.DataFrame, columns: Sequence[str], seed: int) -> Array:
    """Return a number per row, shape (n,), uint64, that depends on the values of `columns` and the seed alone."""
    text = frame.select(
        pl.concat_str([pl.col(name).cast(pl.String).fill_null("\0") for name in columns], separator="\x1f")
    ).to_series()
    salt = seed.to_bytes(8, "big", signed=True)
    # Not Polars' own hash: that may change with its version, and the test rows with it.
    raw = b"".join(hashlib.blake2b(value.encode(), digest_size=8, key=salt).digest() for value in text)
    return np.frombuffer(raw, dtype=">u8").astype(np.uint64)


def _strata(frame: pl.DataFrame, target: str | None) -> tuple[Array, bool]:
    if target is None or target not in frame.columns or frame.schema[target].is_float():
        return np.zeros(frame.height, np.int64), False
    codes = frame.get_column(target).rank("dense").fill_null(0).to_numpy().astype(np.int64)
    if np.unique(codes).size > MAX_STRATA:
        return np.zeros(frame.height, np.int64), False
    return codes, True


def _draw(hashes: Array, strata: Array, test: float, validation: float) -> tuple[Array, Array, Array]:
    """Give each stratum's lowest hashes to the test and the next to validation, equal hashes always together."""
    _, first, group, size = np.unique(hashes, return_index=True, return_inverse=True, return_counts=True)
    side = np.zeros(first.size, np.int8)
    for stratum in np.unique(strata[first]):
        members = np.flatnonzero(strata[first] == stratum)  # in the order of their hashes
        reached = np.cumsum(size[members])
        total = reached[-1]
        # A group is in when its middle is: the share is met as nearly as whole groups allow.
        middle = reached - size[members] / 2
        side[members[middle < total * (test + validation)]] = 1
        side[members[middle < total * test]] = 2
    parts = side[group]
    return np.flatnonzero(parts == 0), np.flatnonzero(parts == 1), np.flatnonzero(parts == 2)


def _checked(frame: pl.DataFrame, spec: SplitSpec, train: Array, validation: Array, test: Array, reason: str) -> Split:
    wanted = {"training": train, "test": test} | ({"validation": validation} if spec.validation else {})
    for name, part in wanted.items():
        if not part.size:
            raise Invalid(f"{spec} leaves no {name} rows of {frame.height}", hint="choose a smaller or larger share")
    return Split(train, validation, test, reason)


def _present(frame: pl.DataFrame, columns: Sequence[str]) -> None:
    for name in columns:
        if name not in frame.columns:
            raise NotFound(f"no column {name!r} to split by{nearest(name, frame.columns)}",
                           hint=f"columns: {', '.join(frame.columns)}")  # fmt: skip


def _share(value: str | float | timedelta, what: str, least: float | None = None) -> Share:
    if isinstance(value, timedelta) or (isinstance(value, str) and value.strip()[-1:].isalpha()):
        length = duration(value)
        if length <= timedelta(0):
            raise Invalid(f"{what}={value!r} is no length of time", hint='write it like "14d"')
        return length
    return _rate(value, what, least)


def _rate(value: str | float, what: str, least: float | None = None) -> float:
    share = rate(value)
    if share >= 1 or (share <= 0 and share != least):
        raise Invalid(f"{what}={value!r} leaves one side empty", hint=f"write {what}=0.2 for a fifth of the rows")
    return share


def _text(share: Share) -> str:
    return human_duration(share) if isinstance(share, timedelta) else f"{share:.4g}"
