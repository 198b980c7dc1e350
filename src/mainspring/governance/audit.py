"""The event log read as an audit trail: who did what, and proof that nobody rewrote it."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime

import sqlalchemy as sa

from mainspring.core.clock import parse_instant
from mainspring.core.errors import NotFound, nearest
from mainspring.core.ref import canonical_json
from mainspring.store.events import Event, verify_chain
from mainspring.store.tables import events
from mainspring.store.workspace import Workspace

_MAX_PAGE = 1000


@dataclass(frozen=True, slots=True)
class ChainReport:
    """What a check of one project's log found; `problems` is empty when the log is whole."""

    project: str
    events: int
    head: str
    seals: int
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AuditReport:
    """What a check of the logs found."""

    whole: bool
    chains: tuple[ChainReport, ...]


@dataclass(frozen=True, slots=True)
class Seal:
    """Where a log ended at one instant, signed with a key that is not in the database."""

    project: str
    seq: int
    hash: str
    at: datetime


def read_log(
    ws: Workspace,
    project: str,
    *,
    type: str = "",
    actor: str = "",
    subject: str = "",
    before: int | None = None,
    limit: int = 50,
) -> list[Event]:
    """Return a project's events, newest first.

    Args:
        ws: The workspace.
        project: Whose log.
        type: Only events of this type, or of those that start with it when it ends in a dot (`model.`).
        actor: Only what this actor did.
        subject: Only what happened to this reference, every version of it when it names none.
        before: Only events with a smaller sequence number, to page back.
        limit: At most this many, up to 1000.
    """
    query = sa.select(events).where(events.c.project == project)
    if type:
        query = query.where(_begins(events.c.type, type) if type.endswith(".") else events.c.type == type)
    if actor:
        query = query.where(events.c.actor == actor)
    if subject:
        query = query.where(sa.or_(events.c.subject == subject, _begins(events.c.subject, f"{subject}@")))
    if before is not None:
        query = query.where(events.c.seq < before)
    query = query.order_by(events.c.seq.desc()).limit(max(1, min(limit, _MAX_PAGE)))
    with ws.read() as connection:
        try:
            return [Event(**row) for row in connection.execute(query).mappings()]
        except (ValueError, TypeError):
            numbers = list(connection.execute(query.with_only_columns(events.c.seq)).scalars())
            return [_read_or_name(connection, project, number) for number in numbers]


def _read_or_name(connection: sa.Connection, project: str, seq: int) -> Event:
    """Return an event; of one that cannot be read any more, what is left, so that it does not hide the others."""
    mine = sa.and_(events.c.project == project, events.c.seq == seq)
    try:
        return Event(**connection.execute(sa.select(events).where(mine)).mappings().one())
    except (ValueError, TypeError):
        plain = (events.c.id, events.c.subject, events.c.actor, events.c.previous_hash, events.c.hash)
        left = connection.execute(sa.select(*plain).where(mine)).mappings().one()
        told = {"unreadable": "it was changed after it was written: mainspring audit verify"}
        return Event(
            project=project, seq=seq, type="unreadable", at=datetime.min.replace(tzinfo=UTC), data=told, **left
        )


def _begins(column: sa.ColumnElement[str], start: str) -> sa.ColumnElement[bool]:
    # Not LIKE: SQLite refuses a long pattern as if it could not be reached.
    return sa.func.substr(column, 1, len(start)) == start


def logged_projects(ws: Workspace) -> list[str]:
    """Return every project that has a log, in order of name."""
    with ws.read() as connection:
        return list(connection.execute(sa.select(events.c.project).distinct().order_by(events.c.project)).scalars())


def verify(ws: Workspace, project: str = "") -> AuditReport:
    """Check a project's log, or all of them: each event's hash, the chain between them, and the seals.

    The chain shows a changed, moved or missing event. The seals show what a chain alone cannot: a tail cut off, an
    older copy put in its place, and a log rewritten with its hashes.

    Raises:
        NotFound: nothing was ever logged for `project`; a name mistyped must not pass for a log that is whole.
    """
    sealed = _read_seals(ws)
    known = sorted({*logged_projects(ws), *(seal.project for seal, _ in sealed)})
    if project and project not in known:
        hint = "mainspring audit verify --all checks every log there is"
        raise NotFound(f"nothing was ever logged for project {project!r}{nearest(project, known)}", hint=hint)
    names = [project] if project else known
    chains = tuple(_verify_one(ws, name, sealed) for name in names)
    return AuditReport(all(not chain.problems for chain in chains), chains)


