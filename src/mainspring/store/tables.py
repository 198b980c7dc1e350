"""Every table of the decisions database, on one page."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.types import TypeDecorator

metadata = sa.MetaData()


class Instant(TypeDecorator[datetime]):
    """A UTC instant; stored as ISO text with microseconds, so that order, equality and both databases agree."""

    impl = sa.String(32)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Any) -> str | None:
        if value is None:
            return None
        assert value.tzinfo is not None, "instants are timezone-aware"
        return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")

    def process_result_value(self, value: str | None, dialect: Any) -> datetime | None:
        return None if value is None else datetime.fromisoformat(value)


class Json(TypeDecorator[Any]):
    """A small JSON value, stored as text."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> str | None:
        return None if value is None else json.dumps(value, sort_keys=True, allow_nan=False)

    def process_result_value(self, value: str | None, dialect: Any) -> Any:
        return None if value is None else json.loads(value)


def _text(name: str, **options: Any) -> sa.Column[str]:
    options.setdefault("nullable", False)
    return sa.Column(name, sa.Text, **options)


def _maybe(name: str, kind: Any = sa.Text) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=True)


def _key(name: str, kind: Any = sa.Text) -> sa.Column[Any]:
    return sa.Column(name, kind, primary_key=True, autoincrement=False)


def _whole(name: str, default: int | None = None) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=False, default=default)


def _at(name: str) -> sa.Column[datetime]:
    return sa.Column(name, Instant, nullable=False)


def _json(name: str) -> sa.Column[Any]:
    return sa.Column(name, Json, nullable=False)


schema_version = sa.Table("schema_version", metadata, _key("number", sa.Integer), _text("name"), _at("applied_at"))

# The log: one chain per project; what changed and what was said of it commit together.
events = sa.Table(
    "events", metadata, _key("project"), _key("seq", sa.BigInteger), _text("id"), _text("type"), _text("subject"),
    _text("actor"), _at("at"), _json("data"), _text("previous_hash"), _text("hash"),
    sa.Index("events_by_subject", "project", "subject"), sa.Index("events_by_type", "project", "type", "seq"),
)  # fmt: skip
outbox = sa.Table(
    "outbox", metadata, _key("id"), _text("project"), _text("target"), _json("payload"), _text("status"),
    _whole("attempts", 0), _at("created_at"), _at("next_at"), _maybe("error"),
    sa.Index("outbox_due", "target", "status", "next_at"),
)  # fmt: skip
idempotency = sa.Table(
    "idempotency", metadata, _key("key"), _text("operation"), _text("actor"), _text("request_digest"),
    _json("response"), _at("created_at"),
)  # fmt: skip

# Declared and running.
declarations = sa.Table(
    "declarations", metadata, _key("project"), _key("digest"), _at("applied_at"), _text("actor"), _json("spec"),
)  # fmt: skip

# Data.
dataset_versions = sa.Table(
    "dataset_versions", metadata, _key("project"), _key("name"), _key("version", sa.BigInteger), _text("digest"),
    _whole("rows"), _json("schema"), _at("created_at"), _maybe("window"), _maybe("previous", sa.BigInteger),
    _maybe("fingerprint"), _maybe("profile_digest"), _json("source"), _maybe("expired_at", Instant),
)  # fmt: skip
dataset_windows = sa.Table(
    "dataset_windows", metadata, _key("project"), _key("name"), _key("window"), _whole("version"), _text("digest"),
    _whole("rows"), _at("ingested_at"),
)  # fmt: skip

