"""The leakage sentinel: columns that know the answer, and test rows that training has seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from mainspring.core.errors import NotFound, nearest
from mainspring.core.records import Finding
from mainspring.core.schema import Task

Array = npt.NDArray[Any]
Severity = Literal["error", "warning"]

SAMPLE = 50_000
LEAST_ROWS = 50
BINS = 64
CERTAIN = 0.999  # a single column that predicts like this is the target in another form
TOO_GOOD = 0.98
SUSPICIOUS = 0.93
EXACT = 1e-6  # unexplained share of the target's variance that rounding may leave
MOST_TERMS = 4  # a sum of more columns is a warning: some outcomes are made that way
OVERLAP = 0.01
_ROW = "\0row"
_ID_NAMES = ("id", "key", "uuid", "guid", "index", "instant", "row", "rownum", "number", "nr", "no")


def inspect_leakage(
    train: pl.DataFrame, test: pl.DataFrame | None, target: str, *, key: Sequence[str] = (), time: str | None = None,
    task: Task | None = None,
) -> tuple[Finding, ...]:  # fmt: skip
    """Return what would make a model look better than it is; errors first.

    Codes: `target-copy` (one column gives the target away), `target-sum` (a few columns together do, as a sum or a
    product), `too-good` (one column alone predicts suspiciously well on rows it was not fitted to), `post-event` (a
    column is filled in, or lies later, once the outcome is known), `identifier` (a column names rows),
    `row-overlap` (test rows that training has), `time-order` (test rows older than training rows).

    Single columns are judged by a binned one-column model fitted on every second row and scored on the others; of
    more than 50,000 rows, on a sample. Thresholds: 0.999 of what can be explained is a copy, 0.98 an error, 0.93 a
    warning.

    Args:
        train: Rows that train.
        test: Rows that test.
        target: The column to predict.
        key: Columns that name a row; they are not inputs.
        time: The event time; it is not an input.
        task: What is predicted; inferred from the target when None.
    """
    if target not in train.columns:
        raise NotFound(f"no column {target!r}{nearest(target, train.columns)}",
                       hint=f"columns: {', '.join(train.columns)}")  # fmt: skip
    findings = [] if test is None else [*_overlap(train, test, target, key, time), *_order(train, test, time)]
    rows = train.filter(pl.col(target).is_not_null())
    rows = rows.gather_every(max(1, -(-rows.height // SAMPLE)))
    inputs = [name for name in rows.columns if name not in (target, time, *key)]
    if rows.height >= LEAST_ROWS and rows.get_column(target).n_unique() > 1:
        outcome = _Outcome(rows.get_column(target), task)
        singles = {name: _single(rows.get_column(name), outcome) for name in inputs}
        worst = {name for name, found in singles.items() if found and found.severity == "error"}
        combined = _combined(rows, target, [name for name in inputs if name not in worst], outcome)
        told = {found.column for found in combined}
        findings += combined + [found for name, found in singles.items() if found and name not in told]
        findings += _later(rows, inputs, time)
    findings += [found for name in inputs if (found := _identifier(rows.get_column(name), name))]
    return tuple(sorted(findings, key=lambda found: (found.severity, found.code, found.column)))


class _Outcome:
    """The target as numbers, and how well scores on the odd rows explain it, from 0 (nothing) to 1 (all)."""

    def __init__(self, target: pl.Series, task: Task | None) -> None:
        numeric = target.dtype.is_numeric()
        classes = target.n_unique()
        measured = task in ("regression", "forecast") or (task is None and numeric and classes > 20)
        self.classes = 0 if measured else classes
        values = target.cast(pl.Float64) if not self.classes else target.rank("dense").cast(pl.Float64) - 1
        self.values = values.to_numpy()
        # Alternating rows would follow a daily or weekly rhythm of the rows; a fixed draw does not.
        self.fit = np.random.default_rng(0).random(self.values.size) < 0.5
        self.score = ~self.fit

    def explained(self, codes: Array, bins: int) -> float:
        """Return the share explained by the best constant per bin of `codes`, fitted and scored on different rows."""
        if self.classes > 2:
            table = np.zeros((bins, self.classes))
            np.add.at(table, (codes[self.fit], self.values[self.fit].astype(int)), 1)
            seen = table.sum(axis=1) > 0
            usual = int(np.bincount(self.values[self.fit].astype(int)).argmax())
            guess = np.where(seen, table.argmax(axis=1), usual)[codes[self.score]]
            truth = self.values[self.score]
            chance = float((truth == usual).mean())
            return max(0.0, float((guess == truth).mean()) - chance) / max(1e-12, 1 - chance)
        count = np.bincount(codes[self.fit], minlength=bins)
        total = np.bincount(codes[self.fit], weights=self.values[self.fit], minlength=bins)
        mean = self.values[self.fit].mean()
        # One row of the overall mean keeps a bin of few rows from being believed.
        scores = ((total + mean) / (count + 1))[codes[self.score]]
        truth = self.values[self.score]
        if self.classes:
            return max(0.0, 2 * _auc(truth, scores) - 1)
        left = float(((truth - scores) ** 2).mean() / max(1e-300, truth.var()))
        return max(0.0, 1 - left)


def _single(column: pl.Series, outcome: _Outcome) -> Finding | None:
    """Judge one column, and apart from it whether merely being filled in gives the outcome away."""
    name, missing = column.name, _missing(column)
    if column.n_unique() < 2:
        return None
    if 0 < missing.sum() < missing.size:
        filled = outcome.explained(missing.astype(np.int64), 2)
        if filled >= TOO_GOOD:
            message = (
                f"{name} seems filled in once the outcome is known: being missing explains {filled:.1%} of the target"
            )
            return Finding("post-event", name, message, "error", count=int(missing.sum()))
    codes, bins = _codes(column, missing)
    explained = max(outcome.explained(codes, bins), _monotone(column, missing, outcome))
    if explained < SUSPICIOUS:
        return None
    share = f"explains {explained:.2%} of what can be explained of the target, on rows it was not fitted to"
    if explained >= CERTAIN:
        return Finding("target-copy", name, f"{name} is the target in another form: alone it {share}", "error")
    severity: Severity = "error" if explained >= TOO_GOOD else "warning"
    return Finding("too-good", name, f"{name} alone {share}; is it known before the outcome?", severity)


def _codes(column: pl.Series, missing: Array) -> tuple[Array, int]:
    """Return a bin per row: quantile bins of numbers and instants, one per value of few, missing in its own."""
    if (column.dtype.is_numeric() or column.dtype.is_temporal()) and column.n_unique() > BINS:
        values = column.to_physical().cast(pl.Float64).fill_null(0.0).to_numpy()
        edges = np.unique(np.quantile(values[~missing], np.arange(1, BINS) / BINS))
        codes = np.where(missing, edges.size + 1, np.searchsorted(edges, values, side="left"))
        return codes, edges.size + 2
    codes = column.cast(pl.String, strict=False).rank("dense").fill_null(0).to_numpy().astype(np.int64)
    return codes, int(codes.max()) + 1


def _monotone(column: pl.Series, missing: Array, outcome: _Outcome) -> float:
    """Return the squared correlation of two numbers or of their ranks: bins are too coarse for a long tail."""
    if outcome.classes or not column.dtype.is_numeric() or missing.any():
        return 0.0
    values = column.cast(pl.Float64)
    if not values.is_finite().all() or values.n_unique() < 2:
        return 0.0
    ranks = values.rank("average").to_numpy(), pl.Series(outcome.values).rank("average").to_numpy()
    return max(_correlation(values.to_numpy(), outcome.values) ** 2, _correlation(*ranks) ** 2)


def _combined(rows: pl.DataFrame, target: str, names: list[str], outcome: _Outcome) -> list[Finding]:
    """Find a few numbers that make up a numeric target, as a weighted sum or as a product of powers."""
    if outcome.classes:
        return []
    frame = rows.select(pl.col(n).cast(pl.Float64) for n in names if rows.schema[n].is_numeric())
    matrix = {name: frame.get_column(name).to_numpy() for name in frame.columns}
    matrix = {name: values for name, values in matrix.items() if np.isfinite(values).all() and values.std() > 0}
    terms = _make_up(matrix, outcome.values)
    form = "a weighted sum"
    if not terms and (outcome.values > 0).all():
        positive = {name: np.log(values) for name, values in matrix.items() if (values > 0).all()}
        terms, form = _make_up(positive, np.log(outcome.values)), "a product"
    together = f"{', '.join(terms[:-1])} and {terms[-1]}" if terms else ""
    message = f"{together} give {target} away: it is {form} of them in every row"
    severity: Severity = "error" if len(terms) <= MOST_TERMS else "warning"
    return [Finding("target-sum", name, message, severity, count=rows.height) for name in terms]


def _make_up(matrix: dict[str, Array], y: Array) -> list[str]:
    """Return a few columns, none of them spare, whose linear combination is y exactly, else none.

    All columns together must explain y; then those that are not needed are left out one by one.
    """
    names = list(matrix)
    if len(names) < 2 or _unexplained([matrix[name] for name in names], y) >= EXACT:
        return []
    for name in sorted(names, key=lambda n: abs(_correlation(matrix[n], y))):
        rest = [other for other in names if other != name]
        if rest and _unexplained([matrix[other] for other in rest], y) < EXACT:
            names = rest
    return names


def _unexplained(columns: list[Array], y: Array) -> float:
    """Return the share of the variance of y that a linear combination with a constant leaves."""
    matrix = np.column_stack([(values - values.mean()) / max(values.std(), 1e-300) for values in columns])
    centred = y - y.mean()
    weights = np.linalg.lstsq(matrix, centred, rcond=None)[0]
    return float(((centred - matrix @ weights) ** 2).sum() / max((centred**2).sum(), 1e-300))


def _correlation(x: Array, y: Array) -> float:
    return float(np.corrcoef(x, y)[0, 1])


def _later(rows: pl.DataFrame, inputs: list[str], time: str | None) -> list[Finding]:
    """Find instants that mostly lie after the event: they were not known then."""
    if time is None or time not in rows.columns or not rows.schema[time].is_temporal():
        return []
    findings = []
    at = rows.get_column(time).cast(pl.Datetime("us")).to_physical().to_numpy()
    for name in inputs:
        if rows.schema[name].is_temporal() and rows.schema[name] not in (pl.Duration, pl.Time):
            same = rows.get_column(name).cast(pl.Date if rows.schema[time] == pl.Date else pl.Datetime("us"))
            other = same.cast(pl.Datetime("us")).to_physical()
            known = other.is_not_null().to_numpy()
            later = int((other.fill_null(0).to_numpy()[known] > at[known]).sum())
            if known.sum() and later > 0.5 * known.sum():
                message = f"{name} lies after {time} in {later} of {int(known.sum())} rows; was it known then?"
                findings.append(Finding("post-event", name, message, "warning", count=later))
    return findings


def _identifier(column: pl.Series, name: str) -> Finding | None:
    """Find columns that name a row: nothing that holds for one row's number holds for the next."""
    n = column.len()
    if n < LEAST_ROWS or column.null_count() or column.n_unique() < n:
        return None
    words = name.replace("-", "_").lower().split("_")
    named = words[-1] in _ID_NAMES or (len(name) > 2 and name.endswith(("Id", "ID")))
    if column.dtype == pl.String:
        # Free text is unique too, but it has blanks and differs in length.
        named = named or not (column.str.contains(r"\s").any() or column.str.len_chars().sum() > 64 * n)
    elif column.dtype.is_integer():
        named = named or int(np.ptp(column.to_numpy())) + 1 == n
    else:
        return None
    message = f"{name} has another value in each of {n} rows: it names rows and teaches nothing about others"
    return Finding("identifier", name, message, "warning", count=n) if named else None


