"""Commands on models and their versions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mainspring.cli import render
from mainspring.cli.session import Session, session, split_ref

app = typer.Typer(help="Versions: list, show, compare, promote, approve, roll back.")
Ref = Annotated[str, typer.Argument(metavar="MODEL@VERSION", help="Version by number or alias.")]
Model = Annotated[str, typer.Argument(help="Name of the model.")]
Reason = Annotated[str, typer.Option(help="Why; recorded.")]


@app.command("list")
def list_(context: typer.Context, model: Annotated[str, typer.Argument(help="Only this model.")] = "") -> None:
    """List versions, newest first."""
    where = session(context)
    found = where.call("models.list", project=where.project, model=model)
    where.show(found, lambda rows: render.table(
        [[row["version"]["model"], row["version"]["version"], ", ".join(row["aliases"]), row["version"]["status"],
          _gates(row["version"]["verdicts"]), row["version"]["author"], row["version"]["created_at"]] for row in rows],
        ["model", "version", "aliases", "status", "gates", "author", "created"],
        empty="no version yet: mainspring run",
    ))  # fmt: skip


@app.command()
def show(context: typer.Context, ref: Ref) -> None:
    """Show a version: figures, verdicts, lineage, approvals."""
    where = session(context)
    model, version = split_ref(ref, "production")
    where.show(where.call("models.show", project=where.project, model=model, version=version), _detail)


@app.command()
def compare(context: typer.Context, before: Ref, after: Ref) -> None:
    """Compare two versions of a model."""
    where = session(context)
    (model, first), (_, second) = split_ref(before, "production"), split_ref(after, "production")
    found = where.call("models.compare", project=where.project, model=model, before=first, after=second)
    where.show(found, lambda both: render.columns("name", "before", "after", "change")(both["metrics"]))


@app.command()
def card(context: typer.Context, ref: Ref) -> None:
    """Print the model card."""
    where = session(context)
    model, version = split_ref(ref, "production")
    where.show(where.call("models.card", project=where.project, model=model, version=version), str)


@app.command()
def report(
    context: typer.Context,
    ref: Ref,
    to: Annotated[Path | None, typer.Option(help="File to write; MODEL-VERSION.html when left out.")] = None,
) -> None:
    """Write the evaluation report, one HTML page that needs nothing else."""
    where = session(context)
    model, version = split_ref(ref, "production")
    page = where.call("models.report", project=where.project, model=model, version=version)
    file = to or Path(f"{model}-{version}.html")
    file.write_text(page, encoding="utf-8")
    where.show({"file": str(file)}, lambda written: f"wrote {written['file']}")


@app.command()
def windows(
    context: typer.Context,
    model: Model,
    monitor: Annotated[str, typer.Option(help="One of endpoint, drift, performance.")] = "",
    limit: Annotated[int, typer.Option(help="At most so many, the newest.")] = 50,
) -> None:
    """Show what the monitors found, window by window."""
    where = session(context)
    found = where.call("models.windows", project=where.project, model=model, monitor=monitor, limit=limit)
    where.show(found, render.columns("start", "monitor", "rows", "state", "says"))


@app.command()
def history(context: typer.Context, model: Model, alias: str = "production") -> None:
    """Show what an alias pointed at, and who moved it."""
    where = session(context)
    found = where.call("models.history", project=where.project, model=model, alias=alias)
    where.show(found, render.columns("at", "version", "previous", "actor", "reason"))


@app.command()
def promote(
    context: typer.Context,
    ref: Ref,
    alias: Annotated[str, typer.Option(help="Alias to move.")] = "production",
    reason: Reason = "",
    expected: Annotated[int | None, typer.Option(help="Only if the alias points here now.")] = None,
) -> None:
    """Point an alias at a version; production takes only a proven one."""
    where = session(context)
    model, version = split_ref(ref)
    moved = where.call("models.promote", project=where.project, model=model, version=_needed(ref, version), alias=alias,
                       reason=reason, expected=expected)  # fmt: skip
    where.show(moved, _moved)


@app.command()
def rollback(
    context: typer.Context,
    model: Model,
    to: Annotated[int | None, typer.Option(help="Version to bring back; the one before by default.")] = None,
    reason: Reason = "",
) -> None:
    """Bring back the version before, and block the present one."""
    where = session(context)
    where.show(where.call("models.rollback", project=where.project, model=model, to=to, reason=reason), _moved)


@app.command()
def approve(
    context: typer.Context, ref: Ref, comment: Annotated[str, typer.Option("-m", "--comment", help="Why.")] = ""
) -> None:
    """Approve a version that someone else made."""
    where = session(context)
    model, version = split_ref(ref)
    done = where.call(
        "models.approve", project=where.project, model=model, version=_needed(ref, version), comment=comment
    )
    where.show(done, lambda said: f"approved {said['version']}: {said['outcome']}")


@app.command()
def block(context: typer.Context, ref: Ref, reason: Reason) -> None:
    """Keep a version from going live."""
    where, done = _set_blocked(context, "models.block", ref, reason)
    named = where.call("models.show", project=where.project, model=done["model"], version=str(done["version"]))
    live = "production" in named["aliases"]
    where.show({**done, "live": live}, lambda found: _status(found) + (
        f"; it is still live: mainspring models rollback {found['model']}" if live else ""))  # fmt: skip


@app.command()
def unblock(context: typer.Context, ref: Ref, reason: Reason) -> None:
    """Let a blocked version go live again."""
    where, done = _set_blocked(context, "models.unblock", ref, reason)
    where.show(done, _status)


def _set_blocked(context: typer.Context, operation: str, ref: str, reason: str) -> tuple[Session, dict[str, Any]]:
    where = session(context)
    model, version = split_ref(ref)
    done = where.call(operation, project=where.project, model=model, version=_needed(ref, version), reason=reason)
    return where, done


def _status(version: dict[str, Any]) -> str:
    return f"model:{version['model']}@{version['version']} is {version['status']}"


def _needed(ref: str, version: str) -> str:
    if not version:
        from mainspring.core.errors import Invalid

        raise Invalid(f"{ref!r} names no version", hint=f"write {ref}@3, with the number of the version")
    return version


def _gates(verdicts: list[dict[str, Any]]) -> str:
    passed = sum(verdict["passed"] for verdict in verdicts)
    return f"{passed}/{len(verdicts)}" if verdicts else "-"


def _moved(move: dict[str, Any]) -> str:
    before = f" (was {move['previous']})" if move["previous"] not in (None, move["version"]) else ""
    return f"{move['alias']} of {move['model']} is version {move['version']}{before}" + (
        "; the endpoint follows" if move["served"] else "")  # fmt: skip


def _detail(found: dict[str, Any]) -> str:
    version, lineage = found["version"], found["lineage"]
    data = [f"{name}@{used['version']}" for name, used in lineage.get("datasets", {}).items()]
    lines = [
        render.facts({
            "version": f"model:{version['model']}@{version['version']}", "aliases": ", ".join(found["aliases"]),
            "status": version["status"], "made by": f"{version['author']} in run {version['run_id']}",
            "at": version["created_at"], "bundle": version["bundle_digest"], "format": lineage.get("format"),
            "data": data, "code": lineage.get("code"), "environment": lineage.get("environment"),
        }),
        render.table(sorted(version["metrics"].items()), ["metric", "value"], empty="no figures"),
    ]  # fmt: skip
    if version["verdicts"]:
        lines.append(render.verdicts(version["verdicts"]))
    lines += [
        f"approved by {a['actor']} ({a['role']}) at {render.short(a['at'])}: {a['comment']}" for a in found["approvals"]
    ]
    return "\n".join(lines)
