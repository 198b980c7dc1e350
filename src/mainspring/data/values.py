"""What the texts of a column mean: numbers, flags, dates or words, decided by evidence over all rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import polars as pl

from mainspring.core.errors import Invalid
from mainspring.core.schema import DType
from mainspring.data.dialect import ReadOptions
from mainspring.data.frames import POLARS_TYPES

MISSING = ("", "?", "-", "--", "NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "NULL", "null")
# Beside numbers and dates these words can only mean "nothing"; among words they may be a category.
MISSING_BESIDE_NUMBERS = ("None", "none", "nil", ".", "n.a.", "#DIV/0!", "#VALUE!")
_SIGNS = r"^(?:[€$£¥]\s*)|(?:\s*(?:[€$£¥%]|EUR|USD|GBP))$"
_MOST_DIGITS = 18
AS_TEXT = "numbers written as text"
_PLAIN = r"^[+-]?\d+(\.\d+)?$"
_STYLES = {  # (decimal, thousands): what every value must look like
    (".", ","): r"^[+-]?(\d{1,3}(,\d{3})+|\d+)(\.\d+)?$",
    (",", "."): r"^[+-]?(\d{1,3}(\.\d{3})+|\d+)(,\d+)?$",
    (".", " "): r"^[+-]?(\d{1,3}([ \u00a0\u202f]\d{3})+|\d+)(\.\d+)?$",
    (",", " "): r"^[+-]?(\d{1,3}([ \u00a0\u202f]\d{3})+|\d+)(,\d+)?$",
    (".", "'"): r"^[+-]?(\d{1,3}(['’]\d{3})+|\d+)(\.\d+)?$",
}  # fmt: skip
_DATE = (
    r"^(\d{1,4})[-/. ](\d{1,2})[-/. ](\d{1,4})"
    r"(?:[T ,]+(\d{1,2}):(\d{2})(?::(\d{2})(?:[.,](\d{1,9}))?)?\s*([AaPp][Mm])?)?"
    r"\s*(Z|UTC|GMT|[+-]\d{2}:?\d{2})?$"
)
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
# A column is taken for numbers or dates with a few slips when so many of its values are, and the slips are few words.
_MOSTLY, _FEW = 0.8, 5


class Ambiguous(Invalid):
    """A value can mean two things; another column of the file may still decide."""


@dataclass(frozen=True, slots=True)
class Guess:
    """One thing that was decided about a column (or the file, when `column` is empty), and why."""

    column: str
    what: str
    why: str


@dataclass(frozen=True, slots=True)
class Read:
    """A column with its meaning, what was decided on the way, and the options that would decide it again."""

    values: pl.Series
    guesses: tuple[Guess, ...]
    options: ReadOptions


def read_column(texts: pl.Series, options: ReadOptions, line_of: Callable[[int], int]) -> Read:
    """Return the values that a column of texts spells.

    Args:
        texts: The fields as written; a missing field is null or a word of `options.missing`.
        options: What is pinned, and what the rest of the file has shown (decimal mark, order of dates).
        line_of: The line of the file a row begins on, for errors.

    Raises:
        Invalid: a value does not fit the column, or can mean two things; the error names line and column.
    """
    name = texts.name
    wanted = options.types.get(name)
    words = texts.str.strip_chars()
    words, guesses, options = _without_missing(words, options, beside_numbers=False)
    if wanted == "string":
        return Read(words, guesses, options)
    place = _Place(name, line_of)
    present = words.drop_nulls()
    if present.is_empty():
        if wanted is not None:
            return Read(words.cast(POLARS_TYPES[wanted]), guesses, options)
        return Read(words, (*guesses, Guess(name, "text", "the column is empty")), options)
    if wanted in (None, "bool") and (flags := _flags(words)) is not None:
        return Read(flags, guesses, options)
    bare, more, _ = _without_missing(words, options, beside_numbers=True)
    if wanted in (None, "int64", "float64"):
        found = _numbers(bare, options, place)
        if found is not None:
            values = _as_wanted(found.values, wanted, bare, place)
            return replace(found, values=values, guesses=(*guesses, *more, *found.guesses))
    if wanted in (None, "date", "datetime"):
        found = _dates(bare, options, place)
        if found is not None:
            values = _as_wanted(found.values, wanted, bare, place)
            return replace(found, values=values, guesses=(*guesses, *more, *found.guesses))
    if wanted is not None:
        raise _not_of_type(words, wanted, place)
    return Read(words, (*guesses, *_kept_as_text(present)), options)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a column is, for errors."""

    column: str
    line_of: Callable[[int], int]

    def of(self, row: int) -> str:
        return f"line {self.line_of(row)}, column {self.column!r}"


