"""All durable state: what commits together, what survives, what is refused."""

from __future__ import annotations

import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from mainspring.core.clock import FixedClock
from mainspring.core.errors import Conflict, Invalid, Refused, Unavailable
from mainspring.core.settings import Settings, load_settings
from mainspring.store import events, tables
from mainspring.store.database import Database
from mainspring.store.migrations import MIGRATIONS, Migration, current_number, migrate
from mainspring.store.objects import Objects
from mainspring.store.workspace import Workspace, open_workspace


def _count(workspace: Workspace, table: sa.Table) -> int:
    with workspace.read() as tx:
        return tx.execute(sa.select(sa.func.count()).select_from(table)).scalar() or 0


def test_a_change_and_its_event_commit_together_or_not_at_all(workspace: Workspace) -> None:
    with pytest.raises(RuntimeError), workspace.change("p") as change:
        change.event("model.promoted", "model:a", {"version": 1})
        change.outbox("mlflow", {"version": 1})
        raise RuntimeError("the power went")
    assert _count(workspace, tables.events) == _count(workspace, tables.outbox) == 0


def test_events_form_one_chain_per_project(workspace: Workspace) -> None:
    for project in ("p", "q", "p"):
        with workspace.change(project) as change:
            change.event("tested", "thing:x", {"figure": 1.5, "text": "ä"})
    with workspace.read() as tx:
        assert [e.seq for e in events.read_events(tx, "p")] == [1, 2]
        assert events.verify_chain(tx, "p") == events.verify_chain(tx, "q") == []
        assert events.read_events(tx, "p")[0].actor == "alice"


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("UPDATE events SET data = '{}' WHERE seq = 2", "event 2 was changed"),
        ("DELETE FROM events WHERE seq = 2", "event 2 is missing"),
        ("UPDATE events SET actor = 'eve' WHERE seq = 3", "event 3 was changed"),
    ],
)
def test_a_tampered_log_is_found_by_its_sequence_number(workspace: Workspace, damage: str, said: str) -> None:
    for number in range(4):
        with workspace.change("p") as change:
            change.event("tested", "thing:x", {"number": number})
    with workspace.database.write() as connection:
        connection.execute(sa.text(damage))
    with workspace.read() as tx:
        assert said in " ".join(events.verify_chain(tx, "p"))


def test_many_writers_leave_one_whole_chain(workspace: Workspace) -> None:
    def write() -> None:
        for _ in range(10):
            with workspace.change("p") as change:
                change.event("tested", "thing:x")

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with workspace.read() as tx:
        assert len(events.read_events(tx, "p")) == 40
        assert events.verify_chain(tx, "p") == []


def test_the_outbox_delivers_once_and_tries_again_after_a_failure(workspace: Workspace, clock: FixedClock) -> None:
    with workspace.change("p") as change:
        change.outbox("hook", {"n": 1})
    seen: list[int] = []

    def fails(payload: dict[str, int], _: str) -> None:
        raise ConnectionError("no route")

    assert events.deliver(workspace.database, clock, "hook", fails) == 0
    assert events.deliver(workspace.database, clock, "hook", lambda p, _: seen.append(p["n"])) == 0  # not due yet
    clock.advance(timedelta(seconds=3))
    assert events.deliver(workspace.database, clock, "hook", lambda p, _: seen.append(p["n"])) == 1
    assert events.deliver(workspace.database, clock, "hook", lambda p, _: seen.append(p["n"])) == 0
    assert seen == [1]


def test_a_message_that_never_gets_through_is_dead_after_twelve_attempts(
    workspace: Workspace, clock: FixedClock
) -> None:
    with workspace.change("p") as change:
        change.outbox("hook", {})
    for _ in range(events.MAX_ATTEMPTS + 2):
        events.deliver(workspace.database, clock, "hook", lambda *_: 1 / 0)
        clock.advance(timedelta(hours=2))
    with workspace.read() as tx:
        row = tx.execute(sa.select(tables.outbox)).one()
    assert (row.status, row.attempts) == ("dead", events.MAX_ATTEMPTS)
    assert "ZeroDivisionError" in row.error


def test_everything_on_disk_is_for_the_owner_alone(local_workspace: Workspace) -> None:
    with local_workspace.change("p") as change:
        change.event("tested", "thing:x")
    local_workspace.objects.put(b"secret")
    for path in [local_workspace.home, *local_workspace.home.rglob("*")]:
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), path


def test_two_instances_on_one_machine_do_not_meet(tmp_path: Path) -> None:
    one = open_workspace(load_settings(tmp_path, environment={"MAINSPRING_HOME": str(tmp_path / "1")}))
    two = open_workspace(load_settings(tmp_path, environment={"MAINSPRING_HOME": str(tmp_path / "2")}))
    with one.change("p") as change:
        change.event("tested", "thing:x")
    assert (_count(one, tables.events), _count(two, tables.events)) == (1, 0)
    one.close()
    two.close()


