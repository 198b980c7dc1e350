"""The prediction log: every answer is with the operating system before it is sent.

A log is a folder of segments of one writer each, so writers never wait for one another. A segment is a row of frames:
magic, length, CRC-32, payload. A killed process can leave a torn frame behind and a damaged disk a wrong one; readers
skip both and find the next frame by its magic. The first record of each model version in a segment follows a frame that
says what its columns are, so a segment can be read with nothing else at hand.
"""

from __future__ import annotations

import contextlib
import os
import struct
import threading
import time
import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import numpy.typing as npt

from mainspring.core.clock import new_id
from mainspring.core.errors import Unavailable
from mainspring.core.ref import check_name
from mainspring.core.schema import Column, Signature

if TYPE_CHECKING:
    import polars as pl

    from mainspring.core.clock import Clock

Array = npt.NDArray[Any]

MAGIC = b"\xabMS1"
_HEAD = struct.Struct("<4sII")
SEGMENT_AGE = timedelta(hours=1)
# Requests are logged when they are answered, so one that came earlier may follow one that came later.
DISORDER = timedelta(minutes=1)
SEGMENT_BYTES = 64 << 20
SYNC_S = 1.0
MICROSECOND = timedelta(microseconds=1)


class Answered(msgspec.Struct, array_like=True, tag=1):
    """One answered request of n predictions; `columns` as `encode_columns` gives them, `at` and `latency` in us."""

    form: int
    at: int
    latency: int
    id: str
    n: int
    columns: list[bytes | list[Any]]
    extras: dict[str, list[Any]]
    scores: bytes


class Failed(msgspec.Struct, array_like=True, tag=2):
    """One request that got no prediction; nothing of what it carried is kept."""

    version: int
    at: int
    latency: int
    id: str
    status: int


class _Form(msgspec.Struct, array_like=True, tag=3):
    form: int
    version: int
    signature: dict[str, Any]


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(Answered | Failed | _Form)


class PredictionLog:
    """Writes the log of one model; `append` belongs to one thread, `sync` may be called from any.

    A record that cannot be written is counted in `dropped` and the answer goes out all the same: a full disk must not
    stop predictions. A thread syncs once a second, so a power cut loses at most that.

    Args:
        directory: The folder of this model's log, from `log_directory`.
        clock: Gives the names of segments.
        segment_bytes: A segment that has grown past this is closed.
    """

    def __init__(self, directory: Path, clock: Clock, *, segment_bytes: int = SEGMENT_BYTES) -> None:
        self.directory = directory
        self.dropped = 0
        self.sync_failures = 0
        self._clock = clock
        self._segment_bytes = segment_bytes
        self._forms: list[bytes] = []
        self._fd = -1
        self._described: set[int] = set()
        self._size = 0
        self._first = self._last = 0
        self._retry_at = 0.0
        self._retired: deque[tuple[int, bool]] = deque()
        self._written = self._synced = self._lost = 0
        self._suspect = False
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def describe(self, version: int, signature: Signature) -> int:
        """Return the number that records of this model version carry as their form."""
        number = len(self._forms)
        self._forms.append(frame(_ENCODER.encode(_Form(number, version, signature.to_json()))))
        return number

    def append(self, record: Answered | Failed) -> bool:
        """Hand the record to the operating system; False when it could not be written."""
        data = frame(_ENCODER.encode(record))
        try:
            if self._suspect or self._size > self._segment_bytes or not self._first <= record.at < self._last:
                self._open(record.at)
            if isinstance(record, Answered) and record.form not in self._described:
                data = self._forms[record.form] + data
                self._described.add(record.form)
            if os.write(self._fd, data) != len(data):
                raise OSError("short write")
        except OSError:
            self._give_up()
            return False
        self._size += len(data)
        self._written += 1
        return True

    def sync(self) -> None:
        """Wait until everything appended before this call is on the disk; callers at once share one fsync.

        Raises:
            Unavailable: the disk did not take it; what was appended may not survive a power cut.
        """
        wanted = self._written
        with self._lock:
            if wanted > self._synced:
                self._sync_all()
            if wanted <= self._lost:
                raise Unavailable("the prediction log could not be written to the disk", hint="mainspring doctor")

    def close(self) -> None:
        """Sync and close; the log may be appended to again."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._retire()
        with self._lock:
            self._sync_all()

    def _open(self, at: int) -> None:
        if time.monotonic() < self._retry_at:
            raise OSError("the log waits after a failure")
        self._retire()
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        start = _instant(at) - DISORDER
        name = f"p-{_stamp(start)}-{new_id(self._clock)[-12:]}.seg"
        self._fd = os.open(self.directory / name, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o600)
        self._first = at - DISORDER // MICROSECOND
        self._last = self._first + SEGMENT_AGE // MICROSECOND
        self._size = 0
        self._described = set()
        self._suspect = False
        if self._thread is None:
            self._stop.clear()
            self._thread = threading.Thread(target=self._sync_often, name="prediction-log", daemon=True)
            self._thread.start()

    def _retire(self) -> None:
        # Descriptors are closed by `_sync_all` alone: another thread may be syncing this one just now.
        if self._fd >= 0:
            self._retired.append((self._fd, not self._suspect))
        self._fd = -1
        self._first = self._last = 0

    def _give_up(self) -> None:
        self.dropped += 1
        if time.monotonic() >= self._retry_at:
            self._retry_at = time.monotonic() + SYNC_S
        self._retire()

    def _sync_often(self) -> None:
        while not self._stop.wait(SYNC_S):
            if self._written > self._synced or self._retired:
                with self._lock:
                    self._sync_all()

    def _sync_all(self) -> None:
        mark, current = self._written, self._fd
        retired = [self._retired.popleft() for _ in range(len(self._retired))]
        try:
            for descriptor, healthy in (*retired, (current, current >= 0)):
                if healthy:
                    os.fdatasync(descriptor)
            self._sync_directory()
        except OSError:
            # After a failed fsync the kernel may have dropped the pages: these records are not safe, go on elsewhere.
            self.sync_failures += 1
            self._lost = mark
            self._suspect = True
        finally:
            for descriptor, _ in retired:
                with contextlib.suppress(OSError):
                    os.close(descriptor)
        self._synced = mark

    def _sync_directory(self) -> None:
        if self.directory.is_dir():
            sync_directory(self.directory)


def sync_directory(directory: Path) -> None:
    """Make the names in a folder survive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def log_directory(home: Path, project: str, model: str) -> Path:
    """Return the folder of a model's prediction and label log."""
    return home / "log" / check_name(project, "project") / check_name(model, "model")


