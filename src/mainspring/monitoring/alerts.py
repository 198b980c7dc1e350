"""Alerts: one open alert per thing that is wrong, told once to every route, and told again when it is over."""

from __future__ import annotations

import base64
import hashlib
import hmac
import html
import json
import logging
import os
import smtplib
import ssl
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from email.message import EmailMessage
from functools import partial
from typing import Any, Literal
from urllib.parse import urlsplit

import sqlalchemy as sa

from mainspring.core.errors import Invalid, NotFound
from mainspring.governance import secrets
from mainspring.store import events
from mainspring.store.tables import alerts
from mainspring.store.workspace import Change, Workspace

Severity = Literal["info", "warning", "critical"]
SEVERITIES: tuple[Severity, ...] = ("info", "warning", "critical")
ROUTES = ("slack", "email", "webhook")
TIMEOUT_S = 10.0
LOG = logging.getLogger("mainspring.alerts")


@dataclass(frozen=True, slots=True)
class Alert:
    """Something a person should know; `key` names what is wrong, so that it is open at most once."""

    id: str
    project: str
    key: str
    severity: Severity
    status: Literal["open", "resolved"]
    title: str
    body: dict[str, Any]
    opened_at: datetime
    last_at: datetime
    resolved_at: datetime | None
    count: int
    acknowledged_by: str | None


def raise_alert(
    ws: Workspace, project: str, key: str, *, severity: Severity, title: str, body: dict[str, Any], dedup_id: str = ""
) -> Alert:
    """Open the alert `key`, or count it again when it is open; routes are told when it opens or grows worse.

    Args:
        dedup_id: Names the occurrence: the same one raised again, as by a step that is resumed, changes nothing.

    Raises:
        Invalid: there is no such severity.
    """
    if severity not in SEVERITIES:
        raise Invalid(f"there is no severity {severity!r}", hint=f"severities: {', '.join(SEVERITIES)}")
    title, told = " ".join(title.split()), body | ({"dedup_id": dedup_id} if dedup_id else {})
    with ws.change(project) as change:
        now, row = ws.clock.now(), _open(change, project, key)
        if row is None:
            id = ws.new_id()
            if dedup_id and _seen(change, project, key, dedup_id) is not None:
                return _alert(_seen(change, project, key, dedup_id))
            change.execute(
                alerts.insert().values(
                    id=id, project=project, key=key, severity=severity, status="open", title=title, body=told,
                    opened_at=now, last_at=now, count=1,
                )
            )  # fmt: skip
            _tell(change, ws, id, "raised")
            return _alert(_row(change, id))
        if dedup_id and row["body"].get("dedup_id") == dedup_id:
            return _alert(row)
        is_worse = SEVERITIES.index(severity) > SEVERITIES.index(row["severity"])
        change.execute(
            alerts.update()
            .where(alerts.c.id == row["id"])
            .values(severity=severity, title=title, body=told, last_at=now, count=row["count"] + 1)
        )
        if is_worse:
            _tell(change, ws, row["id"], "raised")
        return _alert(_row(change, row["id"]))


def resolve_alert(ws: Workspace, project: str, key: str, *, reason: str = "") -> Alert | None:
    """Close the alert `key` and tell the routes; None when it is not open."""
    with ws.read() as tx:  # the usual case takes no write transaction
        if _open(tx, project, key) is None:
            return None
    with ws.change(project) as change:
        row = _open(change, project, key)
        if row is None:
            return None
        now = ws.clock.now()
        body = row["body"] | ({"resolved": reason} if reason else {})
        change.execute(
            alerts.update()
            .where(alerts.c.id == row["id"])
            .values(status="resolved", resolved_at=now, last_at=now, body=body)
        )
        _tell(change, ws, row["id"], "resolved")
        return _alert(_row(change, row["id"]))


