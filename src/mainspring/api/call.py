"""The one way an operation runs: permission first, then the function, with retries made safe and refusals recorded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

import sqlalchemy as sa

from mainspring.api.declared import declared_name
from mainspring.api.operations import OPERATIONS
from mainspring.api.spec import Operation, as_data
from mainspring.core.errors import Conflict, Forbidden, Invalid, NotFound, nearest
from mainspring.core.ref import digest_json
from mainspring.governance import audit
from mainspring.governance.access import INSTALLATION, Actor, require
from mainspring.store.tables import idempotency
from mainspring.store.workspace import Workspace

_MAX_KEY = 128
_ABANDONED = timedelta(minutes=15)


def find(name: str) -> Operation:
    """Return the operation called `name`.

    Raises:
        NotFound: there is none.
    """
    if name not in OPERATIONS:
        raise NotFound(f"no operation {name[:64]!r}{nearest(name, OPERATIONS)}", hint="mainspring routes")
    return OPERATIONS[name]


def call(
    ws: Workspace,
    actor: Actor,
    name: str,
    arguments: Mapping[str, Any],
    *,
    key: str = "",
    from_text: bool = False,
    on_event: Callable[[Any], None] | None = None,
) -> Any:
    """Run an operation as `actor` and return its result as JSON data.

    The functions behind the operations open their own transactions, because one operation may need several; each
    commits its rows with the event that tells of them. What is refused leaves an event too.

    Args:
        ws: The workspace; it acts as `actor` for this call.
        actor: Who asks.
        name: The operation.
        arguments: By name, as JSON has them.
        key: Idempotency key: the same key from the same actor gives the first answer again and does nothing twice.
        from_text: Whether the arguments are text from a query string.
        on_event: Receives the progress of operations that report it.

    Raises:
        NotFound: no such operation, or the actor has no part in the project.
        Forbidden: the actor's role does not allow it.
        Invalid: an argument is wrong.
        Conflict: the key was used for another request, or its request is still at work.
    """
    operation = find(name)
    values = operation.read_arguments(arguments, from_text=from_text)
    acting = ws.with_actor(actor.name)
    project = values.get("project", "")
    try:
        require(actor, operation.permission, project)
        provided = {"actor": actor, "on_event": on_event}
        extra = {argument: provided[argument] for argument in operation.provided}
        if not key or operation.effect == "read":
            result = as_data(operation.function(acting, **values, **extra))
            if result == [] and project and operation.effect == "read":
                _require_known(acting, project)
            return result
        return _once(acting, operation, values, extra, key)
    except Forbidden as refusal:
        if operation.effect != "read":
            with acting.change(project or INSTALLATION) as change:
                change.event("access.denied", f"operation:{name}", {"reason": refusal.message, "role": actor.role})
        raise


def _require_known(ws: Workspace, project: str) -> None:
    """Tell a project that has nothing yet from one that is not there: a name mistyped must not pass for empty."""
    known = audit.logged_projects(ws)
    if project in known:
        return
    file = ws.settings.project_file
    if file is not None and file.is_file() and declared_name(file) == project:
        return
    raise NotFound(f'no project "{project}"', hint="mainspring projects")


def _once(ws: Workspace, operation: Operation, values: dict[str, Any], extra: dict[str, Any], key: str) -> Any:
    if len(key) > _MAX_KEY or not key.isascii() or not key.isprintable():
        raise Invalid("an idempotency key is at most 128 printable ASCII characters", hint="use a UUID")
    request = digest_json(as_data(values))
    row_key = f"{ws.actor}/{operation.name}/{key}"
    mine = idempotency.c.key == row_key
    with ws.database.write() as connection:
        # Read and claim in one write transaction: of two requests with one key, the second sees the first.
        row = connection.execute(sa.select(idempotency).where(mine).with_for_update()).first()
        if row is not None:
            if row.request_digest != request:
                raise Conflict("this idempotency key was used for another request", hint="use a fresh key")
            if "result" in row.response:
                return row.response["result"]
            if row.response:
                raise Conflict(f"{operation.name} was done, and its answer is shown once", hint="use a fresh key")
            if ws.clock.now() - row.created_at < _ABANDONED:
                raise Conflict("the first request with this key is still at work", hint="ask again in a moment")
            connection.execute(idempotency.delete().where(mine))
        connection.execute(
            idempotency.insert().values(
                key=row_key, operation=operation.name, actor=ws.actor, request_digest=request, response={},
                created_at=ws.clock.now(),
            )
        )  # fmt: skip
    try:
        result = as_data(operation.function(ws, **values, **extra))
    except Exception:
        # What failed changed nothing, so the same key may try again.
        with ws.database.write() as connection:
            connection.execute(idempotency.delete().where(mine))
        raise
    kept = {"done": True} if operation.shown_once else {"result": result}
    with ws.database.write() as connection:
        connection.execute(idempotency.update().where(mine).values(response=kept))
    return result