def prediction_ids(request_id: str, n: int) -> list[str]:
    """Return the id of each prediction of a request: the request's own, or numbered when there are several.

    >>> prediction_ids("0198", 1), prediction_ids("0198", 2)
    (['0198'], ['0198.0', '0198.1'])
    """
    return [request_id] if n == 1 else [f"{request_id}.{i}" for i in range(n)]


def numbers_and_objects(signature: Signature) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of the inputs that are logged as bytes, and of those logged as lists."""
    objects = tuple(c.name for c in signature.inputs if _is_object(c))
    return tuple(name for name in signature.inputs.names if name not in objects), objects


def encode_columns(
    columns: Mapping[str, Array], numbers: Iterable[str], objects: Iterable[str]
) -> list[bytes | list[Any]]:
    """Return a request's columns as a record holds them; the names are those of `numbers_and_objects`."""
    return [*[columns[name].tobytes() for name in numbers], *[columns[name].tolist() for name in objects]]


def frame(payload: bytes) -> bytes:
    """Return a payload with its magic, length and checksum in front."""
    return _HEAD.pack(MAGIC, len(payload), zlib.crc32(payload)) + payload


def frames(data: bytes) -> Iterator[bytes]:
    """Yield the whole payloads in a segment; torn and damaged ones are passed over."""
    position = 0
    while 0 <= position <= len(data) - _HEAD.size:
        magic, length, checksum = _HEAD.unpack_from(data, position)
        start = position + _HEAD.size
        payload = data[start : start + length]
        if magic == MAGIC and len(payload) == length and zlib.crc32(payload) == checksum:
            yield payload
            position = start + length
        else:
            position = data.find(MAGIC, position + 1)


def read_predictions(
    home: Path, project: str, model: str, start: datetime | None = None, end: datetime | None = None
) -> pl.DataFrame:
    """Return one row per prediction with `start <= at < end`, in order of time, and one per failed request.

    Columns: `prediction_id`, `at`, `version`, `status` (200, or the HTTP status of a request without a prediction: its
    other columns are null), `latency_ms` (of the whole request), `score` (of the positive class, of the label, or the
    number), `label` (classifiers), `scores` (multiclass, in the order of the classes), `in.<column>` for each input and
    `extra.<column>` for each extra. Missing is null.
    """
    import polars as pl

    tables = [table for path in _segments(home, project, model, start, end) for table in _read_segment(path)]
    base: dict[str, Any] = {
        "prediction_id": pl.String(), "at": pl.Datetime("us", "UTC"), "version": pl.Int64(), "status": pl.Int64(),
        "latency_ms": pl.Float64(), "score": pl.Float64(),
    }  # fmt: skip
    frame = pl.concat([pl.DataFrame(schema=base), *tables], how="diagonal_relaxed")
    if start is not None:
        frame = frame.filter(pl.col("at") >= start)
    if end is not None:
        frame = frame.filter(pl.col("at") < end)
    return frame.sort("at", maintain_order=True)


def find_prediction(home: Path, project: str, prediction_id: str) -> tuple[str, dict[str, Any]] | None:
    """Return the model that gave a prediction and its row, or None; the id itself says when to look."""
    import polars as pl

    try:
        at = _instant(int(prediction_id.replace("-", "")[:12], 16) * 1000)
    except (ValueError, OverflowError):
        return None
    folder = home / "log" / check_name(project, "project")
    for directory in sorted(folder.iterdir()) if folder.is_dir() else []:
        near = timedelta(minutes=1)
        table = read_predictions(home, project, directory.name, at - near, at + near)
        for row in table.filter(pl.col("prediction_id") == prediction_id).iter_rows(named=True):
            return directory.name, row
    return None


