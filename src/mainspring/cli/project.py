"""Commands that make a project, bring it to life, and keep it running."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from mainspring.cli import render
from mainspring.cli.session import local_workspace, print_json, session
from mainspring.core.errors import Invalid

Model = Annotated[str | None, typer.Argument(help="Model, where there are several.")]


def init(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Name of the project, and of its folder.")],
    data: Annotated[Path | None, typer.Option("--from", help="Data file to infer the project from.")] = None,
    target: Annotated[str | None, typer.Option(help="Column to predict.")] = None,
    columns: Annotated[str | None, typer.Option(help="Names, comma-separated, of a file without a header.")] = None,
    time: Annotated[str | None, typer.Option(help="Column that says when; found by itself as a rule.")] = None,
    read: Annotated[str | None, typer.Option(help='How to read the file, as JSON: {"decimal": ","}.')] = None,
) -> None:
    """Make a project that runs on the first try, inferred from a file."""
    from mainspring.api.local import create_project

    where = session(context)
    names = [column.strip() for column in columns.split(",")] if columns else None
    folder = where.directory / name
    written = create_project(folder, name=name, data=data, target=target, columns=names, time=time, read=_reading(read))
    if where.as_json:
        print_json({"project": name, "directory": str(folder), "files": [str(path) for path in written]})
        return
    typer.echo("\n".join(f"wrote {path}" for path in written))
    typer.echo(f"next: cd {folder} && mainspring run && mainspring up")


def _reading(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        found = json.loads(text)
    except ValueError as error:
        raise Invalid(f"--read is not JSON: {error}", hint='write --read \'{"decimal": ","}\'') from error
    if not isinstance(found, dict):
        raise Invalid("--read is not a JSON object", hint='write --read \'{"decimal": ","}\'')
    return found


def plan(context: typer.Context) -> None:
    """Show the difference between what is declared and what runs."""
    where = session(context)
    found = where.call("project.plan", project=where.project)
    where.show(found, _plan_text)
    if found["refusals"]:
        raise typer.Exit(2)


def apply(
    context: typer.Context,
    undo: Annotated[bool, typer.Option("--undo", help="Bring back the declaration before the present one.")] = False,
) -> None:
    """Make the declaration the one that runs."""
    where = session(context)
    if undo:
        digest = where.call("project.undo", project=where.project)
        where.show({"digest": digest}, lambda done: f"brought back {render.short(done['digest'])}")
        return
    where.show(where.call("project.apply", project=where.project), _plan_text)


def run(
    context: typer.Context,
    model: Model = None,
    trigger: Annotated[str, typer.Option(help="What asked for the run.", hidden=True)] = "manual",
    at: Annotated[str | None, typer.Option("--as-of", help="Instant the run stands for; later data is unused.")] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Leave it to a worker, and return its id.")] = False,
) -> None:
    """Run a model: data, features, training, proof, registration, release."""
    where = session(context)
    if detach or where.is_remote:
        asked = where.call("runs.start", project=where.project, model=model)
        where.show(asked, lambda started: f"asked for run {started['run_id']}; a worker starts it")
        return
    on_event = None if where.as_json else render.Progress()
    done = where.call("models.run", on_event, project=where.project, model=model, trigger=trigger, at=at)
    where.show(done, _run_text)
    raise typer.Exit(0 if done["outcome"] in ("released", "unchanged") else 1)


def up(
    context: typer.Context,
    host: Annotated[str, typer.Option(help="Where the control plane listens.")] = "",
    port: Annotated[int, typer.Option(help="Port of the control plane.", show_default="8000")] = 0,
    serving_port: Annotated[int, typer.Option(help="Port of the data plane.", show_default="8080")] = 0,
    insecure: Annotated[bool, typer.Option("--insecure", help="Listen beyond this machine without TLS.")] = False,
) -> None:
    """Run the API, schedules, monitors and serving on this machine."""
    from mainspring.api.up import up as run_up

    where = session(context)
    ws = local_workspace(where)
    run_up(ws, where.directory.resolve(), host=host, port=port, serving_port=serving_port, insecure=insecure, say=_say)


def serve(
    context: typer.Context,
    host: Annotated[str, typer.Option(help="Where the data plane listens.")] = "",
    port: Annotated[int, typer.Option(help="Its port; AIP_HTTP_PORT and PORT are honoured.", show_default="8080")] = 0,
    model: Annotated[str, typer.Option(help="Model of /invocations, where there are several.")] = "",
) -> None:
    """Answer predictions; needs no database and no other process."""
    from mainspring.api.local import serve_project

    where = session(context)
    serve_project(where.directory, where.named, host=host, port=port, model=model)


def worker(
    context: typer.Context, once: Annotated[bool, typer.Option("--once", help="Carry out what waits, and end.")] = False
) -> None:
    """Do background work alone: schedules, triggers, requested runs, monitors."""
    where = session(context)
    ws = local_workspace(where)
    if not once:
        from mainspring.api.up import work

        work(ws, where.directory.resolve(), say=_say)
        return
    from mainspring.api.worker import carry_out

    done = carry_out(ws) if where.as_json else carry_out(ws, on_event=render.Progress(), say=_say)
    summary = [{"run_id": result.run_id, "status": result.status} for result in done]
    where.show(summary, lambda runs: render.columns("run_id", "status")(runs) if runs else "no run was waiting")


def score(
    context: typer.Context,
    model: Model = None,
    to: Annotated[str | None, typer.Option(help="File (.parquet, .csv) or postgresql://...#table.")] = None,
    of: Annotated[str | None, typer.Option(help="Dataset to score.")] = None,
    version: Annotated[str, typer.Option(help="Version or alias of the model.")] = "production",
) -> None:
    """Score a dataset in one batch."""
    where = session(context)
    done = where.call("models.score", project=where.project, model=model, to=to, of=of, version=version)
    where.show(done, lambda d: f"{d['rows']} rows of {d['dataset']}@{d['dataset_version']} scored by "
                               f"{d['model']}@{d['version']} to {d['to']}")  # fmt: skip


def demo(
    context: typer.Context,
    directory: Annotated[Path, typer.Option("--in", help="Folder to run it in.")] = Path(".demo"),
) -> None:
    """Show the whole loop on generated card payments, with injected drift."""
    from mainspring.api.local import run_demo

    where = session(context)
    done = run_demo(where.directory / directory, say=(lambda text: None) if where.as_json else _say)
    if where.as_json:
        print_json(done)
        return
    typer.echo(
        f"\n{done['seconds']:.0f} s. Look around: mainspring -C {directory} models list, alerts list, audit verify"
    )
    typer.echo(f"Keep it running, with its API and endpoint: make up, or mainspring -C {directory} up")


def add_commands(app: typer.Typer) -> None:
    """Add the commands of this file to the program."""
    for command in (init, plan, apply, run, up, serve, worker, score, demo):
        app.command()(command)


def _say(text: str) -> None:
    typer.echo(text)


def _plan_text(plan: dict[str, Any]) -> str:
    marks = {"add": "+", "change": "~", "remove": "-", "keep": " "}
    lines = []
    for item in plan["items"]:
        lines.append(f"{marks[item['action']]} {item['kind']}:{item['name']}")
        lines += [f"    {detail}" for detail in item["details"]]
    lines += [f"note: {note}" for note in plan["notes"]]
    for refusal in plan["refusals"]:
        place = refusal["where"]
        lines.append(f"refused: {Path(place['file']).name}:{place['line']}: {refusal['message']}")
        lines.append(f"  hint: {refusal['hint']}")
    if not plan["refusals"] and all(item["action"] == "keep" for item in plan["items"]):
        lines.append("nothing to change")
    return "\n".join(lines)


def _run_text(report: dict[str, Any]) -> str:
    version = f"{report['model']}@{report['version']}" if report["version"] else report["model"]
    said = {
        "released": f"{version} is live",
        "unchanged": f"{version} is live already; nothing changed",
        "kept": f"{version} was not released; {_live(report)}",
        "waiting": f"{version} waits for an approval: mainspring models approve {version}",
        "failed": f"the run of {report['model']} failed",
    }
    lines = [f"note: {note}" for note in report["notes"]]
    if report["metrics"]:
        lines.append(render.table(sorted(report["metrics"].items()), ["metric", "value"]))
    if report["verdicts"]:
        lines.append(render.verdicts(report["verdicts"]))
    lines.append(f"{said[report['outcome']]} ({report['seconds']:.1f} s, run {report['run_id']})")
    return "\n".join(lines)


def _live(report: dict[str, Any]) -> str:
    return f"version {report['live_version']} stays live" if report["live_version"] else "no version is live"
