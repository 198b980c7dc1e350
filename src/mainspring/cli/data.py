"""Commands on datasets and their versions."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from mainspring.cli import render
from mainspring.cli.session import session

app = typer.Typer(help="Datasets: list, show, diff, ingest, backfill.")
Dataset = Annotated[str, typer.Argument(help="Name of the dataset.")]


@app.command("list")
def list_(context: typer.Context) -> None:
    """List the newest version of each dataset."""
    where = session(context)
    where.show(where.call("data.list", project=where.project), _versions)


@app.command()
def show(context: typer.Context, dataset: Dataset) -> None:
    """Show the versions of a dataset and the columns of the newest."""
    where = session(context)

    def text(found: list[dict[str, Any]]) -> str:
        return f"{_versions(found)}\n\n{render.columns('name', 'dtype', 'nullable')(found[0]['schema']['columns'])}"

    where.show(where.call("data.history", project=where.project, dataset=dataset), text)


@app.command()
def diff(
    context: typer.Context,
    dataset: Dataset,
    before: Annotated[int, typer.Argument(help="Earlier version.")],
    after: Annotated[int | None, typer.Argument(help="Later version; the newest by default.")] = None,
) -> None:
    """Show what changed between two versions."""
    where = session(context)
    found = where.call("data.diff", project=where.project, dataset=dataset, before=before, after=after)
    where.show(found, _changes)


@app.command()
def ingest(
    context: typer.Context,
    dataset: Dataset,
    rerun: Annotated[bool, typer.Option("--rerun", help="Read windows again that were read before.")] = False,
) -> None:
    """Bring a dataset up to date, under its contract."""
    where = session(context)
    where.show(where.call("data.ingest", project=where.project, dataset=dataset, rerun=rerun), _ingested)


@app.command()
def backfill(
    context: typer.Context,
    dataset: Dataset,
    start: Annotated[str, typer.Argument(help="First instant, as 2026-01-01.")],
    end: Annotated[str, typer.Argument(help="First instant after the last.")],
) -> None:
    """Read the windows between two instants again."""
    where = session(context)
    where.show(where.call("data.backfill", project=where.project, dataset=dataset, start=start, end=end), _ingested)


def _versions(found: list[dict[str, Any]]) -> str:
    return render.columns("name", "version", "rows", "window", "digest", "created_at")(found)


def _ingested(done: dict[str, Any]) -> str:
    version = done["version"]
    news = "new version" if done["new"] else "unchanged"
    aside = f"; {done['quarantined']} bad rows set aside" if done["quarantined"] else ""
    return f"dataset:{version['name']}@{version['version']}: {news}, {version['rows']} rows{aside}"


def _changes(found: dict[str, Any]) -> str:
    rows = "{} -> {}".format(*found["rows"])
    names = ("added", "removed", "changed")
    schema = {f"columns {kind}": value for kind, value in found["schema"].items()}
    counts = {"rows": rows, **{f"rows {name}": found[name] for name in names if found[name] is not None}}
    columns = found["columns"]
    shown = render.table([list(column.values()) for column in columns], list(columns[0])) if columns else ""
    return f"{found['before']} -> {found['after']}\n{render.facts({**counts, **schema})}\n{shown}".rstrip()