def _without_missing(
    words: pl.Series, options: ReadOptions, *, beside_numbers: bool
) -> tuple[pl.Series, tuple[Guess, ...], ReadOptions]:
    marks = options.missing if options.missing is not None else MISSING
    if beside_numbers:
        marks = MISSING_BESIDE_NUMBERS if options.missing is None else ()
    found = words.filter(words.is_in(list(marks)))
    if found.is_empty():
        return words.set(words == "", None) if not beside_numbers else words, (), options
    seen = [mark for mark in found.unique().sort().to_list() if mark]
    if options.missing is None and "NA" in seen and not beside_numbers:
        codes = words.filter(~words.is_in(list(marks))).unique()
        if len(codes) >= 3 and codes.str.contains(r"^[A-Z]{2,3}$").all():
            kept = tuple(mark for mark in MISSING if mark != "NA")
            words, guesses, options = _without_missing(words, replace(options, missing=kept), beside_numbers=False)
            return words, (*guesses, Guess(words.name, '"NA" is a code', "its other values are codes as well")), options
    blank = words.set(words.is_in([*marks, ""]), None)
    if not seen:
        return blank, (Guess(words.name, "blank is missing", f"in {found.len()} of {words.len()} rows"),), options
    listed = ", ".join(repr(mark) for mark in seen)
    return blank, (Guess(words.name, f"{listed} is missing", f"in {found.len()} of {words.len()} rows"),), options


def _flags(words: pl.Series) -> pl.Series | None:
    """Return true and false as flags; yes/no, 0/1 and the like stay what they are."""
    low = words.str.to_lowercase()
    return low == "true" if low.drop_nulls().is_in(["true", "false"]).all() else None


def _numbers(words: pl.Series, options: ReadOptions, place: _Place) -> Read | None:
    """Return numbers, or None when the column does not hold them."""
    name, guesses = words.name, []
    bare = words.str.replace_all(_SIGNS, "") if words.str.contains(_SIGNS).any() else words
    style, why = _style(bare, options, place)
    if style is None:
        _refuse_slipped_number(bare, words, options, place)
        return None
    decimal, thousands = style
    plain = bare
    if thousands:
        plain = plain.str.replace_all("[ \u00a0\u202f]" if thousands == " " else "['’]" if thousands == "'" else
                                      rf"\{thousands}", "")  # fmt: skip
    if decimal == ",":
        plain = plain.str.replace(",", ".", literal=True)
    if bare is not words:
        guesses.append(Guess(name, "number", "signs of currency and per cent are left out"))
    if why:
        guesses.append(Guess(name, f"decimal mark {decimal!r}, thousands {thousands!r}", why))
    if _is_code(plain) and name not in options.types:
        return None
    options = replace(options, decimal=decimal) if why and options.decimal is None else options
    whole = plain.cast(pl.Int64, strict=False)
    if whole.null_count() == plain.null_count():
        return Read(whole, tuple(guesses), options)
    numbers = plain.cast(pl.Float64, strict=False)
    if numbers.is_infinite().any():
        row = int(numbers.is_infinite().arg_max() or 0)
        raise Invalid(f"{place.of(row)}: {words[row]!r} is not a finite number",
                      hint=f'read={{"missing": [{words[row]!r}]}} reads it as missing')  # fmt: skip
    return Read(numbers, tuple(guesses), options)


