import asyncio
from datetime import timedelta
from typing import Any

import pytest

from api.asgi import ask
from mainspring.api import auth, operations
from mainspring.api.auth import Gate
from mainspring.api.server import Route, check_bind, make_app, openapi, route_table
from mainspring.core.clock import FixedClock
from mainspring.core.errors import Invalid, Refused
from mainspring.governance import tokens
from mainspring.governance.access import INSTALLATION
from mainspring.governance.audit import read_log
from mainspring.store.workspace import Workspace

PUBLIC = {("GET", "/health"), ("GET", "/login"), ("POST", "/api/v1/login")}
ROUTES = [(route["method"], route["path"]) for route in route_table()]
GUARDED = [route for route in ROUTES if route not in PUBLIC]


@pytest.fixture
def app(local_workspace: Workspace) -> Gate:
    return make_app(local_workspace)


@pytest.fixture
def admin(local_workspace: Workspace) -> str:
    return tokens.issue(local_workspace, "ann", "admin").token


def test_the_public_routes_are_these_and_no_others() -> None:
    assert {(route["method"], route["path"]) for route in route_table() if route["policy"] == "public"} == PUBLIC


def test_no_spelling_of_any_route_answers_without_a_valid_token(local_workspace: Workspace) -> None:
    expired = tokens.issue(local_workspace, "bob", "admin", expires_in="1s")
    revoked = tokens.issue(local_workspace, "bob", "admin")
    tokens.revoke(local_workspace, revoked.info.prefix)
    local_workspace.clock.sleep(2)
    code = tokens.issue(local_workspace, "bob", "admin", kind="login").token
    for method, path in GUARDED:
        app = make_app(local_workspace)  # a fresh throttle: what is tested here is the gate
        spellings = (path, path + "/", "/" + path, path.upper(), path.replace("/", "%2f"), path + "?x=1", path + "%00",
                     path.replace("/api/", "/api/./"), "/health/.." + path, path + ";x")  # fmt: skip
        for spelling in spellings:
            for verb in {method, "GET", "POST", "HEAD", "OPTIONS", "DELETE", "TRACE"}:
                assert ask(app, verb, spelling).status == 401, (verb, spelling)
        for bad in (expired.token, revoked.token, code, "garbage", "ms_" + "a" * 10 + "_" + "b" * 48):
            assert ask(app, method, path, token=bad).status == 401, (method, path)
        override = {"x-http-method-override": "GET", "x-original-url": "/health", "x-forwarded-for": "127.0.0.1"}
        assert ask(app, method, path, headers=override).status == 401


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_a_foreign_host_name_is_refused_everywhere(app: Gate, admin: str, method: str, path: str) -> None:
    for host in ("evil.example", "evil.example:8000", "", "127.0.0.1.evil.example", "localhost@evil.example"):
        assert ask(app, method, path, token=admin, headers={"host": host}).status == 400
    for host in ("localhost:8000", "127.0.0.1", "[::1]:8000", "LOCALHOST"):
        assert ask(app, "GET", "/health", headers={"host": host}).status == 200


def test_an_operation_answers_its_bearer(app: Gate, admin: str) -> None:
    answer = ask(app, "GET", "/api/v1/system/whoami", token=admin)
    assert (answer.status, answer.json["actor"], answer.json["role"]) == (200, "ann", "admin")
    assert answer.headers["cache-control"] == "no-store"


def test_arguments_come_from_the_query_or_the_body(app: Gate, admin: str, local_workspace: Workspace) -> None:
    with local_workspace.change("fraud") as change:
        change.event("declaration.applied", "project:fraud")
    with_query = ask(app, "GET", "/api/v1/runs/list?project=fraud&limit=3", token=admin)
    with_body = ask(app, "POST", "/api/v1/runs/list", token=admin, body={"project": "fraud", "limit": 3})
    assert (with_query.status, with_query.json) == (with_body.status, with_body.json) == (200, [])


