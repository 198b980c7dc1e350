"""How a table is written as text: its encoding, separator, quoting and header, found out or pinned."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, get_args

import polars as pl

from mainspring.core.errors import Invalid, nearest
from mainspring.core.schema import DType

SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
DATE_ORDERS = ("ymd", "dmy", "mdy")
_SAMPLE = 256 * 1024
_MOST_ABOVE = 50
_LONGEST_FIELD = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How to read a text file; what is left out is found out. Law: `from_json(o.to_json()) == o`.

    Args:
        encoding: A Python codec name.
        separator: The character between fields.
        quote: The character around fields, "" when quotes are ordinary characters.
        header: Whether the first line names the columns.
        columns: Names of the columns of a file without a header.
        skip: Lines before the table.
        decimal: "." or ",".
        thousands: "," or "." or " " or "'", between groups of three digits; "" for none.
        missing: Words that mean a missing value; an empty field always does.
        dates: Order of the parts of a date per column: "ymd", "dmy" or "mdy".
        types: Type per column; a value that does not fit is refused with its line.
    """

    encoding: str | None = None
    separator: str | None = None
    quote: str | None = None
    header: bool | None = None
    columns: tuple[str, ...] = ()
    skip: int = 0
    decimal: str | None = None
    thousands: str | None = None
    missing: tuple[str, ...] | None = None
    dates: Mapping[str, str] = field(default_factory=dict)
    types: Mapping[str, DType] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return what is set, as JSON."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {
            name: list(value) if isinstance(value, tuple) else dict(value) if isinstance(value, Mapping) else value
            for name, value in values.items()
            if value is not None and not (name in ("columns", "skip", "dates", "types") and not value)
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ReadOptions:
        """Return the options that `to_json` wrote, or a person.

        Raises:
            Invalid: an option is unknown or its value cannot be meant.
        """
        known = [f.name for f in fields(cls)]
        for name, value in data.items():
            if name not in known:
                raise Invalid(
                    f"reading has no option {name!r}{nearest(name, known)}", hint=f"options: {', '.join(known)}"
                )
            if problem := _problem(name, value):
                raise Invalid(f"reading option {name}={value!r}: {problem}", hint='as in read={"separator": ";"}')
        sequences = {n: tuple(data[n]) for n in ("columns", "missing") if data.get(n) is not None}
        return cls(**{**data, **sequences})


def _problem(name: str, value: Any) -> str:
    """Return why an option cannot have this value, or nothing."""
    if name in ("columns", "missing"):
        is_right = isinstance(value, (list, tuple)) and all(isinstance(v, str) for v in value)
        return "" if is_right or (name == "missing" and value is None) else "expected a list of words"
    if name in ("dates", "types"):
        allowed = DATE_ORDERS if name == "dates" else get_args(DType)
        is_right = isinstance(value, Mapping) and all(v in allowed for v in value.values())
        return "" if is_right else f"expected column: one of {', '.join(allowed)}"
    if name == "header":
        return "" if value is None or isinstance(value, bool) else "expected True or False"
    if name == "skip":
        return "" if isinstance(value, int) and value >= 0 else "expected a number of lines"
    if value is None:
        return ""
    if not isinstance(value, str):
        return "expected text"
    if name == "encoding":
        try:
            codecs.lookup(value)
        except LookupError:
            return "no such encoding"
        return ""
    marks = {"decimal": (".", ","), "thousands": ("", ",", ".", " ", "'")}.get(name)
    if marks is not None:
        return "" if value in marks else f"expected one of {marks}"
    return "" if len(value) == 1 or (name == "quote" and not value) else "expected one character"