def _style(words: pl.Series, options: ReadOptions, place: _Place) -> tuple[tuple[str, str] | None, str]:
    """Return the decimal and thousands marks that every value agrees with, and the evidence if there was a choice."""
    is_plain = words.cast(pl.Float64, strict=False).null_count() == words.null_count()
    if is_plain and options.decimal != "," and options.thousands != ".":
        return (".", ""), ""
    fitting = [
        (decimal, thousands)
        for (decimal, thousands), pattern in _STYLES.items()
        if options.decimal in (None, decimal) and options.thousands in (None, "", thousands)
        if words.str.contains(pattern).all()
    ]
    if not fitting:
        return ((".", ""), "") if is_plain else (None, "")
    if options.decimal is not None or options.thousands:
        return fitting[0], ""
    marked = words.filter(words.str.contains(r"[^\d+-]"))
    example = f"as in {marked[0]!r}" if len(marked) else "no value has either"
    if (".", ",") in fitting and (",", ".") in fitting:
        if options.separator == ",":
            return (".", ","), f"{example}, in a file with commas between its fields"
        row = int(words.str.contains(",").arg_max() or 0)
        raise Ambiguous(
            f"{place.of(row)}: {words[row]!r} can be a thousand or a fraction, and no other value tells",
            hint='read={"decimal": ","} for a fraction, read={"thousands": ","} for a thousand',
        )
    return fitting[0], example


def _is_code(plain: pl.Series) -> bool:
    """Tell numbers from codes: zeros in front, or more digits than a number can hold."""
    return bool(
        plain.str.contains(r"^[+-]?0\d").any() or plain.str.contains(rf"^[+-]?\d{{{_MOST_DIGITS + 1},}}$").any()
    )


def _kept_as_text(present: pl.Series) -> tuple[Guess, ...]:
    """Return why words that look like numbers were not read as numbers, nothing when they do not."""
    if present.str.contains(_PLAIN).all():
        if present.str.contains(r"^[+-]?0\d").any():
            return (Guess(present.name, "text", "zeros in front: these are codes"),)
        longest = int(present.str.count_matches(r"\d").max() or 0)  # type: ignore[arg-type]
        why = f"with up to {longest} digits, where a number holds {_MOST_DIGITS}"
        return (Guess(present.name, AS_TEXT, why),)
    core = present.str.replace_all(r"^[^\w.]+|[^\w.]+$", "")
    looks = pl.select(pl.any_horizontal(core.str.contains(pattern) for pattern in _STYLES.values())).to_series()
    if _share(looks) < _MOSTLY or _share(present.str.contains(r"\d")) < _MOSTLY:
        return ()
    masks = [present.str.contains(pattern) for pattern in _STYLES.values()]
    other = present.filter(~max(masks, key=lambda mask: int(mask.sum())))
    example = other[0] if len(other) else present[0]
    why = f"{example!r} does not read as one: a sign in front, digits, the marks of the other values"
    return (Guess(present.name, AS_TEXT, why),)


def _refuse_slipped_number(bare: pl.Series, words: pl.Series, options: ReadOptions, place: _Place) -> None:
    """Refuse a column of numbers in which a few words stand; return when the column is something else."""
    plain = bare.cast(pl.Float64, strict=False).is_not_null()
    masks = [(bare.str.contains(pattern) | plain).fill_null(True) for pattern in _STYLES.values()]
    fits = max(masks, key=lambda mask: int(mask.sum()))
    present = words.len() - words.null_count()
    wrong = words.filter(~fits)
    numbers = words.filter(fits).drop_nulls()
    wanted = options.types.get(words.name)
    is_slip = len(numbers) >= _MOSTLY * present and wrong.n_unique() <= _FEW and numbers.n_unique() > 10
    if not is_slip and wanted is None:
        return
    if wanted is None and _looks_dated(words):
        return
    row = int((~fits).arg_max() or 0)
    raise Invalid(
        f"{place.of(row)}: {words[row]!r} is not a number, as {len(numbers)} of {present} values are",
        hint=f'read={{"missing": [{words[row]!r}]}} reads it as missing; '
        f'read={{"types": {{{words.name!r}: "string"}}}} keeps the column as text',
    )


def _as_wanted(values: pl.Series, wanted: DType | None, words: pl.Series, place: _Place) -> pl.Series:
    """Return the values in the pinned type; whole numbers are numbers and days are instants, not the reverse."""
    if wanted == "int64" and values.dtype == pl.Float64:
        raise _refused(words, int((values != values.floor()).fill_null(False).arg_max() or 0), wanted, place)
    if wanted == "date" and values.dtype != pl.Date:
        raise _refused(words, int(words.str.contains(":").arg_max() or 0), wanted, place)
    return values.cast(POLARS_TYPES[wanted]) if wanted is not None else values


