from dataclasses import replace

import pytest

from mainspring.core.errors import Conflict, Forbidden, Refused
from mainspring.core.records import ModelVersion
from mainspring.governance.approvals import approve, list_approvals, require_approval, valid_approvals
from mainspring.governance.audit import read_log
from mainspring.store.workspace import Workspace


@pytest.fixture
def version(workspace: Workspace) -> ModelVersion:
    return ModelVersion(
        "fraud",
        "scorer",
        3,
        "sha256:b",
        "run-1",
        "sha256:r",
        "sha256:p",
        {},
        (),
        "alice",
        "ready",
        workspace.clock.now(),
    )


def test_another_actor_approves_and_the_log_holds_the_digests(workspace: Workspace, version: ModelVersion) -> None:
    approval = approve(workspace.with_actor("bob"), version, role="approver", comment="looks right")
    assert require_approval(workspace, version) == approval
    event = read_log(workspace, "fraud")[0]
    assert (event.actor, event.type, event.subject) == ("bob", "model.approved", "model:scorer@3")
    assert event.data["bundle_digest"] == "sha256:b"


def test_the_author_cannot_approve(workspace: Workspace, version: ModelVersion) -> None:
    with pytest.raises(Forbidden, match="trained model:scorer@3"):
        approve(workspace, version, role="admin")


@pytest.mark.parametrize("role", ["viewer", "scientist", "operator", "service"])
def test_a_role_without_the_permission_cannot_approve(workspace: Workspace, version: ModelVersion, role: str) -> None:
    with pytest.raises(Forbidden):
        approve(workspace.with_actor("bob"), version, role=role)


def test_an_approval_is_given_once(workspace: Workspace, version: ModelVersion) -> None:
    approve(workspace.with_actor("bob"), version, role="approver")
    with pytest.raises(Conflict, match="before"):
        approve(workspace.with_actor("bob"), version, role="approver")
    assert len(list_approvals(workspace, "fraud", "scorer", 3)) == 1


@pytest.mark.parametrize(
    ("field", "words"), [("bundle_digest", "bundle"), ("report_digest", "gate report"), ("policy_digest", "policy")]
)
def test_an_approval_does_not_survive_a_change_of_what_it_bound(
    workspace: Workspace, version: ModelVersion, field: str, words: str
) -> None:
    approve(workspace.with_actor("bob"), version, role="approver")
    with pytest.raises(Refused, match=f"before its {words} changed"):
        require_approval(workspace, replace(version, **{field: "sha256:other"}))


def test_an_approval_is_of_one_version_only(workspace: Workspace, version: ModelVersion) -> None:
    approve(workspace.with_actor("bob"), version, role="approver")
    assert valid_approvals(workspace, replace(version, version=4)) == []
    with pytest.raises(Refused, match="no approval"):
        require_approval(workspace, replace(version, version=4))


def test_an_admins_approval_counts_for_every_role(workspace: Workspace, version: ModelVersion) -> None:
    approve(workspace.with_actor("eve"), version, role="admin")
    assert require_approval(workspace, version, by="operator").actor == "eve"
