"""Numbered changes to the tables, applied once, under a lock, after a backup."""

from __future__ import annotations

import gzip
import json
import os
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from mainspring.core.clock import Clock
from mainspring.core.errors import Conflict
from mainspring.store import tables
from mainspring.store.database import Database


@dataclass(frozen=True, slots=True)
class Migration:
    """One change of the tables; `number` only grows and a released migration never changes."""

    number: int
    name: str
    apply: Callable[[sa.Connection], None]


def _first_tables(connection: sa.Connection) -> None:
    tables.metadata.create_all(connection)


MIGRATIONS = (Migration(1, "first tables", _first_tables),)


def current_number(database: Database) -> int:
    """Return the number of the newest migration applied, 0 for an empty database."""
    with database.read() as connection:
        if not sa.inspect(connection).has_table("schema_version"):
            return 0
        return connection.execute(sa.select(sa.func.max(tables.schema_version.c.number))).scalar() or 0


def migrate(
    database: Database, clock: Clock, backups: Path, migrations: tuple[Migration, ...] = MIGRATIONS
) -> list[int]:
    """Apply what is missing, each in one transaction; return the numbers applied. The caller holds the lock.

    Raises:
        Conflict: the database is newer than this program.
    """
    current = current_number(database)
    newest = migrations[-1].number
    if current > newest:
        raise Conflict(
            f"the database is at schema {current}, this program knows {newest}",
            hint="install the newer mainspring, or point MAINSPRING_DATABASE elsewhere",
        )
    missing = [migration for migration in migrations if migration.number > current]
    if missing and current:
        back_up(database, backups, f"before-{missing[0].number}")
    for migration in missing:
        with database.write() as connection:
            migration.apply(connection)
            connection.execute(
                tables.schema_version.insert().values(
                    number=migration.number, name=migration.name, applied_at=clock.now()
                )
            )
    return [migration.number for migration in missing]


def back_up(database: Database, directory: Path, name: str) -> Path:
    """Write a copy of every row to `directory` and return its path: a SQLite file, or gzipped JSON lines."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    if database.dialect == "sqlite":
        path = directory / f"{name}.db"
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_TRUNC, 0o600))
        source, target = sqlite3.connect(str(sa.make_url(database.url).database)), sqlite3.connect(path)
        try:
            source.backup(target)
        finally:
            source.close()
            target.close()
        return path
    path = directory / f"{name}.jsonl.gz"
    path.touch(mode=0o600)
    with database.read() as connection, gzip.open(path, "wt", encoding="utf-8") as out:
        # What the database holds now, not what this program would create: the backup precedes the change.
        for table in sa.inspect(connection).get_table_names():
            for row in connection.execute(sa.text(f'SELECT * FROM "{table}"')).mappings():
                out.write(json.dumps({"table": table, "row": dict(row)}, default=str) + "\n")
    return path
