"""Commands on runs."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from mainspring.cli import render
from mainspring.cli.session import session

app = typer.Typer(help="Runs: list, show, compare, cancel.")
RunId = Annotated[str, typer.Argument(metavar="RUN", help="Id of the run.")]


@app.command("list")
def list_(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="Only this model's.")] = "",
    status: Annotated[str, typer.Option(help="Only these: running, failed, ...")] = "",
    limit: Annotated[int, typer.Option(help="At most this many.")] = 20,
) -> None:
    """List runs, newest first."""
    where = session(context)
    found = where.call("runs.list", project=where.project, model=model, status=status, limit=limit)
    where.show(found, render.columns("id", "pipeline", "status", "trigger", "actor", "created_at"))


@app.command()
def show(context: typer.Context, run_id: RunId) -> None:
    """Show a run and its steps."""
    where = session(context)
    where.show(where.call("runs.show", project=where.project, run_id=run_id), _detail)


@app.command()
def compare(context: typer.Context, before: RunId, after: RunId) -> None:
    """Compare the parameters and metrics of two runs."""
    where = session(context)
    found = where.call("runs.compare", project=where.project, before=before, after=after)
    where.show(found, lambda both: "\n".join(
        f"{render.bold(kind)}\n{render.columns('name', 'before', 'after', 'change')(both[kind])}"
        for kind in ("metrics", "params", "tags") if both[kind]) or "the two runs do not differ")  # fmt: skip


@app.command()
def cancel(
    context: typer.Context, run_id: RunId, reason: Annotated[str, typer.Option(help="Why; recorded.")] = ""
) -> None:
    """Ask a run to stop."""
    where = session(context)
    done = where.call("runs.cancel", project=where.project, run_id=run_id, reason=reason)
    where.show(done, lambda run: f"run {run['id']} is {run['status']}")


def _detail(run: dict[str, Any]) -> str:
    names = ("id", "pipeline", "status", "trigger", "logical_time", "actor", "created_at", "started_at", "ended_at")
    lines = [render.facts({name.replace("_", " "): run[name] for name in names})]
    lines.append(render.columns("name", "status", "attempts", "started_at", "ended_at", "cache_reason")(run["steps"]))
    if run["failure"]:
        failure = run["failure"]
        lines.append(
            f"{failure['code']}: {failure['message']}" + (f"\nhint: {failure['hint']}" if failure["hint"] else "")
        )
        lines.append(failure["traceback"].rstrip())
    return "\n".join(lines)
