"""The record read as a graph: what a version came from, and what came of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from mainspring.core.errors import NotFound
from mainspring.core.ref import parse_ref
from mainspring.store import tables
from mainspring.store.workspace import Workspace

_NEWEST = 2000


@dataclass(frozen=True, slots=True)
class Edge:
    """`target` came from `source`; `how` says by what."""

    source: str
    target: str
    how: str


@dataclass(frozen=True, slots=True)
class Lineage:
    """The part of a project's graph around one reference.

    Args:
        ref: Where the walk began.
        edges: From cause to effect; references that stand in no edge have no known past or future.
        is_cut: Whether the walk stopped at its depth while there was more.
    """

    ref: str
    edges: tuple[Edge, ...]
    is_cut: bool


def trace(ws: Workspace, project: str, ref: str, *, depth: int = 4) -> Lineage:
    """Return what `ref` came from and what came of it, at most `depth` steps each way.

    Args:
        ws: The workspace.
        project: Whose graph; the newest 2000 versions of each kind are looked at.
        ref: `model:NAME@VERSION` or an alias, `dataset:NAME@VERSION`, or `run:ID`.
        depth: How many steps to follow.

    Raises:
        NotFound: the graph does not hold the reference.
    """
    parse_ref(ref)
    edges = list(_edges(ws, project))
    if not any(ref in (edge.source, edge.target) for edge in edges):
        raise NotFound(f"nothing is known of {ref!r} in project {project!r}", hint="write it as model:NAME@VERSION")
    before, cut_before = _walk(ref, edges, depth, backwards=True)
    after, cut_after = _walk(ref, edges, depth, backwards=False)
    return Lineage(ref, tuple(dict.fromkeys([*reversed(before), *after])), cut_before or cut_after)


def _walk(ref: str, edges: list[Edge], depth: int, *, backwards: bool) -> tuple[list[Edge], bool]:
    leaving: dict[str, list[Edge]] = defaultdict(list)
    for edge in edges:
        leaving[edge.target if backwards else edge.source].append(edge)
    found: list[Edge] = []
    level, seen = [ref], {ref}
    for _ in range(max(1, min(depth, 20))):
        reached = [edge for node in level for edge in leaving[node]]
        found += reached
        ends = dict.fromkeys(edge.source if backwards else edge.target for edge in reached)
        level = [node for node in ends if node not in seen]
        seen.update(level)
    return found, any(leaving[node] for node in level)


def _edges(ws: Workspace, project: str) -> Iterator[Edge]:
    with ws.read() as tx:
        for row in tx.execute(_newest(tables.dataset_versions, project)):
            if row.previous is not None:
                yield Edge(f"dataset:{row.name}@{row.previous}", f"dataset:{row.name}@{row.version}", "became")
        for row in tx.execute(_newest(tables.model_versions, project)):
            yield from _version_edges(row)
        query = sa.select(tables.aliases).where(tables.aliases.c.project == project)
        for row in tx.execute(query):
            yield Edge(
                f"model:{row.model}@{row.version}", f"model:{row.model}@{row.alias}", "is what the alias points at"
            )
        query = sa.select(tables.approvals).where(tables.approvals.c.project == project)
        for row in tx.execute(query):
            yield Edge(f"actor:{row.actor}", f"model:{row.model}@{row.version}", f"approved as {row.role}")
        scored = sa.select(tables.events).where(
            tables.events.c.project == project, tables.events.c.type == "batch.scored"
        )
        for row in tx.execute(scored.order_by(tables.events.c.seq.desc()).limit(_NEWEST)):
            yield Edge(row.subject, f"scores:{row.data['to']}", f"scored {row.data['dataset']}")


def _version_edges(row: Any) -> Iterator[Edge]:
    version, run = f"model:{row.model}@{row.version}", f"run:{row.run_id}"
    for name, used in row.lineage.get("datasets", {}).items():
        yield Edge(f"dataset:{name}@{used['version']}", run, "was read by")
    for kind in ("code", "environment"):
        if digest := row.lineage.get(kind):
            yield Edge(f"{kind}:{digest}", run, "was used by")
    yield Edge(run, version, "made")
    yield Edge(f"actor:{row.author}", version, "made")
    yield Edge(version, f"bundle:{row.bundle_digest}", "is served from")


def _newest(table: sa.Table, project: str) -> sa.Select[Any]:
    return sa.select(table).where(table.c.project == project).order_by(table.c.created_at.desc()).limit(_NEWEST)
