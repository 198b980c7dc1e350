"""Bearer tokens and one-time login codes: random, shown once, kept as hashes, and gone the moment they are revoked."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa

from mainspring.core.errors import Forbidden, Invalid, NotFound, Unavailable
from mainspring.core.ref import check_name
from mainspring.core.units import duration
from mainspring.governance.access import EVERYWHERE, INSTALLATION, Actor, Role, check_role
from mainspring.store.tables import tokens
from mainspring.store.workspace import Workspace

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZabcdefghijkmnopqrstvwxyz"
_TOUCH = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class TokenInfo:
    """What is known of a token; never the token."""

    id: str
    prefix: str
    actor: str
    role: Role
    projects: tuple[str, ...]
    kind: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """A fresh token, the only time it can be read."""

    token: str
    info: TokenInfo


def issue(
    ws: Workspace,
    actor: str,
    role: str,
    *,
    projects: Sequence[str] = (EVERYWHERE,),
    expires_in: str | timedelta = "90d",
    kind: str = "api",
) -> IssuedToken:
    """Create a token for `actor` and return it; only its hash is kept.

    Args:
        ws: The workspace; its actor is recorded as the one who issued it.
        actor: Who the bearer acts as.
        role: One of the six roles.
        projects: Where the role holds; `*` is everywhere.
        expires_in: Lifetime, at most two years.
        kind: `api`, or `login` for a code that is exchanged once.

    Raises:
        Invalid: a name, the role or the lifetime is not acceptable.
    """
    check_name(actor, "actor")
    known_role = check_role(role)
    lifetime = duration(expires_in)
    if not timedelta(0) < lifetime <= timedelta(days=731):
        raise Invalid(f"a token cannot live for {expires_in}", hint="between a second and two years, for example 90d")
    if not projects:
        raise Invalid("the token holds for no project", hint='name projects, or "*" for all of them')
    for project in projects:
        if project != EVERYWHERE:
            check_name(project, "project")
    prefix, text = _new_token("msl" if kind == "login" else "ms")
    now = ws.clock.now()
    info = TokenInfo(
        ws.new_id(), prefix, actor, known_role, tuple(projects), kind, now, now + lifetime, None, None
    )  # fmt: skip
    with ws.change(INSTALLATION) as change:
        change.execute(
            tokens.insert().values(
                id=info.id, prefix=prefix, hash=_hash(text), actor=actor, role=known_role, projects=list(projects),
                kind=kind, created_at=now, expires_at=info.expires_at,
            )
        )  # fmt: skip
        change.event(
            "token.issued",
            f"token:{prefix}",
            {"actor": actor, "role": known_role, "projects": list(projects), "kind": kind},
        )
    return IssuedToken(text, info)


def authenticate(ws: Workspace, text: str) -> Actor | None:
    """Return who bears this token, or None: unknown, expired, revoked and malformed are the same to the asker."""
    row = _find(ws, text, "api")
    if row is None:
        return None
    now = ws.clock.now()
    if row.last_used_at is None or now - row.last_used_at > _TOUCH:
        # When it was last used is worth a row, not a refusal: a database that cannot be written still answers reads.
        with suppress(Unavailable), ws.database.write() as connection:
            connection.execute(tokens.update().where(tokens.c.id == row.id).values(last_used_at=now))
    return Actor(row.actor, row.role, row.projects)


def login_link(ws: Workspace, url: str, *, role: str = "admin", lifetime: str = "1h") -> str:
    """Return a link that gives one token, once; what stands after its `#` is never sent to a server's log."""
    issued = issue(ws, ws.actor, role, expires_in=lifetime, kind="login")
    return f"{url.rstrip('/')}/login#{issued.token}"


def exchange(ws: Workspace, code: str, *, expires_in: str = "30d") -> IssuedToken:
    """Turn a one-time login code into a token for the same actor; the code is spent.

    Raises:
        Forbidden: the code is unknown, expired, or was used before.
    """
    row = _find(ws, code, "login")
    refused = Forbidden("this login code is not valid, has expired, or was used before", hint="mainspring login link")
    if row is None:
        raise refused
    with ws.with_actor(row.actor).change(INSTALLATION) as change:
        spent = change.execute(
            tokens.update()
            .where(tokens.c.id == row.id, tokens.c.revoked_at.is_(None))
            .values(revoked_at=ws.clock.now(), last_used_at=ws.clock.now())
        )
        if spent.rowcount != 1:
            raise refused
        change.event("login.used", f"token:{row.prefix}", {"actor": row.actor})
    return issue(
        ws.with_actor(row.actor), row.actor, row.role, projects=row.projects, expires_in=expires_in
    )  # fmt: skip


