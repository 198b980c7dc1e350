"""Proof that a packed model gives the scores of the trained one, on ordinary rows and where formats break."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mainspring.core.errors import Invalid
from mainspring.core.schema import Column, Schema
from mainspring.packaging.graph import Array
from mainspring.packaging.predictor import Predictor

# A probability may differ by this much; a number by this much of its own size.
TOLERANCE = 1e-6
_ROWS, _ROWS_ONE_BY_ONE = 20_000, 500
_COLUMNS, _BASES, _GRID, _JUMPS, _INSIDE = 64, 2, 48, 4, 9
_FLOATS = (0.0, -0.0, 1e-40, -1e-40, 16_777_217.0, 9_007_199_254_740_993.0, 3.4028234e38, -3.4028234e38)
_INTEGERS = (0, -1, 16_777_217, 2_147_483_648, 1_700_000_000_123)
_TEXTS = ("\u2603 never seen", "")
_ODD_TEXTS = (" ", "NaN", "x" * 300, "e\u0301 \U0001f600")

Columns = dict[str, Array]
Score = Callable[[Mapping[str, Array], int], Array]


@dataclass(frozen=True, slots=True)
class ParityReport:
    """What the comparison of a packed model with the trained one found.

    Args:
        format: The format that was compared.
        agrees: Whether every score agreed within `tolerance`, and no row that the model refuses got one.
        rows: Rows compared, edge rows included.
        edge_rows: Constructed rows among them: thresholds, extremes, missing, categories never seen.
        refused_rows: Rows that the trained model refuses.
        largest: Largest difference of a score, relative for numbers above 1; infinite where one is not a number.
        flips: Rows whose most probable class changed.
        tolerance: Largest difference that agrees.
        note: The outcome in one sentence.
    """

    format: str
    agrees: bool
    rows: int
    edge_rows: int
    refused_rows: int
    largest: float
    flips: int
    tolerance: float
    note: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows and what the reference says of them: scores, and a mask of those it refuses."""

    columns: Columns
    n: int
    scores: Array
    refused: Array


def judged(score: Score, columns: Columns, n: int) -> Rows:
    """Return rows with their scores; where the model refuses the whole, the rows that it refuses are searched."""
    parts = list(_parts(score, columns, 0, n)) if n else [(np.empty(0), 0)]
    shape = next((part.shape[1:] for part, _ in parts if part is not None), ())
    scores = np.concatenate([np.full((size, *shape), np.nan) if part is None else part for part, size in parts])
    return Rows(columns, n, scores, _unanswered(scores))


def _parts(score: Score, columns: Columns, start: int, end: int) -> Iterator[tuple[Array | None, int]]:
    try:
        yield score({name: values[start:end] for name, values in columns.items()}, end - start), end - start
        return
    except Exception:  # a user's model may raise anything
        if end - start == 1:
            yield None, 1
            return
    middle = (start + end) // 2
    yield from _parts(score, columns, start, middle)
    yield from _parts(score, columns, middle, end)


def _unanswered(scores: Array) -> Array:
    return np.asarray(~np.isfinite(scores).reshape(len(scores), -1).all(axis=1))


def compare(candidate: Predictor, ordinary: Rows, edges: Rows) -> ParityReport:
    """Return how far a packed model is from the trained one on ordinary rows and on edge rows."""
    (difference, flips, answered), (edge_difference, edge_flips, edge_answered) = (
        _compare(candidate, rows) for rows in (ordinary, edges)
    )
    largest, made_up = max(difference, edge_difference), answered + edge_answered
    where = "a row of the test set" if difference > TOLERANCE else "a constructed edge row"
    note = (
        f"{made_up} rows that the model refuses get a score" if made_up
        else f"the scores differ by {largest:.3g} on {where}" if largest > TOLERANCE
        else f"{ordinary.n:,} test rows and {edges.n:,} edge rows agree within {TOLERANCE:g}"
    )  # fmt: skip
    return ParityReport(
        candidate.format, largest <= TOLERANCE and not made_up, ordinary.n + edges.n, edges.n,
        int(ordinary.refused.sum() + edges.refused.sum()), largest, flips + edge_flips, TOLERANCE, note,
    )  # fmt: skip