def decode(data: bytes, encoding: str | None) -> tuple[bytes, str, str]:
    """Return the text as UTF-8 with LF or CRLF line ends, the encoding it was in, and why.

    Raises:
        Invalid: the bytes are not text in that encoding; the error names the line.
    """
    found, why = (encoding, "as given") if encoding else _encoding(data)
    try:
        text = data.decode(found)
    except (UnicodeDecodeError, UnicodeError) as error:
        start = getattr(error, "start", 0)
        line = data.count(b"\n", 0, start) + 1
        tried = f"not {found}" if encoding or found != "cp1252" else "neither UTF-8 nor cp1252"
        raise Invalid(
            f"line {line} is {tried}: byte 0x{data[start]:02x} has no meaning there",
            hint=_other_encoding(found, guessed=encoding is None),
        ) from None
    text = text.removeprefix("\ufeff")
    if "\x00" in text:
        line = text.count("\n", 0, text.index("\x00")) + 1
        raise Invalid(f"line {line} holds a NUL character: the file is damaged or not text",
                      hint="write the file again; if it is a binary format, give it its own extension")  # fmt: skip
    if "\r" in text and "\n" not in text:
        text = text.replace("\r", "\n")
    return text.encode(), found, why


def _other_encoding(failed: str, *, guessed: bool) -> str:
    """Return what to do about bytes that are not in an encoding; never to try that one again."""
    if codecs.lookup(failed).name.startswith("utf-8"):
        most = "most lines are UTF-8; " if guessed else ""
        return f'{most}mend the line, or read={{"encoding": "cp1252"}} if the file is older'
    names = [name for name in ("shift_jis", "utf-16") if codecs.lookup(name).name != codecs.lookup(failed).name]
    examples = " or ".join(f'read={{"encoding": "{name}"}}' for name in names)
    return f"the file seems to be binary, or text in another encoding; name it, as in {examples}"


