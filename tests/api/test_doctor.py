from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from mainspring.api.doctor import Checkup, examine
from mainspring.cli.main import run
from mainspring.core.errors import Unavailable
from mainspring.core.settings import load_settings
from mainspring.data import datasets
from mainspring.data.datasets import Dataset
from mainspring.data.sources import FileSource
from mainspring.serving.split import SplitFile, write_split
from mainspring.store import tables
from mainspring.store.workspace import Workspace

GONE = "sha256:" + "0" * 64


def _levels(checkup: Checkup) -> dict[str, str]:
    return {check.name: check.level for check in checkup.checks}


def test_a_fresh_installation_is_well(workspace: Workspace) -> None:
    checkup = examine(workspace)
    assert checkup.well, checkup.checks
    assert _levels(checkup)["audit chain"] == "ok"


def _version(ws: Workspace, status: str = "ready") -> sa.Executable:
    return tables.model_versions.insert().values(
        project="fraud", model="scorer", version=1, bundle_digest=ws.objects.put(b"bundle"), run_id="r",
        report_digest="", policy_digest="", author="ann", status=status, created_at=ws.clock.now(), lineage={},
        metrics={}, verdicts=[{"gate": "approved", "passed": True, "reason": "", "facts": {}}],
    )  # fmt: skip


def _alias(ws: Workspace, version: int) -> sa.Executable:
    return tables.aliases.insert().values(
        project="fraud", model="scorer", alias="production", version=version, moved_at=ws.clock.now()
    )


def _running(ws: Workspace) -> sa.Executable:
    return tables.runs.insert().values(
        id="r1", project="fraud", pipeline="scorer", logical_time="t", trigger="manual", params={}, status="RUNNING",
        actor="ann", created_at=ws.clock.now(),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "break_it", "words"),
    [
        ("aliases", lambda ws: [_alias(ws, 7)], "does not exist"),
        ("aliases", lambda ws: [_version(ws, "blocked"), _alias(ws, 1)], "blocked"),
        ("approvals", lambda ws: [_version(ws), _alias(ws, 1)], "without an approval"),
        ("bundles", lambda ws: [_version(ws), tables.model_versions.update().values(bundle_digest=GONE)],
         "no bundle is stored"),
        ("runs", lambda ws: [_running(ws)], "nobody holds their lease"),
        ("audit chain", lambda ws: [tables.events.update().values(actor="eve")], "was changed"),
    ],
)  # fmt: skip
def test_a_broken_invariant_is_named(workspace: Workspace, name: str, break_it: object, words: str) -> None:
    with workspace.change("fraud") as change:
        change.event("declaration.applied", "project:fraud")
    for statement in break_it(workspace):  # type: ignore[operator]
        with workspace.database.write() as connection:
            connection.execute(statement)
    checkup = examine(workspace)
    found = next(check for check in checkup.checks if check.name == name)
    assert (found.level, words in found.detail, bool(found.hint)) == ("error", True, True), found
    assert not checkup.well


def test_a_state_file_that_others_can_read_is_an_error(local_workspace: Workspace) -> None:
    (local_workspace.home / "mainspring.db").chmod(0o644)
    assert _levels(examine(local_workspace))["file modes"] == "error"


def test_deep_reads_the_bytes_of_every_bundle(local_workspace: Workspace) -> None:
    with local_workspace.database.write() as connection:
        connection.execute(_version(local_workspace))
    assert _levels(examine(local_workspace, deep=True))["bundles"] == "ok"
    for path in (local_workspace.home / "objects").rglob("*"):
        if path.is_file():
            path.chmod(0o600)
            path.write_bytes(b"other")
    assert _levels(examine(local_workspace))["bundles"] == "ok"
    assert _levels(examine(local_workspace, deep=True))["bundles"] == "error"


def _check(checkup: Checkup, name: str) -> tuple[str, str, str]:
    return next((check.level, check.detail, check.hint) for check in checkup.checks if check.name == name)


def test_a_database_made_anew_beside_what_is_served_is_an_error(local_workspace: Workspace) -> None:
    split = SplitFile("fraud", "scorer", 3, GONE, "2026-01-01T00:00:00Z")
    write_split(local_workspace.home, "fraud", "scorer", split)
    level, detail, hint = _check(examine(local_workspace), "registry")
    assert (level, "backups" in hint) == ("error", True)
    assert "model:scorer@3 is served and is not in the registry" in detail


def test_a_version_served_with_another_bundle_is_an_error(local_workspace: Workspace) -> None:
    with local_workspace.database.write() as connection:
        connection.execute(_version(local_workspace))
    write_split(local_workspace.home, "fraud", "scorer", SplitFile("fraud", "scorer", 1, GONE, "2026-01-01T00:00:00Z"))
    assert "with another bundle" in _check(examine(local_workspace), "registry")[1]


def test_an_empty_database_beside_objects_is_an_error(local_workspace: Workspace) -> None:
    local_workspace.objects.put(b"kept")
    assert _check(examine(local_workspace), "registry")[:2] == (
        "error", "the database is empty, and there are objects beside it",
    )  # fmt: skip


def _cut(files: list[Path]) -> None:
    files[0].write_bytes(b"short")


def _scramble(files: list[Path]) -> None:
    files[0].write_bytes(b"x" * files[0].stat().st_size)


@pytest.mark.parametrize("harm", [lambda files: files[0].unlink(), _cut, _scramble], ids=["gone", "cut", "scrambled"])
def test_deep_opens_every_table(local_workspace: Workspace, tmp_path: Path, harm: Callable[[list[Path]], None]) -> None:
    (tmp_path / "visits.csv").write_text("id,n\n1,2\n2,3\n")
    spec = Dataset("visits", FileSource(str(tmp_path / "visits.csv")), key=("id",))
    datasets.ingest(local_workspace, "shop", spec)
    assert _levels(examine(local_workspace, deep=True))["tables"] == "ok"
    harm(sorted((local_workspace.home / "tables" / "shop" / "visits").rglob("*.parquet")))
    level, detail, hint = _check(examine(local_workspace, deep=True), "tables")
    assert (level, "shop: dataset:visits@1" in detail, "from a backup" in hint) == ("error", True, True)


def test_a_table_that_is_gone_is_an_error_without_deep(local_workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "visits.csv").write_text("id,n\n1,2\n2,3\n")
    datasets.ingest(local_workspace, "shop", Dataset("visits", FileSource(str(tmp_path / "visits.csv")), key=("id",)))
    (local_workspace.home / "tables" / "shop" / "visits").rename(tmp_path / "elsewhere")
    assert "dataset:visits" in _check(examine(local_workspace), "tables")[1]


def test_a_missing_object_is_unavailable_and_doctor_does_not_send_to_itself(local_workspace: Workspace) -> None:
    with pytest.raises(Unavailable, match="missing") as caught:
        local_workspace.objects.get(GONE)
    assert "backup" in caught.value.hint
    with local_workspace.database.write() as connection:
        connection.execute(_version(local_workspace))
        connection.execute(tables.model_versions.update().values(bundle_digest=GONE))
    level, detail, hint = _check(examine(local_workspace, deep=True), "bundles")
    assert (level, "model:scorer@1" in detail, "doctor" in hint) == ("error", True, False)


def test_the_other_checks_are_shown_when_the_database_does_not_open(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = load_settings(tmp_path, environment={}).home
    home.mkdir(mode=0o700)
    (home / "mainspring.db").write_bytes(b"this is no database" * 100)
    assert run(["-C", str(tmp_path), "doctor"]) == 1
    shown = capsys.readouterr().out
    assert "python" in shown
    assert "the decisions database is damaged" in shown
