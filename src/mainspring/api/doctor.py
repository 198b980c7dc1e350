"""Is everything well: the environment, the services, and the invariants that a fault would break."""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import sqlite3
import sys
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, TypeVar

import sqlalchemy as sa

from mainspring.core.errors import MainspringError
from mainspring.core.records import ModelVersion
from mainspring.core.settings import Settings
from mainspring.governance import audit
from mainspring.governance.approvals import valid_approvals
from mainspring.store import tables
from mainspring.store.workspace import Workspace

Level = Literal["ok", "warning", "error"]
Found = tuple[Level, str, str]
_Asked = TypeVar("_Asked")
_STALE = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Check:
    """One question and its answer; `hint` is the next step where something is wrong."""

    name: str
    level: Level
    detail: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Checkup:
    """All answers; `well` while none is an error."""

    well: bool
    checks: tuple[Check, ...]


def examine(ws: Workspace, *, deep: bool = False) -> Checkup:
    """Return the state of this installation.

    Args:
        ws: The workspace.
        deep: Also read every bundle that is registered and every version of a dataset.
    """
    questions: list[tuple[str, Callable[[Workspace], Found]]] = [
        ("database", _database), ("registry", _registry), ("audit chain", _audit_chain), ("aliases", _aliases),
        ("approvals", _approved), ("endpoints", _endpoints), ("runs", _runs),
        ("bundles", _bundles_read if deep else _bundles), ("tables", _tables_read if deep else _tables),
        ("outbox", _outbox), ("idempotency", _idempotency),
    ]  # fmt: skip
    return _checkup([*_surroundings(ws.settings), *(_ask(ws, name, question) for name, question in questions)])


def examine_closed(settings: Settings, error: MainspringError) -> Checkup:
    """Return the state of an installation whose database does not open, for the reason in `error`."""
    return _checkup([*_surroundings(settings), Check("database", "error", error.message, error.hint)])


def _surroundings(settings: Settings) -> list[Check]:
    questions: list[tuple[str, Callable[[Settings], Found]]] = [
        ("python", _python), ("packages", _packages), ("disk", _disk), ("file modes", _modes),
        ("control plane", _control_plane), ("data plane", _data_plane),
    ]  # fmt: skip
    return [_ask(settings, name, question) for name, question in questions]


def _checkup(checks: list[Check]) -> Checkup:
    return Checkup(all(check.level != "error" for check in checks), tuple(checks))


def _ask(asked: _Asked, name: str, question: Callable[[_Asked], Found]) -> Check:
    try:
        return Check(name, *question(asked))
    except MainspringError as error:
        return Check(name, "error", error.message, error.hint)
    except Exception as error:  # a check that breaks is an answer too; the others still run
        return Check(name, "error", f"the check itself failed: {type(error).__name__}: {error}")


def _python(settings: Settings) -> Found:
    version = ".".join(map(str, sys.version_info[:3]))
    return ("ok", version, "") if sys.version_info >= (3, 11) else ("error", version, "install Python 3.11 or newer")


def _packages(settings: Settings) -> Found:
    missing = []
    for line in importlib.metadata.requires("mainspring") or ():
        name = re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0]
        if "extra ==" not in line and not any(True for _ in importlib.metadata.Distribution.discover(name=name)):
            missing.append(name)
    if missing:
        return "error", f"not installed: {', '.join(missing)}", "pip install mainspring"
    return "ok", f"mainspring {importlib.metadata.version('mainspring')}", ""


def _disk(settings: Settings) -> Found:
    usage = shutil.disk_usage(settings.home)
    used, free = 1 - usage.free / usage.total, f"{usage.free / 1e9:.1f} GB free"
    if used > 0.95:
        return "error", f"{used:.0%} full, {free}", "free some space; writes will fail soon"
    return ("warning", f"{used:.0%} full, {free}", "plan for more space") if used > 0.85 else ("ok", free, "")


def _modes(settings: Settings) -> Found:
    watched = [settings.home, *settings.home.glob("*.db"), *(settings.home / "keys").glob("*")]
    open_to_others = [path.name for path in watched if path.stat().st_mode & 0o077]
    if open_to_others:
        return "error", f"others can read {', '.join(open_to_others)}", f"chmod -R go= {settings.home}"
    return "ok", f"{settings.home} is the owner's alone", ""


def _database(ws: Workspace) -> Found:
    with ws.read() as tx:
        number = tx.execute(sa.select(sa.func.max(tables.schema_version.c.number))).scalar()
        if ws.database.dialect == "sqlite":
            said = tx.exec_driver_sql("PRAGMA quick_check(1)").scalar()
            if said != "ok":
                return "error", f"SQLite is damaged: {said}", f"restore the newest copy in {ws.home / 'backups'}"
    kind = f"SQLite {sqlite3.sqlite_version}" if ws.database.dialect == "sqlite" else ws.database.dialect
    return "ok", f"{kind}, schema {number}", ""


