"""What a table is about: its key, time, task, inputs, leaks and contract, each inferred with its reason."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta

import polars as pl

from mainspring.core.errors import Invalid, NotFound, nearest
from mainspring.core.schema import Label, Task
from mainspring.project.recipes import Choice, Columns, choose

POSITIVE_WORDS = (
    "1",
    "true",
    "yes",
    "y",
    "ja",
    "oui",
    "si",
    "up",
    "positive",
    "spam",
    "fraud",
    "churn",
    "default",
    ">50k",
    "bad",
    "fail",
)
_TIME_NAMES = ("at", "time", "timestamp", "ts", "datetime", "date", "day", "dteday")
_PARTS = {"hour": 24, "weekday": 7, "month": 12}
_MOST_CLASSES = 1000
_TEST_SHARE = 0.2
_LEAST_SPLIT = 20  # with fewer rows a share of them can be none


@dataclass(frozen=True, slots=True)
class Calendar:
    """A number read off an instant, as in `at.hour()`."""

    name: str
    column: str
    part: str


@dataclass(frozen=True, slots=True)
class Inferred:
    """Everything `init` decided about a table; `why` holds the reason of each decision, by its name.

    Args:
        left_out: Columns that the model does not see, with the reason.
        filled: Texts that miss in some rows, and are read as empty there.
        calendar: Numbers that are read off the event time.
        nonnegative: Numbers that were never below 0.
        complete: Columns that never missed a value, the time and the target among them.
        rows: All rows of the table.
        unlabelled: Rows without a target; what is learned is learned from the others.
    """

    target: str
    task: Task
    classes: tuple[Label, ...]
    metric: str
    key: str | None
    time: str | None
    columns: Columns
    left_out: dict[str, str]
    filled: tuple[str, ...]
    calendar: tuple[Calendar, ...]
    personal: dict[str, str]
    nonnegative: tuple[str, ...]
    complete: tuple[str, ...]
    rows: int
    unlabelled: int
    choice: Choice
    why: dict[str, str] = field(default_factory=dict)


def infer(
    frame: pl.DataFrame, target: str, *, time: str | None = None, as_text: Mapping[str, str] | None = None
) -> Inferred:
    """Return what a table is about, when `target` is to be predicted.

    Model functions are measured on the rows that the project's split will train on; the test rows stay unseen.

    Args:
        frame: The table.
        target: The column to predict.
        time: The column of the event time; found when None.
        as_text: Columns of numbers that were read as text, with the reason.

    Raises:
        NotFound: the target or the time is no column.
        Invalid: the target cannot be predicted, or nothing is left to learn from.
    """
    from mainspring.data.leakage import inspect_leakage
    from mainspring.data.splits import by_chance, by_time, split
    from mainspring.evaluation.metrics import default_metric

    for name in (target, *([time] if time else [])):
        if name not in frame.columns:
            raise NotFound(
                f"no column {name!r}{nearest(name, frame.columns)}", hint=f"columns: {', '.join(frame.columns)}"
            )
    everything, frame = frame, frame.filter(pl.col(target).is_not_null())
    why: dict[str, str] = {}
    time = _time(everything, target, time, why)
    task, classes = _task(frame[target], target, time, why)
    findings = inspect_leakage(frame, None, target, time=time, task=task)
    named = [found.column for found in findings if found.code == "identifier"]
    # What holds in the rows with a target need not hold in all, which is what a contract is about.
    as_text = as_text or {}
    unique = [
        name
        for name in named
        if everything[name].n_unique() == everything.height
        and (name not in as_text or frame[name].str.contains(r"^\d+$").all())  # an amount names no row
    ]
    key = min(unique, key=frame.columns.index) if unique else None
    why["key"] = "it has another value in every row" if key else "no column has another value in every row"
    leaks = {f.column: f"leak: {f.message}" for f in findings if f.severity == "error" and f.code != "identifier"}
    personal = _personal(frame, key)
    left_out = _left_out(frame, {target, time, key}, leaks, set(named), personal, as_text)
    kept = [name for name in frame.columns if name not in left_out and name not in (target, time, key)]
    columns = Columns(
        numbers=tuple(n for n in kept if frame.schema[n].is_numeric()),
        words=tuple(n for n in kept if not frame.schema[n].is_numeric() and not _is_text(frame[n])),
        texts=tuple(n for n in kept if _is_text(frame[n])),
    )
    for name in columns.texts:
        why[name] = "free text: many words, seldom the same"
    calendar = _calendar(frame, time, task, columns)
    filled = tuple(name for name in columns.texts if frame[name].null_count())
    if not kept and not calendar:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise Invalid(f"no column is left to predict {target!r} from ({reasons or 'there are no others'})",
                      hint="add columns that are known before the outcome is")  # fmt: skip
    whole = frame
    if time is not None:
        whole = whole.sort(time, maintain_order=True)
    rule = by_time(test=_TEST_SHARE) if time else by_chance(test=_TEST_SHARE)
    try:
        parts = split(whole, rule, time=time, target=target, key=(key,) if key else ())
    except Invalid as error:
        if whole.height >= _LEAST_SPLIT:
            raise
        raise Invalid(f"{whole.height} rows with a {target!r} are too few to learn from some and test on others",
                      hint="bring a table of more rows") from error  # fmt: skip
    why["split"] = "the newest fifth is the test" if time else "a fifth drawn by a hash, equal rows on one side"
    metric = default_metric(task)
    seen = Columns((*columns.numbers, *(part.name for part in calendar)), columns.words, columns.texts)
    choice = choose(_with_features(whole, calendar, filled)[parts.train], target, task, classes, seen, metric=metric,
                    in_time=time is not None)  # fmt: skip
    return Inferred(
        target=target, task=task, classes=classes, metric=metric, key=key, time=time, columns=columns,
        left_out=left_out, filled=filled, calendar=calendar, personal=personal,
        nonnegative=tuple(n for n in columns.numbers if (everything[n].min() or 0) >= 0 and frame[n].n_unique() > 2),  # type: ignore[operator]
        complete=tuple(
            n for n in (time, target, *columns.numbers, *columns.words, *columns.texts)
            if n is not None and not everything[n].null_count()
        ),
        rows=everything.height, unlabelled=everything.height - frame.height, choice=choice, why=why,
    )  # fmt: skip


def _time(frame: pl.DataFrame, target: str, given: str | None, why: dict[str, str]) -> str | None:
    if given is not None:
        if not frame.schema[given].is_temporal() and not frame.schema[given].is_numeric():
            raise Invalid(f"the time column {given!r} holds words such as {frame[given].drop_nulls()[0]!r}",
                          hint="name a column of dates, or leave --time out")  # fmt: skip
        why["time"] = "as given"
        return given
    dated = [
        name for name, kind in frame.schema.items()
        if kind.is_temporal() and name != target and not frame[name].null_count() and frame[name].n_unique() >= 10
        and not re.search(r"birth|dob|born|expir|due|end", name, re.IGNORECASE)
    ]  # fmt: skip
    if not dated:
        why["time"] = "no column of dates is filled in every row"
        return None

    def rank(name: str) -> tuple[bool, int]:
        last = re.split(r"[^a-z]+", name.lower())
        return not set(last) & set(_TIME_NAMES), -frame[name].n_unique()

    found = min(dated, key=rank)
    why["time"] = "the dates of it are filled in every row" + (
        f"; others: {', '.join(set(dated) - {found})}" if len(dated) > 1 else ""
    )
    return found


def _task(target: pl.Series, name: str, time: str | None, why: dict[str, str]) -> tuple[Task, tuple[Label, ...]]:
    values = target.drop_nulls().unique().sort().to_list()
    if len(values) < 2:
        raise Invalid(f"column {name!r} has {len(values)} different value{'s' * (len(values) != 1)}: there is nothing "
                      "to predict", hint="choose another --target")  # fmt: skip
    numeric = target.dtype.is_numeric()
    if len(values) > 2 and _counts_rows(target):
        raise Invalid(f"column {name!r} only counts the rows, from {values[0]} to {values[-1]}: it is no outcome",
                      hint="choose another --target, a column whose value is not known beforehand")  # fmt: skip
    if target.dtype.is_temporal():
        raise Invalid(f"column {name!r} holds dates, which no task predicts", hint="predict a number of days instead")
    if len(values) == 2 and (not target.dtype.is_float() or set(values) == {0.0, 1.0}):
        counts = {value: (target == value).sum() for value in values}
        words = [value for value in values if str(value).strip().lower() in POSITIVE_WORDS]
        positive = words[0] if len(words) == 1 else min(values, key=lambda value: counts[value])
        negative = next(value for value in values if value != positive)
        share = counts[positive] / target.len()
        why["task"] = f"two values; {positive!r} ({share:.1%} of rows) is the one whose probability is given"
        return "binary", (negative, positive)
    if numeric and not _are_codes(target, values):
        why["task"] = f"a number with {len(values)} values" + (", over time" if time else "")
        return ("forecast" if time else "regression"), ()
    if len(values) > _MOST_CLASSES or len(values) > 0.5 * target.len():
        raise Invalid(f"column {name!r} has {len(values)} different values in {target.len()} rows: too many for classes",
                      hint="choose a column with fewer values, or a number")  # fmt: skip
    why["task"] = f"{len(values)} different values"
    return "multiclass", tuple(values)


def _counts_rows(target: pl.Series) -> bool:
    """Tell a row's number from an amount: whole numbers from 0 or 1, each the one before and 1."""
    if not target.dtype.is_integer() or target[0] not in (0, 1):
        return False
    return bool((target.cast(pl.Int64).diff().drop_nulls() == 1).all())


