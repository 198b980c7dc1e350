"""Where a dataset comes from: files, a query, a folder, or a Python function."""

from __future__ import annotations

import hashlib
import inspect
import re
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import polars as pl

from mainspring.core.errors import Invalid, MainspringError, NotFound, Unavailable, Where, nearest
from mainspring.core.ref import digest, digest_json
from mainspring.core.windows import Window
from mainspring.data.dialect import ReadOptions
from mainspring.data.reader import inspect_table

__all__ = [
    "FileSource",
    "FolderSource",
    "FunctionSource",
    "ReadOptions",
    "Source",
    "SqlSource",
    "as_frame",
    "folder",
    "sql",
]


@runtime_checkable
class Source(Protocol):
    """Rows from somewhere. Reading twice without a change in between gives the same rows in the same order."""

    def read(self, window: Window | None) -> pl.DataFrame:
        """Return the rows of one logical window, or all rows for None."""

    def describe(self) -> dict[str, Any]:
        """Return what the source is, as JSON without secrets."""

    def fingerprint(self) -> str | None:
        """Return a text that changes when the rows may have changed, cheaply; None when only reading can tell."""


@dataclass(frozen=True, slots=True)
class FileSource:
    """One file, or all that match a glob, in the order of their names.

    Args:
        path: Path or glob.
        options: How to read; found out from the first file, and held for the others, when None.
    """

    path: str
    options: ReadOptions | None = None

    def __post_init__(self) -> None:
        if "://" in self.path:
            raise Invalid(f"{self.path!r} is not a local file",
                          hint="fetch it in a dataset function: def rows(): return pl.read_csv(url)")  # fmt: skip

    def read(self, window: Window | None) -> pl.DataFrame:
        """Return the rows of all files.

        Raises:
            NotFound: no file matches.
            Invalid: a file cannot be read, or has other columns than the first.
        """
        options = self.options
        frames: list[pl.DataFrame] = []
        for file in self._files():
            report = inspect_table(file, options=options)
            # What the first file showed decides the others; its names and types are checked here, with a clear error.
            options = options or report.options
            if frames and (change := _columns_differ(frames[0], report.frame)):
                raise Invalid(f"{file.name}: {change} than the first file, {self._files()[0].name}",
                              hint="a glob reads files of one table; others need their own dataset")  # fmt: skip
            frames.append(report.frame.select(frames[0].columns) if frames else report.frame)
        return pl.concat(frames, how="vertical_relaxed") if len(frames) > 1 else frames[0]

    def describe(self) -> dict[str, Any]:
        return {"kind": "file", "path": self.path, "read": self.options.to_json() if self.options else {}}

    def fingerprint(self) -> str | None:
        states = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in self._files()]
        return digest_json([states, self.describe()["read"]])

    def _files(self) -> list[Path]:
        path = Path(self.path)
        if not re.search(r"[*?\[]", self.path) or path.exists():
            return [path]
        root = Path(*(parts := path.parts)[: next(i for i, part in enumerate(parts) if re.search(r"[*?\[]", part))])
        found = sorted(file for file in root.glob(str(path.relative_to(root))) if file.is_file())
        if not found:
            raise NotFound(f"no file matches {self.path!r}", hint="check the pattern with ls")
        return found


def _columns_differ(first: pl.DataFrame, other: pl.DataFrame) -> str:
    missing = [name for name in first.columns if name not in other.columns]
    added = [name for name in other.columns if name not in first.columns]
    if missing:
        return f"lacks column {missing[0]!r}{nearest(missing[0], added)}, other columns"
    return f"has a column {added[0]!r} more" if added else ""


