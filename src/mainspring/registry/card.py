"""The model card: what a version is, how good it is and what it came from, as Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from mainspring.core.records import ModelVersion
from mainspring.registry.models import BLOCKED, get_lineage, history
from mainspring.store.workspace import Workspace

_MARKUP = re.compile(r"([\\`*_{}\[\]<>|#])")


def render_card(ws: Workspace, version: ModelVersion) -> str:
    """Return the model card of a version as Markdown; text that users wrote is escaped."""
    lineage = get_lineage(ws, version.project, version.model, version.version)
    sections = [
        _head(version),
        _table("Quality on held-out rows", ("metric", "value"), _metrics(version, lineage)),
        _table(
            "Gates",
            ("gate", "verdict", "reason"),
            [(v.gate, "passed" if v.passed else "failed", v.reason) for v in version.verdicts],
        ),
        _table("Made from", ("what", "which"), list(_origin(version, lineage))),
        _table(
            "In production",
            ("from", "moved by", "reason"),
            [
                (f"{move.at:%Y-%m-%d %H:%M} UTC", move.actor, move.reason)
                for move in history(ws, version.project, version.model)
                if move.version == version.version
            ],
        ),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _head(version: ModelVersion) -> str:
    warning = "\n\n**This version is blocked: it must not go live.**" if version.status == BLOCKED else ""
    return (
        f"# {_escaped(version.model)}, version {version.version}{warning}\n\n"
        f"Project {_escaped(version.project)}. Trained by {_escaped(version.author)} on "
        f"{version.created_at:%Y-%m-%d %H:%M} UTC. Status: {version.status}."
    )


def _metrics(version: ModelVersion, lineage: dict[str, Any]) -> list[tuple[str, str]]:
    chosen = lineage.get("metric")
    # The metric that gates and search stand on comes first.
    names = sorted(version.metrics, key=lambda name: (name != chosen, name))
    return [(f"{name} (chosen)" if name == chosen else name, f"{version.metrics[name]:.4g}") for name in names]


def _origin(version: ModelVersion, lineage: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for name, used in sorted(lineage.get("datasets", {}).items()):
        known = used if isinstance(used, dict) else {"digest": used}
        yield f"dataset {name}", " ".join(str(known[key]) for key in ("version", "digest") if key in known)
    for name in ("code", "environment", "format"):
        if lineage.get(name):
            yield name, str(lineage[name])
    yield "run", version.run_id
    yield "bundle", version.bundle_digest
    yield "report", version.report_digest
    yield "policy", version.policy_digest


def _table(title: str, columns: tuple[str, ...], rows: list[Any]) -> str:
    if not rows:
        return ""
    lines = [columns, tuple("---" for _ in columns), *(tuple(_escaped(str(cell)) for cell in row) for row in rows)]
    return f"## {title}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _escaped(text: str) -> str:
    """Return text that Markdown shows as it is, on one line: names and reasons come from users."""
    return _MARKUP.sub(r"\\\1", " ".join(text.split()))
