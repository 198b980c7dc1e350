"""Who may do what: six roles, their permissions as one table, and the actor a request acts as."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from mainspring.core.errors import Forbidden, Invalid, NotFound, nearest

Role = Literal["viewer", "scientist", "approver", "operator", "service", "admin"]
ROLES: tuple[Role, ...] = get_args(Role)
EVERYWHERE = "*"
INSTALLATION = "_system"  # the log of what concerns no single project

_READS = frozenset({"project.read", "models.read", "runs.read", "data.read", "alerts.read", "system.read"})
_RUNS = frozenset({"runs.start", "runs.cancel", "data.write"})

# The published matrix. A role has what stands in its line and nothing else; `admin` has every permission there is.
MATRIX: dict[Role, frozenset[str]] = {
    "viewer": _READS,
    "scientist": _READS | _RUNS | {"predictions.read"},
    "approver": _READS | {"predictions.read", "audit.read", "models.approve"},
    "operator": _READS
    | _RUNS
    | {"predictions.read", "audit.read", "models.promote", "models.block", "project.apply", "alerts.write"},
    # A machine brings data and starts runs; it decides nothing and reads nobody's predictions.
    "service": _READS | {"runs.start", "data.write"},
    "admin": _READS
    | _RUNS
    | {
        "predictions.read",
        "audit.read",
        "models.approve",
        "models.promote",
        "models.block",
        "project.apply",
        "alerts.write",
        "tokens.read",
        "tokens.write",
        "system.write",
    },
}
PERMISSIONS = MATRIX["admin"]


@dataclass(frozen=True, slots=True)
class Actor:
    """Someone or something that acts: a name, one role, and the projects it holds for (`*` is all of them)."""

    name: str
    role: Role
    projects: tuple[str, ...] = (EVERYWHERE,)

    def sees(self, project: str) -> bool:
        """Whether the project exists, as far as this actor can tell; an empty name is the whole installation."""
        return EVERYWHERE in self.projects or (project != "" and project in self.projects)

    def may(self, permission: str, project: str) -> bool:
        """Whether the actor's role holds the permission in the project."""
        return self.sees(project) and permission in MATRIX[self.role]


def local_actor(name: str) -> Actor:
    """Return the owner of this machine's files, who can do everything because the files are already theirs."""
    return Actor(name, "admin")


def require(actor: Actor, permission: str, project: str) -> None:
    """Let the actor pass, or say why not.

    Args:
        actor: Who asks.
        permission: What for, as in `MATRIX`.
        project: Where; an empty name asks for the whole installation.

    Raises:
        NotFound: the actor has no part in the project. A foreign project and one that does not exist answer alike.
        Forbidden: the role lacks the permission.
    """
    if permission not in PERMISSIONS:
        raise Forbidden(f"no role holds {permission!r}", hint="this is a mistake in the program, please report it")
    if project and not actor.sees(project):
        raise NotFound(f'no project "{project}"', hint="mainspring projects")
    if not project and not actor.sees(""):
        # What concerns the whole installation shows every project; someone with one of them has no business there.
        if permission in MATRIX[actor.role] and permission == "system.read":
            return
        raise Forbidden(
            f"{permission} concerns every project, and {actor.name} has only {', '.join(actor.projects)}",
            hint="ask an admin of the whole installation",
        )
    if permission not in MATRIX[actor.role]:
        able = [role for role in ROLES if permission in MATRIX[role]]
        raise Forbidden(
            f"{actor.name} is {actor.role} and may not {permission}", hint=f"roles that may: {', '.join(able)}"
        )


def check_role(text: str) -> Role:
    """Return `text` as a role.

    Raises:
        Invalid: there is no such role.

    >>> check_role("approver")
    'approver'
    """
    for role in ROLES:
        if role == text:
            return role
    raise Invalid(f"no role {text!r}{nearest(text, ROLES)}", hint=f"roles: {', '.join(ROLES)}")
