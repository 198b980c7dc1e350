import ast
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from mainspring.core.clock import FixedClock
from mainspring.core.errors import Forbidden, Invalid, NotFound
from mainspring.governance import tokens
from mainspring.governance.access import Actor
from mainspring.store.tables import tokens as table
from mainspring.store.workspace import Workspace


def test_a_token_authenticates_its_actor_with_role_and_projects(workspace: Workspace) -> None:
    issued = tokens.issue(workspace, "bob", "approver", projects=("fraud",))
    assert tokens.authenticate(workspace, issued.token) == Actor("bob", "approver", ("fraud",))


def test_a_token_stands_nowhere_in_the_home_folder(local_workspace: Workspace) -> None:
    issued = tokens.issue(local_workspace, "bob", "viewer")
    tokens.authenticate(local_workspace, issued.token)
    for path in local_workspace.home.rglob("*"):
        if path.is_file():
            assert issued.token.encode() not in path.read_bytes(), path


@pytest.mark.parametrize("change", ["", "x", "ms_", "swap", "shorter", "longer", "null", "unicode"])
def test_a_token_that_differs_in_anything_is_nobodys(local_workspace: Workspace, change: str) -> None:
    token = tokens.issue(local_workspace, "bob", "viewer").token
    forged = {
        "swap": token[:20] + token[21] + token[20] + token[22:],
        "shorter": token[:-1],
        "longer": token + "0",
        "null": token + "\0",
        "unicode": token[:-1] + "é",
    }.get(change, change)
    assert forged == token or tokens.authenticate(local_workspace, forged) is None


def test_an_expired_token_is_nobodys(local_workspace: Workspace, clock: FixedClock) -> None:
    token = tokens.issue(local_workspace, "bob", "viewer", expires_in="1h").token
    clock.advance(timedelta(minutes=59))
    assert tokens.authenticate(local_workspace, token)
    clock.advance(timedelta(minutes=1))
    assert tokens.authenticate(local_workspace, token) is None


def test_a_revoked_token_is_nobodys_at_once(local_workspace: Workspace) -> None:
    issued = tokens.issue(local_workspace, "bob", "viewer")
    tokens.revoke(local_workspace, issued.info.prefix)
    assert tokens.authenticate(local_workspace, issued.token) is None
    with pytest.raises(NotFound):
        tokens.revoke(local_workspace, issued.info.prefix)


def test_a_rotated_token_works_until_the_overlap_ends(local_workspace: Workspace, clock: FixedClock) -> None:
    old = tokens.issue(local_workspace, "ci", "service", projects=("fraud",))
    fresh = tokens.rotate(local_workspace, old.info.prefix, overlap="10m")
    clock.advance(timedelta(minutes=9))
    assert tokens.authenticate(local_workspace, old.token) == tokens.authenticate(local_workspace, fresh.token)
    clock.advance(timedelta(minutes=1))
    assert tokens.authenticate(local_workspace, old.token) is None
    assert tokens.authenticate(local_workspace, fresh.token)


def test_a_login_code_is_exchanged_once_and_is_no_token(local_workspace: Workspace) -> None:
    code = tokens.issue(local_workspace, "root", "admin", kind="login", expires_in="1h").token
    assert tokens.authenticate(local_workspace, code) is None
    issued = tokens.exchange(local_workspace, code)
    assert tokens.authenticate(local_workspace, issued.token) == Actor("root", "admin")
    with pytest.raises(Forbidden):
        tokens.exchange(local_workspace, code)


def test_a_login_code_expires(local_workspace: Workspace, clock: FixedClock) -> None:
    code = tokens.issue(local_workspace, "root", "admin", kind="login", expires_in="1h").token
    clock.advance(timedelta(hours=1))
    with pytest.raises(Forbidden):
        tokens.exchange(local_workspace, code)


def test_an_api_token_is_no_login_code(local_workspace: Workspace) -> None:
    with pytest.raises(Forbidden):
        tokens.exchange(local_workspace, tokens.issue(local_workspace, "bob", "viewer").token)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"role": "root"}, "no role 'root'"),
        ({"actor": "a b"}, "not a name"),
        ({"expires_in": "10000d"}, "cannot live"),
        ({"projects": ()}, "no project"),
        ({"projects": ("../x",)}, "not a name"),
    ],
)
def test_a_token_that_makes_no_sense_is_refused(local_workspace: Workspace, arguments: dict, words: str) -> None:
    with pytest.raises(Invalid, match=words):
        tokens.issue(local_workspace, **{"actor": "bob", "role": "viewer", **arguments})


def test_the_database_holds_no_token_that_could_be_used(local_workspace: Workspace) -> None:
    issued = tokens.issue(local_workspace, "bob", "viewer")
    with local_workspace.read() as connection:
        row = connection.execute(sa.select(table)).one()
    assert issued.token not in [str(value) for value in row]


def test_secrets_are_never_compared_with_equals() -> None:
    tree = ast.parse(Path(tokens.__file__).read_text())
    secret = {"hash", "token", "text", "check"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare) and any(isinstance(op, ast.Eq | ast.NotEq) for op in node.ops):
            names = {getattr(part, "attr", getattr(part, "id", "")) for part in (node.left, *node.comparators)}
            assert not names & secret, ast.unparse(node)
