"""Commands on the record and the installation: why, doctor, alerts, audit, lineage, tokens, login, routes."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from mainspring.cli import render
from mainspring.cli.session import print_json, session
from mainspring.core.errors import Conflict, Invalid, Unavailable

alerts = typer.Typer(help="Alerts: list, acknowledge.")
audit = typer.Typer(help="The audit trail: read it, prove it whole.")
features = typer.Typer(help="Features of the declaration that runs.")
login = typer.Typer(help="One-time login links.")
tokens = typer.Typer(help="API tokens: create, list, rotate, revoke.")
GROUPS = {"features": features, "alerts": alerts, "audit": audit, "tokens": tokens, "login": login}
Prefix = Annotated[str, typer.Argument(help="Public part of the token, as ms_0123456789.")]


def why(context: typer.Context, prediction_id: Annotated[str, typer.Argument(help="Id from the answer.")]) -> None:
    """Explain one prediction from its id, and compute it again."""
    where = session(context)
    found = where.call("predictions.why", project=where.project, prediction_id=prediction_id)
    where.show(found, _dossier)
    raise typer.Exit(0 if found["agrees"] else 1)


def doctor(
    context: typer.Context,
    deep: Annotated[bool, typer.Option("--deep", help="Also read every bundle and every dataset.")] = False,
) -> None:
    """Check the environment, the services and the invariants."""
    where = session(context)
    try:
        found = where.call("system.doctor", deep=deep)
    except (Invalid, Conflict, Unavailable) as error:
        if where.is_remote:
            raise
        from mainspring.api.local import examine_closed

        found = examine_closed(where.directory, error)
    where.show(found, lambda checkup: "\n".join(
        f"{render.MARKS[check['level']]}  {check['name'].ljust(14)}  {check['detail']}"
        + (f"\n{' ' * 22}{check['hint']}" if check["hint"] else "") for check in checkup["checks"]))  # fmt: skip
    raise typer.Exit(0 if found["well"] else 1)


def lineage(
    context: typer.Context,
    ref: Annotated[str, typer.Argument(help="model:NAME@VERSION, dataset:NAME@VERSION or run:ID.")],
    depth: Annotated[int, typer.Option(help="Steps to follow each way.")] = 4,
) -> None:
    """Show what a version came from and what came of it."""
    where = session(context)
    found = where.call("lineage.show", project=where.project, ref=ref, depth=depth)
    where.show(found, lambda graph: render.columns("source", "how", "target")(graph["edges"]))


def routes(context: typer.Context) -> None:
    """List every HTTP route with its policy."""
    from mainspring.api.server import route_table

    session(context).show(route_table(), render.columns("method", "path", "policy", "permission"))


def schedules(context: typer.Context) -> None:
    """List the schedules that run, and when each is next."""
    where = session(context)
    where.show(where.call("schedules.list", project=where.project), render.columns("name", "in_words", "next"))


def projects(context: typer.Context) -> None:
    """List the projects."""
    where = session(context)
    where.show(where.call("project.list"), render.columns("name", "models", "datasets"))


def add_commands(app: typer.Typer) -> None:
    """Add the commands of this file to the program."""
    for command in (why, doctor, lineage, routes, schedules, projects):
        app.command()(command)


@features.command("list")
def list_features(context: typer.Context) -> None:
    """List features."""
    where = session(context)
    where.show(where.call("features.list", project=where.project), render.columns("name", "kind", "entity", "window"))


@alerts.command("list")
def list_alerts(
    context: typer.Context, status: Annotated[str, typer.Option(help="open, resolved or all.")] = "open"
) -> None:
    """List alerts, newest first."""
    where = session(context)
    found = where.call("alerts.list", project=where.project, status=status)
    where.show(found, render.columns("id", "severity", "status", "title", "count", "last_at", "acknowledged_by"))


@alerts.command()
def acknowledge(context: typer.Context, alert: Annotated[str, typer.Argument(help="Id of the alert.")]) -> None:
    """Say that you look after an alert."""
    where = session(context)
    done = where.call("alerts.acknowledge", project=where.project, alert=alert)
    where.show(done, lambda found: f"{found['title']}: {found['acknowledged_by']} looks after it")


@audit.command("log")
def read_log(
    context: typer.Context,
    type: Annotated[str, typer.Option(help="Only this type; `model.` for all that start so.")] = "",
    by: Annotated[str, typer.Option(help="Only what this actor did.")] = "",
    subject: Annotated[str, typer.Option(help="Only about this reference.")] = "",
    before: Annotated[int | None, typer.Option(help="Only before this number, to page back.")] = None,
    limit: Annotated[int, typer.Option(help="At most this many.")] = 50,
) -> None:
    """Show who did what, newest first."""
    where = session(context)
    found = where.call(
        "audit.log", project=where.project, type=type, by=by, subject=subject, before=before, limit=limit
    )
    where.show(found, render.columns("seq", "at", "actor", "type", "subject"))


@audit.command()
def verify(
    context: typer.Context, whole: Annotated[bool, typer.Option("--all", help="Every project's log.")] = False
) -> None:
    """Prove that nobody rewrote, cut or replaced the log."""
    where = session(context)
    found = where.call("audit.verify_all") if whole else where.call("audit.verify", project=where.project)
    where.show(found, lambda report: "\n".join(
        f"{render.MARKS[not chain['problems']]}  {chain['project']}: {chain['events']} events, {chain['seals']} seals"
        + "".join(f"\n      {problem}" for problem in chain["problems"]) for chain in report["chains"]))  # fmt: skip
    raise typer.Exit(0 if found["whole"] else 1)


@tokens.command()
def create(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Who the bearer acts as.")],
    role: Annotated[str, typer.Option(help="viewer, scientist, approver, operator, service or admin.")] = "viewer",
    projects: Annotated[list[str] | None, typer.Option("--in", help="Project it holds for; may be repeated.")] = None,
    expires_in: Annotated[str, typer.Option(help="Lifetime, as 90d.")] = "90d",
) -> None:
    """Issue a token; it is shown once."""
    where = session(context)
    where.show(where.call("tokens.create", name=name, role=role, projects=projects, expires_in=expires_in), _issued)


@tokens.command("list")
def list_tokens(context: typer.Context) -> None:
    """List tokens."""
    names = ("prefix", "actor", "role", "projects", "kind", "expires_at", "revoked_at", "last_used_at")
    session(context).show(session(context).call("tokens.list"), render.columns(*names))


@tokens.command()
def rotate(
    context: typer.Context, prefix: Prefix, overlap: Annotated[str, typer.Option(help="How long both work.")] = "1h"
) -> None:
    """Replace a token."""
    session(context).show(session(context).call("tokens.rotate", prefix=prefix, overlap=overlap), _issued)


@tokens.command()
def revoke(context: typer.Context, prefix: Prefix) -> None:
    """End a token now."""
    session(context).show(session(context).call("tokens.revoke", prefix=prefix), lambda t: f"{t['prefix']} is revoked")


@login.command("link")
def link(
    context: typer.Context,
    at: Annotated[str, typer.Option(help="Where the control plane is reached; where `up` runs by default.")] = "",
    role: Annotated[str, typer.Option(help="Role of the token it gives.")] = "admin",
    lifetime: Annotated[str, typer.Option(help="How long the link works.")] = "1h",
) -> None:
    """Make a link that gives one token, once."""
    where = session(context)
    where.show(where.call("system.login_link", url=at, role=role, lifetime=lifetime), str)


@login.command("use")
def use(context: typer.Context, url: Annotated[str, typer.Argument(metavar="LINK", help="The link.")]) -> None:
    """Turn a link into a token and keep it for --url."""
    from mainspring.api.client import HttpClient, store_token

    place, _, code = url.partition("/login#")
    said = HttpClient(place, "").login(code)
    path = store_token(place, said["token"])
    done = {"actor": said["actor"], "role": said["role"], "expires_at": said["expires_at"], "kept_in": str(path)}
    where = session(context)
    if where.as_json:
        print_json(done)
    else:
        typer.echo(f"logged in as {done['actor']} ({done['role']}); now: mainspring --url {place} models list")


def _issued(issued: dict[str, Any]) -> str:
    info = issued["info"]
    held = f"{info['actor']} is {info['role']} in {', '.join(info['projects'])} until {info['expires_at'][:16]}"
    return f"{issued['token']}\n{held}; the token is shown once"


def _dossier(found: dict[str, Any]) -> str:
    agrees = "the same" if found["agrees"] else "ANOTHER NUMBER"
    data = [f"{name}@{used['version']}" for name, used in found["datasets"].items()]
    lines = [
        render.facts(
            {
                "prediction": found["prediction_id"],
                "made": found["at"],
                "by": f"model:{found['model']}@{found['version']}",
                "answer": found["recorded"],
                "computed again": f"{render.short(found['reexecuted'])} ({agrees})",
                "live then": found["live_then"],
                "data": data,
                "code": found["code_digest"],
                "environment": found["environment_digest"],
                "bundle": found["bundle_digest"],
                "run": found["run_id"],
                "trained by": found["author"],
            }
        ),
        render.bold("request"),
        render.table(list(found["request"].items()), ["column", "value"], empty="none"),
    ]
    if found["contributions"]:
        weights = sorted(found["contributions"].items(), key=lambda pair: -abs(pair[1]))[:10]
        lines += [render.bold("what moved this answer, against other rows"), render.table(weights, ["column", "by"])]
    if found["verdicts"]:
        lines += [render.bold("proof"), render.verdicts(found["verdicts"])]
    lines += [
        f"approved by {a['actor']} ({a['role']}) at {render.short(a['at'])}: {a['comment']}" for a in found["approvals"]
    ]
    lines += [f"{render.short(event['at'])}  {event['type']}  by {event['actor']}" for event in found["history"]]
    return "\n".join(lines)
