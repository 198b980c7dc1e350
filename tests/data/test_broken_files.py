"""Every broken data file gives one clear error with a hint, and nothing else."""

from __future__ import annotations

import gzip
import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from mainspring.core.errors import Invalid, MainspringError
from mainspring.data.reader import ReadOptions, inspect_table


def _zip(**members: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in members.items():
            archive.writestr(name.replace("__", "/").replace("_csv", ".csv").replace("_xml", ".xml"), text)
    return buffer.getvalue()


def _parquet() -> bytes:
    buffer = io.BytesIO()
    pl.DataFrame({"a": [1, 2, 3]}).write_parquet(buffer)
    return buffer.getvalue()


def _rows(*lines: str, count: int = 20, row: Callable[[int], str] = lambda i: f"{i},{i}.5") -> bytes:
    return "\n".join([*lines, *(row(i) for i in range(count))]).encode() + b"\n"


_NUMBERS = "\n".join(f"{i},{i * 7}" for i in range(30))
_DATES = "\n".join(f"{i},{i % 9 + 1:02d}/{i * 5 % 9 + 1:02d}/2024" for i in range(30))

# name of the file: (its content, what the message says, what the hint says)
BROKEN: dict[str, tuple[bytes, str, str]] = {
    "empty.csv": (b"", "the file is empty", "step that wrote it"),
    "blanks.csv": (b" \n\n  \n", "the file is empty", "step that wrote it"),
    "header_only.csv": (b"a,b,c\n", "3 columns and no rows", "step that wrote it"),
    "no_header.csv": (b"39,State-gov,77516\n50,Private,83311\n38,Private,21564\n", "no header", "--columns name1,name2"),
    "no_header_words.csv": (b"ham,hello\nspam,win\nham,later\n", "no header", 'columns=["name1", "name2"]'),
    "ragged_long.csv": (b"a,b\n1,2\n3,4,5\n6,7\n", "line 3 has 3 fields where the first has 2", "double quotes"),
    "ragged_short.csv": (b"a,b,c\n1,2,3\n4,5,6\n\n7,8\n", "line 5 has 2 fields where the first has 3", "mend the line"),
    "preamble.csv": (b"Sales report 2024\na,b,c\n1,2,3\n4,5,6\n7,8,9\n", "line 2 has 3 fields", 'read={"skip": 1}'),
    "two_above.csv": (_rows("Report generated 2024-01-02", "Region: north", "a,b"), "line 3 has 2 fields", 'read={"skip": 2}'),
    "wide_above.csv": (_rows("Report generated Monday, by J. Doe, v2", "", "a,b"), "line 3 has 2 fields", 'read={"skip": 2}'),
    "footer.csv": (_rows("a,b") + b"Total\n", "line 22 has 1 field", "mend the line"),
    "open_quote.csv": (b'a,b\n1,"x, y"\n2,"z\n3,w\n', "begins on line 3 cannot be read", 'read={"quote": ""}'),
    "same_names.csv": (b"id,amount,amount\n1,2,3\n", "columns 2 and 3 are both named 'amount'", "rename one"),
    "no_name.csv": (b"id,,amount\n1,2,3\n4,5,6\n", "column 2 has no name", "columns=[...]"),
    "nul.csv": (b"a,b\n1,2\n3,\x004\n", "line 3 holds a NUL", "write the file again"),
    "bad_utf8.csv": (("name,n\n" + "Zoë,1\n" * 20).encode() + b"Jos\xe9,2\n", "line 22 is not utf-8", "cp1252"),
    "shift_jis.csv": (("name,n\n" + "東京ソース,1\n" * 20).encode("shift_jis"), "line 2 is neither UTF-8 nor cp1252", 'read={"encoding": "shift_jis"}'),
    "random.csv": (np.random.default_rng(0).bytes(4096), "is neither UTF-8 nor cp1252", "seems to be binary, or text in another encoding"),
    "page.csv": (b"<!DOCTYPE html>\n<html><body>Sign in</body></html>", "a web page", "download"),
    "pointer.csv": (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "Git LFS pointer", "git lfs pull"),
    "book.csv": (_zip(xl__workbook_xml="<x/>", content="x"), "Excel workbook", "save the sheet as CSV"),
    "old_book.csv": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 64, "Excel workbook", "save the sheet as CSV"),
    "two.zip": (_zip(a_csv="x\n1\n", b_csv="y\n2\n"), "holds 2 files: a.csv, b.csv", "unpack it"),
    "cut.csv.gz": (gzip.compress(_rows("a,b", count=500))[:-200], "damaged or cut off", "copy"),
    "bomb.csv.gz": (gzip.compress(b"a,b\n" + b"0" * 90_000_000), "unpacks to more than", "look at what it holds"),
    "cut.parquet": (_parquet()[:-20], "Parquet file is damaged or cut off", "again"),
    "text.parquet": (b"a,b\n1,2\n", "is named .parquet and does not begin as one", "name it .csv"),
    "model.csv": (b"\x80\x04\x95\x10\x00\x00\x00\x00", "a pickle, which runs code", "Parquet"),
    "bad.json": (b'[{"a": 1},\n {"a": 2,}\n]', "line 2 is not JSON", "mend the line"),
    "bad.jsonl": (b'{"a": 1}\n{"a": 2}\n{"a": \n', "line 3 is not JSON", "one whole object each"),
    "nested.json": (b'[{"a": 1, "b": {"c": 2}}]', "column 'b' holds lists or objects", "spread"),
    "uneven.json": (b'{"a": [1, 2, 3], "b": [1]}', "not columns of one length (a 3, b 1", 'write [{"column"'),
    "scalars.json": (b'["a", "b"]', 'element 1 is "a"', "write rows as"),
    "word_in_numbers.csv": (f"id,age\n{_NUMBERS}\n31,unknown\n".encode(), "line 32, column 'age': 'unknown' is not a number", 'read={"missing": [\'unknown\']}'),
    "infinite.csv": (b"a,b\n1,2.5\n2,inf\n", "line 3, column 'b': 'inf' is not a finite number", "missing"),
    "day_or_month.csv": (f"id,at\n{_DATES}\n".encode(), "line 3, column 'at': '02/06/2024' can be read day first or month first",
                         'read={"dates": {\'at\': "dmy"}}'),
    "both_orders.csv": (b"id,at\n1,13/02/2024\n2,02/13/2024\n3,05/05/2024\n", "of day and month: '13/02/2024' on line 2, '02/13/2024' on line 3", "2024-12-31"),
    "no_such_day.csv": (b"id,at\n" + b"".join(b"%d,2024-01-%02d\n" % (i, i) for i in range(1, 29)) + b"29,2024-02-30\n",
                        "line 30, column 'at': '2024-02-30' is no date", "mend the line"),
    "thousand_or_fraction.csv": (b"id;x\n1;1,234\n2;5,678\n3;9,012\n", "line 2, column 'x': '1,234' can be a thousand or a fraction",
                                 'read={"decimal": ","}'),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_gives_one_clear_error_with_a_hint(name: str, tmp_path: Path) -> None:
    content, message, hint = BROKEN[name]
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(Invalid) as caught:
        inspect_table(file)
    assert caught.value.message.startswith(f"{name}: ")
    assert message in caught.value.message
    assert hint in caught.value.hint
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 400


@pytest.mark.parametrize(
    ("encoding", "offered"), [("cp1252", "shift_jis"), ("shift_jis", "utf-16"), ("utf-8", "cp1252")]
)
def test_the_encoding_that_failed_is_not_offered_again(tmp_path: Path, encoding: str, offered: str) -> None:
    file = tmp_path / "random.csv"
    file.write_bytes(np.random.default_rng(0).bytes(4096))
    with pytest.raises(Invalid, match=f"is not {encoding}") as caught:
        inspect_table(file, options=ReadOptions(encoding=encoding))
    assert offered in caught.value.hint
    assert f'"{encoding}"' not in caught.value.hint


def test_there_are_at_least_thirty_broken_files() -> None:
    assert len(BROKEN) >= 30


def test_a_folder_and_a_missing_file_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "sales.csv").write_text("a,b\n1,2\n")
    with pytest.raises(MainspringError, match=r'sale.csv: no such file.*nearest name is "sales.csv"'):
        inspect_table(tmp_path / "sale.csv")
    with pytest.raises(Invalid, match="is a folder"):
        inspect_table(tmp_path)