@pytest.mark.parametrize(
    ("method", "target", "body", "status"),
    [
        ("GET", "/api/v1/runs/list", b"", 422),
        ("GET", "/api/v1/runs/list?project=a&project=b", b"", 422),
        ("GET", "/api/v1/runs/list?" + "&".join(f"a{n}=1" for n in range(51)), b"", 422),
        ("GET", "/api/v1/runs/list?project=nothing", b"", 404),
        ("GET", "/api/v1/models/history?project=nothing&model=m", b"", 404),
        ("GET", "/api/v1/audit/log?project=nothing", b"", 404),
        ("GET", "/api/v1/runs/list?project=..%2f..%2fetc", b"", 422),
        ("GET", "/api/v1/runs/list?project=fraud&limit=many", b"", 422),
        ("GET", "/api/v1/runs/list?project=fraud&order_by=password", b"", 422),
        ("POST", "/api/v1/tokens/create", {"name": "bob", "role": "viewer", "is_admin": True}, 422),
        ("POST", "/api/v1/tokens/create", {"name": "bob", "role": "viewer", "actor": "root"}, 422),
        ("POST", "/api/v1/tokens/create", b"[1]", 422),
        ("POST", "/api/v1/tokens/create", b"{", 422),
        ("POST", "/api/v1/tokens/create", b"[" * 50_000, 422),
        ("POST", "/api/v1/tokens/create", b'{"name": "\xff"}', 422),
        ("POST", "/api/v1/tokens/create", b" " * (auth.MAX_BODY + 1), 413),
        ("POST", "/api/v1/tokens/create", b'{"name": "\\ud800", "role": "viewer"}', 422),
        ("POST", "/api/v1/runs/show", b'{"project": "fraud", "run_id": "\\ud800"}', 422),
        ("GET", "/api/v1/runs/show?project=fraud&run_id=%ff%00", b"", 404),
        ("POST", "/api/v1/runs/show", {"project": "fraud", "run_id": "'; DROP TABLE runs; --"}, 404),
        ("POST", "/api/v1/project/plan", {"project": "fraud"}, 404),
        ("POST", "/api/v1/data/backfill", {"project": "f", "dataset": "d", "start": "x", "end": "y"}, 404),
        ("PUT", "/api/v1/tokens/create", {}, 405),
        ("GET", "/api/v1/tokens/create", {}, 405),
        ("GET", "/api/v1/models/run", {}, 404),
        ("GET", "/favicon.ico", {}, 404),
    ],
)
def test_a_mistake_is_a_problem_report_that_says_nothing_of_the_inside(
    app: Gate, admin: str, local_workspace: Workspace, method: str, target: str, body: Any, status: int
) -> None:
    answer = ask(app, method, target, token=admin, body=body)
    assert answer.status == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert {"title", "status", "detail"} <= answer.json.keys()
    text = answer.body.decode()
    for inside in (str(local_workspace.home), "Traceback", "sqlite", "SELECT", "site-packages", ".py"):
        assert inside not in text


@pytest.mark.parametrize(
    ("method", "headers", "body", "status"),
    [
        ("PUT", {}, b"", 405),
        ("POST", {"content-type": "text/plain"}, b"{}", 415),
        ("POST", {}, b" " * (auth.MAX_BODY + 1), 413),
        ("POST", {"host": "evil.example"}, b"", 400),
        ("POST", {"authorization": "Bearer nonsense"}, b"", 401),
    ],
)
def test_what_the_gate_refuses_has_a_next_step(
    app: Gate, admin: str, method: str, headers: dict[str, str], body: bytes, status: int
) -> None:
    answer = ask(app, method, "/api/v1/tokens/create", token=admin, headers=headers, body=body)
    assert (answer.status, bool(answer.json.get("hint"))) == (status, True)


def test_a_body_of_another_type_is_refused(app: Gate, admin: str) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        answer = ask(
            app, "POST", "/api/v1/tokens/create", token=admin, body={"name": "b"}, headers={"content-type": kind}
        )
        assert answer.status == 415