def _registry(ws: Workspace) -> Found:
    """Compare the database with what lies beside it: one that was lost is made anew, empty, at the next opening."""
    from mainspring.serving.split import list_splits, read_split

    lost = f"bring back a copy of the database; the newest may be in {ws.home / 'backups'}"
    known = {(row.project, row.model, row.version): row.bundle_digest for row in _versions(ws)}
    with ws.read() as tx:
        count = sa.select(sa.func.count())
        is_empty = not known and not any(
            tx.execute(count.select_from(table)).scalar() for table in (tables.events, tables.dataset_versions)
        )
    folders = [path for path in (ws.home / "serving").glob("*") if path.is_dir() and path.name != "bundles"]
    served = [
        read_split(ws.home, folder.name, model) for folder in folders for model in list_splits(ws.home, folder.name)
    ]
    for split in served:
        if split is not None and known.get((split.project, split.model, split.version)) != split.bundle_digest:
            named = f"{split.project}: model:{split.model}@{split.version} is served"
            held = (
                "with another bundle than" if (split.project, split.model, split.version) in known else "and is not in"
            )
            return "error", f"{named} {held} the registry", lost
    left = [name for name, pattern in (("tables", "*/*"), ("objects", "??/*")) if any((ws.home / name).glob(pattern))]
    if is_empty and left:
        return "error", f"the database is empty, and there are {' and '.join(left)} beside it", lost
    return "ok", f"{len(known)} versions, {len(served)} of them served", ""


def _control_plane(settings: Settings) -> Found:
    return _answers(str(settings.api.get("host", "127.0.0.1")), int(settings.api.get("port", 8000)), "/health")


def _data_plane(settings: Settings) -> Found:
    port = int(settings.serving.get("port", 8080))
    return _answers(str(settings.serving.get("host", "127.0.0.1")), port, "/health/live")


def _answers(host: str, port: int, path: str) -> Found:
    try:
        with urllib.request.urlopen(f"http://{host}:{port}{path}", timeout=2) as response:
            return "ok", f"answers at {host}:{port} ({response.status})", ""
    except OSError:
        return "warning", f"nothing answers at {host}:{port}", "mainspring up"


def _audit_chain(ws: Workspace) -> Found:
    report = audit.verify(ws)
    problems = [f"{chain.project}: {problem}" for chain in report.chains for problem in chain.problems]
    if problems:
        return "error", "; ".join(problems[:3]), "mainspring audit verify"
    return "ok", f"{sum(chain.events for chain in report.chains)} events in {len(report.chains)} chains", ""


def _aliases(ws: Workspace) -> Found:
    aliases, versions = tables.aliases, tables.model_versions
    same = sa.and_(aliases.c.project == versions.c.project, aliases.c.model == versions.c.model,
                   aliases.c.version == versions.c.version)  # fmt: skip
    query = sa.select(aliases, versions.c.status).select_from(aliases.outerjoin(versions, same))
    with ws.read() as tx:
        rows = tx.execute(query).all()
    for row in rows:
        named = f"{row.project}: model:{row.model}@{row.alias}"
        if row.status is None:
            return (
                "error",
                f"{named} points at version {row.version}, which does not exist",
                "mainspring models promote",
            )
        if row.status == "blocked" and row.alias == "production":
            return "error", f"{named} points at version {row.version}, which is blocked", "mainspring models rollback"
    return "ok", f"{len(rows)} aliases point at versions that exist", ""


def _approved(ws: Workspace) -> Found:
    asked = 0
    for version in _live(ws):
        if any(verdict.gate == "approved" for verdict in version.verdicts):
            asked += 1
            if not valid_approvals(ws, version):
                return ("error", f"{version.project}: {version.ref} is live without an approval that binds it",
                        f"mainspring models approve {version.model}@{version.version}")  # fmt: skip
    return "ok", f"{asked} live versions asked for an approval and have one", ""


def _endpoints(ws: Workspace) -> Found:
    from mainspring.serving.split import read_split

    behind, followed = [], 0
    for version in _live(ws):
        split = read_split(ws.home, version.project, version.model)
        if split is not None:
            followed += 1
            if split.version != version.version:
                behind.append(f"{version.project}/{version.model} serves {split.version}, {version.version} is live")
    if behind:
        return "error", "; ".join(behind), "mainspring models promote MODEL@VERSION writes it again"
    return "ok", f"{followed} endpoints serve the live version", ""