def _not_of_type(words: pl.Series, wanted: DType, place: _Place) -> Invalid:
    flags = words.str.to_lowercase().is_in(["true", "false"]).fill_null(True)
    fits = flags if wanted == "bool" else words.is_null()
    return _refused(words, int((~fits).arg_max() or 0), wanted, place)


def _refused(words: pl.Series, row: int, wanted: DType, place: _Place) -> Invalid:
    return Invalid(f"{place.of(row)}: {words[row]!r} is not {wanted}, the type this column has had",
                   hint=f'mend the file, or change read={{"types": {{{words.name!r}: ...}}}}')  # fmt: skip


def _looks_dated(words: pl.Series) -> bool:
    sample = words.drop_nulls().head(50)
    return _share(_numbered_months(sample).str.contains(_DATE)) > _MOSTLY


def _share(mask: pl.Series) -> float:
    """Return the share of true among the values present, 0 when none is."""
    return float(mask.sum()) / max(1, mask.len() - mask.null_count())


def _numbered_months(words: pl.Series) -> pl.Series:
    """Return `3 Jan 2024`, `03-January-24` and `January 3, 2024` with the month as a number after the day."""
    if not words.str.contains(r"[A-Za-z]{3}").any():
        return words
    named = words.str.replace(r"(?i)\b(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?", "${1}")
    named = named.str.replace(r"(?i)^([a-z]{3})\s+(\d{1,2}),?\s+(\d{4})", "${2}-${1}-${3}")
    pairs = {spelled: f"{n + 1:02d}" for n, month in enumerate(_MONTHS)
             for spelled in (month, month.lower(), month.upper())}  # fmt: skip
    dated = named.str.contains(r"(?i)^\d{1,2}[-/. ]?[a-z]{3}[-/. ]?\d{2,4}")
    return pl.select(pl.when(dated).then(named.str.replace_many(pairs)).otherwise(words)).to_series().alias(words.name)


def _dates(words: pl.Series, options: ReadOptions, place: _Place) -> Read | None:
    """Return dates or instants in UTC, or None when the column does not hold them."""
    name = words.name
    sample = _numbered_months(words.drop_nulls().head(200))
    if name not in options.types and _share(sample.str.contains(_DATE)) < _MOSTLY:
        return None
    numbered = _numbered_months(words)
    parts = numbered.str.extract_groups(_DATE).struct.unnest()
    parts.columns = ["a", "b", "c", "hour", "minute", "second", "fraction", "half", "zone"]
    year_first = parts["a"].str.len_chars() == 4
    ymd = _instants(parts, "ymd").set((~year_first).fill_null(True), None)
    if ymd.null_count() == words.null_count():
        return Read(_with_kind(ymd, parts, name), (), options)
    others = {order: _instants(parts, order).set(year_first.fill_null(True), None) for order in ("dmy", "mdy")}
    chosen, why = _order(words, ymd, others, options, place)
    if chosen is None:
        return None
    together = ymd.fill_null(others[chosen])
    mixed = ymd.null_count() < words.len() and year_first.any()
    what = f"dates are {'day first' if chosen == 'dmy' else 'month first'}{', some year first' if mixed else ''}"
    options = replace(options, dates={**options.dates, name: chosen})
    return Read(_with_kind(together, parts, name), (Guess(name, what, why),), options)


