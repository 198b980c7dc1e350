"""The event log, one hash chain per project, and the outbox whose messages leave with its commits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from mainspring.core.clock import Clock, new_id
from mainspring.core.ref import digest_json
from mainspring.store.database import Database
from mainspring.store.tables import events, outbox

GENESIS = "sha256:" + "0" * 64
MAX_ATTEMPTS = 12


@dataclass(frozen=True, slots=True)
class Event:
    """One recorded change; `hash` covers everything above it and the hash before it."""

    project: str
    seq: int
    id: str
    type: str
    subject: str
    actor: str
    at: datetime
    data: dict[str, Any]
    previous_hash: str
    hash: str

    def as_cloudevent(self) -> dict[str, Any]:
        """Return the event in the CloudEvents 1.0 JSON form."""
        return {
            "specversion": "1.0",
            "id": self.id,
            "source": f"/mainspring/{self.project}",
            "type": self.type,
            "subject": self.subject,
            "time": self.at.isoformat(),
            "datacontenttype": "application/json",
            "data": self.data,
            "sequence": str(self.seq),
            "actor": self.actor,
        }


def _hash(
    project: str, seq: int, id: str, type: str, subject: str, actor: str, at: datetime, data: Any, previous: str
) -> str:
    return digest_json([project, seq, id, type, subject, actor, at.isoformat(), data, previous])


def append(
    connection: sa.Connection, clock: Clock, *, actor: str, project: str, type: str, subject: str, data: dict[str, Any]
) -> Event:
    """Add an event to the project's chain inside the caller's transaction; writers of one project queue."""
    queue(connection, f"events/{project}")
    last = connection.execute(
        sa.select(events.c.seq, events.c.hash).where(events.c.project == project).order_by(events.c.seq.desc()).limit(1)
    ).first()
    seq, previous = (last.seq + 1, last.hash) if last else (1, GENESIS)
    id, at = new_id(clock), clock.now()
    event = Event(
        project,
        seq,
        id,
        type,
        subject,
        actor,
        at,
        data,
        previous,
        _hash(project, seq, id, type, subject, actor, at, data, previous),
    )
    connection.execute(
        events.insert().values(
            project=project,
            seq=seq,
            id=id,
            type=type,
            subject=subject,
            actor=actor,
            at=at,
            data=data,
            previous_hash=previous,
            hash=event.hash,
        )
    )
    return event


def queue(connection: sa.Connection, name: str) -> None:
    """Let transactions that read and then write what `name` stands for come one after the other, until the commit.

    SQLite's write transactions already do; on PostgreSQL two could read the same last row.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(hashtext(:name))"), {"name": name})


def read_events(
    connection: sa.Connection,
    project: str,
    *,
    after: int = 0,
    limit: int = 1000,
    types: Sequence[str] = (),
    subject: str = "",
) -> list[Event]:
    """Return events in order, those with `seq > after` first, at most `limit`."""
    query = sa.select(events).where(events.c.project == project, events.c.seq > after)
    if types:
        query = query.where(events.c.type.in_(types))
    if subject:
        query = query.where(events.c.subject == subject)
    return [Event(**row) for row in connection.execute(query.order_by(events.c.seq).limit(limit)).mappings()]


def verify_chain(connection: sa.Connection, project: str) -> list[str]:
    """Return what is wrong with the project's chain, one sentence each naming the sequence number; empty if whole."""
    problems, previous, expected = [], GENESIS, 1
    for event in _all_events(connection, project):
        if isinstance(event, int):
            problems.append(f"event {event} was changed after it was written: it cannot be read")
            previous, expected = "", event + 1
            continue
        if event.seq != expected:
            problems.append(f"event {expected} is missing: {event.seq} follows {expected - 1}")
        if previous and event.previous_hash != previous:
            problems.append(f"event {event.seq} does not follow from the one before it")
        if event.hash != _hash(
            project,
            event.seq,
            event.id,
            event.type,
            event.subject,
            event.actor,
            event.at,
            event.data,
            event.previous_hash,
        ):
            problems.append(f"event {event.seq} was changed after it was written")
        previous, expected = event.hash, event.seq + 1
    return problems


def _all_events(connection: sa.Connection, project: str) -> Iterator[Event | int]:
    """Yield every event in order; of one that is no event any more, its number."""
    after = 0
    while numbers := list(
        connection.execute(
            sa.select(events.c.seq)
            .where(events.c.project == project, events.c.seq > after)
            .order_by(events.c.seq)
            .limit(1000)
        ).scalars()
    ):
        try:
            yield from read_events(connection, project, after=after)
        except (ValueError, TypeError):
            for number in numbers:
                try:
                    yield from read_events(connection, project, after=number - 1, limit=1)
                except (ValueError, TypeError):
                    yield number
        after = numbers[-1]


def enqueue(connection: sa.Connection, clock: Clock, *, project: str, target: str, payload: dict[str, Any]) -> str:
    """Add a message for `target` that leaves after the transaction commits; return its id."""
    id = new_id(clock)
    connection.execute(
        outbox.insert().values(
            id=id,
            project=project,
            target=target,
            payload=payload,
            status="pending",
            attempts=0,
            created_at=clock.now(),
            next_at=clock.now(),
        )
    )
    return id


def deliver(
    database: Database, clock: Clock, target: str, handler: Callable[[dict[str, Any], str], None], *, limit: int = 100
) -> int:
    """Hand each due message of `target` to `handler(payload, id)`; return how many were delivered.

    A message is delivered at least once: the handler must be idempotent by id. One that fails is tried again with
    doubling waits, and is dead after twelve attempts.
    """
    with database.read() as connection:
        due = (
            connection.execute(
                sa.select(outbox)
                .where(outbox.c.target == target, outbox.c.status == "pending", outbox.c.next_at <= clock.now())
                .order_by(outbox.c.id)
                .limit(limit)
            )
            .mappings()
            .all()
        )
    delivered = 0
    for message in due:
        attempts = message["attempts"] + 1
        try:
            handler(message["payload"], message["id"])
            change: dict[str, Any] = {"status": "delivered", "attempts": attempts, "error": None}
            delivered += 1
        except Exception as error:  # any failure of the outside is a reason to try again, none may stop the queue
            wait = timedelta(seconds=min(3600, 2**attempts))
            change = {
                "status": "dead" if attempts >= MAX_ATTEMPTS else "pending",
                "attempts": attempts,
                "error": f"{type(error).__name__}: {error}"[:500],
                "next_at": clock.now() + wait,
            }
        with database.write() as connection:
            connection.execute(outbox.update().where(outbox.c.id == message["id"]).values(**change))
    return delivered