def _runs(ws: Workspace) -> Found:
    runs, leases = tables.runs, tables.leases
    with ws.read() as tx:
        running = list(tx.execute(sa.select(runs.c.id).where(runs.c.status == "RUNNING")).scalars())
        held = set(tx.execute(sa.select(leases.c.name).where(leases.c.holder != "")).scalars())
    orphans = [run for run in running if f"run:{run}" not in held]
    if orphans:
        return "error", f"{len(orphans)} runs say RUNNING and nobody holds their lease", "mainspring worker --once"
    return "ok", f"{len(running)} running, each under a lease", ""


def _bundles(ws: Workspace) -> Found:
    rows = _versions(ws)
    missing = [
        f"{row.project}: model:{row.model}@{row.version}" for row in rows if not ws.objects.exists(row.bundle_digest)
    ]
    if missing:
        return "error", f"no bundle is stored for {', '.join(missing[:3])}", "restore the object store from a backup"
    return "ok", f"{len(rows)} versions have their bundle; --deep reads them", ""


def _bundles_read(ws: Workspace) -> Found:
    rows, broken = _versions(ws), []
    for row in rows:
        try:
            ws.objects.get(row.bundle_digest)  # raises when the bytes are not those of the digest
        except MainspringError as error:
            broken.append(f"{row.project}: model:{row.model}@{row.version}: {error.message}")
    if broken:
        return "error", _some(broken), "restore the object store from a backup"
    return "ok", f"{len(rows)} bundles have the bytes of their digest", ""


def _tables(ws: Workspace) -> Found:
    places = {ws.home / "tables" / row.project / row.name for row in _dataset_versions(ws)}
    missing = [f"{path.parent.name}: dataset:{path.name}" for path in sorted(places) if not path.is_dir()]
    if missing:
        return "error", f"no table is stored for {_some(missing)}", f"restore {ws.home / 'tables'} from a backup"
    return "ok", f"{len(places)} datasets have their table; --deep reads them", ""


def _tables_read(ws: Workspace) -> Found:
    from mainspring.data import datasets

    rows, broken = _dataset_versions(ws), []
    for row in rows:
        try:
            datasets.read(ws, row.project, row.name, row.version)
        except Exception as error:  # whatever a library says of a file it cannot read: the other tables count too
            said = error.message if isinstance(error, MainspringError) else f"{type(error).__name__}: {error}"
            broken.append(f"{row.project}: dataset:{row.name}@{row.version}: {said.splitlines()[0]}")
    if broken:
        return "error", _some(broken), f"restore {ws.home / 'tables'} from a backup"
    return "ok", f"{len(rows)} versions of datasets have the rows that were recorded", ""


def _some(found: list[str]) -> str:
    return "; ".join(found[:3]) + (f"; and {len(found) - 3} more" if len(found) > 3 else "")


def _outbox(ws: Workspace) -> Found:
    outbox = tables.outbox
    with ws.read() as tx:
        dead = tx.execute(sa.select(sa.func.count()).where(outbox.c.status == "dead")).scalar() or 0
        late = tx.execute(
            sa.select(sa.func.count()).where(
                outbox.c.status == "pending", outbox.c.created_at < ws.clock.now() - _STALE
            )
        ).scalar()
    if dead:
        return "warning", f"{dead} messages were given up on", "mainspring doctor --json, then look at the receiver"
    return (
        ("warning", f"{late} messages wait for over an hour", "mainspring up") if late else ("ok", "nothing waits", "")
    )


def _idempotency(ws: Workspace) -> Found:
    with ws.read() as tx:
        rows = tx.execute(sa.select(tables.idempotency.c.response, tables.idempotency.c.created_at)).all()
    stuck = sum(1 for row in rows if not row.response and row.created_at < ws.clock.now() - _STALE)
    return ("warning", f"{stuck} requests never ended", "repeat them with the same key") if stuck else (
        "ok", f"{len(rows)} keys remembered", "")  # fmt: skip


def _versions(ws: Workspace) -> list[Any]:
    found = tables.model_versions.c
    with ws.read() as tx:
        return list(tx.execute(sa.select(found.project, found.model, found.version, found.bundle_digest)).all())


def _dataset_versions(ws: Workspace) -> list[Any]:
    """Return the versions whose rows retention has not deleted."""
    found = tables.dataset_versions.c
    query = sa.select(found.project, found.name, found.version).where(found.expired_at.is_(None))
    with ws.read() as tx:
        return list(tx.execute(query.order_by(found.project, found.name, found.version)).all())


def _live(ws: Workspace) -> Iterator[ModelVersion]:
    from mainspring.registry.models import get_version

    query = sa.select(tables.aliases).where(tables.aliases.c.alias == "production")
    with ws.read() as tx:
        rows = tx.execute(query).all()
    for row in rows:
        yield get_version(ws, row.project, row.model, row.version)