def _encoding(data: bytes) -> tuple[str, str]:
    for mark, name in ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
                       (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16")):  # fmt: skip
        if data.startswith(mark):
            return name, "the file begins with its byte order mark"
    sample = data[:4096]
    odd, even = sample[1::2].count(0), sample[0::2].count(0)
    if len(sample) >= 8 and max(odd, even) > 0.4 * len(sample) / 2 > 10 * min(odd, even):
        return ("utf-16-le" if odd > even else "utf-16-be"), "every other byte is zero"
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        pass
    else:
        return "utf-8", "every byte sequence is UTF-8"
    # UTF-8 sequences hardly arise by chance: where they are the rule, a byte that is none is damage, not another code.
    sequences = len(re.findall(rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}", data))
    invalid = data.decode("utf-8", "replace").count("\ufffd")
    if sequences > 2 * invalid:
        return "utf-8", "most sequences are UTF-8"
    return "cp1252", f"{invalid} bytes are not UTF-8 and read as Western European letters"


def find_dialect(data: bytes, options: ReadOptions) -> ReadOptions:
    """Return the options with separator and quote set, from what makes every line the same width."""
    sample = data[:_SAMPLE]
    if len(data) > _SAMPLE:
        sample = sample[: sample.rfind(b"\n") + 1] or sample
    separator = options.separator or _separator(sample.decode("utf-8", "ignore"), options)
    options = replace(options, separator=separator)
    if options.quote is not None:
        return options
    opening = re.compile(rb"(?:^|[\n" + re.escape(separator.encode()) + rb']) *"')
    if b'"' not in data:
        return replace(options, quote='"')
    if not opening.search(data):
        return replace(options, quote="")
    quoted, plain = replace(options, quote='"'), replace(options, quote="")
    return plain if _uneven(data, quoted) and not _uneven(data, plain) else quoted


def _separator(sample: str, options: ReadOptions) -> str:
    """Return the separator that gives the most lines one width above 1."""
    best, best_score = ",", (0.0, 0)
    for separator in SEPARATORS:
        for quote in ('"', "") if options.quote is None else (options.quote,):
            trial = replace(options, separator=separator, quote=quote)
            try:
                widths = Counter(len(row) for _, row in records(sample.encode(), trial, strict=True))
            except csv.Error:
                continue
            width, count = max(widths.items(), key=lambda item: (item[1], item[0]), default=(1, 0))
            score = (round(count / max(1, sum(widths.values())), 2), width)
            if width > 1 and score > best_score:
                best, best_score = separator, score
    return best


def _uneven(data: bytes, options: ReadOptions) -> int:
    """Return how many records differ from the usual width; a quote that never closes counts as all."""
    try:
        widths = Counter(len(row) for _, row in records(data, options, strict=True))
    except csv.Error:
        return data.count(b"\n") + 1
    return sum(widths.values()) - max(widths.values(), default=0)


def records(data: bytes, options: ReadOptions, *, strict: bool = False) -> Iterator[tuple[int, list[str]]]:
    """Yield each record that is not blank with the line it begins on, counted from 1; the slow and exact way."""
    csv.field_size_limit(_LONGEST_FIELD)
    lines = io.TextIOWrapper(io.BytesIO(data), encoding="utf-8", newline="")
    for _ in range(options.skip):
        lines.readline()
    quote = options.quote if options.quote is not None else '"'
    reader = csv.reader(
        lines, delimiter=options.separator or ",", strict=strict, skipinitialspace=options.separator != "\t",
        quotechar=quote or None, quoting=csv.QUOTE_MINIMAL if quote else csv.QUOTE_NONE,
    )  # fmt: skip
    line = options.skip
    for row in reader:
        if "".join(row).strip():
            yield line + 1, row
        line = options.skip + reader.line_num


def read_records(data: bytes, options: ReadOptions) -> pl.DataFrame:
    """Return every record as text, columns `column_1` and on; all have the width of the first.

    Raises:
        Invalid: a record has another width, or a quote never closes; the error names the line.
    """
    width, height, line = 0, 0, 0
    try:
        for line, row in records(data, options, strict=True):
            if height and len(row) != width:
                raise _ragged(line, row, width, _begin(data, options, width), options)
            width, height = len(row), height + 1
    except csv.Error as error:
        raise Invalid(
            f"the record that begins on line {line + 1} cannot be read: {error}",
            hint='a quote is opened and not closed; mend it, or read={"quote": ""} if quotes are ordinary characters',
        ) from None
    if not height:
        raise Invalid("the file holds nothing but blanks", hint="check the step that wrote it")
    names = [f"column_{index + 1}" for index in range(width)]
    try:
        frame = pl.read_csv(
            data, has_header=False, infer_schema=False, empty_string_is_null=False, skip_lines=options.skip,
            separator=options.separator or ",", quote_char=options.quote or None, new_columns=names,
        )  # fmt: skip
        blank = pl.all_horizontal(pl.all().str.strip_chars(" \r") == "")
        frame = frame.filter(~blank)
        if frame.shape == (height, width):
            return frame
    except pl.exceptions.PolarsError:
        pass
    # Polars toggles at every quote, also inside a field; such files are read record by record.
    rows = [row for _, row in records(data, options)]
    return pl.DataFrame(rows, schema=dict.fromkeys(names, pl.String), orient="row")


def _begin(data: bytes, options: ReadOptions, width: int) -> int:
    """Return the line on which the table begins when other lines stand above it, 0 when none do.

    Above a table are a few lines of another width than most.
    """
    widths: Counter[int] = Counter()
    first: dict[int, tuple[int, int]] = {}
    for number, (line, row) in enumerate(records(data, options)):
        widths[len(row)] += 1
        first.setdefault(len(row), (number, line))
    (usual, count), total = widths.most_common(1)[0], sum(widths.values())
    above, line = first[usual]
    is_table = usual > 1 and usual != width and 0 < above <= _MOST_ABOVE and 2 * count > total - above
    return line if is_table else 0


def _ragged(line: int, row: list[str], width: int, begin: int, options: ReadOptions) -> Invalid:
    name = SEPARATORS.get(options.separator or ",", repr(options.separator))
    if begin:
        hint = f'if the table begins on line {begin}: read={{"skip": {begin - 1}}}'
    elif options.separator == "," and len(row) > width:
        hint = "put a field that holds a comma in double quotes"
    else:
        hint = f'mend the line; the fields are read with {name} between them, read={{"separator": ...}} sets another'
    return Invalid(f"line {line} has {len(row)} field{'s' * (len(row) != 1)} where the first has {width}", hint=hint)
