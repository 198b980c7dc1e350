"""An alert reaches each route once when it opens and once when it is over, whatever fails in between."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from email import message_from_string, policy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from mainspring.core.clock import FixedClock
from mainspring.core.errors import Invalid, NotFound
from mainspring.monitoring.alerts import acknowledge, deliver_alerts, list_alerts, raise_alert, resolve_alert
from mainspring.store.events import read_events
from mainspring.store.workspace import Workspace

SECRET = "whsec_" + base64.b64encode(b"a secret of twenty-four bytes").decode()


@contextmanager
def http_server(answers: list[int] | None = None) -> Iterator[tuple[str, list[tuple[dict[str, str], bytes]]]]:
    """Run an HTTP server that gives `answers` in turn, then 200; yield its URL and what it received."""
    received: list[tuple[dict[str, str], bytes]] = []
    left = list(answers or [])

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.append(({k.lower(): v for k, v in self.headers.items()}, body))
            self.send_response(left.pop(0) if left else 200)
            self.send_header("Location", "/elsewhere")
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as port:
        yield f"http://127.0.0.1:{port}/hook", received


@contextmanager
def smtp_server() -> Iterator[tuple[str, list[str]]]:
    """Run a mail server that takes everything; yield its URL and the messages."""
    received: list[str] = []

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(b"220 here\r\n")
            while line := self.rfile.readline():
                word = line.split()[0].upper()
                if word == b"DATA":
                    self.wfile.write(b"354 go on\r\n")
                    received.append("".join(row.decode() for row in iter(self.rfile.readline, b".\r\n")))
                self.wfile.write(b"221 bye\r\n" if word == b"QUIT" else b"250 ok\r\n")
                if word == b"QUIT":
                    break

    with serving(socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)) as port:
        yield f"smtp://127.0.0.1:{port}", received


@contextmanager
def serving(server: socketserver.TCPServer) -> Iterator[int]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def routed(ws: Workspace, **alerts: Any) -> Workspace:
    return replace(ws, settings=replace(ws.settings, alerts=alerts))


def alarm(ws: Workspace, **changes: Any) -> Any:
    told: dict[str, Any] = {"severity": "warning", "title": "amount <has> shifted", "body": {"psi": 0.31}} | changes
    return raise_alert(ws, "shop", "drift/scorer", **told)


def test_what_is_wrong_is_open_once_and_counted(workspace: Workspace, clock: FixedClock) -> None:
    first = alarm(workspace)
    clock.advance(timedelta(hours=1))
    again = alarm(workspace, title="still\nshifted")
    assert (again.id, again.count, again.title) == (first.id, 2, "still shifted")
    assert [alert.id for alert in list_alerts(workspace, "shop", "open")] == [first.id]
    assert list_alerts(workspace, "other") == []
    done = resolve_alert(workspace, "shop", "drift/scorer", reason="it went back")
    assert done is not None
    assert (done.status, done.resolved_at, done.body["resolved"]) == ("resolved", clock.now(), "it went back")
    assert resolve_alert(workspace, "shop", "drift/scorer") is None
    assert alarm(workspace).id != first.id
    with workspace.read() as tx:
        kinds = [event.type for event in read_events(tx, "shop")]
    assert kinds == ["alert.raised", "alert.resolved", "alert.raised"]


def test_the_same_occurrence_raised_again_changes_nothing(workspace: Workspace) -> None:
    first = alarm(workspace, dedup_id="run-1")
    assert alarm(workspace, dedup_id="run-1") == first
    resolve_alert(workspace, "shop", "drift/scorer")
    assert alarm(workspace, dedup_id="run-1").status == "resolved"
    assert alarm(workspace, dedup_id="run-2").status == "open"


def test_somebody_can_take_care(workspace: Workspace) -> None:
    found = acknowledge(workspace.with_actor("ann"), "shop", alarm(workspace).id)
    assert found.acknowledged_by == "ann"
    with pytest.raises(NotFound):
        acknowledge(workspace, "other", found.id)
    with pytest.raises(Invalid):
        alarm(workspace, severity="dire")


def test_a_webhook_is_signed_so_that_anyone_with_the_secret_can_check_it(
    local_workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOOK_SECRET", SECRET)
    with http_server() as (url, received):
        ws = routed(local_workspace, webhook=url, webhook_secret="secret://env/HOOK_SECRET")
        alarm(ws)
        assert deliver_alerts(ws) == 1
        assert deliver_alerts(ws) == 0
    headers, body = received[0]
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    key = base64.b64decode(SECRET.removeprefix("whsec_"))
    expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"
    document = json.loads(body)
    assert document["type"] == "alert.raised"
    assert document["data"]["title"] == "amount <has> shifted"
    assert document["data"]["body"] == {"psi": 0.31}


def test_slack_is_told_once_until_it_grows_worse_and_when_it_is_over(local_workspace: Workspace) -> None:
    with http_server() as (url, received):
        ws = routed(local_workspace, slack=url)
        for severity in ("warning", "warning", "critical", "warning"):
            alarm(ws, severity=severity)
        resolve_alert(ws, "shop", "drift/scorer", reason="scorer@2 is live")
        assert deliver_alerts(ws) == 3
    texts = [json.loads(body)["text"] for _, body in received]
    assert [text.split("]")[0] for text in texts] == ["*[warning", "*[critical", "*[resolved"]
    assert "amount &lt;has&gt; shifted" in texts[0]
    assert "scorer@2 is live" in texts[2]


def test_an_alert_comes_by_mail(local_workspace: Workspace) -> None:
    with smtp_server() as (url, received):
        ws = routed(local_workspace, smtp=url, email=["ann@example.org", "bo@example.org"], sender="ms@example.org")
        alarm(ws, title="shifted\r\nBcc: eve@example.org")
        assert deliver_alerts(ws) == 2
    found = [message_from_string(text, policy=policy.default) for text in received]
    assert {message["To"] for message in found} == {"ann@example.org", "bo@example.org"}
    assert found[0]["From"] == "ms@example.org"
    assert found[0]["Bcc"] is None
    assert found[0]["Subject"] == "[warning] shop: shifted Bcc: eve@example.org"
    assert "psi: 0.31" in found[0].get_content()


def test_a_route_that_fails_is_tried_again_with_the_same_id_and_stops_no_other(
    local_workspace: Workspace, clock: FixedClock
) -> None:
    with http_server([500, 302]) as (broken, tries), http_server() as (url, received):
        ws = routed(local_workspace, webhook=[broken, url], slack="ftp://nowhere")
        alarm(ws)
        assert deliver_alerts(ws) == 1
        assert len(received) == 1
        for _ in range(3):
            clock.advance(timedelta(minutes=1))
            deliver_alerts(ws)
    assert len(tries) == 3, "a redirect is not followed, and counts as a failure"
    assert len({headers["webhook-id"] for headers, _ in tries}) == 1


def test_every_alert_is_written_to_the_log_file(local_workspace: Workspace) -> None:
    alarm(local_workspace)
    resolve_alert(local_workspace, "shop", "drift/scorer")
    path = Path(local_workspace.home) / "alerts.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["type"] for line in lines] == ["alert.raised", "alert.resolved"]
    assert path.stat().st_mode & 0o777 == 0o600


def test_no_secret_is_stored_with_a_message(local_workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    with http_server() as (url, received):
        monkeypatch.setenv("SLACK", url + "/T000-secret")
        ws = routed(local_workspace, slack="secret://env/SLACK")
        alarm(ws)
        assert deliver_alerts(ws) == 1
        assert len(received) == 1
    stored = b"".join(path.read_bytes() for path in Path(ws.home).rglob("*") if path.is_file())
    assert b"T000-secret" not in stored
