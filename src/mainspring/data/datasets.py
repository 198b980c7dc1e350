"""Versions of datasets: brought in under a contract, kept on Delta, read as they were."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import polars as pl
import sqlalchemy as sa

from mainspring.core.clock import parse_instant
from mainspring.core.errors import Invalid, NotFound, Refused, nearest
from mainspring.core.records import DatasetVersion, Finding
from mainspring.core.ref import canonical_json, check_name, digest_json
from mainspring.core.schema import Schema
from mainspring.core.units import human_duration
from mainspring.core.windows import Window, windows_between
from mainspring.data import delta
from mainspring.data.checks import Check
from mainspring.data.contract import CheckReport, run_checks
from mainspring.data.due import due_windows
from mainspring.data.evolution import conform
from mainspring.data.folders import keep_files
from mainspring.data.frames import canonical, content_digest
from mainspring.data.profile import Profile, profile
from mainspring.data.quarantine import set_aside
from mainspring.data.sources import FolderSource, Source
from mainspring.governance.privacy import ACTIONS, detect_personal, project_key, transform
from mainspring.store.tables import dataset_versions, dataset_windows
from mainspring.store.workspace import Change, Workspace

EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class Dataset:
    """A declared dataset.

    Args:
        name: Its name in the project.
        source: Where rows come from; `read(window)` gives them.
        key: Columns that name a row.
        time: Column of the event time.
        pii: Personal columns and what becomes of them: drop, hash or keep.
        retain: How long rows are kept by event time.
        checks: The contract.
        on_bad: Whether bad rows fail the ingest or are set aside.
        window_kind: Kind of window the source is read by; None reads all of it each time.
        start: First window to read; without it the last 30 that are over.
    """

    name: str
    source: Source
    key: tuple[str, ...] = ()
    time: str | None = None
    pii: Mapping[str, str] = field(default_factory=dict)
    retain: timedelta | None = None
    checks: tuple[Check, ...] = ()
    on_bad: Literal["fail", "quarantine"] = "fail"
    window_kind: type[Window] | None = None
    start: datetime | str | None = None


@dataclass(frozen=True, slots=True)
class IngestResult:
    """What an ingest did: the version that holds now, whether it is new, the windows read, and what was found.

    `report` is that of the newest window; `findings` name columns that seem personal and are not declared so.
    """

    version: DatasetVersion
    new: bool
    windows: tuple[str, ...]
    report: CheckReport
    quarantined: int
    findings: tuple[Finding, ...] = ()


class ContractBroken(Refused):
    """The data breaks its contract; `report` says where."""

    report: CheckReport | None = None


def ingest(
    ws: Workspace, project: str, spec: Dataset, *, now: datetime | None = None,
    windows: Iterable[Window | str] | None = None, rerun: bool = False,
) -> IngestResult:  # fmt: skip
    """Bring a dataset up to date: its whole source, or the windows that are missing, each as one version.

    The same content gives the same version. Personal data is dropped or hashed and the contract checked before
    anything is stored. A killed ingest leaves either nothing or a version that the next one records.

    Args:
        ws: The workspace.
        project: Project of the dataset.
        spec: The declared dataset.
        now: The instant that freshness and missing windows are measured from.
        windows: Read these windows only.
        rerun: Read again what is there already; a window read again replaces its rows.

    Raises:
        ContractBroken: the contract does not hold; nothing is stored of this window, and an event tells why.
        Invalid: the columns changed other than by new ones, or the declaration does not fit the data.
    """
    now = now or ws.clock.now()
    _check_spec(project, spec)
    with lock(ws, project, spec.name):
        _check_kind(spec, row_of(ws, project, spec.name))
        if spec.window_kind is None:
            if windows is not None:
                raise Invalid(f"dataset {spec.name!r} is not read by window",
                              hint=f"def {spec.name}(day: ms.Day) reads it by day")  # fmt: skip
            return _ingest_all(ws, project, spec, now, rerun)
        due = due_windows(spec.window_kind, _held_windows(ws, project, spec.name), now, start=spec.start,
                          retain=spec.retain, asked=windows, rerun=rerun)  # fmt: skip
        results = [_ingest_one(ws, project, spec, window, now) for window in due]
        found = latest(ws, project, spec.name) if not results else results[-1].version
        if found is None:
            raise Invalid(f"no {spec.window_kind.kind} of dataset {spec.name!r} is over at {now:%Y-%m-%dT%H:%MZ}",
                          hint="let start= lie in the past")  # fmt: skip
        findings = dict.fromkeys(finding for result in results for finding in result.findings)
        return IngestResult(
            found, any(result.new for result in results), tuple(map(str, due)),
            results[-1].report if results else run_checks(pl.DataFrame(), (), now=now),
            sum(result.quarantined for result in results), tuple(findings),
        )  # fmt: skip


def backfill(ws: Workspace, project: str, spec: Dataset, start: datetime, end: datetime) -> IngestResult:
    """Read again every window in `[start, end)`; each replaces the rows it had."""
    if spec.window_kind is None:
        raise Invalid(f"dataset {spec.name!r} is not read by window, so nothing can be filled back",
                      hint=f"def {spec.name}(day: ms.Day) reads it by day")  # fmt: skip
    windows = list(windows_between(spec.window_kind, start, end))
    if not windows:
        raise Invalid(f"no whole {spec.window_kind.kind} lies between {start:%Y-%m-%dT%H:%M} and {end:%Y-%m-%dT%H:%M}",
                      hint="widen the span")  # fmt: skip
    return ingest(ws, project, spec, windows=windows, rerun=True)


def latest(ws: Workspace, project: str, name: str) -> DatasetVersion | None:
    """Return the newest version, or None when there is none."""
    row = row_of(ws, project, name)
    return None if row is None else _version(row)


def get_version(ws: Workspace, project: str, name: str, version: int | None = None) -> DatasetVersion:
    """Return a version, the newest when None.

    Raises:
        NotFound: no such dataset or version.
    """
    row = row_of(ws, project, name, version)
    if row is not None:
        return _version(row)
    if version is not None and (newest := row_of(ws, project, name)) is not None:
        raise NotFound(f"dataset {name!r} has no version {version}; the newest is {newest['version']}",
                       hint=f"mainspring data show {name}")  # fmt: skip
    names = [found.name for found in list_datasets(ws, project)]
    raise NotFound(f"no dataset {name!r} in project {project!r}{nearest(name, names)}", hint="mainspring data list")


def list_datasets(ws: Workspace, project: str) -> list[DatasetVersion]:
    """Return the newest version of every dataset of a project, by name."""
    newest = (
        sa.select(dataset_versions.c.name, sa.func.max(dataset_versions.c.version).label("version"))
        .where(dataset_versions.c.project == project).group_by(dataset_versions.c.name).subquery()
    )  # fmt: skip
    query = sa.select(dataset_versions).where(dataset_versions.c.project == project).join(
        newest, (newest.c.name == dataset_versions.c.name) & (newest.c.version == dataset_versions.c.version)
    )  # fmt: skip
    with ws.read() as connection:
        return [_version(row) for row in connection.execute(query.order_by(dataset_versions.c.name)).mappings()]


def history(ws: Workspace, project: str, name: str) -> list[DatasetVersion]:
    """Return every version, newest first.

    Raises:
        NotFound: no such dataset.
    """
    get_version(ws, project, name)
    query = sa.select(dataset_versions).where(*_named(project, name)).order_by(dataset_versions.c.version.desc())
    with ws.read() as connection:
        return [_version(row) for row in connection.execute(query).mappings()]


def read(
    ws: Workspace, project: str, name: str, version: int | None = None, columns: Sequence[str] | None = None
) -> pl.DataFrame:
    """Return a version's rows, always in the same order: by window, then as the source gave them.

    Raises:
        NotFound: no such dataset, version or column, or retention has deleted the version's rows.
        Refused: the table on disk is not the version that was recorded.
    """
    path, found, names, windowed = _readable(ws, project, name, version, columns)
    frame = delta.read(path, found.version, windows=windowed, columns=names)
    if frame.height != found.rows and names:
        raise Refused(f"{found.ref} has {frame.height} rows on disk, {found.rows} were recorded",
                      hint="restore its table from a backup; mainspring doctor --deep")  # fmt: skip
    return frame


def scan(
    ws: Workspace, project: str, name: str, version: int | None = None, columns: Sequence[str] | None = None
) -> pl.LazyFrame:
    """Return a version's rows lazily, in the order of `read`; raises as `read` does."""
    path, found, names, windowed = _readable(ws, project, name, version, columns)
    return delta.scan(path, found.version, windows=windowed, columns=names)


