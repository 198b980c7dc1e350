"""Operations on the record and on the installation: alerts, audit, lineage, tokens, the system."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mainspring.api.address import address
from mainspring.api.spec import operation
from mainspring.core.errors import Invalid, NotFound
from mainspring.governance import access, audit, lineage, tokens
from mainspring.governance.access import Actor
from mainspring.governance.audit import AuditReport
from mainspring.governance.lineage import Lineage
from mainspring.governance.tokens import IssuedToken, TokenInfo
from mainspring.store.events import Event
from mainspring.store.workspace import Workspace

if TYPE_CHECKING:
    from mainspring.api.doctor import Checkup
    from mainspring.monitoring.alerts import Alert

PAGE = 50


@operation("alerts.list", "alerts.read", "read")
def alerts_list(ws: Workspace, project: str, status: str = "open", limit: int = PAGE) -> list[Alert]:
    """List alerts, newest first; status is open, resolved, or all."""
    from mainspring.monitoring.alerts import list_alerts

    if status not in ("open", "resolved", "all"):
        raise Invalid(f"no alerts are {status!r}", hint="status is open, resolved or all")
    return list_alerts(ws, project, None if status == "all" else status, limit=max(1, min(limit, 500)))


@operation("alerts.acknowledge", "alerts.write", "write")
def alerts_acknowledge(ws: Workspace, project: str, alert: str) -> Alert:
    """Say that someone looks after an alert."""
    from mainspring.monitoring.alerts import acknowledge

    return acknowledge(ws, project, alert)


@operation("audit.log", "audit.read", "read")
def audit_log(
    ws: Workspace,
    project: str,
    type: str = "",
    by: str = "",
    subject: str = "",
    before: int | None = None,
    limit: int = PAGE,
) -> list[Event]:
    """List what happened, newest first: who did what to which thing."""
    return audit.read_log(ws, project, type=type, actor=by, subject=subject, before=before, limit=limit)


@operation("audit.verify", "audit.read", "read")
def audit_verify(ws: Workspace, project: str) -> AuditReport:
    """Check that nobody rewrote, cut or replaced the project's log."""
    return audit.verify(ws, project)


@operation("audit.verify_all", "audit.read", "read")
def audit_verify_all(ws: Workspace) -> AuditReport:
    """Check the log of every project, and of the installation."""
    return audit.verify(ws)


@operation("lineage.show", "models.read", "read")
def lineage_show(ws: Workspace, project: str, ref: str, depth: int = 4) -> Lineage:
    """Show what a version came from and what came of it, as a graph."""
    try:
        return lineage.trace(ws, project, ref, depth=depth)
    except NotFound as error:
        form = {"dataset": "dataset:NAME@VERSION", "run": "run:ID"}.get(ref.partition(":")[0])
        raise NotFound(error.message, hint=f"write it as {form}" if form else error.hint) from error


@operation("tokens.create", "tokens.write", "write", shown_once=True)
def tokens_create(
    ws: Workspace, name: str, role: str, projects: list[str] | None = None, expires_in: str = "90d"
) -> IssuedToken:
    """Issue a token for an actor; it is shown once."""
    return tokens.issue(ws, name, role, projects=projects or [access.EVERYWHERE], expires_in=expires_in)


@operation("tokens.list", "tokens.read", "read")
def tokens_list(ws: Workspace) -> list[TokenInfo]:
    """List tokens by their prefix, newest first."""
    return tokens.list_tokens(ws)


@operation("tokens.rotate", "tokens.write", "write", shown_once=True)
def tokens_rotate(ws: Workspace, prefix: str, overlap: str = "1h") -> IssuedToken:
    """Replace a token; the old one works until the overlap ends."""
    return tokens.rotate(ws, prefix, overlap=overlap)


@operation("tokens.revoke", "tokens.write", "write")
def tokens_revoke(ws: Workspace, prefix: str) -> TokenInfo:
    """End a token now."""
    return tokens.revoke(ws, prefix)


@operation("system.doctor", "system.write", "local")
def system_doctor(ws: Workspace, deep: bool = False) -> Checkup:
    """Check the environment, the services and the invariants."""
    from mainspring.api.doctor import examine

    return examine(ws, deep=deep)


@operation("system.login_link", "tokens.write", "local")
def system_login_link(ws: Workspace, url: str = "", role: str = "admin", lifetime: str = "1h") -> str:
    """Make a link that gives one token, once; it leads to the control plane that runs here unless `url` is given."""
    return tokens.login_link(ws, url or address(ws), role=role, lifetime=lifetime)


@operation("system.whoami", "system.read", "read")
def system_whoami(ws: Workspace, *, actor: Actor) -> dict[str, Any]:
    """Say who the caller is, and what their role allows."""
    allowed = sorted(access.MATRIX[actor.role])
    return {"actor": actor.name, "role": actor.role, "projects": list(actor.projects), "permissions": allowed}
