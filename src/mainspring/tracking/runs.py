"""Tracked runs: what a run logs, and reading it back, with MLflow behind."""

from __future__ import annotations

import atexit
import io
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, Self

from mainspring.core.errors import Invalid
from mainspring.core.ref import check_name
from mainspring.store import events
from mainspring.store.workspace import Workspace
from mainspring.tracking.delivery import REGISTRY, delivery_of
from mainspring.tracking.records import MetricPoint, RunRecord, Trial
from mainspring.tracking.spool import Operation, Spool, identity_of

_BUFFER = 512
_BUFFER_S = 1.0


class Run:
    """One run while it works; threads may share it.

    Metrics are buffered for about a second and then handed to the operating system: a killed process loses no more than
    that, and a store that is away delays nothing. After `finish` the run may still be added to.
    """

    def __init__(self, runs: Runs, folder: Path, opening: Operation) -> None:
        self.run_id: str = opening["run_id"]
        self.project: str = opening["project"]
        self._runs = runs
        self._spool = Spool(folder, opening)
        self._lock = threading.Lock()
        self._metrics: list[tuple[str, float, int, int]] = []
        self._written = time.monotonic()
        atexit.register(self._flush_metrics)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.finish("FAILED" if kind else "SUCCEEDED")

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Record parameters; a name keeps its first value."""
        self._append({"op": "params", "values": {name: _plain(value) for name, value in params.items()}})

    def log_metric(self, name: str, value: float, step: int = 0) -> None:
        """Record one value of a metric; NaN and infinities are kept as such."""
        with self._lock:
            self._metrics.append((name, float(value), self._runs.now_ms(), step))
            due = len(self._metrics) >= _BUFFER or time.monotonic() - self._written > _BUFFER_S
        if due:
            self._flush_metrics()

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Record several metrics at one step."""
        for name, value in metrics.items():
            self.log_metric(name, value, step)

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Record tags; a later value replaces an earlier one."""
        self._append({"op": "tags", "values": {name: _plain(value) for name, value in tags.items()}})

    def log_artifact(self, content: bytes | str | Path, path: str) -> None:
        """Keep bytes, a text, a file or a folder under `path` among the run's artifacts.

        Raises:
            Invalid: the path is absolute or leaves the folder, or the file is not there.
        """
        parts = PurePosixPath(path).parts
        if not parts or PurePosixPath(path).is_absolute() or ".." in parts:
            raise Invalid(f"{path!r} is not a path for an artifact", hint="write it relative, as in plots/roc.svg")
        if isinstance(content, Path) and not content.exists():
            raise Invalid(f"there is no file {content}")
        data = content.encode() if isinstance(content, str) else content
        file = f"{self._runs.workspace.new_id()}/{parts[-1]}"
        self._append({"op": "artifact", "file": file, "path": "/".join(parts)}, files={file: data})

    def log_figure(self, figure: Any, path: str) -> None:
        """Keep a matplotlib figure; the suffix of `path` says in which format."""
        buffer = io.BytesIO()
        figure.savefig(buffer, format=PurePosixPath(path).suffix.lstrip(".") or "svg")
        self.log_artifact(buffer.getvalue(), path)

    def log_trials(self, trials: Sequence[Trial]) -> None:
        """Record the trials of a search as child runs, in one batch; their ids follow from this run's id."""
        values = [
            {
                "run_id": f"{self.run_id}.{trial.number}",
                "number": trial.number,
                "params": {name: _plain(value) for name, value in trial.params.items()},
                "status": trial.status,
                "error": trial.error[:1000],
                "at": _ms(trial.started_at.timestamp()),
                "ended": _ms(trial.ended_at.timestamp()),
                "metrics": [
                    *(("objective", value, _ms(trial.ended_at.timestamp()), step) for step, value in trial.reports),
                    *([("value", trial.value, _ms(trial.ended_at.timestamp()), 0)] if trial.value is not None else []),
                ],
            }
            for trial in trials
        ]
        self._append({"op": "trials", "parent": self.run_id, "values": values})

    @contextmanager
    def active(self) -> Iterator[None]:
        """Let the user's own `mlflow.log_*` calls inside the block land in this run."""
        from mainspring.tracking.mlflow_store import fluent

        def wait_for_ids() -> dict[str, str] | None:
            folder = self._spool.folder
            self._runs.delivery.wait(lambda: identity_of(folder) is not None, timeout_s=30)
            return identity_of(folder)

        with fluent(self._runs.workspace.settings.mlflow, wait_for_ids):
            yield

    def finish(self, status: str = "SUCCEEDED") -> None:
        """End the run: SUCCEEDED, FAILED, CANCELLED or KILLED. Delivery goes on beside; see `Runs.flush`."""
        self._append({"op": "finish", "status": status, "at": self._runs.now_ms()})
        self._spool.close()
        atexit.unregister(self._flush_metrics)

    def _append(self, operation: Operation, files: Mapping[str, bytes | Path] | None = None) -> None:
        self._flush_metrics(operation, files=files)
        self._runs.delivery.ensure()

    def _flush_metrics(self, *more: Operation, files: Mapping[str, bytes | Path] | None = None) -> None:
        with self._lock:
            values, self._metrics = self._metrics, []
            self._written = time.monotonic()
            batch = [{"op": "metrics", "values": values}] if values else []
            if batch or more:
                self._spool.append(*batch, *more, files=files)