def _overlap(
    train: pl.DataFrame, test: pl.DataFrame, target: str, key: Sequence[str], time: str | None
) -> list[Finding]:
    names = [name for name in key if name in train.columns and name in test.columns]
    findings = []
    if names and len(names) == len(key) and train.select(names).n_unique() == train.height:
        shared = test.select(names).with_row_index(_ROW).join(train.select(names), on=names, how="semi")
        if shared.height:
            message = f"{shared.height} of {test.height} test rows have the {', '.join(names)} of a training row"
            findings.append(_rows_finding(", ".join(names), message, "error", shared))
    columns = [name for name in train.columns if name in test.columns and name not in (*names, time)]
    if columns in ([], [target]):
        return findings
    distinct = train.select(columns).unique()
    shared = test.select(columns).with_row_index(_ROW).join(distinct, on=columns, how="semi", nulls_equal=True)
    share = shared.height / max(1, test.height)
    if shared.height:
        # Rows of a few categories coincide by chance, and events come again with time; long rows do neither.
        rich = any(_is_rich(train.get_column(name)) for name in columns if name != target)
        severity: Severity = "error" if share > OVERLAP and rich and time is None else "warning"
        message = f"{shared.height} of {test.height} test rows ({share:.1%}) are also training rows"
        if severity == "error":
            message += "; by_chance(together=...) keeps rows that agree on one side"
        if share > OVERLAP / 10:
            findings.append(_rows_finding("", message, severity, shared))
    return findings