def test_a_mistake_of_ours_is_a_500_without_its_reason(local_workspace: Workspace, admin: str) -> None:
    async def broken(scope: Any, send: Any) -> None:
        raise ZeroDivisionError("/secret/place")

    app = make_app(local_workspace, [Route("GET", "/broken", broken, "token")])
    answers: list[Any] = []

    async def failing(scope: Any, receive: Any, send: Any) -> None:
        try:
            await app(scope, receive, send)
        except ZeroDivisionError:  # goes on to the server's log
            answers.append("logged")

    answer = ask(failing, "GET", "/broken", token=admin)
    assert (answer.status, answer.json["title"], answers) == (500, "internal", ["logged"])
    assert "secret" not in answer.body.decode()


def test_failed_attempts_are_stopped_before_the_tokens_are_looked_at(
    app: Gate, admin: str, local_workspace: Workspace
) -> None:
    other = tokens.issue(local_workspace, "bob", "viewer").token
    forged = other[:20] + other[20:].swapcase()
    statuses = [ask(app, "GET", "/api/v1/system/whoami", token="nonsense").status for _ in range(12)]
    assert statuses == [401] * 10 + [429] * 2
    assert "wait a minute" in ask(app, "GET", "/api/v1/system/whoami", token="nonsense").json["hint"]
    assert ask(app, "GET", "/api/v1/system/whoami", token=forged).status in (401, 429)
    assert ask(app, "GET", "/api/v1/system/whoami", token=admin).status == 200
    local_workspace.clock.sleep(60)
    assert ask(app, "GET", "/api/v1/system/whoami", token="nonsense").status == 401


def test_a_revoked_token_stops_at_once(app: Gate, admin: str, local_workspace: Workspace) -> None:
    issued = tokens.issue(local_workspace, "bob", "viewer")
    assert ask(app, "GET", "/api/v1/system/whoami", token=issued.token).status == 200
    assert ask(app, "POST", "/api/v1/tokens/revoke", token=admin, body={"prefix": issued.info.prefix}).status == 200
    assert ask(app, "GET", "/api/v1/system/whoami", token=issued.token).status == 401


def test_a_login_link_gives_one_token_once(app: Gate, local_workspace: Workspace, clock: FixedClock) -> None:
    place, _, code = tokens.login_link(local_workspace, "http://127.0.0.1:8000").partition("#")
    page = ask(app, "GET", place.removeprefix("http://127.0.0.1:8000"))
    assert page.status == 200
    assert "default-src 'none'" in page.headers["content-security-policy"]
    first = ask(app, "POST", "/api/v1/login", body={"code": code})
    assert first.status == 200
    assert ask(app, "GET", "/api/v1/system/whoami", token=first.json["token"]).json["role"] == "admin"
    assert ask(app, "POST", "/api/v1/login", body={"code": code}).status == 403
    late = tokens.login_link(local_workspace, "http://127.0.0.1:8000").partition("#")[2]
    clock.advance(timedelta(hours=2))
    assert ask(app, "POST", "/api/v1/login", body={"code": late}).status == 403


@pytest.mark.parametrize("known", ["admin", "password", "changeme", "mainspring", "root", "", None, 0, ["x"]])
def test_no_usual_password_logs_in(app: Gate, known: Any) -> None:
    assert ask(app, "POST", "/api/v1/login", body={"code": known}).status == 403


def test_guessing_login_codes_is_stopped(app: Gate) -> None:
    statuses = [ask(app, "POST", "/api/v1/login", body={"code": "guess"}).status for _ in range(12)]
    assert statuses[-2:] == [429, 429]


def test_another_site_cannot_use_a_token(app: Gate, admin: str) -> None:
    answer = ask(app, "POST", "/api/v1/tokens/create", token=admin, body={"name": "b", "role": "viewer"},
                 headers={"sec-fetch-site": "cross-site"})  # fmt: skip
    assert answer.status == 403