@dataclass(frozen=True, slots=True)
class SqlSource:
    """The rows of a query; `:start` and `:end` in it are the bounds of the logical window.

    Args:
        url: SQLAlchemy URL, or `secret://env/NAME` that holds it.
        query: One SELECT; order it, so that reading twice gives one order.
    """

    url: str = field(repr=False)
    query: str

    def read(self, window: Window | None) -> pl.DataFrame:
        """Return the rows.

        Raises:
            Invalid: the query or the URL is wrong, or it has bounds and no window was given.
            Unavailable: the database does not answer.
        """
        import sqlalchemy as sa

        bounds = {"start": window.start, "end": window.end} if window else {}
        wanted = {name for name in ("start", "end") if re.search(rf"(?<!:):{name}\b", self.query)}
        if window is None and wanted:
            raise Invalid("the query has :start and :end, and is read without a window",
                          hint="in a dataset function: def rows(day: ms.Day): return query.read(day)")  # fmt: skip
        if window is not None and wanted != {"start", "end"}:
            raise Invalid(f"the query reads all rows for the window {window}",
                          hint="add WHERE at >= :start AND at < :end")  # fmt: skip
        try:
            engine = sa.create_engine(self._resolved())
            try:
                with engine.connect() as connection:
                    result = connection.execute(sa.text(self.query), bounds)
                    names, rows = list(result.keys()), [tuple(row) for row in result]
            finally:
                engine.dispose()
        except sa.exc.OperationalError as error:
            raise _sql_error(error, self.query) from None
        except (sa.exc.SQLAlchemyError, ImportError) as error:
            raise Invalid(
                f"the query cannot be read: {_first_line(error)}", hint="run it in the database's own shell"
            ) from None
        if len(set(names)) < len(names):
            raise Invalid("two columns of the query have one name", hint="name them apart: SELECT a.id AS a_id")
        return pl.DataFrame(rows, schema=names, orient="row", infer_schema_length=None)

    def describe(self) -> dict[str, Any]:
        import sqlalchemy as sa

        shown = (
            self.url if self.url.startswith("secret://") else sa.make_url(self.url).render_as_string(hide_password=True)
        )
        return {"kind": "sql", "url": shown, "query": self.query}

    def fingerprint(self) -> str | None:
        return None

    def _resolved(self) -> str:
        from mainspring.governance.secrets import resolve

        return resolve(self.url) if self.url.startswith("secret://") else self.url


def _first_line(error: BaseException) -> str:
    return str(getattr(error, "orig", None) or error).splitlines()[0][:200]


def _sql_error(error: BaseException, query: str) -> MainspringError:
    text = _first_line(error)
    if re.search(r"no such (table|column)|syntax error|does not exist", text):
        return Invalid(f"the query cannot be read: {text}", hint=f"check it: {' '.join(query.split())[:80]}")
    return Unavailable(f"the database does not answer: {text}", hint="check that it runs, and the URL")


@dataclass(frozen=True, slots=True)
class FunctionSource:
    """What a Python function returns: a Polars, pandas or Arrow table, or a list of dicts.

    Args:
        function: Takes nothing, or one window.
        kind: The kind of window it takes, or None.
    """

    function: Callable[..., Any]
    kind: type[Window] | None = None

    def read(self, window: Window | None) -> pl.DataFrame:
        """Return the function's rows.

        Raises:
            Invalid: the function fails or returns no table; the error names its file and line.
        """
        code = self.function.__code__
        where, name = Where(code.co_filename, code.co_firstlineno), self.function.__name__
        if self.kind is not None and window is None:
            raise Invalid(f"dataset {name!r} is read one {self.kind.kind} at a time", where=where,
                          hint=f"mainspring data backfill {name} START END")  # fmt: skip
        try:
            value = self.function(window) if self.kind is not None else self.function()
        except MainspringError:
            raise
        except Exception as error:
            lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == code.co_filename]
            line = (lines[-1] if lines else None) or code.co_firstlineno
            line_of = Where(code.co_filename, line)
            of = f" for {window}" if window else ""
            raise Invalid(f"dataset {name!r} stopped{of}: {type(error).__name__}: {error}",
                          where=line_of, hint="call the function by itself") from error  # fmt: skip
        return as_frame(value, where, name)

    def describe(self) -> dict[str, Any]:
        return {"kind": "function", "name": self.function.__name__, "window": self.kind.kind if self.kind else None}

    def fingerprint(self) -> str | None:
        return None