def _rows_finding(column: str, message: str, severity: Severity, shared: pl.DataFrame) -> Finding:
    rows = tuple(int(row) for row in shared.get_column(_ROW).sort().head(5))
    return Finding("row-overlap", column, message, severity, rows, shared.height)


def _is_rich(column: pl.Series) -> bool:
    """Return whether two rows hardly ever agree in the column by chance."""
    if column.dtype not in (pl.String, pl.Float64, pl.Float32) or not column.len():
        return False
    return column.n_unique() > 0.5 * column.len() and column.len() >= LEAST_ROWS


def _order(train: pl.DataFrame, test: pl.DataFrame, time: str | None) -> list[Finding]:
    if time is None or time not in train.columns or time not in test.columns or not test.height or not train.height:
        return []
    newest: Any = train.get_column(time).max()
    if newest is None:
        return []
    older = int((test.get_column(time) < newest).sum())
    if not older:
        return []
    message = f"{older} of {test.height} test rows are older than the newest training row: training saw their future"
    return [Finding("time-order", time, message, "warning", count=older)]


def _missing(column: pl.Series) -> Array:
    missing = column.is_null()
    if column.dtype.is_float():
        missing = missing | column.is_nan().fill_null(False)
    return missing.to_numpy()


def _auc(truth: Array, scores: Array) -> float:
    """Return the area under the ROC curve of binary outcomes; 0.5 where one class is absent."""
    positive = truth > 0
    n, k = truth.size, int(positive.sum())
    if not 0 < k < n:
        return 0.5
    ranks = pl.Series(scores).rank("average").to_numpy()
    return float((ranks[positive].sum() - k * (k + 1) / 2) / (k * (n - k)))
