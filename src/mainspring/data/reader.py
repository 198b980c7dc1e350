"""Read a table from a file, whatever wrote it, and say what was decided on the way."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import re
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl

from mainspring.core.errors import Invalid, MainspringError, NotFound, nearest
from mainspring.data.dialect import ReadOptions, decode, find_dialect, read_records, records
from mainspring.data.frames import canonical, dtype_of
from mainspring.data.values import Ambiguous, Guess, Read, read_column

__all__ = ["Guess", "ReadOptions", "TableReport", "inspect_table", "read_table"]

_FOREIGN = {
    b"\xd0\xcf\x11\xe0": ("an old Excel workbook", "save the sheet as CSV"),
    b"%PDF": ("a PDF document", "export the table as CSV"),
    b"SQLite format 3": ("a SQLite database", 'ms.sql("sqlite:///file.db", "SELECT * FROM table")'),
    b"\x89HDF": ("an HDF5 file", "write it as Parquet: frame.to_parquet(...)"),
    b"\x89PNG": ("a PNG image", 'a folder of images is ms.folder("images")'),
    b"\xff\xd8\xff": ("a JPEG image", 'a folder of images is ms.folder("images")'),
    b"\x80\x04\x95": ("a pickle, which runs code when it is opened", "write it as Parquet: frame.to_parquet(...)"),
    b"\x80\x05\x95": ("a pickle, which runs code when it is opened", "write it as Parquet: frame.to_parquet(...)"),
    b"version https://git-lfs": ("a Git LFS pointer, not the file it points at", "git lfs pull"),
    b"\x28\xb5\x2f\xfd": ("packed with zstd", "unpack it, or pack it with gzip"),
}  # fmt: skip
_LARGEST = 8 * 1024**3
_MOST_EXPANSION = 200


@dataclass(frozen=True, eq=False, slots=True)
class TableReport:
    """A table, what was decided in reading it, and the options that read the next file the same way."""

    frame: pl.DataFrame
    guesses: tuple[Guess, ...]
    options: ReadOptions


def read_table(
    path: Path | str, *, columns: Sequence[str] | None = None, options: ReadOptions | None = None
) -> pl.DataFrame:
    """Return the table in a file; see `inspect_table`."""
    return inspect_table(path, columns=columns, options=options).frame


def inspect_table(
    path: Path | str, *, columns: Sequence[str] | None = None, options: ReadOptions | None = None
) -> TableReport:
    """Return the table in a file with the account of its reading.

    CSV and its kin, JSON, JSON lines, Parquet and Arrow are told by content, not by name; gzip, zip, bzip2 and xz are
    unpacked.

    Args:
        path: The file.
        columns: Names of the columns, for a text file without a header.
        options: What is known about the writing; what is left out is found out from all rows.

    Raises:
        NotFound: there is no such file.
        Invalid: the file is no table, or a value can mean two things; the error names line and column and what works.
    """
    file = Path(path)
    options = options or ReadOptions()
    if columns:
        options = replace(options, columns=tuple(columns))
    try:
        data = _unpacked(_bytes(file))
        return _read(data, file, options)
    except MainspringError as error:
        if error.message.startswith(file.name):
            raise
        raise type(error)(f"{file.name}: {error.message}", hint=error.hint, where=error.where) from None


def _bytes(file: Path) -> bytes:
    if file.is_dir():
        raise Invalid("is a folder, not a file", hint=f'a glob reads all its files: "{file.name}/*.csv"')
    try:
        return file.read_bytes()
    except FileNotFoundError:
        names = [p.name for p in file.parent.iterdir()] if file.parent.is_dir() else []
        raise NotFound(f"no such file in {file.parent.resolve()}{nearest(file.name, names)}",
                       hint="give the path from the current directory") from None  # fmt: skip
    except OSError as error:
        raise Invalid(f"cannot be opened: {error.strerror}", hint=f"check its rights: ls -l {file}") from None


def _unpacked(data: bytes) -> bytes:
    """Return the content of a packed file; one that grows beyond all measure is refused."""
    openers: dict[bytes, Callable[[io.BytesIO], Any]] = {
        b"\x1f\x8b": lambda b: gzip.GzipFile(fileobj=b), b"BZh": bz2.BZ2File, b"\xfd7zXZ": lzma.LZMAFile,
    }  # fmt: skip
    limit = min(_LARGEST, max(len(data) * _MOST_EXPANSION, 64 * 1024**2))
    for magic, opener in openers.items():
        if data.startswith(magic):
            try:
                content: bytes = opener(io.BytesIO(data)).read(limit + 1)
            except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
                raise Invalid(
                    f"the packed file is damaged or cut off: {error}", hint="copy or download it again"
                ) from None
            return _within(content, limit)
    if not data.startswith(b"PK\x03\x04"):
        return data
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = [n for n in archive.namelist() if not n.endswith("/") and not n.startswith(("__MACOSX", "."))]
            if any(n.startswith("xl/") for n in names):
                raise Invalid("is an Excel workbook", hint="save the sheet as CSV")
            if len(names) != 1:
                raise Invalid(f"the archive holds {len(names)} files: {', '.join(names[:5])}",
                              hint="unpack it and name one file, or a glob")  # fmt: skip
            with archive.open(names[0]) as member:
                return _within(member.read(limit + 1), limit)
    except (zipfile.BadZipFile, RuntimeError, zlib.error) as error:
        raise Invalid(f"the archive is damaged: {error}", hint="copy or download it again") from None


def _within(content: bytes, limit: int) -> bytes:
    if len(content) > limit:
        raise Invalid(f"unpacks to more than {limit // 1024**2} MB", hint="unpack it and look at what it holds")
    return content


def _read(data: bytes, file: Path, options: ReadOptions) -> TableReport:
    if not data.strip():
        raise Invalid("the file is empty", hint="check the step that wrote it")
    if data.startswith(b"PAR1"):
        return _typed(lambda: pl.read_parquet(io.BytesIO(data)), "Parquet", options)
    if data.startswith(b"ARROW1"):
        return _typed(lambda: pl.read_ipc(io.BytesIO(data)), "Arrow", options)
    for magic, (what, hint) in _FOREIGN.items():
        if data.startswith(magic):
            raise Invalid(f"is {what}", hint=hint)
    suffixes = {suffix.lower() for suffix in file.suffixes}
    if suffixes & {".parquet", ".arrow", ".feather"}:
        raise Invalid(f"is named {file.suffix} and does not begin as one", hint="the copy may have failed; "
                      "if it is text, name it .csv")  # fmt: skip
    text, encoding, why = decode(data, options.encoding)
    start = text[:512].lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<!--")):
        raise Invalid("is a web page or XML, not a table", hint="the download got a page instead of the file; "
                      "open it in a browser to see why")  # fmt: skip
    guesses = [Guess("", f"encoding {encoding}", why)] if encoding not in ("utf-8", options.encoding) else []
    pinned = replace(options, encoding=encoding) if encoding != "utf-8" else options
    if start.startswith((b"{", b"[")) and (suffixes & {".json", ".jsonl", ".ndjson"} or _is_json(text)):
        return _json(text, pinned, guesses)
    if not text.strip():
        raise Invalid("the file holds nothing but blanks", hint="check the step that wrote it")
    return _text(text, pinned, guesses)


def _typed(read: Callable[[], pl.DataFrame], kind: str, options: ReadOptions) -> TableReport:
    try:
        frame = read()
    except (pl.exceptions.PolarsError, OSError, ValueError) as error:
        raise Invalid(f"the {kind} file is damaged or cut off: {str(error).splitlines()[0][:120]}",
                      hint="copy it again, or write it again") from None  # fmt: skip
    _not_without_rows(frame)
    types = {name: found for name, kind in frame.schema.items() if (found := dtype_of(kind))}
    return TableReport(canonical(frame), (), replace(options, types=types))


def _not_without_rows(frame: pl.DataFrame) -> None:
    if frame.height == 0 or frame.width == 0:
        raise Invalid(f"the table has {frame.width} columns and no rows", hint="check the step that wrote it")


def _is_json(text: bytes) -> bool:
    first = text.split(b"\n", 1)[0].strip()
    try:
        return isinstance(json.loads(text if first in (b"[", b"{") else first.rstrip(b",")), (list, dict))
    except ValueError:
        return first[:2] == b"[{"


def _json(text: bytes, options: ReadOptions, guesses: list[Guess]) -> TableReport:
    """Read an array of objects, an object of columns, pandas' split form, or one object per line."""
    try:
        found = json.loads(text)
    except ValueError as error:
        found = _json_lines(text, error)
    rows: list[Any] = found if isinstance(found, list) else []
    if isinstance(found, dict):
        rows = _rows_of_object(found)
    for index, row in enumerate(rows):
        if not isinstance(row, dict):
            raise Invalid(f"element {index + 1} is {json.dumps(row)[:40]}, not an object with named values",
                          hint='write rows as {"column": value, ...}')  # fmt: skip
    try:
        frame = pl.from_dicts(rows, infer_schema_length=None) if rows else pl.DataFrame()
    except (pl.exceptions.PolarsError, TypeError, OverflowError) as error:
        column = next((n for n in rows[0] if len({type(r.get(n)) for r in rows} - {type(None), int, float}) > 1), "")
        raise Invalid(f"column {column!r} mixes kinds of values: {str(error).splitlines()[0][:100]}",
                      hint="give every row the same kind of value, or quote them all") from None  # fmt: skip
    _not_without_rows(frame)
    for name, kind in frame.schema.items():
        if kind.is_nested():
            raise Invalid(f"column {name!r} holds lists or objects", hint="spread nested values over columns")
    return _meanings(frame, options, guesses, lambda row: row + 1)