def _are_codes(target: pl.Series, values: list[int | float]) -> bool:
    """Tell class codes from amounts: a few whole numbers in a row from 0 or 1, none of them rare."""
    if (
        len(values) > 10
        or not target.dtype.is_integer()
        or values != list(range(int(values[0]), int(values[0]) + len(values)))
    ):
        return False
    return values[0] in (0, 1) and int(target.value_counts()["count"].min() or 0) >= 0.02 * target.len()  # type: ignore[arg-type]


def _personal(frame: pl.DataFrame, key: str | None) -> dict[str, str]:
    from mainspring.governance.privacy import detect_personal

    found = [finding.column for finding in detect_personal(frame) if finding.severity == "error"]
    return {name: "hash" if name == key else "drop" for name in found if frame.schema[name] == pl.String}


def _left_out(
    frame: pl.DataFrame,
    roles: set[str | None],
    leaks: dict[str, str],
    named: set[str],
    personal: dict[str, str],
    as_text: Mapping[str, str],
) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, kind in frame.schema.items():
        column = frame[name]
        if name in roles:
            continue
        if name in personal:
            found[name] = "personal data, dropped when it is read"
        elif name in leaks:
            found[name] = leaks[name]
        elif column.null_count() == column.len():
            found[name] = "empty in every row"
        elif column.n_unique() == 1:
            found[name] = f"{column[0]!r} in every row"
        elif name in as_text and (name in named or column.n_unique() > max(50, 0.5 * column.len())):
            found[name] = f"numbers written as text: {as_text[name]}"
        elif name in named:
            found[name] = "another value in every row"
        elif kind.is_temporal():
            found[name] = "a date; a feature can read numbers off it: request.day.month()"
        elif kind == pl.String and not _is_text(column) and column.n_unique() > max(50, 0.5 * column.len()):
            found[name] = "nearly every row has a word of its own"
    return found


