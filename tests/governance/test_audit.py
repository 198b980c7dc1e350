from pathlib import Path

import pytest
import sqlalchemy as sa

from mainspring.core.errors import Invalid, NotFound
from mainspring.core.ref import digest_json
from mainspring.governance.audit import read_log, seal, verify
from mainspring.store.events import GENESIS
from mainspring.store.tables import events
from mainspring.store.workspace import Workspace


@pytest.fixture
def logged(workspace: Workspace) -> Workspace:
    for number in range(1, 6):
        with workspace.with_actor(f"actor{number % 2}").change("fraud") as change:
            change.event("model.promoted" if number % 2 else "run.started", f"model:scorer@{number}", {"n": number})
    return workspace


def _tamper(ws: Workspace, statement: sa.Executable) -> None:
    with ws.database.write() as connection:
        connection.execute(statement)


def test_a_log_that_nobody_touched_is_whole(logged: Workspace) -> None:
    seal(logged)
    report = verify(logged)
    assert report.whole
    assert (report.chains[0].events, report.chains[0].seals) == (5, 1)


def test_the_log_is_read_newest_first_and_narrowed(logged: Workspace) -> None:
    assert [event.seq for event in read_log(logged, "fraud", limit=2)] == [5, 4]
    assert [event.seq for event in read_log(logged, "fraud", before=3)] == [2, 1]
    assert [event.seq for event in read_log(logged, "fraud", type="run.")] == [4, 2]
    assert [event.seq for event in read_log(logged, "fraud", actor="actor1")] == [5, 3, 1]
    assert [event.seq for event in read_log(logged, "fraud", subject="model:scorer@2")] == [2]
    assert len(read_log(logged, "fraud", subject="model:scorer")) == 5
    assert read_log(logged, "other") == []
    assert read_log(logged, "fraud", type="model%") == []


@pytest.mark.parametrize("damage", ["data = 'no JSON'", "at = 'no time'"])
def test_an_event_that_cannot_be_read_is_named_and_the_rest_are_checked(
    local_workspace: Workspace, damage: str
) -> None:
    for number in range(5):
        with local_workspace.change("fraud") as change:
            change.event("run.started", f"run:{number}", {"n": number})
    _tamper(local_workspace, sa.text(f"UPDATE events SET {damage} WHERE seq = 2"))
    _tamper(local_workspace, sa.text("UPDATE events SET actor = 'eve' WHERE seq = 4"))
    assert verify(local_workspace, "fraud").chains[0].problems == (
        "event 2 was changed after it was written: it cannot be read",
        "event 4 was changed after it was written",
    )


def test_bytes_that_are_no_text_among_the_seals_hide_no_other_seal(logged: Workspace) -> None:
    seal(logged)
    with (logged.home / "audit" / "seals.jsonl").open("ab") as file:
        file.write(b"\x8c\xff\n")
    assert verify(logged, "fraud").whole
    _tamper(logged, events.delete().where(events.c.seq == 5))
    assert "events 5 to 5 are gone" in verify(logged, "fraud").chains[0].problems[0]


def test_a_question_about_the_log_may_be_of_any_size(logged: Workspace) -> None:
    assert read_log(logged, "fraud", subject="é" * 60_000) == []
    with pytest.raises(Invalid, match=r"64 bits|out of range"):
        read_log(logged, "fraud", before=10**30)


def test_a_project_that_never_logged_is_not_called_whole(logged: Workspace) -> None:
    with pytest.raises(NotFound, match='nearest name is "fraud"'):
        verify(logged, "frad")


@pytest.mark.parametrize(
    ("attack", "words"),
    [
        (events.update().where(events.c.seq == 3).values(actor="nobody"), "event 3 was changed"),
        (events.delete().where(events.c.seq == 3), "event 3 is missing"),
        (events.update().where(events.c.seq == 2).values(data={"n": 9}), "event 2 was changed"),
    ],
)
def test_a_touched_log_is_not_whole_and_the_event_is_named(
    logged: Workspace, attack: sa.Executable, words: str
) -> None:
    _tamper(logged, attack)
    report = verify(logged, "fraud")
    assert not report.whole
    assert words in report.chains[0].problems[0]


def test_a_tail_cut_off_after_a_seal_is_noticed(logged: Workspace) -> None:
    seal(logged)
    _tamper(logged, events.delete().where(events.c.seq > 3))
    assert "events 4 to 5 are gone" in verify(logged).chains[0].problems[0]


def test_a_log_that_is_gone_altogether_is_noticed(logged: Workspace) -> None:
    seal(logged)
    _tamper(logged, events.delete())
    assert "events 1 to 5 are gone" in verify(logged).chains[0].problems[0]


def test_a_log_rewritten_with_its_hashes_does_not_match_its_seal(logged: Workspace) -> None:
    seal(logged)
    previous = GENESIS
    for event in reversed(read_log(logged, "fraud")):
        fields = ["fraud", event.seq, event.id, event.type, event.subject, "mallory", event.at.isoformat(), event.data]
        fresh = digest_json([*fields, previous])
        _tamper(
            logged,
            events.update()
            .where(events.c.seq == event.seq)
            .values(actor="mallory", previous_hash=previous, hash=fresh),
        )
        previous = fresh
    assert verify(logged).chains[0].problems == ("event 5 is not the one that was sealed on 2026-01-01T00:00:00+00:00",)


def test_a_seal_that_was_edited_is_not_genuine(logged: Workspace) -> None:
    seal(logged)
    path: Path = logged.home / "audit" / "seals.jsonl"
    path.write_text(path.read_text().replace('"seq":5', '"seq":4'))
    assert "not signed" in verify(logged).chains[0].problems[0]


def test_nothing_new_is_sealed_twice(logged: Workspace) -> None:
    assert len(seal(logged)) == 1
    assert seal(logged) == []


def test_the_seals_and_their_key_are_the_owners_alone(logged: Workspace) -> None:
    seal(logged)
    for name in ("audit/seals.jsonl", "keys/audit.key"):
        assert (logged.home / name).stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("column", ["data", "at"])
def test_an_event_that_cannot_be_read_does_not_hide_the_others(local_workspace: Workspace, column: str) -> None:
    for number in range(3):
        with local_workspace.change("fraud") as change:
            change.event("note.made", f"note:{number}")
    _tamper(local_workspace, sa.text(f"UPDATE events SET {column} = 'broken' WHERE seq = 2"))
    found = read_log(local_workspace, "fraud")
    assert [(event.seq, event.type) for event in found] == [(3, "note.made"), (2, "unreadable"), (1, "note.made")]