def _json_lines(text: bytes, error: ValueError) -> list[Any]:
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            rows.append(json.loads(line))
        except ValueError as wrong:
            place = wrong if rows else error
            line_number = number if rows else getattr(error, "lineno", number)
            raise Invalid(f"line {line_number} is not JSON: {getattr(place, 'msg', place)}",
                          hint="mend the line; JSON lines hold one whole object each") from None  # fmt: skip
    return rows


def _rows_of_object(found: dict[str, Any]) -> list[Any]:
    if set(found) >= {"columns", "data"} and isinstance(found["data"], list):
        return [dict(zip(found["columns"], row, strict=False)) for row in found["data"]]
    columns = {name: value for name, value in found.items() if isinstance(value, list)}
    if len(columns) == len(found) and len({len(value) for value in columns.values()}) == 1:
        if len(columns) == 1 and all(isinstance(row, dict) for row in next(iter(columns.values()))):
            return next(iter(columns.values()))
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    if columns:
        sizes = ", ".join(f"{name} {len(value)}" for name, value in list(columns.items())[:4])
        raise Invalid(f"the object's values are not columns of one length ({sizes} of {len(found)} values)",
                      hint='write [{"column": value, ...}, ...]')  # fmt: skip
    return [found]


def _text(text: bytes, options: ReadOptions, guesses: list[Guess]) -> TableReport:
    given = options
    options = find_dialect(text, options)
    if given.quote is None and options.quote == "" and b'"' in text:
        guesses.append(Guess("", "quotes are ordinary characters", "they do not enclose fields"))
    if given.separator is None and options.separator != ",":
        guesses.append(Guess("", f"separator {options.separator!r}", "it gives every line the same number of fields"))
    raw = read_records(text, options)
    names, has_header = _names(raw, text, options)
    body = raw[1:] if has_header else raw
    _not_without_rows(body)
    body.columns = names
    body = _without_index(body, guesses)
    lines: list[int] = []

    def line_of(row: int) -> int:
        if not lines:
            lines.extend(line for line, _ in islice(records(text, options), raw.height))
        return lines[row + has_header]

    return _meanings(body, replace(options, header=has_header), guesses, line_of)


