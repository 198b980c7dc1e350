"""The workspace: one database, one object store, one log, a clock and an actor; every operation takes it first."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from mainspring.core.clock import Clock, clock_from_env, new_id
from mainspring.core.ref import check_name
from mainspring.core.settings import Settings
from mainspring.store import events
from mainspring.store.database import Database
from mainspring.store.migrations import migrate
from mainspring.store.objects import Objects


@dataclass(frozen=True, slots=True)
class Change:
    """One write transaction: rows, the events that tell of them, and the messages that leave with them."""

    connection: sa.Connection
    clock: Clock
    actor: str
    project: str

    def execute(self, statement: sa.Executable, *args: Any) -> sa.CursorResult[Any]:
        """Run a statement inside the transaction."""
        result: sa.CursorResult[Any] = self.connection.execute(statement, *args)
        return result

    def queue(self, name: str) -> None:
        """Wait for other changes that queue under `name`, and hold the place until the commit."""
        events.queue(self.connection, f"{name}/{self.project}")

    def event(self, type: str, subject: str, data: dict[str, Any] | None = None) -> events.Event:
        """Record what happened to `subject`; it commits with the rows or not at all."""
        return events.append(
            self.connection,
            self.clock,
            actor=self.actor,
            project=self.project,
            type=type,
            subject=subject,
            data=data or {},
        )

    def outbox(self, target: str, payload: dict[str, Any]) -> str:
        """Queue a message for `target`; it leaves after the commit."""
        return events.enqueue(self.connection, self.clock, project=self.project, target=target, payload=payload)


@dataclass(frozen=True, slots=True)
class Workspace:
    """All durable state of an installation, as one actor sees it; threads may share it, forks may not."""

    settings: Settings
    database: Database
    objects: Objects
    clock: Clock
    actor: str = "local"

    @property
    def home(self) -> Path:
        return self.settings.home

    @contextmanager
    def change(self, project: str) -> Iterator[Change]:
        """Open one write transaction on a project; an exception undoes all of it."""
        with self.database.write() as connection:
            yield Change(connection, self.clock, self.actor, project)

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """Open one consistent reading."""
        with self.database.read() as connection:
            yield connection

    def with_actor(self, actor: str) -> Workspace:
        """Return the same workspace, acting as another."""
        return replace(self, actor=actor)

    def path(self, *parts: str) -> Path:
        """Return a path under the home folder, its parent folders made with mode 0700."""
        path = self.home.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        return path

    def new_id(self) -> str:
        """Return a fresh time-ordered id."""
        return new_id(self.clock)

    @contextmanager
    def name_lock(self, name: str) -> Iterator[None]:
        """Hold the machine-wide lock called `name`; others wait. Dies with the process."""
        with file_lock(self.path("locks", check_name(name, "lock"))):
            yield

    def close(self) -> None:
        """Let go of the database connections."""
        self.database.close()


_OPENING = threading.Lock()


def open_workspace(settings: Settings, *, clock: Clock | None = None, actor: str = "") -> Workspace:
    """Open the workspace that `settings` describe, creating and migrating it first where needed.

    Raises:
        Unavailable: the database does not answer.
        Conflict: the database is newer than this program.
    """
    clock = clock or clock_from_env()
    # What is made from here on holds decisions and predictions: nobody but the owner reads it.
    os.umask(0o077)
    settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    database = Database(settings.database)
    try:
        with _OPENING, file_lock(settings.home / "locks" / "migrate"), _migration_lock(database):
            migrate(database, clock, settings.home / "backups")
    except BaseException:
        database.close()
        raise
    return Workspace(
        settings,
        database,
        Objects(settings.objects, settings.home / "objects"),
        clock,
        actor or os.environ.get("MAINSPRING_ACTOR") or os.environ.get("USER") or "local",
    )


@contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file; the kernel frees it when the process dies."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _migration_lock(database: Database) -> Iterator[None]:
    """Keep other machines from migrating the same PostgreSQL database at the same time."""
    if database.dialect != "postgresql":
        yield
        return
    with database.read() as connection:
        connection.execute(sa.text("SELECT pg_advisory_lock(5246741)"))
        try:
            yield
        finally:
            connection.execute(sa.text("SELECT pg_advisory_unlock(5246741)"))
