"""Files are read right, whatever wrote them, and the account of it reads the next file the same way."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zipfile
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring.core.errors import Invalid, MainspringError
from mainspring.data.reader import ReadOptions, TableReport, inspect_table, read_table


def _write(tmp_path: Path, text: str | bytes, name: str = "t.csv", encoding: str = "utf-8") -> Path:
    file = tmp_path / name
    file.write_bytes(text if isinstance(text, bytes) else text.encode(encoding))
    return file


def _read(
    tmp_path: Path, text: str | bytes, name: str = "t.csv", encoding: str = "utf-8", **options: Any
) -> TableReport:
    return inspect_table(_write(tmp_path, text, name, encoding), options=ReadOptions.from_json(options))


def test_the_hourly_bike_file_keeps_its_rows_and_types(data_dir: Path) -> None:
    frame = read_table(data_dir / "bike_sharing" / "hour.csv.gz")
    assert frame.shape == (17_379, 17)
    assert frame.schema["dteday"] == pl.Date
    assert frame.schema["cnt"] == pl.Int64
    assert frame.equals(read_table(data_dir / "bike_sharing" / "hour.parquet").drop("ts"))


def test_a_blank_total_in_telco_is_missing_and_the_column_a_number(data_dir: Path) -> None:
    report = inspect_table(data_dir / "telco_churn" / "telco_customer_churn.csv.gz")
    assert report.frame.schema["TotalCharges"] == pl.Float64
    assert report.frame["TotalCharges"].null_count() == 11
    assert report.frame.filter(pl.col("TotalCharges").is_null())["tenure"].to_list() == [0] * 11
    assert [(g.column, g.what, g.why) for g in report.guesses] == [
        ("TotalCharges", "blank is missing", "in 11 of 7043 rows")
    ]


def test_the_raw_adult_file_asks_for_names_and_reads_right_with_them(data_dir: Path) -> None:
    file = data_dir / "adult" / "adult_train_raw.csv.gz"
    with pytest.raises(Invalid, match=r"no header: line 1 reads '39, State-gov") as caught:
        read_table(file)
    assert "name its 15 columns" in caught.value.hint
    whole = read_table(data_dir / "adult" / "adult.parquet")
    names = [name for name in whole.columns if name != "split"]
    assert read_table(file, columns=names).equals(whole.filter(split="train").drop("split"))


def test_a_wrong_count_of_names_is_refused(data_dir: Path) -> None:
    with pytest.raises(Invalid, match="2 column names are given for 15 columns"):
        read_table(data_dir / "adult" / "adult_train_raw.csv.gz", columns=["age", "income"])


def test_quotes_in_sms_messages_are_ordinary_characters(data_dir: Path) -> None:
    file = data_dir / "sms_spam" / "SMSSpamCollection.tsv.gz"
    frame = read_table(file, columns=["label", "text"])
    assert frame.height == 5_574
    assert frame["label"].value_counts(sort=True).rows() == [("ham", 4_827), ("spam", 747)]
    lines = gzip.decompress(file.read_bytes()).decode().splitlines()
    assert frame["text"].to_list() == [line.split("\t", 1)[1].strip() for line in lines]


@pytest.mark.parametrize(("name", "rows"), [("train.csv.gz", 10_003), ("test.csv.gz", 3_080)])
def test_line_breaks_inside_quotes_stay_inside_their_row(data_dir: Path, name: str, rows: int) -> None:
    frame = read_table(data_dir / "banking77" / name)
    assert frame.height == rows
    assert frame["category"].n_unique() == 77
    assert frame["text"].str.len_chars().max() < 500


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"])
def test_an_encoding_is_found_and_pinned(tmp_path: Path, encoding: str) -> None:
    report = _read(tmp_path, "naïve,price\nZoë,1\nJosé,2\n", encoding=encoding)
    assert report.frame.rows() == [("Zoë", 1), ("José", 2)]
    again = inspect_table(tmp_path / "t.csv", options=report.options)
    assert again.frame.equals(report.frame)
    assert again.options == report.options


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_separator_and_line_ends_are_found(tmp_path: Path, separator: str, newline: str) -> None:
    text = (
        newline.join(separator.join(row) for row in [("a", "b", "c"), ("1", "x", "2.5"), ("2", "y", "3.5")]) + newline
    )
    report = _read(tmp_path, text)
    assert report.frame.rows() == [(1, "x", 2.5), (2, "y", 3.5)]
    assert report.options.separator == separator


@pytest.mark.parametrize("name", ["t.csv.gz", "t.zip", "t.csv.bz2", "t.csv.xz", "misnamed.csv"])
def test_packed_files_are_unpacked_by_content(tmp_path: Path, name: str) -> None:
    text = b"a,b\n1,2\n"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("inside.csv", text)
    packed = {"gz": gzip.compress(text), "zip": buffer.getvalue(), "bz2": bz2.compress(text), "xz": lzma.compress(text),
              "csv": gzip.compress(text)}[name.rsplit(".", 1)[-1]]  # fmt: skip
    assert _read(tmp_path, packed, name).frame.rows() == [(1, 2)]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["1,234.50", "12.00", "1,000,000.25"], [1234.5, 12.0, 1_000_000.25]),
        (["1.234,50", "12,00", "-7,5"], [1234.5, 12.0, -7.5]),
        (["1 234,5", "12,25", "3,0"], [1234.5, 12.25, 3.0]),
        (["1'234.5", "12.25", "3.0"], [1234.5, 12.25, 3.0]),
        (["€ 1.234,50", "€ 12,00", "€ 0,99"], [1234.5, 12.0, 0.99]),
        (["12.5%", "7%", "100%"], [12.5, 7.0, 100.0]),
        (["+5", "-3", "0"], [5, -3, 0]),
        (["1e3", "2.5E-1", "0"], [1000.0, 0.25, 0.0]),
        (["1,234", "5,678,901", "12"], [1234, 5_678_901, 12]),
    ],
)
def test_numbers_are_read_in_the_style_all_of_them_share(
    tmp_path: Path, values: list[str], expected: list[float]
) -> None:
    rows = [f"{i};{value}" for i, value in enumerate(values)]
    assert _read(tmp_path, "\n".join(["id;x", *rows])).frame["x"].to_list() == expected


def test_one_column_tells_the_decimal_mark_of_another(tmp_path: Path) -> None:
    report = _read(tmp_path, "a;b;c\n1,234;0,5;1.000\n2,345;1,25;2.000\n")
    assert report.frame.rows() == [(1.234, 0.5, 1000), (2.345, 1.25, 2000)]
    assert report.options.decimal == ","
    assert inspect_table(_write(tmp_path, "a;b;c\n9,999;1;3.000\n"), options=report.options).frame.rows() == [
        (9.999, 1.0, 3000)
    ]


def test_a_declared_mark_settles_a_doubt(tmp_path: Path) -> None:
    text = "id;x\n1;1,234\n2;5,678\n"
    assert _read(tmp_path, text, decimal=",").frame["x"].to_list() == [1.234, 5.678]
    assert _read(tmp_path, text, thousands=",").frame["x"].to_list() == [1234, 5678]


def test_codes_stay_text(tmp_path: Path) -> None:
    report = _read(tmp_path, "zip,account,country\n01234,12345678901234567890,NA\n98101,2,DE\n00501,3,FR\n10001,4,US\n")
    assert report.frame.row(0) == ("01234", "12345678901234567890", "NA")
    assert [g.column for g in report.guesses] == ["zip", "account", "country"]


@pytest.mark.parametrize(
    ("values", "why"),
    [
        (["(232.55)", "100.00", "-3"], "'(232.55)' does not read as one"),
        (["1" * 31, "2" * 31, "3"], "with up to 31 digits, where a number holds 18"),
        (["12,5", "1.300,5", "1,300.2"], "'1,300.2' does not read as one"),
        (["C001", "1.2.3.4", "12:30"], None),
        (["00501", "98101", "1"], None),
    ],
)
def test_numbers_that_stay_text_say_why(tmp_path: Path, values: list[str], why: str | None) -> None:
    report = _read(tmp_path, "\n".join(["id;x", *(f"{i};{value}" for i, value in enumerate(values))]))
    assert report.frame["x"].to_list() == values
    found = [guess.why for guess in report.guesses if guess.what == "numbers written as text"]
    assert [why in text for text in found] == [True] if why else not found


@pytest.mark.parametrize("mark", ["", " ", "?", "NA", "N/A", "null", "NULL", "NaN", "-", "#N/A"])
def test_the_usual_marks_mean_missing(tmp_path: Path, mark: str) -> None:
    frame = _read(tmp_path, f"id,n,w\n1,1,red\n2,{mark},{mark}\n3,3,green apple\n").frame
    assert frame.rows() == [(1, 1, "red"), (2, None, None), (3, 3, "green apple")]


def test_none_is_a_category_among_words_and_missing_among_numbers(tmp_path: Path) -> None:
    assert _read(tmp_path, "n,w\n1,None\nNone,brick\n").frame.rows() == [(1, "None"), (None, "brick")]


def test_true_and_false_are_flags_and_yes_and_no_are_words(tmp_path: Path) -> None:
    assert _read(tmp_path, "a,b\nTRUE,Yes\nfalse,No\n").frame.rows() == [(True, "Yes"), (False, "No")]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (["2024-03-01", "2024-12-31"], [date(2024, 3, 1), date(2024, 12, 31)]),
        (["31/12/2024", "01/02/2024"], [date(2024, 12, 31), date(2024, 2, 1)]),
        (["12/31/2024", "01/02/2024"], [date(2024, 12, 31), date(2024, 1, 2)]),
        (["31.12.24", "1.2.99"], [date(2024, 12, 31), date(1999, 2, 1)]),
        (["3 Jan 2024", "28-February-2024"], [date(2024, 1, 3), date(2024, 2, 28)]),
        (["March 5, 2024", "Dec 31 2024"], [date(2024, 3, 5), date(2024, 12, 31)]),
        (["2024-03-01", "31/12/2024"], [date(2024, 3, 1), date(2024, 12, 31)]),
        (["2024-03-01T05:00:00Z", "2024-03-01 06:30"], [datetime(2024, 3, 1, 5, tzinfo=UTC), datetime(2024, 3, 1, 6, 30, tzinfo=UTC)]),
        (["2024-03-01T05:00:00.25+02:00", "2024-03-01"], [datetime(2024, 3, 1, 3, 0, 0, 250_000, UTC), datetime(2024, 3, 1, tzinfo=UTC)]),
        (["12/31/2024 11:05 PM", "01/02/2024 12:00 AM"], [datetime(2024, 12, 31, 23, 5, tzinfo=UTC), datetime(2024, 1, 2, tzinfo=UTC)]),
    ],
)  # fmt: skip
def test_dates_are_read_in_the_order_the_column_shows(tmp_path: Path, written: list[str], expected: list[Any]) -> None:
    text = "id;at\n" + "".join(f"{i};{value}\n" for i, value in enumerate(written))
    assert _read(tmp_path, text).frame["at"].to_list() == expected


def test_an_order_of_days_that_makes_time_pass_is_taken(tmp_path: Path) -> None:
    report = _read(tmp_path, "at,n\n" + "".join(f"{day:02d}/{month:02d}/2024,1\n" for month in (5, 6) for day in (1, 8)) * 1
                   + "".join(f"{day:02d}/07/2024,1\n" for day in range(1, 8)))  # fmt: skip
    assert report.frame["at"][-1] == date(2024, 7, 7)
    assert "follow each other in time" in report.guesses[0].why
    assert report.options.dates == {"at": "dmy"}
    # Pinned, the next file is read the same way although it could not tell by itself.
    assert inspect_table(_write(tmp_path, "at,n\n03/04/2024,1\n"), options=report.options).frame["at"][0] == date(
        2024, 4, 3
    )


def test_pinned_types_hold_for_the_next_file_and_refuse_what_does_not_fit(tmp_path: Path) -> None:
    pinned = _read(tmp_path, "code,x,at\n007,1.5,2024-01-01\n012,2.5,2024-01-02\n").options
    frame = inspect_table(_write(tmp_path, "code,x,at\n7,1,\n12,2,2024-01-05\n"), options=pinned).frame
    assert frame.schema == {"code": pl.String, "x": pl.Float64, "at": pl.Date}
    with pytest.raises(Invalid, match=r"line 3, column 'x': 'much' is not a number"):
        inspect_table(_write(tmp_path, "code,x,at\n7,1,\n12,much,2024-01-05\n"), options=pinned)
    with pytest.raises(Invalid, match=r"there is no column 'x' any more"):
        inspect_table(_write(tmp_path, "code,y,at\n7,1,\n"), options=pinned)


def test_an_error_names_the_line_of_the_file_past_quoted_line_breaks(tmp_path: Path) -> None:
    rows = "".join(f'"two\nlines",{i}\n' for i in range(20))
    with pytest.raises(Invalid, match=r"line 42, column 'n': 'TBD'"):
        _read(tmp_path, f"t,n\n{rows}x,TBD\n")


def test_an_odd_quote_inside_a_field_does_not_swallow_rows(tmp_path: Path) -> None:
    frame = _read(tmp_path, 'name,size\n"pipe, long",1\n5" pipe,2\nrod,3\n').frame
    assert frame.rows() == [("pipe, long", 1), ('5" pipe', 2), ("rod", 3)]


def test_an_unnamed_first_column_that_counts_rows_is_left_out(tmp_path: Path) -> None:
    report = _read(tmp_path, ",a,b\n0,1,x\n1,2,y\n2,3,z\n")
    assert report.frame.columns == ["a", "b"]
    assert "counts the rows" in report.guesses[0].why


def test_a_table_below_a_preamble_is_read_with_skip(tmp_path: Path) -> None:
    assert _read(tmp_path, "Sales report\n\na,b\n1,2\n", skip=2).frame.rows() == [(1, 2)]


@pytest.mark.parametrize(
    "text",
    [
        '[{"a": 1, "b": "x"}, {"a": null, "b": "y"}]',
        '{"a": 1, "b": "x"}\n{"a": null, "b": "y"}\n',
        '{"a": [1, null], "b": ["x", "y"]}',
        '{"columns": ["a", "b"], "data": [[1, "x"], [null, "y"]]}',
        '{"rows": [{"a": 1, "b": "x"}, {"a": null, "b": "y"}]}',
    ],
)
def test_json_is_read_in_its_usual_forms(tmp_path: Path, text: str) -> None:
    assert _read(tmp_path, text, "t.json").frame.rows() == [(1, "x"), (None, "y")]


def test_arrow_and_parquet_are_told_by_content(tmp_path: Path) -> None:
    frame = pl.DataFrame({"a": [1, 2], "at": [datetime(2024, 1, 1), None]})
    frame.write_parquet(tmp_path / "a.csv")
    frame.write_ipc(tmp_path / "b.csv")
    for name in ("a.csv", "b.csv"):
        assert read_table(tmp_path / name)["at"].to_list() == [datetime(2024, 1, 1, tzinfo=UTC), None]


def test_unknown_reading_options_are_refused_with_the_nearest_name() -> None:
    with pytest.raises(Invalid, match="no option 'seperator'; the nearest name is \"separator\""):
        ReadOptions.from_json({"seperator": ";"})
    for wrong in (
        {"decimal": "x"},
        {"types": {"a": "int"}},
        {"dates": {"a": "dd/mm"}},
        {"encoding": "latin-99"},
        {"skip": -1},
    ):
        with pytest.raises(Invalid, match="reading option"):
            ReadOptions.from_json(wrong)


_cells = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), max_size=12)


@given(rows=st.lists(st.tuples(_cells, _cells), min_size=1, max_size=12), separator=st.sampled_from(",;\t|"))
def test_what_the_csv_module_writes_is_read_back(
    rows: list[tuple[str, str]], separator: str, tmp_path_factory: Any
) -> None:
    import csv

    buffer = io.StringIO()
    writer = csv.writer(buffer, delimiter=separator, quoting=csv.QUOTE_ALL)
    writer.writerows([("id", "first", "second"), *((str(i), a, b) for i, (a, b) in enumerate(rows))])
    file = tmp_path_factory.mktemp("csv") / "t.csv"
    file.write_text(buffer.getvalue(), encoding="utf-8", newline="")
    pinned = ReadOptions(encoding="utf-8", separator=separator, quote='"', header=True, missing=(),
                         types={"first": "string", "second": "string"})  # fmt: skip
    frame = read_table(file, options=pinned)
    assert frame["id"].to_list() == list(range(len(rows)))
    for name, index in (("first", 0), ("second", 1)):
        found = [value or "" for value in frame[name]]
        assert found == [pl.Series([row[index]]).str.strip_chars()[0] for row in rows]


@given(options=st.builds(
    ReadOptions, separator=st.sampled_from([None, ";", "\t"]), quote=st.sampled_from([None, "", '"']),
    header=st.sampled_from([None, True, False]), columns=st.lists(st.text(min_size=1, max_size=4), max_size=3).map(tuple),
    skip=st.integers(0, 5), missing=st.none() | st.lists(st.text(max_size=3)).map(tuple),
    dates=st.dictionaries(st.text(max_size=3), st.sampled_from(["dmy", "mdy"])),
    types=st.dictionaries(st.text(max_size=3), st.sampled_from(["int64", "string"])),
))  # fmt: skip
def test_reading_options_survive_json(options: ReadOptions) -> None:
    assert ReadOptions.from_json(options.to_json()) == options


_soup = st.lists(st.sampled_from([
    "1", "-2,5", "1.234", "x", '"', '""', ",", ";", "\t", "|", "\n", "\r\n", "\r", "é", "NA", "?", " ", "01/02/2024", "2024-02-30",
    "12:30", "inf", "true", "{", "}", "[", "]", '"a": ', "null", "\x00", "<html>", "1e999", "9" * 30, "\u2028", "%", "€",
]), max_size=40).map("".join)  # fmt: skip


@pytest.mark.filterwarnings("error")
@given(content=st.binary(max_size=200) | _soup.map(str.encode) | _soup.map(lambda s: s.encode("utf-16")),
       name=st.sampled_from(["t.csv", "t.json", "t.tsv.gz", "t"]))  # fmt: skip
def test_any_bytes_give_a_table_or_one_of_our_errors(content: bytes, name: str, tmp_path_factory: Any) -> None:
    file = tmp_path_factory.getbasetemp() / f"soup-{name}"
    file.write_bytes(content)
    report, hint = None, ""
    try:
        report = inspect_table(file)
    except MainspringError as error:
        hint = error.hint
    assert hint or report is not None
    if report is not None:
        assert report.frame.height > 0
        assert ReadOptions.from_json(report.options.to_json()) == report.options