def _names(raw: pl.DataFrame, text: bytes, options: ReadOptions) -> tuple[list[str], bool]:
    """Return the names of the columns and whether the first record holds them.

    Raises:
        Invalid: there are no names, or they are not one name per column.
    """
    first = [str(value).strip() for value in raw.row(0)]
    if options.columns:
        if len(options.columns) != raw.width:
            raise Invalid(f"{len(options.columns)} column names are given for {raw.width} columns; the first line "
                          f"reads {', '.join(first)[:120]!r}", hint="give one name per column, in order")  # fmt: skip
        if len(set(options.columns)) != raw.width:
            raise Invalid("two columns are given one name", hint="give each column a name of its own")
        same = options.header if options.header is not None else [n.lower() for n in options.columns] == [
            n.lower() for n in first]  # fmt: skip
        return list(options.columns), same
    if options.header is False or (options.header is None and not _is_header(raw, first)):
        names = [f"name{index + 1}" for index in range(min(raw.width, 3))] + ["..."] * (raw.width > 3)
        raise Invalid(
            f"the file has no header: line {options.skip + 1} reads {', '.join(first)[:100]!r}",
            hint=f"name its {raw.width} columns: --columns {','.join(names)} or columns={json.dumps(names)}; "
            'if that line does name them, read={"header": True}',
        )
    for index, name in enumerate(first):
        if not name and index:
            raise Invalid(f"column {index + 1} has no name in line 1", hint=f"name all {raw.width} in the file, or "
                          'give columns=[...] and read={"header": True}')  # fmt: skip
        if name in first[:index]:
            raise Invalid(f"columns {first.index(name) + 1} and {index + 1} are both named {name!r}",
                          hint='rename one in the file, or give columns=[...] and read={"header": True}')  # fmt: skip
    return [name or "column_1" for name in first], True


