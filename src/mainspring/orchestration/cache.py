"""Step keys: an output is used again when code, inputs, parameters and environment are the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from mainspring.core.ref import digest_json
from mainspring.store.tables import step_cache
from mainspring.store.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Lookup:
    """The answer of the cache; `output` is None on a miss, `reason` says why either way."""

    key: str
    reason: str
    output: dict[str, Any] | None = None
    run_id: str = ""


def step_key(parts: dict[str, str]) -> str:
    """Return the key of what a step depends on, by name: code, inputs, parameters, environment.

    >>> step_key({"code": "a", "seed": "1"}) == step_key({"seed": "1", "code": "a"})
    True
    """
    return digest_json(parts)


def look_up(ws: Workspace, project: str, pipeline: str, step: str, parts: dict[str, str]) -> Lookup:
    """Return the recorded output of a step that depended on the same parts, or what changed since the last one."""
    key = step_key({**parts, "step": f"{pipeline}/{step}"})
    mine = (step_cache.c.project == project, step_cache.c.pipeline == pipeline, step_cache.c.step == step)
    with ws.read() as tx:
        hit = tx.execute(sa.select(step_cache).where(step_cache.c.project == project, step_cache.c.key == key)).first()
        if hit is not None:
            return Lookup(key, f"same {_listed(sorted(parts))} as run {hit.run_id}", hit.output, hit.run_id)
        latest = sa.select(step_cache.c.parts).where(*mine).order_by(step_cache.c.created_at.desc()).limit(1)
        last = tx.execute(latest).scalar()
    return Lookup(key, "first run" if last is None else _difference(last, parts))


def remember(
    ws: Workspace, project: str, pipeline: str, step: str, key: str, *, parts: dict[str, str], output: dict[str, Any],
    run_id: str,
) -> None:  # fmt: skip
    """Record a step's output under its key; the first record of a key stays."""
    with ws.change(project) as change:
        if change.execute(sa.select(step_cache.c.key).where(
            step_cache.c.project == project, step_cache.c.key == key)).first() is None:  # fmt: skip
            change.execute(step_cache.insert().values(
                project=project, key=key, pipeline=pipeline, step=step, parts=parts, output=output, run_id=run_id,
                created_at=ws.clock.now(),
            ))  # fmt: skip


def _difference(before: dict[str, str], after: dict[str, str]) -> str:
    said = [
        f"{name} {'is new' if name not in before else 'is gone' if name not in after else 'changed'}"
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name)
    ]
    # Equal parts with another key: the record was dropped, or its step renamed.
    return _listed(said) if said else "no record of these inputs"


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}" if words else "inputs"