def test_a_cold_store_opened_by_four_processes_at_once_is_made_once(settings: Settings, tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from mainspring.core.settings import load_settings
from mainspring.store.workspace import open_workspace
with open_workspace(load_settings(Path(sys.argv[1]))).change("p") as change:
    change.event("tested", "thing:x")
"""
    environment = {**os.environ, "MAINSPRING_DATABASE": settings.database.replace("+psycopg", "")}
    running = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], env=environment, stderr=subprocess.PIPE)
        for _ in range(4)
    ]
    failed = [error for process in running if (error := process.communicate()[1].decode()) and process.returncode]
    assert not failed
    workspace = open_workspace(settings)
    assert current_number(workspace.database) == MIGRATIONS[-1].number
    assert _count(workspace, tables.schema_version) == len(MIGRATIONS)
    assert _count(workspace, tables.events) == 4
    workspace.close()


def test_a_migration_is_backed_up_before_and_runs_once(settings: Settings, clock: FixedClock, tmp_path: Path) -> None:
    workspace = open_workspace(settings, clock=clock)
    with workspace.change("p") as change:
        change.event("tested", "thing:x")
    added = Migration(
        len(MIGRATIONS) + 1, "a table", lambda c: c.execute(sa.text("CREATE TABLE added (n INTEGER)")) and None
    )
    assert migrate(workspace.database, clock, tmp_path / "backups", (*MIGRATIONS, added)) == [added.number]
    assert migrate(workspace.database, clock, tmp_path / "backups", (*MIGRATIONS, added)) == []
    (backup,) = (tmp_path / "backups").iterdir()
    if backup.suffix == ".db":
        with closing(sqlite3.connect(backup)) as copy:
            assert copy.execute("SELECT count(*) FROM events").fetchone() == (1,)
    with pytest.raises(Conflict, match="newer"):
        migrate(workspace.database, clock, tmp_path / "backups", MIGRATIONS)
    workspace.close()


def test_a_migration_that_fails_leaves_the_schema_as_it_was(
    settings: Settings, clock: FixedClock, tmp_path: Path
) -> None:
    workspace = open_workspace(settings, clock=clock)

    def half(connection: sa.Connection) -> None:
        connection.execute(sa.text("CREATE TABLE half (n INTEGER)"))
        raise RuntimeError("the power went")

    with pytest.raises(RuntimeError):
        migrate(workspace.database, clock, tmp_path / "backups", (*MIGRATIONS, Migration(99, "half", half)))
    assert current_number(workspace.database) == MIGRATIONS[-1].number
    with workspace.read() as tx:
        assert not sa.inspect(tx).has_table("half")
    workspace.close()


def test_a_writer_that_waits_too_long_is_told_so(local_workspace: Workspace) -> None:
    other = sqlite3.connect(local_workspace.home / "mainspring.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    impatient = Database(local_workspace.settings.database)
    with impatient.engine.connect() as connection:
        connection.connection.driver_connection.execute("PRAGMA busy_timeout = 50")  # type: ignore[union-attr]
    with pytest.raises(Unavailable, match="locked"), impatient.write():
        pass
    with local_workspace.read() as tx:
        assert tx.execute(sa.text("SELECT 1")).scalar() == 1
    other.close()
    impatient.close()


def test_a_file_that_is_no_database_is_refused_and_left_alone(local_settings: Settings) -> None:
    local_settings.home.mkdir()
    path = local_settings.home / "mainspring.db"
    path.write_bytes(b"this is not a database, it is a letter" * 100)
    before = path.read_bytes()
    with pytest.raises(Unavailable, match="damaged"):
        open_workspace(local_settings)
    assert path.read_bytes() == before


def test_an_option_that_postgresql_does_not_know_is_the_users_mistake(postgres_url: str) -> None:
    with (
        closing(Database(f"{postgres_url}&bogus=1")) as database,
        pytest.raises(Invalid, match="bogus"),
        database.read(),
    ):
        pass


@pytest.mark.parametrize("url", ["file", "memory://objects"])
def test_an_object_is_found_under_its_digest_and_only_there(tmp_path: Path, url: str) -> None:
    objects = Objects((tmp_path / "o").as_uri() if url == "file" else url, tmp_path / "cache")
    name = objects.put(b"payload")
    assert objects.put(b"payload") == name
    assert objects.get(name) == b"payload"
    assert objects.open_path(name).read_bytes() == b"payload"
    assert objects.exists(name)
    assert name in objects.digests()
    with pytest.raises(Unavailable):
        objects.get("sha256:" + "0" * 64)
    with pytest.raises(Invalid):
        objects.get("../../etc/passwd")


def test_a_changed_object_is_refused(local_workspace: Workspace) -> None:
    name = local_workspace.objects.put(b"payload")
    path = local_workspace.objects.open_path(name)
    path.write_bytes(b"Payload")
    with pytest.raises(Refused, match="changed on disk"):
        local_workspace.objects.get(name)


@pytest.mark.parametrize("relative", ["../out", "/etc/passwd", "a/../../out", ""])
def test_objects_are_not_written_outside_their_folder(
    local_workspace: Workspace, tmp_path: Path, relative: str
) -> None:
    name = local_workspace.objects.put(b"x")
    with pytest.raises(Refused):
        local_workspace.objects.materialise({relative: name}, tmp_path / "in")


def test_a_process_killed_while_storing_leaves_whole_objects_only(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from mainspring.store.objects import Objects
objects = Objects(Path(sys.argv[1]).as_uri(), Path(sys.argv[1]))
for number in range(10**6):
    print(objects.put(str(number).encode() * 20000), flush=True)
"""
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    acknowledged = [process.stdout.readline().strip() for _ in range(20)]
    process.send_signal(signal.SIGKILL)
    process.communicate()
    objects = Objects(tmp_path.as_uri(), tmp_path)
    assert all(objects.get(name) for name in acknowledged)
    assert all(objects.get(name) for name in objects.digests())
