"""What was acknowledged is in the log, whatever happens to the process or the disk."""

import os
import signal
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from mainspring.core.clock import FixedClock
from mainspring.core.errors import Unavailable
from mainspring.core.schema import Column, Schema, Signature
from mainspring.monitoring.capture import (
    Answered,
    Failed,
    PredictionLog,
    encode_columns,
    find_prediction,
    frame,
    frames,
    log_directory,
    numbers_and_objects,
    read_predictions,
)

SIGNATURE = Signature(
    inputs=Schema(
        (
            Column("amount", "float64"),
            Column("count", "int64", nullable=False),
            Column("age", "int64"),
            Column("vip", "bool", nullable=False),
            Column("maybe", "bool"),
            Column("city", "string"),
            Column("at", "datetime"),
            Column("day", "date"),
        )
    ),
    task="binary",
    classes=("no", "yes"),
    positive="yes",
    extras=Schema((Column("card", "string"), Column("paid", "datetime"))),
)
COLUMNS = {
    "amount": np.array([1.5, np.nan]),
    "count": np.array([2**60, -1]),
    "age": np.array([np.nan, 40.0]),
    "vip": np.array([True, False]),
    "maybe": np.array([None, True], object),
    "city": np.array(["Köln", None], object),
    "at": np.array(["2026-01-01T01:02:03.000004", "NaT"], "datetime64[us]"),
    "day": np.array(["2026-01-01", "NaT"], "datetime64[us]"),
}
START = datetime(2026, 1, 1, tzinfo=UTC)


def open_log(home: Path, clock: FixedClock, **options: int) -> tuple[PredictionLog, int]:
    log = PredictionLog(log_directory(home, "p", "m"), clock, **options)
    return log, log.describe(3, SIGNATURE)


def record(form: int, clock: FixedClock, name: str = "a", score: float = 0.25) -> Answered:
    at = int(clock.now().timestamp() * 1_000_000)
    columns = encode_columns(COLUMNS, *numbers_and_objects(SIGNATURE))
    extras = {"card": ["c1", None], "paid": ["2026-01-01T02:00:00+01:00", None]}
    return Answered(form, at, 1500, name, 2, columns, extras, np.array([score, 0.75]).tobytes())


def test_a_prediction_is_read_back_as_the_model_saw_it(tmp_path: Path, clock: FixedClock) -> None:
    log, form = open_log(tmp_path, clock)
    assert log.append(record(form, clock))
    rows = read_predictions(tmp_path, "p", "m").to_dicts()
    log.close()
    assert rows[0] == {
        "prediction_id": "a.0", "at": START, "version": 3, "status": 200, "latency_ms": 1.5, "score": 0.25,
        "label": "no",
        "in.amount": 1.5, "in.count": 2**60, "in.age": None, "in.vip": True, "in.maybe": None, "in.city": "Köln",
        "in.at": datetime(2026, 1, 1, 1, 2, 3, 4, tzinfo=UTC), "in.day": date(2026, 1, 1), "extra.card": "c1",
        "extra.paid": datetime(2026, 1, 1, 1, tzinfo=UTC),
    }  # fmt: skip
    assert (rows[1]["label"], rows[1]["in.amount"], rows[1]["in.age"], rows[1]["in.at"]) == ("yes", None, 40, None)


def test_multiclass_keeps_every_score(tmp_path: Path, clock: FixedClock) -> None:
    log = PredictionLog(log_directory(tmp_path, "p", "m"), clock)
    form = log.describe(1, Signature(Schema((Column("x", "float64"),)), "multiclass", (1, 2, 3)))
    log.append(Answered(form, 0, 1, "a", 1, [np.zeros(1).tobytes()], {}, np.array([0.1, 0.7, 0.2]).tobytes()))
    row = read_predictions(tmp_path, "p", "m").row(0, named=True)
    log.close()
    assert (row["label"], row["score"], row["scores"]) == (2, 0.7, [0.1, 0.7, 0.2])


def test_a_failed_request_is_logged_with_its_status_alone(tmp_path: Path, clock: FixedClock) -> None:
    log, form = open_log(tmp_path, clock)
    log.append(record(form, clock))
    log.append(Failed(3, int(clock.now().timestamp() * 1e6), 900, "b", 422))
    row = read_predictions(tmp_path, "p", "m").filter(prediction_id="b").row(0, named=True)
    log.close()
    assert (row["status"], row["latency_ms"]) == (422, 0.9)
    assert row["score"] is None
    assert row["in.city"] is None


def test_nothing_logged_reads_as_an_empty_table(tmp_path: Path) -> None:
    assert read_predictions(tmp_path, "p", "m", START).is_empty()


def test_reading_a_window_takes_its_start_and_leaves_its_end(tmp_path: Path, clock: FixedClock) -> None:
    log, form = open_log(tmp_path, clock)
    for hour in range(5):
        log.append(record(form, clock, f"h{hour}"))
        clock.advance(timedelta(hours=1))
    log.close()
    window = read_predictions(tmp_path, "p", "m", START + timedelta(hours=1), START + timedelta(hours=3))
    assert window["prediction_id"].to_list() == ["h1.0", "h1.1", "h2.0", "h2.1"]
    assert len(list(log_directory(tmp_path, "p", "m").iterdir())) >= 4