def get_profile(ws: Workspace, project: str, name: str, version: int | None = None) -> Profile | None:
    """Return the figures taken when the version was made (of its window, if it has one)."""
    get_version(ws, project, name, version)
    row = row_of(ws, project, name, version)
    return None if row is None else _profile(ws, row)


def table_path(ws: Workspace, project: str, name: str) -> Path:
    """Return the folder of a dataset's table."""
    return ws.path("tables", check_name(project, "project"), check_name(name, "dataset"))


@contextmanager
def lock(ws: Workspace, project: str, name: str) -> Iterator[None]:
    """Hold a dataset for writing, once the commits whose writer died before their row was written are recorded."""
    with ws.name_lock(f"dataset-{project}-{name}"[:128]):
        row = row_of(ws, project, name)
        for commit in delta.commits(table_path(ws, project, name), row["version"] if row else 0):
            record(ws, project, name, commit)
        yield


def record(ws: Workspace, project: str, name: str, commit: delta.Commit) -> DatasetVersion:
    """Write a commit's row, window and event in one transaction; all that it needs stands in the commit."""
    facts = commit.facts
    if facts["kind"] == "retention":
        delta.vacuum(table_path(ws, project, name))  # before the row: a kill in between ends here again
    at, previous = parse_instant(facts["at"]), row_of(ws, project, name)
    with ws.change(project) as change:
        figures = _record_windows(change, project, name, commit.version, facts, at)
        if facts["kind"] == "retention":
            query = dataset_versions.update().where(*_named(project, name), dataset_versions.c.version < commit.version)
            change.execute(query.where(dataset_versions.c.expired_at.is_(None)).values(expired_at=at))
        values: dict[str, Any] = {
            "project": project, "name": name, "version": commit.version, "created_at": at, "schema": facts["schema"],
            "window": facts["window"], "previous": previous["version"] if previous else None,
            "fingerprint": facts["fingerprint"], "profile_digest": facts["profile"], "source": facts["source"],
        }  # fmt: skip
        change.execute(dataset_versions.insert().values(**values, **figures))
        told = {name: facts[name] for name in ("window", "added", "quarantined", "findings", "before", "deleted")
                if facts.get(name)}  # fmt: skip
        change.event("dataset.expired" if facts["kind"] == "retention" else "dataset.ingested",
                     f"dataset:{name}@{commit.version}", {**figures, **told, "actor": facts["actor"]})  # fmt: skip
    return get_version(ws, project, name, commit.version)