def _is_header(raw: pl.DataFrame, first: list[str]) -> bool:
    """Tell names from values: names are words, and do not turn up again as values of their column."""
    named = [name for name in first[1:] if name] + first[:1]
    if any(re.fullmatch(r"[+-]?[\d.,:/ -]*\d[\d.,:/ -]*|[?]", name) for name in named):
        return False
    if raw.height == 1:
        return True
    body = raw[1:]
    for name, value in zip(body.columns, first, strict=True):
        if value and (body[name].str.strip_chars() == value).any():
            return False
    numbers = body.head(2000).select(pl.all().str.contains(r"^\s*[+-]?\d[\d.,]*\s*$").mean() > 0.5)
    return any(numbers.row(0)) or all(len(name) <= 64 and not re.search(r"[.!?]\s|[<>=@]", name) for name in named)


def _without_index(body: pl.DataFrame, guesses: list[Guess]) -> pl.DataFrame:
    """Leave out an unnamed first column that only counts the rows, as pandas writes one."""
    if "column_1" in body.columns and body.width > 1:
        counted = body["column_1"].cast(pl.Int64, strict=False)
        if counted.null_count() == 0 and (counted.diff().drop_nulls() == 1).all():
            guesses.append(Guess("", "an unnamed first column is left out", "it only counts the rows"))
            return body.drop("column_1")
    return body


def _meanings(
    frame: pl.DataFrame, options: ReadOptions, guesses: list[Guess], line_of: Callable[[int], int]
) -> TableReport:
    """Give every column of text its meaning; what one column shows helps to read the others."""
    for name in options.types:
        if name not in frame.columns:
            raise Invalid(f"there is no column {name!r} any more{nearest(name, frame.columns)}",
                          hint=f"columns: {', '.join(frame.columns)}")  # fmt: skip
    texts = [name for name, kind in frame.schema.items() if kind == pl.String]
    found: dict[str, Read] = {}
    seen, unclear = options, []
    for name in texts:
        try:
            found[name] = read_column(frame[name], seen, line_of)
        except Ambiguous:
            unclear.append(name)
        else:
            seen = found[name].options
    if seen.decimal == "," and options.decimal is None:  # 1.234 was read as a fraction before this was known
        unclear += [name for name, read in found.items() if read.values.dtype.is_float()]
    for name in unclear:
        found[name] = read_column(frame[name], seen, line_of)
        seen = found[name].options
    frame = frame.with_columns([read.values.alias(name) for name, read in found.items()])
    decided = [guess for name in texts for guess in found[name].guesses]
    types = {name: kind for name in frame.columns if (kind := dtype_of(frame.schema[name]))}
    return TableReport(canonical(frame), (*guesses, *decided), replace(seen, types=types))
