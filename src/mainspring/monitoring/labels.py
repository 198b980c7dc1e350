"""Labels: kept when they come, joined to predictions when asked.

A label may be late, sent twice, out of order, or for a prediction that nobody knows yet. All are appended to a log; the
join decides at reading time, so a label that came before its prediction counts as soon as the prediction is there.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from mainspring.core.errors import Invalid, NotFound, Unavailable, nearest
from mainspring.core.schema import Label as Value
from mainspring.monitoring.capture import frame, frames, log_directory, sync_directory

if TYPE_CHECKING:
    import polars as pl

_RESERVED = frozenset({"prediction_id", "label", "source", "sequence", "observed_at", "arrived_at"})


@dataclass(frozen=True, slots=True)
class Label:
    """What turned out to be true, for one prediction by its id or for all that carried the same key.

    Args:
        label: The true class, or the true number.
        prediction_id: The id an answer carried; or
        key: Values of columns that the request carried, such as `{"tx_id": "t-17"}`.
        source: Who says so.
        sequence: Position in that source; of two labels from one source the higher counts. Without it, arrival does.
        observed_at: When it became true, ISO 8601.
    """

    label: Value
    prediction_id: str | None = None
    key: dict[str, Value] = field(default_factory=dict)
    source: str = "api"
    sequence: int | None = None
    observed_at: str | None = None

    def __post_init__(self) -> None:
        if (self.prediction_id is None) == (not self.key):
            raise Invalid("a label names neither or both of a prediction and a key", hint="give prediction_id or key")
        if _RESERVED & self.key.keys():
            raise Invalid("a key column has a reserved name", hint=f"reserved: {', '.join(sorted(_RESERVED))}")


@dataclass(frozen=True, slots=True)
class LabelledWindow:
    """Predictions old enough to judge.

    Args:
        frame: The mature predictions that have a label, with the truth in the column `actual`.
        mature: How many predictions are mature; `coverage` is the share of them with a label, 0 when there are none.
        waiting: How many predictions are too young to be judged, labelled or not.
        parked: How many labels fit no prediction of the window.
        as_of: The instant of the judgement.
    """

    frame: pl.DataFrame
    mature: int
    waiting: int
    parked: int
    as_of: datetime

    @property
    def coverage(self) -> float:
        return self.frame.height / self.mature if self.mature else 0.0


class _Stored(msgspec.Struct, array_like=True):
    arrived_at: int
    labels: list[Label]


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(_Stored)


def append_labels(home: Path, project: str, model: str, labels: Sequence[Label], *, now: datetime) -> int:
    """Store the labels, on the disk when this returns, and return how many.

    Raises:
        Unavailable: the disk did not take them; none of them counts as stored.
    """
    if not labels:
        return 0
    directory = log_directory(home, project, model)
    stored = _Stored(int(now.timestamp() * 1_000_000), list(labels))
    data = frame(_ENCODER.encode(stored))
    path = directory / f"l-{now:%Y%m%d}.seg"
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        # One write to a file opened for appending is not split by other writers' writes.
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            if os.write(descriptor, data) != len(data):
                raise OSError("short write")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        sync_directory(directory)
    except OSError as error:
        raise Unavailable("the labels could not be stored", hint="send them again; mainspring doctor") from error
    return len(labels)


def read_labels(home: Path, project: str, model: str) -> pl.DataFrame:
    """Return all labels as they came, in the order they came.

    Columns: `prediction_id`, `label`, `source`, `sequence` (the arrival in microseconds where the source gave none),
    `observed_at`, `arrived_at`, and one per name in a key.
    """
    import polars as pl

    rows: list[dict[str, Any]] = []
    for path in sorted(log_directory(home, project, model).glob("l-*.seg")):
        for payload in frames(path.read_bytes()):
            stored = _DECODER.decode(payload)
            for item in stored.labels:
                sequence = stored.arrived_at if item.sequence is None else item.sequence
                rows.append({
                    **item.key, "prediction_id": item.prediction_id, "label": item.label, "source": item.source,
                    "sequence": sequence, "observed_at": item.observed_at, "arrived_at": stored.arrived_at,
                })  # fmt: skip
    schema = {"prediction_id": pl.String(), "label": _label_type(rows), "source": pl.String(), "sequence": pl.Int64(),
              "observed_at": pl.String(), "arrived_at": pl.Int64()}  # fmt: skip
    keys = sorted({name for row in rows for name in row} - schema.keys())
    data = {name: [row.get(name) for row in rows] for name in (*schema, *keys)}
    table = pl.DataFrame(data, schema_overrides=schema, strict=False)
    return table.with_columns(
        pl.col("arrived_at").cast(pl.Datetime("us", "UTC")),
        pl.col("observed_at").str.to_datetime(time_unit="us", time_zone="UTC", strict=False),
    )


def join_labels(
    predictions: pl.DataFrame,
    labels: pl.DataFrame,
    *,
    by: Sequence[str] = ("prediction_id",),
    matures: timedelta = timedelta(0),
    now: datetime,
) -> LabelledWindow:
    """Join labels to the predictions that are old enough to be judged.

    Of several labels for one prediction the highest sequence of each source counts, and of several sources the one
    that arrived last. A prediction younger than `matures` is left out even when its label is there: early labels are a
    biased sample (fraud is reported before its absence is known).

    Args:
        predictions: From `read_predictions`; failed requests are left out.
        labels: Columns of `by`, `label`, and where known `source`, `sequence`, `arrived_at`.
        by: What identifies a prediction: `prediction_id`, or columns the requests carried (`("card", "at")`).
        matures: How long a label may take.
        now: The instant of the judgement.

    Raises:
        NotFound: a column of `by` is neither an extra nor an input of the predictions.
        Invalid: the labels lack a column.
    """
    import polars as pl

    for name in (*by, "label"):
        if name not in labels.columns:
            raise Invalid(f"the labels have no column {name!r}", hint=f"columns: {', '.join(labels.columns)}")
    answered = predictions.filter(pl.col("status") == 200)
    truth = labels.drop_nulls([*by, "label"])
    if answered.is_empty():
        nothing = answered.with_columns(pl.lit(None).alias("actual"))
        return LabelledWindow(nothing, 0, 0, truth.select(by).n_unique(), now)
    on = [_column_of(name, predictions.columns) for name in by]
    for column, default in (("source", pl.lit("")), ("sequence", pl.lit(0)), ("arrived_at", pl.lit(0))):
        if column not in truth.columns:
            truth = truth.with_columns(default.alias(column))
    truth = (
        truth.with_row_index("__row")
        .sort("sequence", "arrived_at", "__row")
        .unique([*by, "source"], keep="last", maintain_order=True)
        .sort("arrived_at", "__row")
        .unique(list(by), keep="last", maintain_order=True)
        .select(
            *(pl.col(name).alias(column) for name, column in zip(by, on, strict=True)), pl.col("label").alias("actual")
        )
    )
    truth = truth.with_columns(pl.col(column).cast(answered.schema[column], strict=False) for column in on)
    parked = truth.join(answered, on=on, how="anti").height
    mature = answered.filter(pl.col("at") <= now - matures)
    frame = mature.join(truth, on=on, how="inner", maintain_order="left")
    return LabelledWindow(frame, mature.height, answered.height - mature.height, parked, now)


def _column_of(name: str, columns: Sequence[str]) -> str:
    for column in (name,) if name == "prediction_id" else (f"extra.{name}", f"in.{name}"):
        if column in columns:
            return column
    known = [column.partition(".")[2] for column in columns if column.startswith(("extra.", "in."))]
    raise NotFound(
        f"the predictions carry no column {name!r}{nearest(name, known)}", hint=f"columns: {', '.join(known)}"
    )


def _label_type(rows: list[dict[str, Any]]) -> Any:
    import polars as pl

    kinds = {type(row["label"]) for row in rows}
    for kind, dtype in ((bool, pl.Boolean()), (int, pl.Int64()), (str, pl.String())):
        if kinds == {kind}:
            return dtype
    return pl.Float64() if kinds <= {int, float} else pl.String()