def _compare(candidate: Predictor, rows: Rows) -> tuple[float, int, int]:
    """Return the largest difference, the changed decisions, and the rows answered that the reference refuses."""
    if not rows.n:
        return 0.0, 0, 0
    other = judged(candidate.predict, rows.columns, rows.n)
    both = ~rows.refused
    made_up = int((rows.refused & ~other.refused).sum())
    if not both.any():
        return 0.0, 0, made_up
    expected, given = rows.scores[both], other.scores[both]
    with np.errstate(invalid="ignore", over="ignore"):
        difference = np.abs(expected - given) / np.maximum(1.0, np.abs(expected))
    largest = float("inf") if np.isnan(difference).any() else float(difference.max())
    flips = expected.argmax(1) != given.argmax(1) if expected.ndim == 2 else (expected >= 0.5) != (given >= 0.5)
    return largest, int(flips.sum()), made_up


def spread(n: int, count: int) -> Array:
    """Return at most `count` row numbers, evenly over n rows."""
    return np.unique(np.linspace(0, n - 1, min(n, count)).astype(np.int64)) if n else np.empty(0, np.int64)


def take(columns: Mapping[str, Array], rows: Array) -> Columns:
    return {name: values[rows] for name, values in columns.items()}


def ordinary_rows(reference: Score, columns: Columns, n: int) -> Rows:
    """Return test rows with the reference's scores; of a large set, and of one with refused rows, every k-th.

    Raises:
        Invalid: the reference refuses every row.
    """
    chosen = spread(n, _ROWS)
    try:
        scores = reference(take(columns, chosen), len(chosen))
        found = Rows(take(columns, chosen), len(chosen), scores, _unanswered(scores))
    except Exception as error:  # a user's model may raise anything
        first, chosen = spread(n, 20), spread(n, _ROWS_ONE_BY_ONE)
        if judged(reference, take(columns, first), len(first)).refused.all():
            raise Invalid(
                f"the trained model refuses every test row: {type(error).__name__}",
                hint="call its predict on a few rows of the same frame in a test of the project",
            ) from error
        found = judged(reference, take(columns, chosen), len(chosen))
    return found


def edge_rows(reference: Score, sample: Columns, n: int, inputs: Schema) -> Rows:
    """Return rows where formats break, with the reference's scores.

    Each row is an ordinary one with one value changed: to a missing value, to the limits of a type, to a category
    never seen, or to either side of a place where the model's score jumps. The jumps are searched in the model's own
    answers, down to neighbouring float32 values, so that preprocessing does not hide them; nine values between the
    neighbours catch a threshold that was rounded. Of more than 64 columns, 64 are taken, evenly.
    """
    bases = spread(n, _BASES)
    inputs = Schema(tuple(inputs.columns[place] for place in spread(len(inputs), _COLUMNS)))
    changes: list[tuple[int, str, Any]] = []
    for place, column in enumerate(inputs):
        for index, value in enumerate(_limits(column, sample[column.name], place)):
            changes.append((int(bases[index % len(bases)]), column.name, value))
    changes += _jumps(reference, sample, n, inputs)
    columns = _apply(sample, changes)
    return judged(reference, columns, len(changes))


def _limits(column: Column, values: Array, place: int) -> list[Any]:
    if column.dtype == "string":
        seen = next((value for value in values if value), "a")
        # Columns take turns with the odd texts: models that refuse new categories are asked about each one by one.
        odd = (*_ODD_TEXTS, seen.upper(), f"{seen} ")[place % 6 :][:2]
        return [*_TEXTS, *odd, *([None] if column.nullable else [])]
    if column.dtype == "bool":
        return [True, False, *([None] if column.nullable else [])]
    if column.dtype == "int64":
        return [*_INTEGERS, *([np.nan] if column.nullable else [])]
    if column.dtype == "float64":
        return [*_FLOATS, np.nan]
    instants = [np.datetime64(text, "us") for text in ("1970-01-01", "1900-02-28", "2100-12-31T23:59:59.999999")]
    return [*instants, *([np.datetime64("NaT")] if column.nullable else [])]


def _apply(sample: Columns, changes: Sequence[tuple[int, str, Any]]) -> Columns:
    columns = take(sample, np.array([base for base, _, _ in changes], np.int64))  # a copy of each
    for row, (_, name, value) in enumerate(changes):
        columns[name][row] = value
    return columns


