import pytest
import sqlalchemy as sa

from mainspring.api.doctor import Checkup, examine
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
