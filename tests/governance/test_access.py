import pytest

from mainspring.core.errors import Forbidden, Invalid, MainspringError, NotFound
from mainspring.governance.access import MATRIX, PERMISSIONS, ROLES, Actor, check_role, local_actor, require

PUBLISHED = {
    "project.read": "viewer scientist approver operator service admin",
    "models.read": "viewer scientist approver operator service admin",
    "runs.read": "viewer scientist approver operator service admin",
    "data.read": "viewer scientist approver operator service admin",
    "alerts.read": "viewer scientist approver operator service admin",
    "system.read": "viewer scientist approver operator service admin",
    "runs.start": "scientist operator service admin",
    "data.write": "scientist operator service admin",
    "runs.cancel": "scientist operator admin",
    "predictions.read": "scientist approver operator admin",
    "audit.read": "approver operator admin",
    "models.approve": "approver admin",
    "models.promote": "operator admin",
    "models.block": "operator admin",
    "project.apply": "operator admin",
    "alerts.write": "operator admin",
    "tokens.read": "admin",
    "tokens.write": "admin",
    "system.write": "admin",
}


def test_the_matrix_is_the_published_one() -> None:
    assert set(PUBLISHED) == PERMISSIONS
    for permission, roles in PUBLISHED.items():
        assert {role for role in ROLES if permission in MATRIX[role]} == set(roles.split()), permission


@pytest.mark.parametrize("role", ROLES)
def test_a_role_passes_exactly_where_the_matrix_says(role: str) -> None:
    actor = Actor("ann", check_role(role))
    for permission in PERMISSIONS:
        passes = True
        try:
            require(actor, permission, "fraud")
        except MainspringError as error:
            passes, refusal = False, error
            assert isinstance(refusal, Forbidden)
        assert passes is (permission in MATRIX[check_role(role)])


def test_a_foreign_project_answers_like_one_that_does_not_exist() -> None:
    actor = Actor("ann", "admin", ("fraud",))
    answers = []
    for project in ("churn", "nowhere"):
        with pytest.raises(NotFound) as caught:
            require(actor, "models.read", project)
        answers.append(str(caught.value).replace(project, "X"))
    assert answers[0] == answers[1]


def test_an_admin_of_one_project_cannot_issue_tokens_for_the_installation() -> None:
    with pytest.raises(Forbidden, match="concerns every project"):
        require(Actor("ann", "admin", ("fraud",)), "tokens.write", "")


def test_a_permission_that_no_role_holds_is_denied_to_all() -> None:
    with pytest.raises(Forbidden):
        require(local_actor("root"), "models.erase", "fraud")


def test_an_unknown_role_names_the_nearest() -> None:
    with pytest.raises(Invalid, match='the nearest name is "approver"'):
        check_role("aprover")