# Pipelines.
runs = sa.Table(
    "runs", metadata, _key("id"), _text("project"), _text("pipeline"), _text("logical_time"), _text("trigger"),
    _json("params"), _text("status"), _text("actor"), _at("created_at"), _maybe("started_at", Instant),
    _maybe("ended_at", Instant), _maybe("error"), _maybe("worker"), sa.Column("outputs", Json, nullable=True),
    sa.UniqueConstraint("project", "pipeline", "logical_time"),
    sa.Index("runs_by_project", "project", "created_at"),
)  # fmt: skip
steps = sa.Table(
    "steps", metadata, _key("run_id"), _key("name"), _text("status"), _whole("attempts", 0), _maybe("cache_key"),
    _maybe("cache_reason"), _maybe("started_at", Instant), _maybe("ended_at", Instant), _maybe("error"),
    sa.Column("output", Json, nullable=True),
)  # fmt: skip
step_cache = sa.Table(
    "step_cache", metadata, _key("project"), _key("key"), _text("pipeline"), _text("step"), _json("parts"),
    _json("output"), _text("run_id"), _at("created_at"), sa.Index("cache_by_step", "project", "pipeline", "step"),
)  # fmt: skip
leases = sa.Table(
    "leases", metadata, _key("name"), _text("holder"), _whole("token"), _at("expires_at"), _maybe("worker"),
    sa.Column("expires_tick", sa.Float, nullable=False, default=0.0),
)  # fmt: skip
schedules = sa.Table(
    "schedules", metadata, _key("project"), _key("name"), _text("cron"), _text("zone"), _text("misfire"),
    _json("action"), _at("created_at"), _maybe("paused_at", Instant),
)  # fmt: skip
schedule_slots = sa.Table(
    "schedule_slots", metadata, _key("project"), _key("schedule"), _key("slot"), _at("instant"), _at("claimed_at"),
    _maybe("run_id"), _text("kind"),
)  # fmt: skip
trigger_cursors = sa.Table("trigger_cursors", metadata, _key("project"), _key("name"), _whole("seq"), _at("moved_at"))

# Models.
model_versions = sa.Table(
    "model_versions", metadata, _key("project"), _key("model"), _key("version", sa.BigInteger), _text("bundle_digest"),
    _text("run_id"), _text("report_digest"), _text("policy_digest"), _json("metrics"), _json("verdicts"),
    _text("author"), _text("status"), _at("created_at"), _json("lineage"),
    sa.UniqueConstraint("project", "model", "run_id"),
)  # fmt: skip
aliases = sa.Table(
    "aliases", metadata, _key("project"), _key("model"), _key("alias"), _whole("version"), _at("moved_at")
)
alias_moves = sa.Table(
    "alias_moves", metadata, _key("project"), _key("model"), _key("alias"), _key("seq", sa.BigInteger),
    _maybe("version", sa.BigInteger), _maybe("previous", sa.BigInteger), _at("at"), _text("actor"), _text("reason"),
)  # fmt: skip
approvals = sa.Table(
    "approvals", metadata, _key("id"), _text("project"), _text("model"), _whole("version"), _text("bundle_digest"),
    _text("report_digest"), _text("policy_digest"), _text("actor"), _text("role"), _text("comment"), _at("at"),
    sa.UniqueConstraint("project", "model", "version", "actor"),
)  # fmt: skip

# People and services.
tokens = sa.Table(
    "tokens", metadata, _key("id"), _text("prefix"), _text("hash"), _text("actor"), _text("role"), _json("projects"),
    _at("created_at"), _maybe("expires_at", Instant), _maybe("revoked_at", Instant), _maybe("last_used_at", Instant),
    _text("kind"), sa.Index("tokens_by_prefix", "prefix"),
)  # fmt: skip

# Watching and healing.
monitor_windows = sa.Table(
    "monitor_windows", metadata, _key("project"), _key("model"), _key("monitor"), _key("start", Instant), _at("end"),
    _whole("rows"), _text("state"), _json("result"), _at("computed_at"),
)  # fmt: skip
alerts = sa.Table(
    "alerts", metadata, _key("id"), _text("project"), _text("key"), _text("severity"), _text("status"), _text("title"),
    _json("body"), _at("opened_at"), _at("last_at"), _maybe("resolved_at", Instant), _whole("count", 1),
    _maybe("acknowledged_by"), sa.Index("alerts_by_key", "project", "key", "status"),
)  # fmt: skip
heal_actions = sa.Table(
    "heal_actions", metadata, _key("id"), _text("project"), _text("model"), _at("at"), _text("action"),
    _json("reasons"), _json("facts"), _maybe("run_id"), _maybe("outcome"), _maybe("ended_at", Instant),
)  # fmt: skip
