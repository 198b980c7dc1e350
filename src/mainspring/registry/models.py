"""Model versions and the aliases that point at them, now and at any time before."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, TypeVar

import sqlalchemy as sa

from mainspring.core.errors import Conflict, Invalid, NotFound, Refused, nearest
from mainspring.core.records import ModelVersion, Verdict
from mainspring.core.ref import check_name
from mainspring.store.tables import alias_moves, aliases, model_versions
from mainspring.store.workspace import Workspace

PRODUCTION = "production"
BLOCKED = "blocked"
_TRIES = 5
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Move:
    """One move of an alias; `previous` is None for its first."""

    alias: str
    version: int
    previous: int | None
    at: datetime
    actor: str
    reason: str


def register(
    ws: Workspace,
    project: str,
    model: str,
    *,
    bundle_digest: str,
    run_id: str,
    report_digest: str,
    policy_digest: str,
    metrics: Mapping[str, float],
    verdicts: Sequence[Verdict],
    author: str,
    lineage: Mapping[str, Any] | None = None,
) -> ModelVersion:
    """Give what a run made the model's next version number; a run, or a bundle, that has one gets the same again.

    A bundle keeps its number under one policy of gates, whichever of two runs at once registers it first.

    Args:
        metrics: Figures of quality; those that are not finite are left out.
        lineage: What the version came from: digests of data, code and environment.

    Raises:
        Conflict: the run registered another bundle before.
    """
    check_name(model, "model")
    row = {
        "bundle_digest": bundle_digest,
        "run_id": run_id,
        "report_digest": report_digest,
        "policy_digest": policy_digest,
        "metrics": {name: float(value) for name, value in metrics.items() if abs(value) < float("inf")},
        "verdicts": [asdict(verdict) for verdict in verdicts],
        "author": author,
        "status": _status(verdicts),
        "lineage": dict(lineage or {}),
    }
    return _again(lambda: _register(ws, project, model, row))


def _register(ws: Workspace, project: str, model: str, row: dict[str, Any]) -> ModelVersion:
    with ws.change(project) as change:
        change.queue(f"versions/{model}")
        known = change.execute(_of(project, model).where(model_versions.c.run_id == row["run_id"])).mappings().first()
        if known is not None:
            if known["bundle_digest"] != row["bundle_digest"]:
                ref = f"model:{model}@{known['version']}"
                raise Conflict(f"run {row['run_id']} registered another bundle, {known['bundle_digest']}, as {ref}")
            return _version(known)
        named = _named(model_versions, project, model)
        same = (
            model_versions.c.bundle_digest == row["bundle_digest"],
            model_versions.c.policy_digest == row["policy_digest"],
        )
        query = _of(project, model).where(*same).order_by(model_versions.c.version.desc())
        if (known := change.execute(query).mappings().first()) is not None:
            return _version(known)
        number = (change.execute(sa.select(sa.func.max(model_versions.c.version)).where(*named)).scalar() or 0) + 1
        now = ws.clock.now()
        change.execute(
            model_versions.insert().values(project=project, model=model, version=number, created_at=now, **row)
        )
        made = _version({**row, "project": project, "model": model, "version": number, "created_at": now})
        told = {name: row[name] for name in ("bundle_digest", "run_id", "report_digest", "policy_digest", "metrics")}
        change.event("model.registered", made.ref, told)
        change.outbox("mlflow", {"kind": "model_version", **_mirrored(made)})
        return made


def get_version(ws: Workspace, project: str, model: str, version: int | str) -> ModelVersion:
    """Return a version by its number or by an alias that points at it.

    Raises:
        NotFound: there is no such model, version or alias.
    """
    with ws.read() as tx:
        number = int(version) if isinstance(version, int) or version.isdecimal() else None
        if number is None:
            query = sa.select(aliases.c.version).where(*_named(aliases, project, model), aliases.c.alias == version)
            number = tx.execute(query).scalar()
        row = (
            tx.execute(_of(project, model).where(model_versions.c.version == number)).mappings().first()
            if number is not None
            else None
        )
    if row is None:
        raise _missing(ws, project, model, version)
    return _version(row)


def get_lineage(ws: Workspace, project: str, model: str, version: int) -> dict[str, Any]:
    """Return what a version came from, as its run registered it."""
    query = sa.select(model_versions.c.lineage).where(
        *_named(model_versions, project, model), model_versions.c.version == version
    )
    with ws.read() as tx:
        row = tx.execute(query).first()
    if row is None:
        raise _missing(ws, project, model, version)
    lineage: dict[str, Any] = row.lineage
    return lineage


def list_versions(ws: Workspace, project: str, model: str) -> list[ModelVersion]:
    """Return every version of a model, the newest first; empty for a model that has none."""
    with ws.read() as tx:
        rows = tx.execute(_of(project, model).order_by(model_versions.c.version.desc())).mappings().all()
    return [_version(row) for row in rows]


def set_alias(
    ws: Workspace, project: str, model: str, alias: str, version: int, *, reason: str, expected: int | None = None
) -> int | None:
    """Point an alias at a version and return the version it pointed at before; pointing it there again does nothing.

    Args:
        reason: Why, in a sentence; it stays in the record.
        expected: The version the alias must point at now, 0 for none; None for whatever it is.

    Raises:
        NotFound: there is no such version.
        Refused: the version is blocked.
        Conflict: the alias points elsewhere than `expected`.
    """
    check_name(alias, "alias")
    if alias.isdecimal() or alias == "latest":
        raise Invalid(f"{alias!r} cannot be an alias", hint="numbers are versions; use a word such as production")
    found = get_version(ws, project, model, version)

    def move() -> int | None:
        return _move(ws, found, alias, reason, expected)

    return move() if expected is not None else _again(move)


def _move(ws: Workspace, found: ModelVersion, alias: str, reason: str, expected: int | None) -> int | None:
    project, model, version = found.project, found.model, found.version
    alias_of = [*_named(aliases, project, model), aliases.c.alias == alias]
    with ws.change(project) as change:
        # Locked and read again inside the transaction: a block that was set meanwhile must win.
        status = change.execute(
            sa.select(model_versions.c.status)
            .where(*_named(model_versions, project, model), model_versions.c.version == version)
            .with_for_update()
        ).scalar()
        if status == BLOCKED:
            raise Refused(f"{found.ref} is blocked", hint=f"mainspring models unblock {model}@{version} --reason ...")
        current: int | None = change.execute(sa.select(aliases.c.version).where(*alias_of).with_for_update()).scalar()
        if expected is not None and (current or 0) != expected:
            raise Conflict(
                f"{alias!r} of {model!r} points at {current or 'nothing'}, not at {expected or 'nothing'}",
                hint=f"look again: mainspring models list {model}",
            )
        if current == version:
            return current
        now = ws.clock.now()
        if current is None:
            change.execute(
                aliases.insert().values(project=project, model=model, alias=alias, version=version, moved_at=now)
            )
        else:
            change.execute(aliases.update().where(*alias_of).values(version=version, moved_at=now))
        moves_of = [*_named(alias_moves, project, model), alias_moves.c.alias == alias]
        last = change.execute(sa.select(sa.func.max(alias_moves.c.seq)).where(*moves_of)).scalar() or 0
        change.execute(
            alias_moves.insert().values(
                project=project, model=model, alias=alias, seq=last + 1, version=version, previous=current, at=now,
                actor=ws.actor, reason=reason,
            )
        )  # fmt: skip
        told = {"alias": alias, "version": version, "previous": current, "reason": reason}
        change.event("model.alias_moved", found.ref, told)
        change.outbox("mlflow", {"kind": "alias", "alias": alias, **_mirrored(found)})
        return current


def live(ws: Workspace, project: str, model: str) -> ModelVersion | None:
    """Return the version that `production` points at, or None."""
    query = _of(project, model).join(
        aliases,
        sa.and_(
            *_named(aliases, project, model),
            aliases.c.alias == PRODUCTION,
            aliases.c.version == model_versions.c.version,
        ),
    )
    with ws.read() as tx:
        row = tx.execute(query).mappings().first()
    return _version(row) if row else None


def as_of(ws: Workspace, project: str, model: str, alias: str, at: datetime) -> int | None:
    """Return the number of the version that an alias pointed at, at an instant; None before its first move."""
    moves = [move for move in history(ws, project, model, alias) if move.at <= at]
    return moves[-1].version if moves else None


def history(ws: Workspace, project: str, model: str, alias: str = PRODUCTION) -> list[Move]:
    """Return the moves of an alias, the oldest first."""
    columns = [alias_moves.c[name] for name in ("alias", "version", "previous", "at", "actor", "reason")]
    query = sa.select(*columns).where(*_named(alias_moves, project, model), alias_moves.c.alias == alias)
    with ws.read() as tx:
        return [Move(**row) for row in tx.execute(query.order_by(alias_moves.c.seq)).mappings()]


def previous(ws: Workspace, project: str, model: str, alias: str = PRODUCTION) -> ModelVersion | None:
    """Return the version to go back to: the last that the alias pointed at before and that is not blocked.

    Going back twice goes further back, not forth again: what came after the version that is live now does not count.
    """
    moves = history(ws, project, model, alias)
    if not moves:
        return None
    current = moves[-1].version
    first = next(index for index, move in enumerate(moves) if move.version == current)
    for move in reversed(moves[:first]):
        found = get_version(ws, project, model, move.version)
        if found.status != BLOCKED:
            return found
    return None


def record_verdicts(ws: Workspace, project: str, model: str, version: int, verdicts: Sequence[Verdict]) -> ModelVersion:
    """Record what the gates said of a version; the same verdicts again change nothing."""
    found = get_version(ws, project, model, version)
    if tuple(verdicts) == found.verdicts and found.status != "registered":
        return found
    status = found.status if found.status == BLOCKED else _status(verdicts, judged=True)
    rows = [asdict(verdict) for verdict in verdicts]
    told = {"passed": all(v.passed for v in verdicts), "verdicts": [[v.gate, v.passed, v.reason] for v in verdicts]}
    _update(ws, found, "model.judged", told, verdicts=rows, status=status)
    return get_version(ws, project, model, version)


def block(ws: Workspace, project: str, model: str, version: int, *, reason: str) -> None:
    """Keep a version from going live again; the version that is live stays until the alias moves."""
    found = get_version(ws, project, model, version)
    if found.status != BLOCKED:
        _update(ws, found, "model.blocked", {"reason": reason}, status=BLOCKED)


def unblock(ws: Workspace, project: str, model: str, version: int, *, reason: str) -> None:
    """Let a blocked version go live again, if its gates let it."""
    found = get_version(ws, project, model, version)
    if found.status == BLOCKED:
        _update(ws, found, "model.unblocked", {"reason": reason}, status=_status(found.verdicts))


def _update(ws: Workspace, found: ModelVersion, event: str, told: dict[str, Any], **values: Any) -> None:
    named = _named(model_versions, found.project, found.model)
    with ws.change(found.project) as change:
        change.execute(
            model_versions.update().where(*named, model_versions.c.version == found.version).values(**values)
        )
        change.event(event, found.ref, told)


def _mirrored(version: ModelVersion) -> dict[str, Any]:
    """Return what another registry needs to hold the version; each message carries it, whichever arrives first."""
    return {
        name: getattr(version, name) for name in ("project", "model", "version", "bundle_digest", "run_id", "author")
    }


def _status(verdicts: Sequence[Verdict], *, judged: bool = False) -> str:
    """Return registered (not judged yet), proven or unproven."""
    if not verdicts and not judged:
        return "registered"
    return "proven" if all(verdict.passed for verdict in verdicts) else "unproven"


def _again(change: Callable[[], T]) -> T:
    """Repeat a change that another one outran: both read the same last number, and one of them wrote first."""
    for _ in range(_TRIES - 1):
        try:
            return change()
        except Conflict as error:
            if error.__cause__ is None:  # raised by us, not by the database
                raise
    return change()


def _of(project: str, model: str) -> sa.Select[Any]:
    return sa.select(model_versions).where(*_named(model_versions, project, model))


def _named(table: sa.Table, project: str, model: str) -> list[sa.ColumnElement[bool]]:
    return [table.c.project == project, table.c.model == model]


def _version(row: Any) -> ModelVersion:
    fields = {name: row[name] for name in ModelVersion.__dataclass_fields__}
    return ModelVersion(**{**fields, "verdicts": tuple(Verdict(**verdict) for verdict in row["verdicts"])})


def _missing(ws: Workspace, project: str, model: str, version: int | str) -> NotFound:
    with ws.read() as tx:
        names = tx.execute(sa.select(model_versions.c.model).where(model_versions.c.project == project)).scalars().all()
        pointing = tx.execute(sa.select(aliases.c.alias).where(*_named(aliases, project, model))).scalars().all()
    if model not in names:
        return NotFound(
            f"project {project!r} has no version of a model {model!r}{nearest(model, names)}",
            hint="mainspring models list",
        )
    if isinstance(version, int) or version.isdecimal():
        return NotFound(f"model {model!r} has no version {version}", hint=f"mainspring models list {model}")
    return NotFound(
        f"model {model!r} has no alias {version!r}{nearest(version, pointing)}",
        hint=f"mainspring models promote {model}@VERSION --alias {version}",
    )