def test_a_key_in_the_header_makes_a_retry_safe(app: Gate, admin: str, local_workspace: Workspace) -> None:
    prefix = tokens.issue(local_workspace, "bob", "viewer").info.prefix
    answers = [
        ask(
            app, "POST", "/api/v1/tokens/revoke", token=admin, body={"prefix": prefix}, headers={"idempotency-key": "1"}
        )
        for _ in range(2)
    ]
    assert answers[0].json == answers[1].json
    assert [event.type for event in read_log(local_workspace, INSTALLATION)].count("token.revoked") == 1


def test_what_others_say_of_the_caller_is_not_believed(app: Gate, admin: str, local_workspace: Workspace) -> None:
    spoofed = {"x-forwarded-user": "root", "x-actor": "root", "x-forwarded-for": "10.0.0.1", "date": "Thu, 1 Jan 1970"}
    body = {"name": "bob", "role": "viewer"}
    assert ask(app, "POST", "/api/v1/tokens/create", token=admin, body=body, headers=spoofed).status == 200
    event = read_log(local_workspace, INSTALLATION)[0]
    assert (event.actor, event.at) == ("ann", local_workspace.clock.now())


def test_a_foreign_project_is_a_404_like_any_other(app: Gate, local_workspace: Workspace) -> None:
    with local_workspace.change("fraud") as change:
        change.event("declaration.applied", "project:fraud")
    insider = tokens.issue(local_workspace, "bob", "operator", projects=("churn",)).token
    answers = [ask(app, "GET", f"/api/v1/models/list?project={name}", token=insider) for name in ("fraud", "nofraud")]
    assert [answer.status for answer in answers] == [404, 404]
    assert answers[0].body == answers[1].body.replace(b"nofraud", b"fraud")


def test_a_body_that_never_ends_is_given_up(app: Gate, admin: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "BODY_SECONDS", 0.05)
    outgoing: list[Any] = []

    async def send(message: Any) -> None:
        outgoing.append(message)

    async def receive() -> Any:
        await asyncio.sleep(0.02)
        return {"type": "http.request", "body": b" ", "more_body": True}

    headers = [(b"host", b"localhost"), (b"authorization", f"Bearer {admin}".encode())]
    scope = {"type": "http", "method": "POST", "path": "/api/v1/tokens/list", "raw_path": b"/api/v1/tokens/list",
             "query_string": b"", "headers": headers, "client": ("127.0.0.1", 1)}  # fmt: skip
    asyncio.run(app(scope, receive, send))
    assert outgoing[0]["status"] == 408


def test_a_websocket_is_closed(app: Gate) -> None:
    outgoing: list[Any] = []

    async def send(message: Any) -> None:
        outgoing.append(message)

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    asyncio.run(app({"type": "websocket", "path": "/", "headers": []}, receive, send))
    assert outgoing == [{"type": "websocket.close", "code": 1008}]


async def _nothing(scope: Any, send: Any) -> None:
    pass


def test_a_route_without_a_policy_does_not_start(local_workspace: Workspace) -> None:
    with pytest.raises(Invalid, match="GET /console has no policy"):
        make_app(local_workspace, [Route("GET", "/console", _nothing)])


def test_two_routes_cannot_share_a_place(local_workspace: Workspace) -> None:
    with pytest.raises(Invalid, match="there twice"):
        make_app(local_workspace, [Route("GET", "/health", _nothing, "public")])


def test_the_api_describes_every_operation_on_the_network(app: Gate, admin: str) -> None:
    described = ask(app, "GET", "/openapi.json", token=admin).json
    assert described["openapi"] == "3.1.0"
    named = {entry["x-permission"] for path in described["paths"].values() for entry in path.values()}
    assert {o.permission for o in operations.OPERATIONS.values() if o.effect != "local"} == named
    assert "/api/v1/models/run" not in described["paths"]
    assert openapi()["paths"].keys() == described["paths"].keys()


def test_listening_beyond_this_machine_needs_to_be_asked_for() -> None:
    check_bind("127.0.0.1", insecure=False)
    check_bind("0.0.0.0", insecure=True)
    with pytest.raises(Refused, match="in the clear"):
        check_bind("0.0.0.0", insecure=False)