def as_frame(value: Any, where: Where | None = None, name: str = "dataset") -> pl.DataFrame:
    """Return a table of any of the usual kinds as a Polars frame.

    Raises:
        Invalid: the value is no table, or has a column that cannot be one; the error names the function.
    """
    try:
        if isinstance(value, pl.LazyFrame):
            return value.collect()
        if isinstance(value, pl.DataFrame):
            return value
        if type(value).__module__.partition(".")[0] == "pandas" and hasattr(value, "columns"):
            return _from_pandas(value, where, name)
        if hasattr(value, "__arrow_c_stream__") and not isinstance(value, pl.Series):
            frame = pl.from_arrow(value)
            if isinstance(frame, pl.DataFrame):
                return frame
        if isinstance(value, (list, tuple)) and all(isinstance(row, Mapping) for row in value):
            return pl.from_dicts(list(value), infer_schema_length=None) if value else pl.DataFrame()
        if isinstance(value, Mapping) and value and all(hasattr(column, "__len__") for column in value.values()):
            return pl.DataFrame(dict(value))
    except (pl.exceptions.PolarsError, TypeError, ValueError, OverflowError) as error:
        raise Invalid(f"dataset {name!r} returned a table that cannot be read: {_first_line(error)}", where=where,
                      hint="give every row of a column the same kind of value") from error  # fmt: skip
    what = "a coroutine; it must not be async" if inspect.iscoroutine(value) else type(value).__name__
    if inspect.iscoroutine(value):
        value.close()
    raise Invalid(f"dataset {name!r} returned {'nothing' if value is None else what}, not a table", where=where,
                  hint="return a Polars, pandas or Arrow table, or a list of dicts")  # fmt: skip


def _from_pandas(value: Any, where: Where | None, name: str) -> pl.DataFrame:
    names = [str(column) for column in value.columns]
    if len(set(names)) < len(names):
        raise Invalid(f"dataset {name!r} returned two columns of one name", where=where, hint="rename one")
    index = value.index.name
    if index is not None and str(index) not in names:
        value = value.reset_index()  # a named index is data; an unnamed one only counts
        names = [str(column) for column in value.columns]
    frame: pl.DataFrame = pl.from_pandas(value.set_axis(names, axis=1))
    return frame


@dataclass(frozen=True, slots=True)
class FolderSource:
    """A folder of files by content: a row per file with path, digest, size, and the folder it lies in as its label."""

    path: str

    def read(self, window: Window | None) -> pl.DataFrame:
        """Return a row per file, in the order of their paths.

        Raises:
            NotFound: there is no such folder, or nothing in it.
        """
        root, rows = Path(self.path), []
        for file in self._files():
            place = file.relative_to(root)
            rows.append({
                "path": place.as_posix(), "digest": digest(file.read_bytes()), "bytes": file.stat().st_size,
                "label": place.parent.name or None,
            })  # fmt: skip
        return pl.DataFrame(
            rows, schema={"path": pl.String, "digest": pl.String, "bytes": pl.Int64, "label": pl.String}
        )

    def describe(self) -> dict[str, Any]:
        return {"kind": "folder", "path": self.path}

    def fingerprint(self) -> str | None:
        state = hashlib.sha256()
        for file in self._files():
            stat = file.stat()
            state.update(f"{file.relative_to(self.path)}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
        return f"sha256:{state.hexdigest()}"

    def _files(self) -> list[Path]:
        root = Path(self.path)
        if not root.is_dir():
            raise NotFound(f"no folder {self.path!r}", hint="give the path from the project file")
        found = sorted(
            f for f in root.rglob("*") if f.is_file() and not any(p.startswith(".") for p in f.parts[len(root.parts) :])
        )
        if not found:
            raise NotFound(f"the folder {self.path!r} holds no files", hint="hidden files do not count")
        return found


def sql(url: str, query: str) -> SqlSource:
    """Declare a query as the source of a dataset: `project.dataset(ms.sql(url, "SELECT ..."), name="orders")`."""
    return SqlSource(url, query)


def folder(path: Path | str) -> FolderSource:
    """Declare a folder of files as the source of a dataset: `project.dataset(ms.folder("images"))`."""
    return FolderSource(str(path))
