"""The decisions database: SQLite with a rollback journal and full sync, or PostgreSQL, behind one class."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event

from mainspring.core.errors import Conflict, Invalid, MissingExtra, Unavailable

BUSY_S = 5.0


class Database:
    """Connections to the decisions database; safe to share between threads, not across a fork.

    SQLite runs with a rollback journal: its write-ahead log can corrupt a file with several writing processes before
    version 3.51.3, and a decision is worth its fsync.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.dialect = sa.make_url(url).get_backend_name()
        self.engine = self._sqlite() if self.dialect == "sqlite" else self._postgresql()
        event.listen(self.engine, "handle_error", _refuse_what_does_not_fit)

    def _sqlite(self) -> sa.Engine:
        path = Path(sa.make_url(self.url).database or "")
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not path.exists():
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        engine = sa.create_engine(
            self.url,
            connect_args={"timeout": BUSY_S, "check_same_thread": False},
            poolclass=sa.pool.QueuePool,
            pool_size=5,
            max_overflow=20,
        )

        @event.listens_for(engine, "connect")
        def configure(connection: sqlite3.Connection, _: Any) -> None:
            connection.isolation_level = None  # this class says BEGIN itself
            for pragma in ("journal_mode=DELETE", "synchronous=FULL", "foreign_keys=ON"):
                connection.execute(f"PRAGMA {pragma}")

        @event.listens_for(engine, "begin")
        def begin(connection: sa.Connection) -> None:
            # A deferred transaction that reads first cannot wait for a writer later; IMMEDIATE queues at once.
            connection.exec_driver_sql(
                "BEGIN" if connection.get_execution_options().get("reads") else "BEGIN IMMEDIATE"
            )

        return engine

    def _postgresql(self) -> sa.Engine:
        try:
            engine = sa.create_engine(
                self.url, pool_pre_ping=True, pool_size=5, max_overflow=20, connect_args={"connect_timeout": 2}
            )
        except ModuleNotFoundError as error:
            raise MissingExtra("PostgreSQL needs the driver psycopg", extra="postgres") from error

        @event.listens_for(engine, "connect")
        def configure(connection: Any, _: Any) -> None:
            # Not as connection options: those may stand in the user's URL, and would be replaced.
            with connection.cursor() as cursor:
                for setting in ("statement_timeout = '30s'", "lock_timeout = '5s'", "timezone = 'UTC'"):
                    cursor.execute(f"SET {setting}")
            connection.commit()

        return engine

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """Open one write transaction; it commits when the block ends and rolls back when it raises.

        Raises:
            Unavailable: the database cannot be reached, is full, or another writer held it too long.
            Conflict: a unique rule refused the change.
            Invalid: a value does not fit its column, such as a number beyond 64 bits.
        """
        with self._transaction(reads=False) as connection:
            yield connection

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """Open one consistent reading of the database."""
        with self._transaction(reads=True) as connection:
            yield connection

    @contextmanager
    def _transaction(self, *, reads: bool) -> Iterator[sa.Connection]:
        try:
            with self.engine.connect() as connection:
                connection = connection.execution_options(reads=reads)
                with connection.begin():
                    yield connection
        except sa.exc.IntegrityError as error:
            raise Conflict("another change got there first", hint="read again and repeat the change") from error
        except (sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.TimeoutError) as error:
            cause = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
            raise Unavailable(f"the decisions database does not answer: {cause}", hint="mainspring doctor") from error
        except sa.exc.DatabaseError as error:
            if isinstance(error, sa.exc.ProgrammingError) and error.statement is None:
                hint = 'database = "postgresql://user@host/name" in mainspring.toml, or MAINSPRING_DATABASE'
                raise Invalid(f"the database's URL is not understood: {error.orig}", hint=hint) from error
            if type(error) is not sa.exc.DatabaseError:
                raise
            raise Unavailable(
                f"the decisions database is damaged: {error.orig}",
                hint=f"bring back a copy of {self.engine.url.database}; the newest may be in the backups folder beside it",
            ) from error

    def close(self) -> None:
        """Drop the connections."""
        self.engine.dispose()


def _refuse_what_does_not_fit(failed: sa.engine.ExceptionContext) -> None:
    """Say that a value asked for has no place in any row: the question is wrong, not the database."""
    if isinstance(failed.original_exception, OverflowError):
        raise Invalid("a number is larger than 64 bits hold", hint=f"give a whole number up to {2**63 - 1}")
    if isinstance(failed.sqlalchemy_exception, sa.exc.DataError):
        cause = str(failed.original_exception).strip().splitlines()[0]
        raise Invalid(f"a value does not fit the decisions database: {cause}", hint="give a shorter or smaller one")