def _segments(home: Path, project: str, model: str, start: datetime | None, end: datetime | None) -> list[Path]:
    first = f"p-{_stamp(start - SEGMENT_AGE)}" if start else ""
    last = f"p-{_stamp(end)}" if end else "q"
    return [p for p in sorted(log_directory(home, project, model).glob("p-*.seg")) if first <= p.name < last]


def _read_segment(path: Path) -> list[pl.DataFrame]:
    forms: dict[int, _Form] = {}
    answers: dict[int, list[Answered]] = {}
    failures: list[Failed] = []
    for payload in frames(path.read_bytes()):
        record = _DECODER.decode(payload)
        if isinstance(record, _Form):
            forms[record.form] = record
        elif isinstance(record, Failed):
            failures.append(record)
        else:
            answers.setdefault(record.form, []).append(record)
    tables = [_answer_table(forms[form], records) for form, records in answers.items() if form in forms]
    return [*tables, _failure_table(failures)] if failures else tables


def _answer_table(form: _Form, records: list[Answered]) -> pl.DataFrame:
    import polars as pl

    signature = Signature.from_json(form.signature)
    counts = np.array([record.n for record in records])
    at = np.repeat(np.array([record.at for record in records], np.int64), counts)
    columns: dict[str, Any] = {
        "prediction_id": [name for record in records for name in prediction_ids(record.id, record.n)],
        "at": pl.Series(at).cast(pl.Datetime("us", "UTC")),
        "version": np.full(len(at), form.version, np.int64),
        "status": np.full(len(at), 200, np.int64),
        "latency_ms": np.repeat(np.array([record.latency for record in records]) / 1000, counts),
        **_outcome(signature, np.frombuffer(b"".join(record.scores for record in records))),
    }
    numbers, objects = numbers_and_objects(signature)
    places = {name: i for i, name in enumerate((*numbers, *objects))}
    for column in signature.inputs:
        parts = [record.columns[places[column.name]] for record in records]
        columns[f"in.{column.name}"] = _series(column, parts)
    for column in signature.extras:
        values = [v for record in records for v in record.extras.get(column.name) or [None] * record.n]
        columns[f"extra.{column.name}"] = _extra(column, values)
    return pl.DataFrame(columns)


def _outcome(signature: Signature, scores: Array) -> dict[str, Any]:
    import polars as pl

    if signature.task == "binary":
        labels = [signature.classes[int(score >= 0.5)] for score in scores.tolist()]
        return {"score": scores, "label": labels}
    if signature.task == "multiclass":
        matrix = scores.reshape(-1, len(signature.classes))
        labels = [signature.classes[i] for i in matrix.argmax(axis=1).tolist()]
        return {
            "score": matrix.max(axis=1),
            "label": labels,
            "scores": pl.Series(matrix.tolist(), dtype=pl.List(pl.Float64)),
        }
    return {"score": scores}


def _is_object(column: Column) -> bool:
    return column.dtype == "string" or (column.dtype == "bool" and column.nullable)


def _series(column: Column, parts: list[Any]) -> pl.Series:
    import polars as pl

    if _is_object(column):
        kind = pl.Boolean() if column.dtype == "bool" else pl.String()
        return pl.Series([value for part in parts for value in part], dtype=kind)
    data = b"".join(parts)
    if column.dtype in ("datetime", "date"):
        instants = pl.Series(np.frombuffer(data, "datetime64[us]")).dt.replace_time_zone("UTC")
        return instants.cast(pl.Date) if column.dtype == "date" else instants
    if column.dtype == "bool":
        return pl.Series(np.frombuffer(data, np.bool_))
    if column.dtype == "int64" and not column.nullable:
        return pl.Series(np.frombuffer(data, np.int64))
    numbers = pl.Series(np.frombuffer(data, np.float64)).fill_nan(None)
    return numbers.cast(pl.Int64) if column.dtype == "int64" else numbers


def _extra(column: Column, values: list[Any]) -> pl.Series:
    import polars as pl

    kinds: dict[str, Any] = {"float64": pl.Float64(), "int64": pl.Int64(), "bool": pl.Boolean()}
    if column.dtype in ("datetime", "date"):
        read = [None if v is None else datetime.fromisoformat(v) for v in values]
        read = [v if v is None or v.tzinfo else v.replace(tzinfo=UTC) for v in read]
        instants = pl.Series(read, dtype=pl.Datetime("us", "UTC"))
        return instants.cast(pl.Date) if column.dtype == "date" else instants
    return pl.Series(values, dtype=kinds.get(column.dtype, pl.String()))


def _failure_table(records: list[Failed]) -> pl.DataFrame:
    import polars as pl

    return pl.DataFrame(
        {
            "prediction_id": [record.id for record in records],
            "at": pl.Series([record.at for record in records]).cast(pl.Datetime("us", "UTC")),
            "version": [record.version for record in records],
            "status": [record.status for record in records],
            "latency_ms": [record.latency / 1000 for record in records],
        }
    )


def _instant(microseconds: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=microseconds)


def _stamp(instant: datetime) -> str:
    return instant.astimezone(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
