"""Moves of the live version: promote, approve, roll back; each leaves the endpoint and the record in step."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mainspring.core.errors import Conflict, Refused
from mainspring.core.records import ModelVersion
from mainspring.store.workspace import Workspace

if TYPE_CHECKING:
    from mainspring.serving.runtime import Scorer

PRODUCTION = "production"


@dataclass(frozen=True, slots=True)
class AliasMove:
    """An alias went from one version to another; `served` says whether an endpoint follows it."""

    project: str
    model: str
    alias: str
    version: int
    previous: int | None
    reason: str
    served: bool


def promote(
    ws: Workspace,
    project: str,
    model: str,
    version: int,
    *,
    alias: str = PRODUCTION,
    reason: str = "",
    expected: int | None = None,
) -> AliasMove:
    """Point an alias at a version; `production` takes only a version that passed its gates, and the endpoint follows.

    Args:
        expected: The version the alias must point at now, 0 for none; None for whatever it is.

    Raises:
        NotFound: there is no such version.
        Refused: it is blocked, a gate failed, or its approval does not bind what would be served.
        Conflict: the alias points elsewhere than `expected`.
    """
    from mainspring.registry.models import get_version, live, set_alias

    found = get_version(ws, project, model, version)
    current = live(ws, project, model) if alias == PRODUCTION else None
    if alias == PRODUCTION:
        _require_proof(ws, found)
        bundle_path(ws, found.bundle_digest)  # what is not there never goes live
    if current is not None and current.version == version:
        return AliasMove(project, model, alias, version, version, reason, sync_endpoint(ws, project, model))
    set_alias(ws, project, model, alias, version, reason=reason or "promoted by hand", expected=expected)
    served = sync_endpoint(ws, project, model) if alias == PRODUCTION else False
    return AliasMove(project, model, alias, version, current.version if current else None, reason, served)


def rollback(ws: Workspace, project: str, model: str, *, to: int | None = None, reason: str = "") -> AliasMove:
    """Bring back the version that was live before, and block the present one from coming back by itself.

    Args:
        to: The version to bring back; the one before the present one when None.

    Raises:
        Conflict: no version is live, or none was live before it.
    """
    from mainspring.registry.models import block, get_version, live, previous, set_alias

    current = live(ws, project, model)
    if current is None:
        raise Conflict(f"model {model!r} has no live version", hint="mainspring run, or mainspring models promote")
    target = get_version(ws, project, model, to) if to is not None else previous(ws, project, model, PRODUCTION)
    if target is None:
        raise Conflict(
            f"model {model!r} was never live in another version than {current.version}",
            hint=f"mainspring models list {model}",
        )
    if target.version == current.version:
        raise Conflict(f"{target.ref} is the live version", hint="name another with --to")
    why = reason or "rolled back by hand"
    _require_proof(ws, target)
    bundle_path(ws, target.bundle_digest)
    set_alias(ws, project, model, PRODUCTION, target.version, reason=why, expected=current.version)
    block(ws, project, model, current.version, reason=why)
    return AliasMove(
        project, model, PRODUCTION, target.version, current.version, why, sync_endpoint(ws, project, model)
    )


def approve(ws: Workspace, project: str, model: str, version: int, *, role: str, comment: str = "") -> str:
    """Record the actor's approval of a version; release it when nothing else was missing.

    Returns:
        "released", or "recorded" when other gates still stand against it.

    Raises:
        Forbidden: the actor made the version, or has no role that approves.
    """
    from mainspring.core.records import Verdict
    from mainspring.governance.access import check_role
    from mainspring.governance.approvals import approve as record
    from mainspring.registry.models import get_version, live, record_verdicts

    found = get_version(ws, project, model, version)
    approval = record(ws, found, role=check_role(role), comment=comment)
    said = Verdict(
        "approved",
        True,
        f"approved by {approval.actor} ({approval.role})",
        {"actor": approval.actor, "at": approval.at.isoformat()},
    )
    asked = next((verdict for verdict in found.verdicts if verdict.gate == "approved"), None)
    if asked is None or approval.role not in (asked.facts.get("by", approval.role), "admin"):
        return "recorded"  # nobody waits for it, or for another role's
    verdicts = tuple(said if verdict.gate == "approved" else verdict for verdict in found.verdicts)
    record_verdicts(ws, project, model, version, verdicts)
    current = live(ws, project, model)
    if all(v.passed for v in verdicts) and (current is None or current.version < version):
        promote(ws, project, model, version, reason=f"approved by {approval.actor}")
        return "released"
    return "recorded"


def sync_endpoint(ws: Workspace, project: str, model: str) -> bool:
    """Bring the endpoint's own files in line with the registry; return whether the model has an endpoint.

    The files are all that a serving process reads, so that it needs neither this database nor this process. Writing
    them again is harmless: that is how a move that was cut off halfway is completed.
    """
    from mainspring.registry.models import live, previous
    from mainspring.serving.split import SplitFile, read_split, write_split

    current = live(ws, project, model)
    if current is None or not is_servable(ws, current):
        return False
    before = previous(ws, project, model, PRODUCTION)
    split = SplitFile(
        project,
        model,
        current.version,
        current.bundle_digest,
        ws.clock.now().isoformat(),
        actor=ws.actor,
        approver=next((v.facts.get("actor", "") for v in current.verdicts if v.gate == "approved"), ""),
        previous=(before.version, before.bundle_digest) if before else None,
    )
    known = read_split(ws.home, project, model)
    if known is None or (known.version, known.previous) != (split.version, split.previous):
        write_split(ws.home, project, model, split)
    return True


def bundle_path(ws: Workspace, bundle_digest: str) -> Path:
    """Return the folder of a verified copy of the bundle, made once per machine."""
    from mainspring.packaging.bundle import materialise
    from mainspring.serving.split import bundle_directory

    path = bundle_directory(ws.home, bundle_digest)
    return path if (path / "manifest.json").exists() else materialise(ws.objects, bundle_digest, path)


def load_scorer(ws: Workspace, bundle_digest: str) -> Scorer:
    """Load a bundle from this machine's copy; a copy that was changed is made anew from the store, once.

    Raises:
        Refused: the store's own files were changed too, or the bundle does not give its golden scores.
    """
    from mainspring.serving.runtime import Scorer

    path = bundle_path(ws, bundle_digest)
    trusted = ws.settings.trust_pickle
    try:
        return Scorer.load(path, trust_pickle=trusted, bundle_digest=bundle_digest)
    except Refused:
        if not ws.objects.exists(bundle_digest):
            raise
        shutil.rmtree(path)
        return Scorer.load(bundle_path(ws, bundle_digest), trust_pickle=trusted, bundle_digest=bundle_digest)


def is_servable(ws: Workspace, version: ModelVersion) -> bool:
    """Return whether the version answers from a request alone: no feature of it looks back over a window."""
    import json

    features = json.loads((bundle_path(ws, version.bundle_digest) / "features.json").read_text(encoding="utf-8"))
    return not any(view.get("kind") == "window" for view in features)


def _require_proof(ws: Workspace, version: ModelVersion) -> None:
    from mainspring.governance.approvals import require_approval

    if version.status == "registered":
        raise Refused(f"the gates have not judged {version.ref} yet", hint=f"mainspring run {version.model}")
    if version.status == "blocked":
        raise Refused(f"{version.ref} is blocked", hint=f"mainspring models unblock {version.model}@{version.version}")
    failed = [verdict for verdict in version.verdicts if not verdict.passed]
    if failed:
        reasons = "; ".join(f"{verdict.gate}: {verdict.reason}" for verdict in failed)
        raise Refused(
            f"{version.ref} did not pass its gates: {reasons}",
            hint=f"mainspring models show {version.model}@{version.version}",
        )
    if any(verdict.gate == "approved" for verdict in version.verdicts):
        # The verdict is a note; what binds is the approval of these very digests, looked at again now.
        require_approval(ws, version)
