import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import uvicorn

from mainspring.api.client import Client, HttpClient, LocalClient, connect, store_token
from mainspring.api.declared import declared_name
from mainspring.api.server import make_app
from mainspring.core.errors import Conflict, Forbidden, Invalid, NotFound, Unavailable
from mainspring.core.settings import load_settings
from mainspring.governance import tokens
from mainspring.store.workspace import Workspace, open_workspace


@pytest.fixture
def ws(tmp_path: Path) -> Iterator[Workspace]:
    found = open_workspace(load_settings(tmp_path, environment={}), actor="ann")
    yield found
    found.close()


@pytest.fixture
def url(ws: Workspace) -> Iterator[str]:
    config = uvicorn.Config(make_app(ws), port=0, log_level="error", lifespan="on", ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        thread.join(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


@pytest.fixture(params=["local", "http"])
def client(request: pytest.FixtureRequest, ws: Workspace, tmp_path: Path) -> Iterator[Client]:
    if request.param == "local":
        found: Client = LocalClient(tmp_path, settings=ws.settings)
    else:
        token = tokens.issue(ws, "ann", "admin").token
        found = HttpClient(request.getfixturevalue("url"), token)
    yield found
    found.close()


def test_both_clients_give_the_same_results(client: Client, ws: Workspace) -> None:
    with ws.change("fraud") as change:
        change.event("declaration.applied", "project:fraud")
    issued = client.call("tokens.create", name="bob", role="viewer", projects=["fraud"])
    assert issued["info"]["projects"] == ["fraud"]
    assert [token["actor"] for token in client.call("tokens.list") if token["actor"] == "bob"] == ["bob"]
    assert client.call("runs.list", project="fraud", limit=3) == []


@pytest.mark.parametrize(
    ("name", "arguments", "kind"),
    [
        ("tokens.create", {"name": "bob", "role": "king"}, Invalid),
        ("tokens.create", {"name": "bob", "role": "viewer", "extra": 1}, Invalid),
        ("tokens.revoke", {"prefix": "ms_0123456789"}, NotFound),
        ("models.approve", {"project": "fraud", "model": "m", "version": "1"}, NotFound),
    ],
)
def test_both_clients_raise_the_same_errors(client: Client, name: str, arguments: dict, kind: type) -> None:
    with pytest.raises(kind) as caught:
        client.call(name, **arguments)
    assert caught.value.hint


def test_the_one_project_is_meant_when_none_is_named(client: Client, ws: Workspace) -> None:
    with pytest.raises(NotFound, match="no project"):
        client.project()
    for name in ("fraud", "churn"):
        with ws.change(name) as change:
            change.event("declaration.applied", f"project:{name}")
        if name == "fraud":
            assert client.project() == "fraud"
    with pytest.raises(Invalid, match="2 projects"):
        client.project()


def test_a_token_acts_as_its_bearer_on_local_files_too(ws: Workspace, tmp_path: Path) -> None:
    token = tokens.issue(ws, "bob", "viewer").token
    with LocalClientClosing(tmp_path, token, ws) as client:
        assert client.call("system.whoami")["actor"] == "bob"
        with pytest.raises(Forbidden):
            client.call("tokens.list")
    with LocalClientClosing(tmp_path, "ms_wrong", ws) as client, pytest.raises(Forbidden, match="not valid"):
        client.call("system.whoami")


class LocalClientClosing(LocalClient):
    def __init__(self, directory: Path, token: str, ws: Workspace) -> None:
        super().__init__(directory, token=token, settings=ws.settings)

    def __enter__(self) -> "LocalClientClosing":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def test_a_login_link_is_used_and_its_token_kept_for_the_user_alone(ws: Workspace, url: str, tmp_path: Path) -> None:
    environment = {"HOME": str(tmp_path / "user")}
    place, _, code = tokens.login_link(ws, url).partition("/login#")
    path = store_token(place, HttpClient(place, "").login(code)["token"], environment)
    assert path.stat().st_mode & 0o077 == 0
    assert connect(tmp_path, url=url, environment=environment).call("system.whoami")["role"] == "admin"
    with pytest.raises(Forbidden):
        HttpClient(place, "").login(code)


@pytest.mark.parametrize("bad", ["ftp://x", "localhost:8000", "http://", "http://db.example:8000"])
def test_a_place_a_token_must_not_go_to_is_refused(bad: str) -> None:
    with pytest.raises(Invalid):
        HttpClient(bad, "ms_token")


def test_nobody_there_is_unavailable_with_the_next_step() -> None:
    with pytest.raises(Unavailable, match="no control plane answers") as caught:
        HttpClient("http://127.0.0.1:9", "ms_token").call("system.whoami")
    assert caught.value.hint == "mainspring up"


def test_a_url_without_a_token_says_where_one_comes_from(tmp_path: Path) -> None:
    with pytest.raises(Forbidden, match="no token for"):
        connect(tmp_path, url="http://127.0.0.1:9", environment={"HOME": str(tmp_path)})


def test_reading_in_the_wrong_folder_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="there is no project in"):
        LocalClient(tmp_path).call("project.list")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "text",
    [
        'import mainspring as ms\np = ms.Project("fraud", owner="x")\n',
        'from mainspring import Project\nimport no_such_module\np: Project = Project("fraud")\n',
        'import mainspring as ms\np = ms.Project(name := "fraud")\n',
    ],
)
def test_a_projects_name_is_read_without_importing_what_it_imports(tmp_path: Path, text: str) -> None:
    (tmp_path / "project.py").write_text(text)
    assert declared_name(tmp_path / "project.py") == "fraud"


def test_a_conflict_over_http_is_a_409_with_its_code(url: str, ws: Workspace) -> None:
    token = tokens.issue(ws, "ann", "admin").token
    headers = {"authorization": f"Bearer {token}", "idempotency-key": "k"}
    answers = [
        httpx.post(f"{url}/api/v1/tokens/create", json={"name": name, "role": "viewer"}, headers=headers)
        for name in ("a", "b")
    ]
    assert [answer.status_code for answer in answers] == [200, 409]
    assert answers[1].json()["code"] == Conflict.code