def facts_of(
    spec: Dataset, kind: Literal["ingest", "retention"], schema: Schema, now: datetime, actor: str
) -> dict[str, Any]:
    """Return the facts every commit carries, from which its row can be written later."""
    return {
        "kind": kind, "window": None, "schema": schema.to_json(), "at": now.isoformat(), "actor": actor,
        "fingerprint": None, "profile": None, "digest": "", "rows": 0, "windows": [],
        "source": {"from": spec.source.describe(), "key": list(spec.key), "time": spec.time,
                   "window": spec.window_kind.kind if spec.window_kind else None},
    }  # fmt: skip


def _record_windows(
    change: Change, project: str, name: str, version: int, facts: dict[str, Any], at: datetime
) -> dict[str, Any]:
    """Bring the table of windows up to a commit; return the digest and the rows of the version it makes."""
    if not facts["source"]["window"]:
        return {"digest": facts["digest"], "rows": facts["rows"]}
    table = dataset_windows
    mine = (table.c.project == project, table.c.name == name)
    new = {"version": version, "digest": facts["digest"], "rows": facts["rows"]}
    if facts["window"]:
        change.execute(table.delete().where(*mine, table.c.window == facts["window"]))
        change.execute(table.insert().values(project=project, name=name, window=facts["window"], ingested_at=at, **new))
    else:
        # The row stays as a tombstone: a window that was deleted is not missing.
        new |= {"digest": EXPIRED, "rows": 0}
        change.execute(table.update().where(*mine, table.c.window.in_(facts["windows"])).values(**new))
    rows = change.execute(sa.select(table.c.window, table.c.digest, table.c.rows).where(*mine)).all()
    held = {row.window: row.digest for row in rows if row.digest != EXPIRED}
    return {"digest": digest_json([facts["schema"], held]), "rows": sum(row.rows for row in rows)}