class Runs:
    """The runs of a workspace.

    Writing never waits for MLflow. Reading opens MLflow's store in this process, which takes a second the first time.
    """

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.delivery = delivery_of(workspace.home, workspace.settings.mlflow)
        self._store: Any = None

    def now_ms(self) -> int:
        """Return the workspace's time in milliseconds since 1970, as MLflow counts."""
        return _ms(self.workspace.clock.now().timestamp())

    def warm(self) -> None:
        """Begin to open the store, beside the caller; it is ready when the run first needs it."""
        self.delivery.ensure()

    def start(
        self, project: str, name: str, run_id: str, *, parent: str = "", tags: Mapping[str, Any] | None = None
    ) -> Run:
        """Start the run `run_id`, or go on with it: the same id is the same run, in whatever process.

        Args:
            project: The project, which is an experiment in MLflow.
            name: What the run is called in lists, as a model's name.
            run_id: Our id of the run.
            parent: The id of the run that this one is part of.
            tags: Tags known from the start.
        """
        check_name(run_id, "run")
        given = {**(tags or {}), **({"mainspring.parent": parent} if parent else {})}
        opening = {
            "op": "start",
            "project": check_name(project, "project"),
            "run_id": run_id,
            "name": name,
            "parent": parent,
            "actor": self.workspace.actor,
            "at": self.now_ms(),
            "tags": {key: _plain(value) for key, value in given.items()},
        }
        run = Run(self, self._folder(run_id), opening)
        run._append(opening)
        return run

    def flush(self, *run_ids: str, timeout_s: float = 15.0) -> bool:
        """Wait until MLflow has all of the finished runs and of the registry; return False when it takes too long.

        What was not delivered stays on disk, and the next process that logs delivers it.
        """
        folders = [self._folder(run_id) for run_id in (*run_ids, REGISTRY)]
        return self.delivery.wait(lambda: not any(folder.exists() for folder in folders), timeout_s)

    def mirror_registry(self) -> int:
        """Hand what the registry decided to the mirror in MLflow; return how many messages left the outbox."""
        spool = Spool(self._folder(REGISTRY), {"op": "open"})

        def hand_over(payload: dict[str, Any], _: str) -> None:
            spool.append({"op": "mirror", "message": payload})

        try:
            count = events.deliver(self.workspace.database, self.workspace.clock, "mlflow", hand_over)
        finally:
            spool.close()
        if count:
            self.delivery.ensure()
        return count

    def list(self, project: str, *, limit: int = 100, name: str = "", parent: str = "") -> list[RunRecord]:
        """Return a project's runs, the newest first; the trials of `parent` when it is given."""
        found: list[RunRecord] = self._opened().runs(project, limit=limit, name=name, parent=parent)
        return found

    def get(self, project: str, run_id: str) -> RunRecord:
        """Return one run.

        Raises:
            NotFound: the project has no such run.
        """
        found: RunRecord = self._opened().run(project, run_id)
        return found

    def history(self, project: str, run_id: str, metric: str) -> Sequence[MetricPoint]:
        """Return every value of a metric of a run, in the order of their steps."""
        found: Sequence[MetricPoint] = self._opened().history(project, run_id, metric)
        return found

    def artifacts(self, project: str, run_id: str) -> Sequence[str]:
        """Return the paths of a run's artifacts."""
        found: Sequence[str] = self._opened().artifacts(project, run_id)
        return found

    def read_artifact(self, project: str, run_id: str, path: str) -> bytes:
        """Return the bytes of one artifact of a run."""
        data: bytes = self._opened().read_artifact(project, run_id, path)
        return data

    @property
    def problem(self) -> str:
        """Why MLflow does not take what was logged, or an empty string."""
        return self.delivery.problem

    def close(self) -> None:
        """Deliver what lies there, and end the deliverer."""
        self.delivery.close()

    def _opened(self) -> Any:
        if self._store is None:
            from mainspring.tracking.mlflow_store import MlflowStore

            self._store = MlflowStore(self.workspace.settings.mlflow, self.workspace.home)
        return self._store

    def _folder(self, run_id: str) -> Path:
        return self.workspace.home / "tracking" / run_id


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _plain(value: Any) -> Any:
    """Return a value that JSON can hold: itself, or its text."""
    return value if isinstance(value, str | int | float | bool | None) else str(value)
