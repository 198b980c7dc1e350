from datetime import timedelta

import pytest
import sqlalchemy as sa

from mainspring.api.call import call, find
from mainspring.api.operations import OPERATIONS
from mainspring.core.clock import FixedClock
from mainspring.core.errors import Conflict, Forbidden, Invalid, MainspringError, NotFound
from mainspring.governance.access import INSTALLATION, MATRIX, ROLES, Actor, local_actor
from mainspring.governance.audit import read_log
from mainspring.store.tables import idempotency, tokens
from mainspring.store.workspace import Workspace

ROOT = local_actor("root")


def _events(ws: Workspace, project: str) -> list[tuple[str, str]]:
    return [(event.type, event.actor) for event in read_log(ws, project)]


def test_an_operation_acts_as_its_caller_and_the_log_says_so(workspace: Workspace) -> None:
    call(workspace, ROOT, "tokens.create", {"name": "bob", "role": "viewer"})
    assert _events(workspace, INSTALLATION) == [("token.issued", "root")]


def test_an_unknown_operation_names_the_nearest() -> None:
    with pytest.raises(NotFound, match=r'the nearest name is "models.list"'):
        find("model.list")


@pytest.mark.parametrize("role", ROLES)
def test_each_role_may_call_exactly_what_the_matrix_says(local_workspace: Workspace, role: str) -> None:
    actor = Actor("ann", role)
    for name, found in OPERATIONS.items():
        needed = {"project": "fraud"} if found.takes_project else {}
        schema = found.input_schema()
        sample = {"string": "x", "integer": 1, "boolean": True}
        for argument in schema.get("required", ()):
            needed.setdefault(argument, sample[schema["properties"][argument]["type"]])
        denied = False
        try:
            call(local_workspace, actor, name, needed)
        except Forbidden:
            denied = True
        except MainspringError:
            pass  # there is nothing in this workspace to act on; what matters is who got that far
        assert denied is (found.permission not in MATRIX[role]), name


def test_a_refused_change_leaves_an_event(local_workspace: Workspace) -> None:
    with pytest.raises(Forbidden):
        call(
            local_workspace,
            Actor("eve", "viewer"),
            "models.promote",
            {"project": "fraud", "model": "m", "version": "1"},
        )
    event = read_log(local_workspace, "fraud")[0]
    assert (event.type, event.actor, event.subject) == ("access.denied", "eve", "operation:models.promote")


def test_a_foreign_project_answers_like_one_that_does_not_exist(local_workspace: Workspace) -> None:
    with local_workspace.change("fraud") as change:
        change.event("declaration.applied", "project:fraud")
    insider = Actor("ann", "admin", ("churn",))
    for name, found in OPERATIONS.items():
        if not found.takes_project:
            continue
        answers = []
        for project in ("fraud", "nowhere"):
            needed = dict.fromkeys(found.input_schema().get("required", ()), "x") | {"project": project}
            if "before" in needed and name == "data.diff":
                needed["before"] = 1
            with pytest.raises(MainspringError) as caught:
                call(local_workspace, insider, name, needed)
            answers.append(str(caught.value).replace(project, "X"))
        assert answers[0] == answers[1], name
        assert answers[0].startswith("not-found: "), name
    assert [p["name"] for p in call(local_workspace, ROOT, "project.list", {})] == ["fraud"]
    assert call(local_workspace, insider, "project.list", {}) == []


def test_the_same_key_does_nothing_twice_and_answers_alike(workspace: Workspace) -> None:
    issued = call(workspace, ROOT, "tokens.create", {"name": "bob", "role": "viewer"})
    prefix = issued["info"]["prefix"]
    first = call(workspace, ROOT, "tokens.revoke", {"prefix": prefix}, key="k1")
    assert call(workspace, ROOT, "tokens.revoke", {"prefix": prefix}, key="k1") == first
    assert _events(workspace, INSTALLATION).count(("token.revoked", "root")) == 1


def test_one_key_for_two_requests_is_a_conflict(workspace: Workspace) -> None:
    call(workspace, ROOT, "tokens.create", {"name": "bob", "role": "viewer"}, key="k1")
    with pytest.raises(Conflict, match="another request"):
        call(workspace, ROOT, "tokens.create", {"name": "eve", "role": "viewer"}, key="k1")


def test_two_actors_may_use_one_key(workspace: Workspace) -> None:
    for name in ("ann", "ben"):
        call(workspace, Actor(name, "admin"), "tokens.create", {"name": "bob", "role": "viewer"}, key="k1")
    with workspace.read() as tx:
        assert tx.execute(sa.select(sa.func.count()).select_from(tokens)).scalar() == 2


def test_a_secret_is_not_kept_for_a_second_answer(workspace: Workspace) -> None:
    issued = call(workspace, ROOT, "tokens.create", {"name": "bob", "role": "viewer"}, key="k1")
    with workspace.read() as tx:
        assert issued["token"] not in str(tx.execute(sa.select(idempotency)).one())
    with pytest.raises(Conflict, match="shown once"):
        call(workspace, ROOT, "tokens.create", {"name": "bob", "role": "viewer"}, key="k1")


def test_a_failed_request_may_be_tried_again_with_its_key(workspace: Workspace) -> None:
    for _ in range(2):
        with pytest.raises(NotFound):
            call(workspace, ROOT, "tokens.revoke", {"prefix": "ms_0123456789"}, key="k1")


def test_a_request_at_work_is_not_started_again_until_it_is_given_up(workspace: Workspace, clock: FixedClock) -> None:
    arguments = {"name": "bob", "role": "viewer"}
    call(workspace, ROOT, "tokens.create", arguments, key="k1")
    with workspace.database.write() as connection:
        connection.execute(idempotency.update().values(response={}))
    with pytest.raises(Conflict, match="still at work"):
        call(workspace, ROOT, "tokens.create", arguments, key="k1")
    clock.advance(timedelta(minutes=16))
    assert call(workspace, ROOT, "tokens.create", arguments, key="k1")["token"]


@pytest.mark.parametrize("key", ["x" * 129, "\n", "é"])
def test_a_key_that_is_no_key_is_refused(local_workspace: Workspace, key: str) -> None:
    with pytest.raises(Invalid, match="idempotency key"):
        call(local_workspace, ROOT, "tokens.create", {"name": "bob", "role": "viewer"}, key=key)