def _ingest_all(ws: Workspace, project: str, spec: Dataset, now: datetime, rerun: bool) -> IngestResult:
    row, fingerprint = row_of(ws, project, spec.name), _fingerprint(spec)
    if row is not None and fingerprint and row["fingerprint"] == fingerprint and not rerun:
        return IngestResult(_version(row), False, (), run_checks(pl.DataFrame(), (), now=now), 0)
    return _ingest_one(ws, project, spec, None, now, fingerprint)


def _ingest_one(
    ws: Workspace, project: str, spec: Dataset, window: Window | None, now: datetime, fingerprint: str | None = None
) -> IngestResult:
    """Read the source or one window of it, prove the contract, and commit what is new."""
    row = row_of(ws, project, spec.name)
    raw = _require(spec, canonical(spec.source.read(window)), window)
    if window is None:
        raw = retained(raw, spec, now)
    # A window without rows may come without columns: then there is nothing to check but their number. The age of a
    # window's rows counts from its end, or no old window could ever be read again.
    checks = spec.checks if raw.width else tuple(check for check in spec.checks if check.kind == "rows")
    report = run_checks(raw, checks, now=min(now, window.end) if window else now, time=spec.time,
                        reference=_profile(ws, row) if row else None,
                        private=[name for name, action in spec.pii.items() if action != "keep"])  # fmt: skip
    _prove(ws, project, spec, report, raw.height, window)
    findings = (*detect_personal(raw, spec.pii), *_outside(raw, spec, window))
    key = project_key(ws, project) if "hash" in spec.pii.values() else b""
    safe = transform(raw, spec.pii if raw.width else {}, key)
    good = safe.filter(pl.Series(~report.bad_rows, dtype=pl.Boolean))
    before = Schema.from_json(row["schema"]) if row is not None else None
    good, schema, added = conform(good, before, of=spec.name, windowed=window is not None, free=tuple(spec.pii))
    digest = content_digest(good)
    held = _held_windows(ws, project, spec.name).get(str(window)) if window else row and row["digest"]
    if row is not None and digest == held:
        _remember(ws, project, spec.name, row, fingerprint)
        return IngestResult(_version(row), False, (), report, 0, findings)
    quarantined = int(report.bad_rows.sum())
    if quarantined:
        set_aside(table_path(ws, project, spec.name), safe.filter(pl.Series(report.bad_rows)), report.reasons(), now)
    if isinstance(spec.source, FolderSource):
        keep_files(ws.objects, Path(spec.source.path), raw)  # the rows name contents: those stay as long as the version
    profile_digest = ws.objects.put(canonical_json(profile(good).to_json()))
    facts = facts_of(spec, "ingest", schema, now, ws.actor) | {
        "window": None if window is None else str(window), "digest": digest, "rows": good.height, "added": added,
        "fingerprint": fingerprint, "profile": profile_digest, "quarantined": quarantined,
        "findings": [finding.message for finding in findings],
    }  # fmt: skip
    version = delta.write(table_path(ws, project, spec.name), good, facts, window=facts["window"])
    return IngestResult(record(ws, project, spec.name, delta.Commit(version, facts)), True, (), report, quarantined,
                        findings)  # fmt: skip