def seal(ws: Workspace) -> list[Seal]:
    """Sign where each log ends now, for `verify` to compare with later; return the seals that are new.

    The seals are lines of `audit/seals.jsonl` under the home folder; copies kept elsewhere are what an attacker on
    this machine cannot reach.
    """
    newest = {item.project: item.seq for item, _ in _read_seals(ws)}
    fresh = [head for head in _heads(ws) if head.seq > newest.get(head.project, 0)]
    if fresh:
        key = _key(ws)
        lines = b"".join(
            canonical_json({**_seal_data(item), "mac": _mac(key, item)}) + b"\n" for item in fresh
        )  # fmt: skip
        descriptor = os.open(ws.path("audit", "seals.jsonl"), os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)
        try:
            os.write(descriptor, lines)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    return fresh


def _verify_one(ws: Workspace, project: str, sealed: list[tuple[Seal, bool]]) -> ChainReport:
    with ws.read() as connection:
        problems = verify_chain(connection, project)
        rows = connection.execute(sa.select(events.c.seq, events.c.hash).where(events.c.project == project))
        hashes = {row.seq: row.hash for row in rows}
    last = max(hashes, default=0)
    seals = [(item, genuine) for item, genuine in sealed if item.project == project]
    for item, genuine in seals:
        when = item.at.isoformat(timespec="seconds")
        if not genuine:
            problems.append(f"the seal of event {item.seq} is not signed with this installation's key")
        elif item.seq > last:
            problems.append(f"events {last + 1} to {item.seq} are gone: the log was sealed at {item.seq} on {when}")
        elif hashes.get(item.seq) != item.hash:
            problems.append(f"event {item.seq} is not the one that was sealed on {when}")
    return ChainReport(project, len(hashes), hashes.get(last, ""), len(seals), tuple(problems))


def _heads(ws: Workspace) -> list[Seal]:
    newest = sa.select(events.c.project, sa.func.max(events.c.seq).label("seq")).group_by(events.c.project).subquery()
    query = sa.select(events.c.project, events.c.seq, events.c.hash).join(
        newest, sa.and_(events.c.project == newest.c.project, events.c.seq == newest.c.seq)
    )
    with ws.read() as connection:
        return [Seal(row.project, row.seq, row.hash, ws.clock.now()) for row in connection.execute(query)]


def _read_seals(ws: Workspace) -> list[tuple[Seal, bool]]:
    """Return each seal and whether its signature is genuine; a torn last line is skipped."""
    path = ws.home / "audit" / "seals.jsonl"
    if not path.is_file():
        return []
    key, found = _key(ws), []
    for line in path.read_bytes().splitlines():
        try:
            data = json.loads(line)
            item = Seal(data["project"], data["seq"], data["hash"], parse_instant(data["at"]))
            found.append((item, hmac.compare_digest(_mac(key, item), str(data["mac"]))))
        except (ValueError, KeyError, TypeError):
            continue
    return found


def _seal_data(item: Seal) -> dict[str, str | int]:
    return {"project": item.project, "seq": item.seq, "hash": item.hash, "at": item.at.isoformat()}


def _mac(key: bytes, item: Seal) -> str:
    return hmac.new(key, canonical_json(_seal_data(item)), hashlib.sha256).hexdigest()


def _key(ws: Workspace) -> bytes:
    path = ws.path("keys", "audit.key")
    with ws.name_lock("audit-key"):
        if not path.is_file():
            # Whole or not at all: a key cut short by a power failure would disown every later seal.
            fresh = path.with_suffix(".new")
            descriptor = os.open(fresh, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
            os.write(descriptor, secrets.token_hex(32).encode())
            os.fsync(descriptor)
            os.close(descriptor)
            fresh.rename(path)
        return path.read_bytes()
