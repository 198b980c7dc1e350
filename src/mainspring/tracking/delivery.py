"""Delivery of spools to MLflow, in a process of its own that starts while the run already works.

Importing MLflow and creating its store cost two seconds of processor time and 250 MB; on another core they cost a run
nothing, and a control plane that stays up does not carry them. Where MLflow is imported already (a notebook, a test) a
thread does the same. Whoever holds the lock delivers for every process of the workspace.
"""

from __future__ import annotations

import atexit
import fcntl
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mainspring.core.errors import Unavailable
from mainspring.tracking.spool import Operation, SpoolReader, spools_of

if TYPE_CHECKING:
    from mainspring.tracking.mlflow_store import MlflowStore

IDLE_S = 60.0
POLL_S = 0.05
RETRY_S = 2.0
REGISTRY = "~registry"  # the spool of model versions and aliases; sorts after the runs that made them
_LOGGED = ("params", "metrics", "tags")


class Delivery:
    """Keeps one deliverer alive for a workspace; safe to share between threads."""

    def __init__(self, home: Path, uri: str) -> None:
        self._home = home
        self._uri = uri
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()

    def ensure(self) -> None:
        """Start a deliverer unless one lives."""
        with self._lock:
            if self._thread is not None and self._thread.is_alive():
                return
            if self._child is not None:
                if self._child.poll() is None:
                    return
                self._reap(self._child)
            if "mlflow" in sys.modules:
                self._stop.clear()
                self._thread = threading.Thread(target=self._run_thread, name="mainspring-tracking", daemon=True)
                self._thread.start()
            else:
                self._child = self._start_child()

    def _run_thread(self) -> None:
        deliver_until(self._home, self._uri, self._stop.wait, self._stop.is_set)

    def _start_child(self) -> subprocess.Popen[bytes]:
        log = self._home / "tracking" / "delivery.log"
        log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        source = str(Path(__file__).parents[2])
        paths = os.pathsep.join(path for path in (source, os.environ.get("PYTHONPATH", "")) if path)
        # The URI may hold a password, and arguments are public. -P: the user's folder may hold any module name.
        environment = {**os.environ, "MAINSPRING_HOME": str(self._home), "MAINSPRING_MLFLOW_URI": self._uri}
        with log.open("wb") as output:
            # Its own session: Ctrl-C ends the run, and the deliverer then stores what the run said last.
            return subprocess.Popen(
                [sys.executable, "-P", "-m", "mainspring.tracking.delivery"],
                env={**environment, "PYTHONPATH": paths},
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait(self, is_done: Callable[[], bool], timeout_s: float) -> bool:
        """Wait until `is_done()` says so; return False when it did not within `timeout_s` seconds, or cannot."""
        end = time.monotonic() + timeout_s
        while not is_done():
            if time.monotonic() > end:
                return False
            self.ensure()
            time.sleep(0.01)
        return True

    @property
    def problem(self) -> str:
        """What keeps the store from taking more, or an empty string."""
        try:
            return (self._home / "tracking" / "problem.txt").read_text()
        except FileNotFoundError:
            return ""

    def close(self) -> None:
        """Let the deliverer finish what lies there, and wait for its end."""
        with self._lock:
            if self._thread is not None:
                self._stop.set()
                self._thread.join()
                self._thread = None
            if self._child is not None:
                self._reap(self._child)
                self._child = None

    def _reap(self, child: subprocess.Popen[bytes]) -> None:
        if child.stdin is not None:
            with suppress(OSError):
                child.stdin.close()
        try:
            child.wait(15)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


_DELIVERIES: dict[tuple[Path, str], Delivery] = {}
_DELIVERIES_LOCK = threading.Lock()


def delivery_of(home: Path, uri: str) -> Delivery:
    """Return the process's one deliverer of a workspace; steps of one run open the workspace again and again."""
    with _DELIVERIES_LOCK:
        if (home, uri) not in _DELIVERIES:
            _DELIVERIES[home, uri] = Delivery(home, uri)
            atexit.register(_DELIVERIES[home, uri].close)
        return _DELIVERIES[home, uri]


def deliver_until(home: Path, uri: str, wait: Callable[[float], Any], is_over: Callable[[], bool]) -> None:
    """Deliver whatever is spooled under `home` until `is_over()`, then once more; `wait` pauses for seconds."""
    lock = os.open(_lock_path(home), os.O_CREAT | os.O_RDWR, 0o600)
    try:
        while not _try_lock(lock):
            if is_over():
                return
            wait(POLL_S)
        _deliver_locked(home, uri, wait, is_over)
    finally:
        os.close(lock)


def _deliver_locked(home: Path, uri: str, wait: Callable[[float], Any], is_over: Callable[[], bool]) -> None:
    store: MlflowStore | None = None
    readers: dict[Path, _Reading] = {}
    problem = home / "tracking" / "problem.txt"
    last = time.monotonic()
    while True:
        over = is_over()  # asked before the reading: what was written until then is read below
        try:
            if store is None:
                from mainspring.tracking.mlflow_store import MlflowStore

                store = MlflowStore(uri, home)
            if deliver_spools(home, store, readers):
                last = time.monotonic()
            problem.unlink(missing_ok=True)
        except Exception as error:  # whatever it is, what is spooled stays there, and the next try may do better
            problem.write_text(getattr(error, "message", "") or f"MLflow failed: {type(error).__name__}: {error}"[:500])
            if not over:
                wait(RETRY_S)
        if over or time.monotonic() - last > IDLE_S:
            return
        wait(POLL_S)


class _Reading:
    """How far one spool is delivered."""

    def __init__(self, folder: Path) -> None:
        self.reader = SpoolReader(folder)
        self.identity: dict[str, str] = {}
        self.is_finished = False


def deliver_spools(home: Path, store: MlflowStore, readers: dict[Path, _Reading]) -> int:
    """Deliver what every spool holds now; return the number of operations. Delivering again changes nothing."""
    count = 0
    folders = spools_of(home)
    for folder in folders:
        reading = readers.setdefault(folder, _Reading(folder))
        operations, offset = reading.reader.read()
        for kind, group in groupby(operations, lambda operation: operation["op"] in _LOGGED):
            _deliver(store, reading, list(group), batched=kind)
        reading.reader.advance(offset)
        count += len(operations)
        if reading.is_finished and reading.reader.remove():
            del readers[folder]
    for gone in set(readers) - set(folders):
        del readers[gone]
    return count


def _deliver(store: MlflowStore, reading: _Reading, operations: list[Operation], *, batched: bool) -> None:
    """Deliver operations in order; what the store will never take is said in a tag, and the rest goes on."""
    try:
        if batched:
            store.log(reading.identity["run_id"], operations)
            return
        for operation in operations:
            _apply(store, reading, operation)
    except Unavailable:
        raise
    except Exception as error:
        print(f"{reading.reader.folder.name}: {type(error).__name__}: {error}", flush=True)
        if "run_id" in reading.identity:
            values = {"mainspring.tracking_error": f"{type(error).__name__}: {error}"[:1000]}
            store.log(reading.identity["run_id"], [{"op": "tags", "values": values}])


def _apply(store: MlflowStore, reading: _Reading, operation: Operation) -> None:
    kind = operation["op"]
    reading.is_finished = kind in ("finish", "mirror")
    if kind == "mirror":
        store.mirror(operation["message"])
    elif kind == "start":
        reading.identity = store.start(operation)
        reading.reader.identify(reading.identity)
    elif kind == "artifact":
        store.artifact(reading.identity["run_id"], reading.reader.file(operation["file"]), operation["path"])
    elif kind == "trials":
        store.trials(reading.identity, operation)
    elif kind == "finish":
        store.finish(reading.identity["run_id"], operation)


def _lock_path(home: Path) -> Path:
    folder = home / "locks"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    (home / "tracking").mkdir(exist_ok=True, mode=0o700)
    return folder / "tracking"


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _main() -> None:
    """Deliver until the process that started this one closes our standard input, by intent or by dying."""
    os.umask(0o077)

    def parent_is_gone() -> bool:
        return bool(select.select([0], [], [], 0)[0])

    def wait(seconds: float) -> None:
        select.select([0], [], [], seconds)

    deliver_until(Path(os.environ["MAINSPRING_HOME"]), os.environ["MAINSPRING_MLFLOW_URI"], wait, parent_is_gone)


if __name__ == "__main__":
    _main()
    # Everything is stored; taking MLflow's two thousand modules apart would keep the parent waiting for a second.
    os._exit(0)
