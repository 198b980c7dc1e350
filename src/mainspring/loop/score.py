"""Batch scoring: the live version over a dataset's newest version, published whole or not at all."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import sqlalchemy as sa

from mainspring.core.errors import Conflict, Invalid, MissingExtra, Unavailable
from mainspring.data.frames import to_columns
from mainspring.features.batch import training_table
from mainspring.governance.secrets import SCHEME, resolve
from mainspring.loop import table as tables
from mainspring.loop.release import load_scorer
from mainspring.project.definition import ProjectSpec
from mainspring.store.workspace import Workspace

if TYPE_CHECKING:
    from mainspring.serving.runtime import Scorer


@dataclass(frozen=True, slots=True)
class Scored:
    """What a batch scoring wrote."""

    model: str
    version: int
    dataset: str
    dataset_version: int
    rows: int
    to: str
    seconds: float


def score(
    ws: Workspace,
    spec: ProjectSpec,
    name: str | None = None,
    *,
    to: str | None = None,
    of: str | None = None,
    version: int | str = "production",
    fresh: bool = True,
) -> Scored:
    """Score a dataset and publish the answers beside its key columns.

    Args:
        to: File (`.parquet`, `.csv`), or `postgresql://...#table`, `secret://env/NAME#table`; None: the declared one.
        of: Dataset to score; the declared one, or the one the model learned from, when None.
        version: Version or alias of the model.
        fresh: Read the dataset's source first.

    Raises:
        Conflict: no version is live.
        Invalid: nothing says where to, or the dataset lacks a column the model takes.
    """
    from mainspring.data.datasets import get_version as get_dataset_version
    from mainspring.data.datasets import ingest, read
    from mainspring.registry.models import get_version, live

    began = ws.clock.monotonic()
    model = spec.model(name)
    if to is None and len(model.batch) > 1:
        raise Invalid(
            f"model {model.name!r} declares {len(model.batch)} batches: say which",
            hint=", or ".join(f"--to {batch.to}" for batch in model.batch),
        )
    declared = next((batch for batch in model.batch if to in (None, batch.to) or len(model.batch) == 1), None)
    target = to or (declared.to if declared else None)
    if target is None:
        raise Invalid(
            f"nothing says where the scores of {model.name!r} go", hint="--to scores.parquet, or .batch(to=...)"
        )
    found = (
        live(ws, spec.name, model.name) if version == "production" else get_version(ws, spec.name, model.name, version)
    )
    if found is None:
        raise Conflict(f"model {model.name!r} has no live version", hint="mainspring run")
    scorer = load_scorer(ws, found.bundle_digest)
    # The version's own definitions, not the project file's of today; they look back on the data they were declared on,
    # whichever rows are scored.
    windows = [view for view in scorer.views if view.kind == "window"]
    spine = of or (declared.of if declared and declared.of else tables.spine_name(spec, model))
    versions = {}
    for dataset in dict.fromkeys([spine, *(view.dataset for view in windows)]):
        if fresh:
            ingest(ws, spec.name, spec.dataset(dataset), now=ws.clock.now())
        versions[dataset] = get_dataset_version(ws, spec.name, dataset)
    frames = {n: read(ws, spec.name, n, v.version) for n, v in versions.items()}
    times = {n: time for n in frames if (time := spec.dataset(n).time)}
    rows = training_table(frames[spine], windows, time=times.get(spine), tables=frames, times=times)
    inputs = scorer.signature.inputs
    if lacking := [column for column in inputs.names if column not in rows.columns]:
        raise Invalid(
            f"dataset {spine!r} has no column {lacking[0]!r}, which {found.ref} takes",
            hint=f"columns: {', '.join(frames[spine].columns)}",
        )
    answers = pl.DataFrame(_answers(scorer, to_columns(rows.select(inputs.names), inputs), rows.height))
    named = dict.fromkeys([*spec.dataset(spine).key, *([times[spine]] if spine in times else [])])
    result = rows.select(*named).with_columns(
        *answers.iter_columns(), pl.lit(found.version).alias("model_version"), pl.lit(ws.clock.now()).alias("scored_at")
    )
    _publish(ws, result, target)
    with ws.change(spec.name) as change:
        change.event(
            "batch.scored",
            found.ref,
            {
                "dataset": f"dataset:{spine}@{versions[spine].version}",
                "rows": result.height,
                "to": target.split("@")[-1],
            },
        )
    seconds = ws.clock.monotonic() - began
    return Scored(model.name, found.version, spine, versions[spine].version, result.height, target, seconds)


def _answers(scorer: Scorer, columns: dict[str, Any], n: int) -> list[dict[str, Any]]:
    rendered = scorer.render(scorer.score(columns, n))
    return [answer if isinstance(answer, dict) else {"prediction": answer} for answer in rendered]


def _publish(ws: Workspace, frame: pl.DataFrame, target: str) -> None:
    if "://" in target:
        return _publish_table(frame, target)
    path = ws.settings.directory / target
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".scores-")
    os.close(descriptor)
    try:
        if path.suffix == ".csv":
            frame.write_csv(temporary)
        elif path.suffix == ".parquet":
            frame.write_parquet(temporary)
        else:
            raise Invalid(
                f"scores cannot be written to {target!r}", hint="use a .parquet or .csv file, or a database URL"
            )
        Path(temporary).replace(path)  # a reader sees the old file or the new one, never half of one
    finally:
        Path(temporary).unlink(missing_ok=True)
    return None


def _publish_table(frame: pl.DataFrame, target: str) -> None:
    """Replace the content of a table in one transaction; `url#table`."""
    url, _, name = target.partition("#")
    if not name:
        raise Invalid(f"no table in {url.split('@')[-1]!r}", hint="write postgresql://host/base#table")
    if url.startswith(SCHEME):
        url = resolve(url)
    kinds: dict[type[pl.DataType], Any] = {
        pl.Int64: sa.BigInteger,
        pl.Int32: sa.BigInteger,
        pl.Float64: sa.Float,
        pl.Boolean: sa.Boolean,
        pl.Date: sa.Date,
        pl.Datetime: sa.DateTime,
    }
    table = sa.Table(
        name,
        sa.MetaData(),
        *(sa.Column(column, kinds.get(type(kind), sa.Text)()) for column, kind in frame.schema.items()),
    )
    if isinstance(frame.schema.get("scored_at"), pl.Datetime):
        frame = frame.with_columns(pl.selectors.datetime().dt.replace_time_zone(None))
    try:
        engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://", 1))
        with engine.begin() as connection:
            table.create(connection, checkfirst=True)
            connection.execute(table.delete())
            for part in frame.iter_slices(10_000):
                connection.execute(table.insert(), part.to_dicts())
        engine.dispose()
    except ModuleNotFoundError as error:
        raise MissingExtra("PostgreSQL needs the driver psycopg", extra="postgres") from error
    except sa.exc.SQLAlchemyError as error:
        cause = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        raise Unavailable(f"the scores could not be written: {cause}", hint="check the URL and the table") from error
