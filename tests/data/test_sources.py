"""Every kind of source gives the same rows twice, and says what is wrong in its own terms."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import sqlalchemy as sa

from mainspring.core.errors import Invalid, NotFound, Unavailable
from mainspring.core.windows import Day
from mainspring.data.sources import FileSource, FolderSource, FunctionSource, ReadOptions, Source, SqlSource, as_frame

ROWS = pl.DataFrame({"id": [1, 2, 3], "name": ["a", "b", None]})


def _database(folder: Path) -> str:
    url = f"sqlite:///{folder / 'shop.db'}"
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE orders (id INTEGER, at TEXT, amount NUMERIC)"))
        connection.execute(
            sa.text("INSERT INTO orders VALUES (1, '2026-01-01 10:00', 9.5), (2, '2026-01-02 10:00', 3)")
        )
    engine.dispose()
    return url


def _file(folder: Path) -> Source:
    (folder / "a.csv").write_text("id,name\n1,a\n2,b\n")
    return FileSource(str(folder / "a.csv"))


def _glob(folder: Path) -> Source:
    (folder / "1.csv").write_text("id,name\n1,a\n")
    (folder / "2.csv").write_text("name,id\nb,2\n")
    return FileSource(str(folder / "*.csv"))


def _sql(folder: Path) -> Source:
    return SqlSource(_database(folder), "SELECT id, amount FROM orders ORDER BY id")


def _folder(folder: Path) -> Source:
    (folder / "cats").mkdir()
    (folder / "cats" / "1.png").write_bytes(b"cat")
    return FolderSource(str(folder))


def _function(folder: Path) -> Source:
    return FunctionSource(lambda: ROWS)


@pytest.mark.parametrize("make", [_file, _glob, _sql, _folder, _function])
def test_a_source_reads_the_same_rows_twice_and_describes_itself_in_json(
    make: Callable[[Path], Source], tmp_path: Path
) -> None:
    import json

    source = make(tmp_path)
    assert isinstance(source, Source)
    assert source.read(None).equals(source.read(None))
    assert source.read(None).height > 0
    assert source.fingerprint() == source.fingerprint()
    assert json.loads(json.dumps(source.describe())) == source.describe()


def test_a_glob_reads_files_in_the_order_of_their_names_and_columns_by_name(tmp_path: Path) -> None:
    assert _glob(tmp_path).read(None).rows() == [(1, "a"), (2, "b")]


def test_a_glob_of_different_tables_is_refused_by_file(tmp_path: Path) -> None:
    (tmp_path / "1.csv").write_text("id,name\n1,a\n")
    (tmp_path / "2.csv").write_text("id,nome\n2,b\n")
    with pytest.raises(Invalid, match=r"2\.csv: there is no column 'name' any more"):
        FileSource(str(tmp_path / "*.csv")).read(None)
    (tmp_path / "2.csv").write_text("id,name,extra\n2,b,c\n")
    with pytest.raises(Invalid, match=r"2\.csv: has a column 'extra' more than the first file, 1\.csv"):
        FileSource(str(tmp_path / "*.csv")).read(None)


def test_a_glob_without_a_file_and_a_url_are_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no file matches"):
        FileSource(str(tmp_path / "*.csv")).read(None)
    with pytest.raises(Invalid, match="not a local file"):
        FileSource("https://example.com/a.csv")


def test_a_fingerprint_changes_with_the_file_and_with_how_it_is_read(tmp_path: Path) -> None:
    source = _file(tmp_path)
    before = source.fingerprint()
    assert FileSource(str(tmp_path / "a.csv"), ReadOptions(separator=",")).fingerprint() != before
    os.utime(tmp_path / "a.csv", ns=(1, 1))
    assert source.fingerprint() != before


def test_a_query_takes_the_bounds_of_its_window(tmp_path: Path) -> None:
    query = "SELECT id FROM orders WHERE at >= strftime('%Y-%m-%d', :start) AND at < strftime('%Y-%m-%d', :end)"
    source = SqlSource(_database(tmp_path), query)
    assert source.read(Day.of(datetime(2026, 1, 2, tzinfo=UTC))).rows() == [(2,)]
    with pytest.raises(Invalid, match="is read without a window"):
        source.read(None)
    with pytest.raises(Invalid, match="reads all rows for the window 2026-01-02"):
        _sql_all(tmp_path).read(Day.of(datetime(2026, 1, 2, tzinfo=UTC)))


def _sql_all(folder: Path) -> SqlSource:
    return SqlSource(f"sqlite:///{folder / 'shop.db'}", "SELECT id FROM orders")


def test_a_wrong_query_and_a_database_that_is_away_are_told_apart(tmp_path: Path) -> None:
    url = _database(tmp_path)
    with pytest.raises(Invalid, match="no such table: order"):
        SqlSource(url, "SELECT * FROM order_s").read(None)
    with pytest.raises(Invalid, match="two columns of the query have one name"):
        SqlSource(url, "SELECT id, id FROM orders").read(None)
    with pytest.raises(Unavailable, match="does not answer"):
        SqlSource("postgresql+psycopg://nobody:hunter2@127.0.0.1:1/none", "SELECT 1").read(None)


def test_a_password_is_never_described_nor_printed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source = SqlSource("postgresql+psycopg://nobody:hunter2@127.0.0.1:1/none", "SELECT 1")
    assert "hunter2" not in repr(source) + str(source.describe())
    monkeypatch.setenv("SHOP_URL", _database(tmp_path))
    assert SqlSource("secret://env/SHOP_URL", "SELECT id FROM orders").read(None).height == 2


@pytest.mark.parametrize(
    "value",
    [ROWS, ROWS.lazy(), ROWS.to_pandas(), ROWS.to_arrow(), ROWS.to_dicts(), ROWS.to_dict(as_series=False),
     pd.DataFrame({"name": ["a", "b", None]}, index=pd.Index([1, 2, 3], name="id"))[["name"]]],
    ids=["polars", "lazy", "pandas", "arrow", "dicts", "columns", "indexed"],
)  # fmt: skip
def test_every_usual_kind_of_table_is_taken(value: Any) -> None:
    assert as_frame(value).select("id", "name").equals(ROWS)


@pytest.mark.parametrize(
    ("value", "what"),
    [(None, "returned nothing"), (7, "returned int"), ("a,b", "returned str"), (pl.Series([1]), "returned Series"),
     ([1, 2], "returned list"), (pa.array([1]), "returned Int64Array"), ({"a": [1], "b": [1, 2]}, "cannot be read")],
)  # fmt: skip
def test_what_is_no_table_is_refused_with_the_function_s_line(value: Any, what: str) -> None:
    def orders() -> Any:
        return value

    with pytest.raises(Invalid, match=f"dataset 'orders' {what}|{what}") as caught:
        FunctionSource(orders).read(None)
    assert caught.value.where is not None
    assert caught.value.where.line == orders.__code__.co_firstlineno


def test_an_error_in_a_dataset_function_points_at_its_line() -> None:
    def orders(day: Day) -> pl.DataFrame:
        rows = {"a": 1}
        return pl.DataFrame({"a": [rows["b"]]})

    with pytest.raises(Invalid, match=r"dataset 'orders' stopped for 2026-01-02: KeyError: 'b'") as caught:
        FunctionSource(orders, Day).read(Day.parse("2026-01-02"))
    assert caught.value.where is not None
    assert caught.value.where.line == orders.__code__.co_firstlineno + 2
    with pytest.raises(Invalid, match="read one day at a time"):
        FunctionSource(orders, Day).read(None)


def test_a_folder_gives_a_row_per_file_with_its_label(tmp_path: Path) -> None:
    for place, content in {"cats/1.png": b"cat", "dogs/2.png": b"dog", "dogs/.hidden": b"x"}.items():
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).write_bytes(content)
    frame = FolderSource(str(tmp_path)).read(None)
    assert frame.select("path", "bytes", "label").rows() == [("cats/1.png", 3, "cats"), ("dogs/2.png", 3, "dogs")]
    assert frame["digest"][0].startswith("sha256:")
    with pytest.raises(NotFound, match="no folder"):
        FolderSource(str(tmp_path / "none")).read(None)