def acknowledge(ws: Workspace, project: str, id: str) -> Alert:
    """Record that the actor looks after an alert.

    Raises:
        NotFound: the project has no such alert.
    """
    with ws.change(project) as change:
        row = _row(change, id)
        if row is None or row["project"] != project:
            raise NotFound(f"no alert {id[:64]!r} in project {project!r}", hint="mainspring alerts list")
        change.execute(alerts.update().where(alerts.c.id == id).values(acknowledged_by=ws.actor))
        change.event("alert.acknowledged", f"alert:{id}", {"key": row["key"]})
        return _alert(_row(change, id))


def list_alerts(ws: Workspace, project: str, status: str | None = None, *, limit: int = 100) -> list[Alert]:
    """Return the project's alerts, newest first, of one status or of any."""
    query = sa.select(alerts).where(alerts.c.project == project)
    if status is not None:
        query = query.where(alerts.c.status == status)
    with ws.read() as tx:
        rows = tx.execute(query.order_by(alerts.c.last_at.desc(), alerts.c.id.desc()).limit(limit)).mappings().all()
    return [_alert(row) for row in rows]


def deliver_alerts(ws: Workspace) -> int:
    """Send what waits to every route and return how many messages left; a route that fails is tried again later."""
    return sum(
        events.deliver(ws.database, ws.clock, f"alert.{route}", partial(send, ws))
        for route, send in (("slack", _send_slack), ("email", _send_email), ("webhook", _send_webhook))
    )


# --- records ---------------------------------------------------------------------------------------------------------


def _tell(change: Change, ws: Workspace, id: str, what: str) -> None:
    """Record that the alert opened or closed and queue a message for every route there is."""
    row = _row(change, id)
    message = {
        "type": f"alert.{what}",
        "alert": id,
        "project": row["project"],
        "key": row["key"],
        "severity": row["severity"],
        "title": row["title"],
        "body": row["body"],
        "at": row["last_at"].isoformat(),
    }
    change.event(f"alert.{what}", f"alert:{id}", {k: message[k] for k in ("key", "severity", "title", "body")})
    for route in ROUTES:
        for place in range(len(_listed(ws.settings.alerts.get(route)))):
            change.outbox(f"alert.{route}", message | {"place": place})
    LOG.info("%s %s: %s", row["severity"], what, row["title"])
    _write_line(ws, message)


def _write_line(ws: Workspace, message: dict[str, Any]) -> None:
    descriptor = os.open(ws.path("alerts.jsonl"), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, json.dumps(message, sort_keys=True).encode() + b"\n")
    finally:
        os.close(descriptor)


def _open(tx: Any, project: str, key: str) -> Any:
    query = sa.select(alerts).where(alerts.c.project == project, alerts.c.key == key, alerts.c.status == "open")
    return tx.execute(query).mappings().first()


def _seen(tx: Any, project: str, key: str, dedup_id: str) -> Any:
    """Return the last closed alert of the key when it was this very occurrence."""
    query = sa.select(alerts).where(alerts.c.project == project, alerts.c.key == key)
    row = tx.execute(query.order_by(alerts.c.opened_at.desc(), alerts.c.id.desc()).limit(1)).mappings().first()
    return row if row is not None and row["body"].get("dedup_id") == dedup_id else None


def _row(tx: Any, id: str) -> Any:
    return tx.execute(sa.select(alerts).where(alerts.c.id == id)).mappings().first()


def _alert(row: Any) -> Alert:
    return Alert(**row)


# --- routes: each may be tried twice with the same id, which receivers can tell by ---------------------------------


def _send_slack(ws: Workspace, payload: dict[str, Any], id: str) -> None:
    mark = "resolved" if payload["type"] == "alert.resolved" else payload["severity"]
    text = f"*[{mark}] {payload['project']}*: {payload['title']}"
    for name, value in payload["body"].items():
        if name != "dedup_id":
            text += f"\n• {name}: {_plain(value)}"
    _post(_place(ws, "slack", payload), json.dumps({"text": html.escape(text, quote=False)}).encode(), {})