def _instants(parts: pl.DataFrame, order: str) -> pl.Series:
    """Return the instants that the parts mean in this order, null where there is no such day or time."""
    year, month, day = (dict(zip(order, "abc", strict=True))[part] for part in "ymd")
    short = pl.col(year).str.len_chars()
    number = pl.col(year).cast(pl.Int32, strict=False)
    full = (
        pl.when(short == 4).then(number).when(short == 2).then(number + pl.when(number < 70).then(2000).otherwise(1900))
    )
    hour = pl.col("hour").cast(pl.Int32).fill_null(0)
    half = pl.col("half").str.to_lowercase()
    hour = pl.when(half == "pm").then(hour % 12 + 12).when(half == "am").then(hour % 12).otherwise(hour)
    date = pl.format("{}-{}-{}", full, pl.col(month), pl.col(day)).str.to_date("%Y-%m-%d", strict=False)
    minute, second = (pl.col(part).cast(pl.Int32).fill_null(0) for part in ("minute", "second"))
    micro = pl.col("fraction").fill_null("0").str.pad_end(6, "0").str.head(6).cast(pl.Int64)
    zone = pl.col("zone").str.replace("^(Z|UTC|GMT)$", "+0000").str.replace(":", "").fill_null("+0000")
    offset = (zone.str.slice(1, 2).cast(pl.Int32) * 60 + zone.str.slice(3, 2).cast(pl.Int32)) * pl.when(
        zone.str.starts_with("-")).then(-1).otherwise(1)  # fmt: skip
    clock = pl.duration(hours=hour, minutes=minute - offset, seconds=second, microseconds=micro)
    valid = (hour < 24) & (minute < 60) & (second < 61)
    instant = (date.cast(pl.Datetime("us")) + clock).dt.replace_time_zone("UTC")
    return parts.select(pl.when(valid).then(instant)).to_series()


def _with_kind(instants: pl.Series, parts: pl.DataFrame, name: str) -> pl.Series:
    has_time = parts["hour"].null_count() < parts.height
    return (instants if has_time else instants.dt.date()).alias(name)


def _order(
    words: pl.Series, ymd: pl.Series, others: dict[str, pl.Series], options: ReadOptions, place: _Place
) -> tuple[str | None, str]:
    """Return which of day and month comes first, and the evidence."""
    left = words.is_not_null() & ymd.is_null()
    misses = {order: left & values.is_null() for order, values in others.items()}
    fitting = [order for order, missed in misses.items() if not missed.any()]
    pinned = options.dates.get(words.name)
    if pinned in fitting:
        return pinned, "as pinned"
    if len(fitting) == 1 and pinned is None:
        other = "mdy" if fitting == ["dmy"] else "dmy"
        row = int(misses[other].arg_max() or 0)
        return fitting[0], f"{words[row]!r} on line {place.line_of(row)} can be read no other way"
    if len(fitting) == 2 and pinned is None:
        return _order_by_sequence(words, ymd, others, options, place)
    wrong = misses[pinned] if pinned in misses else misses["dmy"] & misses["mdy"]
    if not wrong.any():
        day, month = (int(misses[order].arg_max() or 0) for order in ("mdy", "dmy"))
        raise Invalid(
            f"column {words.name!r} mixes two orders of day and month: {words[day]!r} on line {place.line_of(day)}, "
            f"{words[month]!r} on line {place.line_of(month)}",
            hint="write the dates as 2024-12-31; which of the others are meant how cannot be told",
        )
    bad = int(wrong.sum())
    if bad > (1 - _MOSTLY) * (words.len() - words.null_count()) and options.types.get(words.name) is None:
        return None, ""
    row = int(wrong.arg_max() or 0)
    raise Invalid(
        f"{place.of(row)}: {words[row]!r} is no date{f' written {pinned}' if pinned else ''}, as the other values are",
        hint=f'mend the line, or read={{"missing": [{words[row]!r}]}}',
    )


def _order_by_sequence(
    words: pl.Series, ymd: pl.Series, others: dict[str, pl.Series], options: ReadOptions, place: _Place
) -> tuple[str, str]:
    """Decide between two possible orders by other columns, or by which one makes the rows follow in time."""
    if others["dmy"].equals(others["mdy"], null_equal=True):
        return "dmy", "day and month are equal in every row"
    shown = set(options.dates.values()) & {"dmy", "mdy"}
    if len(shown) == 1:
        return next(iter(shown)), "as in the other dates of the file"
    rising = [o for o, values in others.items() if ymd.fill_null(values).drop_nulls().is_sorted()]
    if len(rising) == 1 and words.len() >= 8:
        return rising[0], "only so do the rows follow each other in time"
    row = int(others["dmy"].ne_missing(others["mdy"]).arg_max() or 0)
    raise Ambiguous(
        f"{place.of(row)}: {words[row]!r} can be read day first or month first, and no other value tells",
        hint=f'read={{"dates": {{{words.name!r}: "dmy"}}}} for day first, "mdy" for month first',
    )