def _is_text(column: pl.Series) -> bool:
    if column.dtype != pl.String or column.n_unique() < 0.2 * column.len():
        return False
    sample = column.drop_nulls().head(2000)
    words = sample.str.count_matches(r"\S+").mean()
    return isinstance(words, float) and words >= 4


def _calendar(frame: pl.DataFrame, time: str | None, task: Task, columns: Columns) -> tuple[Calendar, ...]:
    """Return the parts of the time that shape a forecast, as far as the data has seen them go round twice."""
    if time is None or task != "forecast" or not frame.schema[time].is_temporal():
        return ()
    instants = frame[time].cast(pl.Datetime("us"))
    first, last = instants.min(), instants.max()
    span = last - first  # type: ignore[operator]
    needs = {"hour": timedelta(days=2), "weekday": timedelta(weeks=2), "month": timedelta(days=730)}
    found = []
    for part in _PARTS:
        values = _part(instants, part)
        told = any(_tells(frame[name], values) for name in columns.numbers)
        if isinstance(span, timedelta) and span >= needs[part] and values.n_unique() > 1 and not told:
            found.append(Calendar(f"{re.sub(r'[^A-Za-z0-9_]', '_', time)}_{part}", time, part))
    return tuple(found)


def _part(instants: pl.Series, part: str) -> pl.Series:
    return {"hour": instants.dt.hour, "weekday": instants.dt.weekday, "month": instants.dt.month}[part]()


def _tells(column: pl.Series, values: pl.Series) -> bool:
    """Return whether a column with few values says the same as `values`, in its own numbers."""
    if column.n_unique() > 400:
        return False
    return pl.DataFrame({"a": column, "b": values}).n_unique() == column.n_unique()


def _with_features(frame: pl.DataFrame, calendar: tuple[Calendar, ...], filled: tuple[str, ...]) -> pl.DataFrame:
    """Return the frame with what the written features will compute."""
    made = [_part(frame[c.column].cast(pl.Datetime("us")), c.part).cast(pl.Float64).alias(c.name) for c in calendar]
    return frame.with_columns(*made, *(pl.col(name).fill_null("") for name in filled))