def _send_webhook(ws: Workspace, payload: dict[str, Any], id: str) -> None:
    data = {name: value for name, value in payload.items() if name not in ("type", "at", "place")}
    body = json.dumps({"type": payload["type"], "timestamp": payload["at"], "data": data}, sort_keys=True).encode()
    headers = {"webhook-id": id, "webhook-timestamp": str(int(ws.clock.now().timestamp()))}
    if secret := _value(ws.settings.alerts.get("webhook_secret", "")):
        headers["webhook-signature"] = signature(secret, id, headers["webhook-timestamp"], body)
    _post(_place(ws, "webhook", payload), body, headers)


def signature(secret: str, id: str, timestamp: str, body: bytes) -> str:
    """Return the signature of a message as Standard Webhooks writes it.

    Source: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
    """
    encoded = secret.removeprefix("whsec_")
    key = base64.b64decode(encoded + "=" * (-len(encoded) % 4))
    signed = hmac.new(key, f"{id}.{timestamp}.".encode() + body, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(signed).decode()}"


def _send_email(ws: Workspace, payload: dict[str, Any], id: str) -> None:
    settings = ws.settings.alerts
    server = urlsplit(text if "://" in (text := _value(settings.get("smtp", ""))) else f"smtp://{text}")
    if not server.hostname or server.scheme not in ("smtp", "smtps"):
        raise Invalid(
            "alerts by e-mail need a mail server", hint='alerts.smtp = "smtp://host:25" or "smtps://host:465"'
        )
    receiver = _place(ws, "email", payload)
    message = EmailMessage()
    message["Subject"] = f"[{payload['severity']}] {payload['project']}: {payload['title']}"
    message["From"] = _value(settings.get("sender", "")) or receiver
    message["To"] = receiver
    message["Message-ID"] = f"<{id}@mainspring.invalid>"
    message["Date"] = datetime.fromisoformat(payload["at"])
    lines = [f"{name}: {_plain(value)}" for name, value in payload["body"].items() if name != "dedup_id"]
    message.set_content("\n".join([payload["title"], "", *lines, "", f"{payload['type']} {payload['at']}"]))
    context = ssl.create_default_context()
    with (
        smtplib.SMTP_SSL(server.hostname, server.port or 465, timeout=TIMEOUT_S, context=context)
        if server.scheme == "smtps"
        else smtplib.SMTP(server.hostname, server.port or 25, timeout=TIMEOUT_S)
    ) as client:
        client.ehlo()
        if server.scheme == "smtp" and client.has_extn("starttls"):
            client.starttls(context=context)
            client.ehlo()
        if user := _value(settings.get("smtp_user", "")):
            client.login(user, _value(settings.get("smtp_password", "")))
        client.send_message(message)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would take a signed message, or the secret in a URL, to a place that nobody configured."""

    def redirect_request(self, *args: Any) -> None:
        return None


def _post(url: str, body: bytes, headers: dict[str, str]) -> None:
    if urlsplit(url).scheme not in ("http", "https"):
        raise Invalid("an alert route must be an http or https URL", hint="see alerts in mainspring.toml")
    request = urllib.request.Request(url, body, {"Content-Type": "application/json", **headers}, method="POST")
    with urllib.request.build_opener(_NoRedirect).open(request, timeout=TIMEOUT_S) as answer:
        answer.read(1024)


def _place(ws: Workspace, route: str, payload: dict[str, Any]) -> str:
    """Return where a message goes; resolved when it is sent, so that no secret is ever stored with it."""
    places = _listed(ws.settings.alerts.get(route))
    if payload["place"] >= len(places):
        raise Invalid(f"the alert route {route} is no longer configured", hint="see alerts in mainspring.toml")
    return _value(places[payload["place"]])


def _value(text: str) -> str:
    return secrets.resolve(text) if text.startswith(secrets.SCHEME) else text


def _listed(value: Any) -> Sequence[str]:
    return [value] if isinstance(value, str) and value else list(value or ())


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