def rotate(ws: Workspace, prefix: str, *, overlap: str | timedelta = "1h") -> IssuedToken:
    """Issue a successor with the same rights and lifetime; the old token works until `overlap` has passed.

    Raises:
        NotFound: no living token has the prefix.
    """
    old = _living(ws, prefix)
    lifetime = (old.expires_at - old.created_at) if old.expires_at else timedelta(days=90)
    fresh = issue(ws, old.actor, old.role, projects=old.projects, expires_in=lifetime)
    until = ws.clock.now() + duration(overlap)
    with ws.change(INSTALLATION) as change:
        change.execute(
            tokens.update()
            .where(tokens.c.id == old.id)
            .values(expires_at=min(until, old.expires_at) if old.expires_at else until)
        )
        change.event("token.rotated", f"token:{prefix}", {"successor": fresh.info.prefix, "until": until.isoformat()})
    return fresh


def revoke(ws: Workspace, prefix: str) -> TokenInfo:
    """End a token now; the next request that bears it is refused, in every process.

    Raises:
        NotFound: no living token has the prefix.
    """
    old = _living(ws, prefix)
    with ws.change(INSTALLATION) as change:
        change.execute(tokens.update().where(tokens.c.id == old.id).values(revoked_at=ws.clock.now()))
        change.event("token.revoked", f"token:{prefix}", {"actor": old.actor})
    return _living(ws, prefix, revoked=True)


def list_tokens(ws: Workspace, *, limit: int = 200) -> list[TokenInfo]:
    """Return the tokens, newest first."""
    with ws.read() as connection:
        rows = connection.execute(sa.select(tokens).order_by(tokens.c.id.desc()).limit(limit)).all()
    return [_info(row) for row in rows]


def _new_token(kind: str) -> tuple[str, str]:
    # 10 characters to find it by, 40 that are secret (228 bits), a checksum so that scanners know a real one.
    prefix = f"{kind}_" + "".join(secrets.choice(_ALPHABET) for _ in range(10))
    body = f"{prefix}_" + "".join(secrets.choice(_ALPHABET) for _ in range(40))
    return prefix, f"{body}{zlib.crc32(body.encode()):08x}"


def token_prefix(text: str) -> str:
    """Return the public part of a well-formed token, an empty string for anything else."""
    body, check = text[:-8], text[-8:]
    parts = body.split("_")
    well_formed = (
        len(parts) == 3
        and parts[0] in ("ms", "msl")
        and (len(parts[1]), len(parts[2])) == (10, 40)
        and text.isascii()
        and hmac.compare_digest(f"{zlib.crc32(body.encode()):08x}", check)
    )
    return f"{parts[0]}_{parts[1]}" if well_formed else ""


def _hash(text: str) -> str:
    # The secret is random and long, so a slow password hash would protect nothing and invite a flood of work.
    return hashlib.sha256(text.encode()).hexdigest()


def _find(ws: Workspace, text: str, kind: str) -> TokenInfo | None:
    prefix = token_prefix(text)
    if not prefix:
        return None
    with ws.read() as connection:
        row = connection.execute(sa.select(tokens).where(tokens.c.prefix == prefix, tokens.c.kind == kind)).first()
    if row is None or not hmac.compare_digest(row.hash, _hash(text)):
        return None
    info = _info(row)
    living = info.revoked_at is None and (info.expires_at is None or ws.clock.now() < info.expires_at)
    return info if living else None


def _living(ws: Workspace, prefix: str, *, revoked: bool = False) -> TokenInfo:
    with ws.read() as connection:
        row = connection.execute(sa.select(tokens).where(tokens.c.prefix == prefix)).first()
    if row is None or (row.revoked_at is not None and not revoked):
        raise NotFound(f"no living token {prefix[:16]!r}", hint="mainspring tokens list")
    return _info(row)


def _info(row: sa.Row[tuple[object, ...]]) -> TokenInfo:
    data = {name: getattr(row, name) for name in TokenInfo.__dataclass_fields__}
    return TokenInfo(**{**data, "projects": tuple(data["projects"])})