def _check_spec(project: str, spec: Dataset) -> None:
    check_name(project, "project")
    check_name(spec.name, "dataset")
    for name, action in spec.pii.items():
        if action not in ACTIONS:
            raise Invalid(f"pii={{{name!r}: {action!r}}} is no treatment", hint="use 'drop', 'hash' or 'keep'")
        if action == "drop" and name in (*spec.key, spec.time):
            raise Invalid(f"dataset {spec.name!r} drops {name!r}, which is its key or time",
                          hint=f'pii={{"{name}": "hash"}} keeps rows apart without telling who is who')  # fmt: skip
    if spec.retain and not spec.time and not spec.window_kind:
        raise Invalid(f"dataset {spec.name!r} retains rows for {human_duration(spec.retain)} but has no time",
                      hint='declare it: dataset(..., time="at")')  # fmt: skip


def retained(frame: pl.DataFrame, spec: Dataset, now: datetime) -> pl.DataFrame:
    """Return the rows that are young enough to keep; a row without a time is kept."""
    if not spec.retain or not spec.time:
        return frame
    at = pl.col(spec.time).cast(pl.Datetime("us", "UTC"))
    return frame.filter((at >= now - spec.retain) | at.is_null())


def _check_kind(spec: Dataset, row: Mapping[str, Any] | None) -> None:
    kind = spec.window_kind.kind if spec.window_kind else None
    if row is not None and row["source"]["window"] != kind:
        raise Invalid(f"dataset {spec.name!r} was read {_by(row['source']['window'])} and is now declared {_by(kind)}",
                      hint="give the dataset a new name")  # fmt: skip


def _by(kind: str | None) -> str:
    return f"by {kind}" if kind else "as a whole"


def _require(spec: Dataset, frame: pl.DataFrame, window: Window | None) -> pl.DataFrame:
    """Return the frame if it has what the declaration names."""
    for what, names in (("key", spec.key), ("time", [spec.time] if spec.time else []), ("pii", spec.pii)):
        for name in names:
            if name not in frame.columns and (frame.height or window is None):
                raise Invalid(
                    f"dataset {spec.name!r} declares {what}={name!r}, which its source does not have"
                    f"{nearest(name, frame.columns)}", hint=f"columns: {', '.join(frame.columns)}",
                )  # fmt: skip
    if spec.time and spec.time in frame.columns and frame.schema[spec.time] in (pl.String, pl.Boolean) and frame.height:
        raise Invalid(f"the time column {spec.time!r} of dataset {spec.name!r} holds {frame.schema[spec.time]}",
                      hint="read it as an instant, or declare another column")  # fmt: skip
    if spec.retain and spec.time and frame.height and not frame.schema[spec.time].is_temporal():
        raise Invalid(f"dataset {spec.name!r} retains rows by {spec.time!r}, which holds {frame.schema[spec.time]}",
                      hint="read it as an instant, or leave retain out")  # fmt: skip
    return frame


def _prove(ws: Workspace, project: str, spec: Dataset, report: CheckReport, rows: int, window: Window | None) -> None:
    """Raise, and leave an event, when the contract does not hold and setting rows aside cannot mend it."""
    left = rows - int(report.bad_rows.sum())
    if report.passed and (rows or window is not None):
        return
    if spec.on_bad == "quarantine" and report.only_rows_fail and left:
        return
    of = f"{spec.name!r}{f' ({window})' if window else ''}"
    reasons = [f"{result.check}: {result.reason}" for result in report.failures] or ["there are no rows"]
    with ws.change(project) as change:
        change.event("dataset.refused", f"dataset:{spec.name}", {
            "window": None if window is None else str(window), "rows": rows, "reasons": reasons[:20],
        })  # fmt: skip
    mendable = report.failures and report.only_rows_fail and left and spec.on_bad == "fail"
    hint = "mend the source" + (', or on_bad="quarantine" sets bad rows aside' if mendable else " or the contract")
    error = ContractBroken(f"dataset {of} breaks its contract: {'; '.join(reasons[:5])}", hint=hint)
    error.report = report
    raise error