def _jumps(reference: Score, sample: Columns, n: int, inputs: Schema) -> list[tuple[int, str, Any]]:
    """Return changes to both sides of the largest jumps of the score along each number column."""
    base = int(spread(n, 3)[-1]) if n else 0
    grids: list[tuple[str, Array]] = []
    for column in inputs:
        if column.dtype in ("float64", "int64"):
            values = sample[column.name].astype(np.float64)
            values = np.unique(values[np.isfinite(values)])
            grids.append((column.name, values[spread(len(values), _GRID)]))
    grids = [(name, grid) for name, grid in grids if len(grid) > 1]
    brackets: list[tuple[str, float, float]] = []
    for (name, grid), scores in zip(grids, _grid_answers(reference, sample, base, grids), strict=True):
        if scores is None:
            continue
        steps = np.abs(np.diff(scores, axis=0)).max(axis=1)
        largest = [int(i) for i in np.argsort(-steps, kind="stable")[:_JUMPS] if steps[i] > 0]
        brackets += [(name, float(grid[i]), float(grid[i + 1])) for i in largest]
    if not brackets:
        return []
    names, low, high = [name for name, _, _ in brackets], *np.array([pair[1:] for pair in brackets]).T
    whole = np.array([inputs[name].dtype == "int64" for name in names])
    narrowed = _bisect(reference, sample, base, names, low, high, whole)
    if narrowed is None:
        return []
    changes: list[tuple[int, str, Any]] = []
    for name, is_whole, left, right in zip(names, whole, *narrowed, strict=True):
        inside = [left, right] if is_whole else [
            *np.linspace(left, right, _INSIDE), *(float(np.nextafter(np.float32(end), np.float32(way)))
                                                  for end, way in ((left, -np.inf), (right, np.inf)))]  # fmt: skip
        changes += [(base, name, value) for value in inside]
    return changes


def _grid_answers(reference: Score, sample: Columns, base: int, grids: list[tuple[str, Array]]) -> list[Array | None]:
    """Return the scores along each column's grid, all in one call unless a value of some column is refused."""
    if not grids:
        return []
    names = [name for name, grid in grids for _ in grid]
    together = _answers(reference, sample, base, names, np.concatenate([grid for _, grid in grids]))
    if together is None:
        return [_answers(reference, sample, base, [name] * len(grid), grid) for name, grid in grids]
    return list(np.split(together, np.cumsum([len(grid) for _, grid in grids])[:-1]))


def _bisect(
    reference: Score, sample: Columns, base: int, names: list[str], low: Array, high: Array, whole: Array
) -> tuple[Array, Array] | None:  # fmt: skip
    """Narrow every bracket at once, keeping the larger jump inside, until its ends are neighbours in float32."""
    below, above = (_answers(reference, sample, base, names, end) for end in (low, high))
    if below is None or above is None:
        return None
    # float32 values in order are integers in order; whole numbers are narrowed as they are.
    left, right = np.where(whole, low, _ordinal(low)), np.where(whole, high, _ordinal(high))
    for _ in range(64):
        middle = np.floor((left + right) / 2)
        if not ((middle > left) & (middle < right)).any():
            break
        value = np.where(whole, middle, _from_ordinal(middle))
        scores = _answers(reference, sample, base, names, value)
        if scores is None:
            return None
        go_left = np.abs(scores - below).max(axis=1) >= np.abs(above - scores).max(axis=1)
        right, above = np.where(go_left, middle, right), np.where(go_left[:, None], scores, above)
        left, below = np.where(go_left, left, middle), np.where(go_left[:, None], below, scores)
    return np.where(whole, left, _from_ordinal(left)), np.where(whole, right, _from_ordinal(right))


def _answers(reference: Score, sample: Columns, base: int, names: list[str], values: Array) -> Array | None:
    """Return scores of shape (len(values), k) of the base row with one value changed, or None when it is refused."""
    changes = [(base, name, value) for name, value in zip(names, values, strict=True)]
    try:
        scores = reference(_apply(sample, changes), len(changes))
    except Exception:  # a user's model may raise anything; then there is no jump to look for
        return None
    return scores.reshape(len(changes), -1) if np.isfinite(scores).all() else None


def _ordinal(values: Array) -> Array:
    bits = np.asarray(values, np.float32).view(np.int32).astype(np.int64)
    return np.where(bits < 0, -(bits & 0x7FFFFFFF), bits).astype(np.float64)


def _from_ordinal(ordinals: Array) -> Array:
    whole = np.nan_to_num(ordinals).astype(np.int64)
    bits = np.where(whole < 0, -whole | 0x80000000, whole).astype(np.uint32)
    return bits.view(np.float32).astype(np.float64)