def test_a_request_that_came_earlier_may_be_logged_later(tmp_path: Path, clock: FixedClock) -> None:
    log, form = open_log(tmp_path, clock)
    early = record(form, clock, "early")
    clock.advance(timedelta(seconds=2))
    for name in ("x", "y"):
        log.append(record(form, clock, name))
        log.append(early)
    log.close()
    assert len(list(log_directory(tmp_path, "p", "m").iterdir())) == 1


def test_segments_stay_small(tmp_path: Path, clock: FixedClock) -> None:
    log, form = open_log(tmp_path, clock, segment_bytes=1000)
    for i in range(40):
        log.append(record(form, clock, str(i)))
    log.close()
    sizes = [path.stat().st_size for path in log_directory(tmp_path, "p", "m").iterdir()]
    assert max(sizes) < 3000
    assert read_predictions(tmp_path, "p", "m").height == 80


def test_torn_and_damaged_frames_are_passed_over() -> None:
    payloads = [b"one", b"two" * 100, b"three"]
    whole = b"".join(frame(payload) for payload in payloads)
    assert list(frames(whole)) == payloads
    for cut in range(len(frame(b"one")), len(whole)):
        assert next(frames(whole[:cut])) == b"one"
        assert list(frames(whole[:cut] + frame(b"after")))[-1] == b"after"
    for place in range(len(frame(b"one")), len(frame(b"one")) + len(frame(payloads[1]))):
        damaged = bytearray(whole)
        damaged[place] ^= 0xFF
        assert list(frames(bytes(damaged))) == [b"one", b"three"]


def test_log_files_belong_to_their_owner_alone(tmp_path: Path, clock: FixedClock) -> None:
    log, form = open_log(tmp_path, clock)
    log.append(record(form, clock))
    log.close()
    assert {path.stat().st_mode & 0o777 for path in log.directory.iterdir()} == {0o600}
    assert log.directory.stat().st_mode & 0o777 == 0o700


def test_a_disk_that_takes_nothing_is_counted_and_does_not_raise(tmp_path: Path, clock: FixedClock) -> None:
    log, form = open_log(tmp_path, clock)
    log.directory.parent.mkdir(parents=True)
    log.directory.write_text("a file where the folder should be")
    assert not log.append(record(form, clock))
    assert not log.append(record(form, clock))
    assert log.dropped == 2


def test_waiting_for_the_disk_fails_when_the_disk_does(tmp_path: Path, clock: FixedClock) -> None:
    log, form = open_log(tmp_path, clock)
    log.append(record(form, clock))
    log.sync()
    log.append(record(form, clock))
    (segment,) = (int(fd.name) for fd in Path("/proc/self/fd").iterdir() if str(fd.resolve()).endswith(".seg"))
    reader, writer = os.pipe()
    os.dup2(writer, segment)  # a pipe cannot be synced: the kernel answers EINVAL
    with pytest.raises(Unavailable):
        log.sync()
    os.close(reader)
    os.close(writer)
    assert log.sync_failures == 1
    assert log.append(record(form, clock, "next"))
    log.sync()
    log.close()
    assert "next.0" in read_predictions(tmp_path, "p", "m")["prediction_id"].to_list()


def test_a_prediction_is_found_by_its_id_alone(tmp_path: Path) -> None:
    clock = FixedClock("2026-01-01T00:00:00Z")
    log, form = open_log(tmp_path, clock)
    millis = int(clock.now().timestamp() * 1000)
    name = f"{millis:012x}"[:8] + "-" + f"{millis:012x}"[8:] + "-7000-8000-000000000000"
    log.append(record(form, clock, name, 0.5))
    log.close()
    found = find_prediction(tmp_path, "p", f"{name}.0")
    assert found is not None
    model, row = found
    assert (model, row["score"], row["label"]) == ("m", 0.5, "yes")
    assert find_prediction(tmp_path, "p", "nonsense") is None
    assert find_prediction(tmp_path, "q", name) is None


WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import numpy as np
from mainspring.core.clock import SystemClock
from mainspring.core.schema import Column, Schema, Signature
from mainspring.monitoring.capture import Answered, PredictionLog, log_directory
log = PredictionLog(log_directory(Path(sys.argv[1]), "p", "m"), SystemClock(), segment_bytes=50_000)
form = log.describe(1, Signature(Schema((Column("x", "float64"),)), "regression"))
i = 0
while True:
    log.append(Answered(form, 10**15, 1, str(i), 1, [np.ones(1).tobytes()], {}, np.ones(1).tobytes()))
    sys.stdout.write(f"{i}\\n")
    sys.stdout.flush()
    i += 1
"""


def test_a_killed_writer_loses_nothing_it_acknowledged(tmp_path: Path) -> None:
    source = str(Path(sys.modules["mainspring.monitoring.capture"].__file__ or "").parents[2])
    command = [sys.executable, "-c", WRITER, str(tmp_path), source]
    for kill_after in (1, 500, 4000):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            acknowledged = [process.stdout.readline() for _ in range(kill_after)]
            process.send_signal(signal.SIGKILL)
            acknowledged += [line for line in process.stdout if line.endswith("\n")]
        logged = set(read_predictions(tmp_path, "p", "m")["prediction_id"].to_list())
        assert {line.strip() for line in acknowledged} <= logged
