"""Approvals that bind one actor to one version's bytes, proof and policy."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from mainspring.core.errors import Conflict, Forbidden, Refused
from mainspring.core.records import ModelVersion
from mainspring.governance.access import MATRIX, Role
from mainspring.store.tables import approvals
from mainspring.store.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Approval:
    """One actor's yes to one version; it says nothing about other bytes, another report or another policy."""

    id: str
    project: str
    model: str
    version: int
    bundle_digest: str
    report_digest: str
    policy_digest: str
    actor: str
    role: str
    comment: str
    at: datetime

    def binds(self, version: ModelVersion) -> bool:
        """Whether the approval is of exactly this version: the same bytes, gate report and policy."""
        return (
            (self.project, self.model, self.version) == (version.project, version.model, version.version)
            and self.bundle_digest == version.bundle_digest
            and self.report_digest == version.report_digest
            and self.policy_digest == version.policy_digest
        )


def approve(ws: Workspace, version: ModelVersion, *, role: Role, comment: str = "") -> Approval:
    """Record that the workspace's actor approves `version`.

    Args:
        ws: The workspace; its actor is the approver.
        version: What is approved, as it stands in the registry now.
        role: The role the actor acts in; it must hold `models.approve`.
        comment: Why, in the approver's words.

    Raises:
        Forbidden: the actor is the author, or the role may not approve.
        Conflict: the actor approved this version before.
    """
    if "models.approve" not in MATRIX[role]:
        raise Forbidden(f"{ws.actor} is {role} and may not approve a model", hint="roles that may: approver, admin")
    if ws.actor == version.author:
        raise Forbidden(
            f"{ws.actor} trained {version.ref} and cannot approve it too",
            hint="someone else approves it: mainspring tokens create NAME --role approver",
        )
    approval = Approval(
        ws.new_id(), version.project, version.model, version.version, version.bundle_digest, version.report_digest,
        version.policy_digest, ws.actor, role, comment, ws.clock.now(),
    )  # fmt: skip
    try:
        with ws.change(version.project) as change:
            change.execute(approvals.insert().values({name: getattr(approval, name) for name in _FIELDS}))
            change.event(
                "model.approved",
                version.ref,
                {
                    "bundle_digest": version.bundle_digest,
                    "report_digest": version.report_digest,
                    "policy_digest": version.policy_digest,
                    "role": role,
                    "comment": comment,
                },
            )
    except Conflict as error:
        raise Conflict(f"{ws.actor} approved {version.ref} before", hint="an approval is given once") from error
    return approval


def list_approvals(ws: Workspace, project: str, model: str = "", version: int | None = None) -> list[Approval]:
    """Return the approvals of a project, oldest first, narrowed to a model and a version."""
    query = sa.select(approvals).where(approvals.c.project == project)
    if model:
        query = query.where(approvals.c.model == model)
    if version is not None:
        query = query.where(approvals.c.version == version)
    with ws.read() as connection:
        rows = connection.execute(query.order_by(approvals.c.id)).mappings().all()
    return [Approval(**row) for row in rows]


def valid_approvals(ws: Workspace, version: ModelVersion, by: Role = "approver") -> list[Approval]:
    """Return the approvals that hold for `version` as it stands: right bytes, report and policy, not by its author.

    An admin's approval counts for every role.
    """
    found = list_approvals(ws, version.project, version.model, version.version)
    return [
        item for item in found if item.binds(version) and item.actor != version.author and item.role in (by, "admin")
    ]


def require_approval(ws: Workspace, version: ModelVersion, by: Role = "approver") -> Approval:
    """Return an approval that holds for `version`, to be asked again wherever it takes effect.

    Raises:
        Refused: there is none; a stale one is named, with what changed since.
    """
    valid = valid_approvals(ws, version, by)
    if valid:
        return valid[0]
    hint = f"mainspring models approve {version.model}@{version.version}, as another actor with the role {by}"
    for stale in list_approvals(ws, version.project, version.model, version.version):
        changed = [
            word
            for word, before, after in (
                ("bundle", stale.bundle_digest, version.bundle_digest),
                ("gate report", stale.report_digest, version.report_digest),
                ("policy", stale.policy_digest, version.policy_digest),
            )
            if before != after
        ]
        if changed:
            raise Refused(f"{stale.actor} approved {version.ref} before its {' and '.join(changed)} changed", hint=hint)
    raise Refused(f"{version.ref} has no approval by another actor with the role {by}", hint=hint)


_FIELDS = tuple(Approval.__dataclass_fields__)