def _outside(frame: pl.DataFrame, spec: Dataset, window: Window | None) -> tuple[Finding, ...]:
    """Return a warning when rows lie outside their window: a function that ignores its window doubles its rows."""
    if window is None or not spec.time or not frame.height or not frame.schema[spec.time].is_temporal():
        return ()
    at = pl.col(spec.time).cast(pl.Datetime("us", "UTC"))
    count = frame.select(((at < window.start) | (at >= window.end)).sum()).item()
    message = f"{count} of {frame.height} rows read for {window} have their {spec.time} outside it"
    return (Finding("outside-window", spec.time, message, "warning", count=count),) if count else ()


def _fingerprint(spec: Dataset) -> str | None:
    """Return what must be unchanged for a source not to be read again; None when it must be read to know."""
    if any(check.kind == "fresh" or check.function is not None for check in spec.checks) or spec.retain:
        return None
    found = spec.source.fingerprint()
    parts = [found, list(spec.key), spec.time, dict(spec.pii), [str(check) for check in spec.checks], spec.on_bad]
    return digest_json(parts) if found else None


def _remember(ws: Workspace, project: str, name: str, row: Mapping[str, Any], fingerprint: str | None) -> None:
    """Note that another state of the source holds the content of a version."""
    if fingerprint and fingerprint != row["fingerprint"]:
        query = dataset_versions.update().where(*_named(project, name), dataset_versions.c.version == row["version"])
        with ws.change(project) as change:
            change.execute(query.values(fingerprint=fingerprint))


def _held_windows(ws: Workspace, project: str, name: str) -> dict[str, str]:
    """Return the digest of every window read so far, `EXPIRED` where retention deleted it."""
    table = dataset_windows
    query = sa.select(table.c.window, table.c.digest).where(table.c.project == project, table.c.name == name)
    with ws.read() as connection:
        return {row.window: row.digest for row in connection.execute(query)}


def _readable(
    ws: Workspace, project: str, name: str, version: int | None, columns: Sequence[str] | None
) -> tuple[Path, DatasetVersion, list[str], bool]:
    found = get_version(ws, project, name, version)
    row = row_of(ws, project, name, found.version)
    assert row is not None
    if row["expired_at"] is not None:
        raise NotFound(f"retention deleted rows of {found.ref} on {row['expired_at']:%Y-%m-%d}; it cannot be read",
                       hint=f"mainspring data show {name} lists the versions that can")  # fmt: skip
    for column in columns or ():
        found.schema[column]  # raises, naming the nearest
    names = list(found.schema.names if columns is None else columns)
    return table_path(ws, project, name), found, names, row["source"]["window"] is not None


def row_of(ws: Workspace, project: str, name: str, version: int | None = None) -> Mapping[str, Any] | None:
    """Return a version's whole record, the newest when None."""
    query = sa.select(dataset_versions).where(*_named(project, name))
    if version is not None:
        query = query.where(dataset_versions.c.version == version)
    with ws.read() as connection:
        row = connection.execute(query.order_by(dataset_versions.c.version.desc()).limit(1)).mappings().first()
        return None if row is None else dict(row)


def _profile(ws: Workspace, row: Mapping[str, Any]) -> Profile | None:
    return Profile.from_json(json.loads(ws.objects.get(row["profile_digest"]))) if row["profile_digest"] else None


def _named(project: str, name: str) -> tuple[sa.ColumnElement[bool], sa.ColumnElement[bool]]:
    return dataset_versions.c.project == project, dataset_versions.c.name == name


def _version(row: Mapping[str, Any] | sa.RowMapping) -> DatasetVersion:
    return DatasetVersion(
        row["project"], row["name"], row["version"], row["digest"], row["rows"], Schema.from_json(row["schema"]),
        row["created_at"], row["window"], row["previous"],
    )  # fmt: skip
