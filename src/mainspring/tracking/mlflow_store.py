"""The MLflow store: the one file that speaks to MLflow, so that its stock UI reads what Mainspring writes."""

from __future__ import annotations

import importlib.abc
import json
import logging
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mainspring.core.errors import NotFound, Unavailable
from mainspring.store.workspace import file_lock
from mainspring.tracking.records import MetricPoint, RunRecord
from mainspring.tracking.spool import Operation

RUN_TAG = "mainspring.run_id"
_STATUSES = {"SUCCEEDED": "FINISHED", "RUNNING": "RUNNING"} | dict.fromkeys(("CANCELLED", "KILLED", "PRUNED"), "KILLED")
_AWAY = {"INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED"}
_FORBIDDEN = re.compile(r"[^\w .:/-]")
_ENVIRONMENT = {
    # MLflow would report its use to its makers, and wait for minutes on a server that is away.
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_ENABLE_ASYNC_LOGGING": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "GIT_PYTHON_REFRESH": "quiet",
}


class MlflowStore:
    """An open MLflow store; importing it costs a second, opening it for the first time another.

    Every write can be repeated without effect: runs are found by the tag `mainspring.run_id`, metrics carry their time,
    model versions carry ours.

    Args:
        uri: A tracking URI: `sqlite:///...`, `postgresql://...`, or a server's `http://...`.
        home: The workspace folder; artifacts of an SQL store stand in `mlflow-artifacts` under it.

    Raises:
        Unavailable: the store does not answer.
    """

    def __init__(self, uri: str, home: Path) -> None:
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        logging.getLogger("mlflow").setLevel(logging.ERROR)
        logging.getLogger("alembic").setLevel(logging.ERROR)
        import mlflow
        from mlflow import MlflowClient, entities

        self._home = home
        self._entities = entities
        self._error: type[Exception] = mlflow.exceptions.MlflowException
        self._experiments: dict[str, str] = {}
        self._is_sql = not uri.startswith("http")
        if self._is_sql:
            _configure_tables()
        # Processes that open a cold store at once crash in its migrations.
        with file_lock(home / "locks" / "mlflow"), self._answering():
            if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).exists():
                _create_sqlite(Path(uri.removeprefix("sqlite:///")), home / "mlflow-artifacts")
            self._client = MlflowClient(tracking_uri=uri, registry_uri=uri)
            self._client.get_experiment_by_name("Default")

    # Writing: one method per operation of a spool.

    def start(self, operation: Operation) -> dict[str, str]:
        """Return the store's ids of the run, which is created if the store does not know it."""
        with self._answering():
            experiment = self._experiment(operation["project"])
            found = self._find(experiment, operation["run_id"])
            if found is None:
                tags = {"mlflow.user": operation["actor"], **operation["tags"], RUN_TAG: operation["run_id"]}
                parent = operation["parent"] and self._find(experiment, operation["parent"])
                if parent:
                    tags["mlflow.parentRunId"] = parent.info.run_id
                found = self._client.create_run(experiment, operation["at"], _texts(tags), operation["name"])
            elif found.info.status != "RUNNING":
                self._client.update_run(found.info.run_id, status="RUNNING")
            return {"experiment_id": experiment, "run_id": found.info.run_id}

    def log(self, run_id: str, operations: Sequence[Operation]) -> None:
        """Store all parameters, metrics and tags of `operations` in as few calls as MLflow's limits allow."""
        params: dict[str, str] = {}
        tags: dict[str, str] = {}
        metrics: list[Any] = []
        for operation in operations:
            if operation["op"] == "params":
                for name, value in _texts(operation["values"], 6000).items():
                    if params.setdefault(name, value) != value:
                        tags[f"param.{name}"] = value[:5000]
            elif operation["op"] == "tags":
                tags |= _texts(operation["values"])
            elif operation["op"] == "metrics":
                metrics += [
                    self._entities.Metric(_key(name), value, at, step) for name, value, at, step in operation["values"]
                ]
        with self._answering():
            self._log(run_id, metrics, params, tags)

    def _log(self, run_id: str, metrics: list[Any], params: Mapping[str, str], tags: Mapping[str, str]) -> None:
        given = [self._entities.Param(key, value) for key, value in params.items()]
        noted = [self._entities.RunTag(key, value) for key, value in tags.items()]
        # At most 1000 in a batch, of which 100 parameters and 100 tags; each batch is a commit, so all go together.
        for part in range(max(-(-len(metrics) // 800), -(-len(given) // 100), -(-len(noted) // 90))):
            some = given[part * 100 : part * 100 + 100]
            rest: dict[str, Any] = {
                "metrics": metrics[part * 800 : part * 800 + 800],
                "tags": noted[part * 90 : part * 90 + 90],
            }
            try:
                self._client.log_batch(run_id, params=some, **rest)
            except self._error as error:
                if "Changing param values" not in str(error):
                    raise
                # MLflow keeps the first value of a parameter; what a later attempt used is a tag beside it.
                first = self._client.get_run(run_id).data.params
                self._client.log_batch(run_id, params=[p for p in some if p.key not in first], **rest)
                later = {f"param.{p.key}": p.value for p in some if first.get(p.key, p.value) != p.value}
                changed = [self._entities.RunTag(key, value) for key, value in _texts(later).items()]
                self._client.log_batch(run_id, tags=changed)

    def artifact(self, run_id: str, source: Path, path: str) -> None:
        """Copy a file of the same name, or a folder's content, to `path` among the run's artifacts."""
        with self._answering():
            if source.is_dir():
                self._client.log_artifacts(run_id, str(source), path)
            else:
                self._client.log_artifact(run_id, str(source), path.rpartition("/")[0] or None)

    def trials(self, parent: Mapping[str, str], operation: Operation) -> None:
        """Store the trials of a search as children of its run."""
        with self._answering():
            asked = f"tags.`mainspring.parent` = '{_quoted(operation['parent'])}'"
            known = {
                run.data.tags[RUN_TAG]: run
                for run in self._client.search_runs([parent["experiment_id"]], asked, max_results=10_000)
            }
            for trial in operation["values"]:
                found = known.get(trial["run_id"])
                if found is not None and found.info.status != "RUNNING":
                    continue
                tags = {
                    "mlflow.parentRunId": parent["run_id"],
                    "mainspring.parent": operation["parent"],
                    RUN_TAG: trial["run_id"],
                    "trial": trial["number"],
                    "error": trial["error"],
                }
                run = found or self._client.create_run(
                    parent["experiment_id"], trial["at"], _texts(tags), f"trial {trial['number']}"
                )
                metrics = [self._entities.Metric(_key(m[0]), m[1], m[2], m[3]) for m in trial["metrics"]]
                self._log(run.info.run_id, metrics, _texts(trial["params"], 6000), {})
                self._client.set_terminated(run.info.run_id, _STATUSES.get(trial["status"], "FAILED"), trial["ended"])

    def finish(self, run_id: str, operation: Operation) -> None:
        """Give the run its final status."""
        with self._answering():
            self._client.set_terminated(run_id, _STATUSES.get(operation["status"], "FAILED"), operation["at"])

    def mirror(self, message: Mapping[str, Any]) -> None:
        """Repeat in MLflow's registry what the workspace decided: a version, or the move of an alias."""
        name = f"{message['project']}.{message['model']}"
        with self._answering():
            found = self._version(name, message["version"]) or self._mirror_version(name, message)
            if message["kind"] == "alias":
                self._client.set_registered_model_alias(name, message["alias"], found.version)

    def _mirror_version(self, name: str, message: Mapping[str, Any]) -> Any:
        with suppress(self._error):  # it is there already; if that was not the reason, the next call says it
            self._client.create_registered_model(name)
        run = self._find(self._experiment(message["project"]), message["run_id"])
        if run is None:
            source = f"mainspring:{message['bundle_digest']}"
        else:
            # A server takes the run's own artifacts only; in a database the shorter form stays true when files move.
            source = f"runs:/{run.info.run_id}/bundle" if self._is_sql else f"{run.info.artifact_uri}/bundle"
        tags = {
            "mainspring.version": str(message["version"]),
            "mainspring.bundle": message["bundle_digest"],
            "mainspring.author": message["author"],
        }
        run_id = run.info.run_id if run else None
        return self._client.create_model_version(name, source, run_id, tags=tags, await_creation_for=0)

    def _version(self, name: str, version: int) -> Any:
        found = self._client.search_model_versions(f"name = '{name}' and tags.`mainspring.version` = '{version}'")
        return found[0] if found else None

    # Reading.

    def runs(self, project: str, *, limit: int = 100, name: str = "", parent: str = "") -> list[RunRecord]:
        """Return the runs of a project, the newest first; trials only when their `parent` is named."""
        with self._answering():
            experiment = self._client.get_experiment_by_name(project)
            if experiment is None:
                return []
            wanted = f"tags.`mainspring.parent` = '{parent}'" if parent else ""
            if name:
                wanted = f"{wanted + ' and ' if wanted else ''}attributes.run_name = '{_quoted(name)}'"
            records: list[RunRecord] = []
            token = None
            while len(records) < limit:
                page = self._client.search_runs(
                    [experiment.experiment_id], wanted, max_results=1000 if parent else limit * 2, page_token=token
                )
                found = [_record(project, run) for run in page]
                records += found if parent else [record for record in found if not record.parent]
                token = page.token
                if not token:
                    break
            return records[:limit]

    def run(self, project: str, run_id: str) -> RunRecord:
        """Return one run.

        Raises:
            NotFound: the project has no such run.
        """
        with self._answering():
            return _record(project, self._run(project, run_id))

    def history(self, project: str, run_id: str, metric: str) -> list[MetricPoint]:
        """Return every value of a metric, in the order of their steps."""
        with self._answering():
            found = self._client.get_metric_history(self._run(project, run_id).info.run_id, _key(metric))
            return sorted(MetricPoint(m.step, m.value, _instant(m.timestamp)) for m in found)

    def artifacts(self, project: str, run_id: str, path: str = "") -> list[str]:
        """Return the paths of the run's artifacts, folders walked."""
        with self._answering():
            known = self._run(project, run_id).info.run_id
            paths: list[str] = []
            folders = [path or None]
            while folders:
                for entry in self._client.list_artifacts(known, folders.pop()):
                    (folders if entry.is_dir else paths).append(entry.path)
            return sorted(paths)

    def read_artifact(self, project: str, run_id: str, path: str) -> bytes:
        """Return the bytes of one artifact."""
        with self._answering():
            run = self._run(project, run_id).info.run_id
            return Path(self._client.download_artifacts(run, path)).read_bytes()

    def _run(self, project: str, run_id: str) -> Any:
        experiment = self._client.get_experiment_by_name(project)
        found = experiment and self._find(experiment.experiment_id, run_id)
        if not found:
            raise NotFound(f"no run {run_id!r} in project {project!r}", hint="mainspring runs list")
        return found

    def _find(self, experiment: str, run_id: str) -> Any:
        found = self._client.search_runs([experiment], f"tags.`{RUN_TAG}` = '{_quoted(run_id)}'", max_results=1)
        return found[0] if found else None

    def _experiment(self, project: str) -> str:
        if project not in self._experiments:
            found = self._client.get_experiment_by_name(project)
            location = (self._home / "mlflow-artifacts" / project).as_uri() if self._is_sql else None
            self._experiments[project] = (
                found.experiment_id if found else self._client.create_experiment(project, location)
            )
        return self._experiments[project]

    @contextmanager
    def _answering(self) -> Iterator[None]:
        """Tell a store that is away, worth another try, from an operation that it will never take."""
        try:
            yield
        except self._error as error:
            if getattr(error, "error_code", "") in _AWAY:
                raise Unavailable(f"MLflow does not answer: {_first_line(error)}", hint="mainspring doctor") from error
            raise
        except OSError as error:
            raise Unavailable(f"MLflow does not answer: {_first_line(error)}", hint="mainspring doctor") from error


@contextmanager
def fluent(uri: str, wait_for_ids: Callable[[], Mapping[str, str] | None]) -> Iterator[None]:
    """Let `mlflow.log_*` of the user's code land in the run whose ids `wait_for_ids` gives.

    MLflow is not imported for it: most model functions never do, and it costs a second. The first import of MLflow
    inside the block waits for the ids and finds them in MLflow's own environment variables.
    """
    names = ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID")
    before = {name: os.environ.get(name) for name in names}

    def attach() -> None:
        ids = wait_for_ids()
        if ids is None:
            return
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        os.environ.update(zip(names, (uri, ids["run_id"], ids["experiment_id"]), strict=True))

    hook = _OnImport("mlflow", attach)
    was_imported = "mlflow" in sys.modules
    if was_imported:
        attach()
        previous_uri = sys.modules["mlflow"].get_tracking_uri()
        sys.modules["mlflow"].set_tracking_uri(uri)
    else:
        sys.meta_path.insert(0, hook)
    try:
        yield
    finally:
        if hook in sys.meta_path:
            sys.meta_path.remove(hook)
        mlflow = sys.modules.get("mlflow")
        if mlflow is not None and mlflow.active_run() is not None:
            mlflow.end_run("RUNNING")  # the run goes on; its own `finish` ends it
        if was_imported and mlflow is not None:
            mlflow.set_tracking_uri(previous_uri)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


class _OnImport(importlib.abc.MetaPathFinder):
    """Calls `action` once, when `module` is about to be imported for the first time; finds nothing itself."""

    def __init__(self, module: str, action: Callable[[], None]) -> None:
        self._module = module
        self._action = action

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> None:
        if fullname == self._module and self in sys.meta_path:
            sys.meta_path.remove(self)
            self._action()


def _configure_tables() -> None:
    """Let MLflow's tables be set up now, once, without the warning that SQLAlchemy 2.1 has for one of them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        importlib.import_module("mlflow.store.tracking.sqlalchemy_store")


def _create_sqlite(path: Path, artifacts: Path) -> None:
    """Create MLflow's database beside its place and move it there when it is whole.

    Its migrations commit some sixty times: without a sync for each they take a second instead of up to five, and a
    process killed among them leaves nothing that the next one would have to understand.
    """
    import sqlalchemy as sa
    from mlflow.store.tracking import sqlalchemy_store

    create: Callable[..., Any] = sqlalchemy_store.SqlAlchemyStore

    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".mlflow-") as folder:

        def without_sync(connection: Any, _: Any) -> None:
            # MLflow makes its engine itself, so this hears of every engine of the process: only ours is meant.
            if Path(connection.execute("PRAGMA database_list").fetchone()[2]).parent.samefile(folder):
                connection.execute("PRAGMA synchronous=OFF")

        new = Path(folder) / path.name
        sa.event.listen(sa.Engine, "connect", without_sync)
        try:
            create(f"sqlite:///{new}", artifacts.as_uri()).engine.dispose()
        finally:
            sa.event.remove(sa.Engine, "connect", without_sync)
        new.chmod(0o600)
        with new.open("rb") as file:
            os.fsync(file.fileno())
        new.replace(path)


def _record(project: str, run: Any) -> RunRecord:
    tags = dict(run.data.tags)
    return RunRecord(
        project=project,
        run_id=tags.get(RUN_TAG, run.info.run_id),
        name=run.info.run_name or "",
        status=_spelled(run.info.status),
        started_at=_instant(run.info.start_time),
        ended_at=_instant(run.info.end_time) if run.info.end_time else None,
        params=dict(run.data.params),
        metrics=dict(run.data.metrics),
        tags={key: value for key, value in tags.items() if not key.startswith("mlflow.")},
        parent=tags.get("mainspring.parent", ""),
        mlflow_run_id=run.info.run_id,
    )


def _spelled(status: str) -> str:
    return "SUCCEEDED" if status == "FINISHED" else status


def _instant(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def _texts(values: Mapping[str, Any], limit: int = 5000) -> dict[str, str]:
    """Return keys that MLflow takes, and values as text no longer than it stores."""
    return {
        _key(key): (value if isinstance(value, str) else json.dumps(value, default=str))[:limit]
        for key, value in values.items()
    }


def _key(name: str) -> str:
    """Return the name with what MLflow refuses replaced: it takes letters, digits, `_-. :/`, and no odd paths."""
    parts = [part for part in _FORBIDDEN.sub("_", name).split("/") if part.strip(".")]
    return "/".join(parts)[:250] or "_"


def _quoted(text: str) -> str:
    return text.replace("'", "")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
