"""What a run logs is in MLflow, once, whatever happens to the process that logged it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mainspring.core.clock import FixedClock
from mainspring.core.errors import Invalid, NotFound
from mainspring.core.settings import load_settings
from mainspring.store.workspace import Workspace, open_workspace
from mainspring.tracking.records import Trial
from mainspring.tracking.runs import Runs
from mainspring.tracking.spool import spools_of


@pytest.fixture(scope="module")
def module_workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """One workspace for the module: a cold MLflow store takes a second, and runs do not see one another."""
    import mlflow  # here a thread delivers; the child process has its own test  # noqa: F401

    settings = load_settings(tmp_path_factory.mktemp("tracking"), environment={})
    workspace = open_workspace(settings, clock=FixedClock(), actor="alice")
    yield workspace
    workspace.close()


@pytest.fixture
def runs(module_workspace: Workspace) -> Iterator[Runs]:
    runs = Runs(module_workspace)
    yield runs
    runs.close()


def test_a_run_is_read_back_as_it_was_logged(runs: Runs) -> None:
    with runs.start("churn", "model", "run-1", tags={"data": "customers@1"}) as run:
        run.log_params({"learning_rate": 0.1, "solver": "lbfgs", "depth": None})
        run.log_metrics({"roc_auc": 0.84})
        for step in range(1500):
            run.log_metric("loss", 1 / (step + 1), step)
        run.log_artifact("<html></html>", "reports/report.html")
        run.set_tags({"stage": "train"})
    assert runs.flush("run-1"), runs.problem

    record = runs.get("churn", "run-1")

    assert (record.name, record.status) == ("model", "SUCCEEDED")
    assert record.params == {"learning_rate": "0.1", "solver": "lbfgs", "depth": "null"}
    assert record.metrics == {"roc_auc": 0.84, "loss": 1 / 1500}
    assert record.tags.items() >= {"data": "customers@1", "stage": "train"}.items()
    assert [point.step for point in runs.history("churn", "run-1", "loss")] == list(range(1500))
    assert runs.artifacts("churn", "run-1") == ["reports/report.html"]
    assert runs.read_artifact("churn", "run-1", "reports/report.html") == b"<html></html>"


def test_the_stock_client_finds_the_run_by_its_tag(runs: Runs) -> None:
    from mlflow import MlflowClient

    runs.start("stock", "model", "stock-1").finish()
    assert runs.flush("stock-1")

    client = MlflowClient(tracking_uri=runs.workspace.settings.mlflow)
    experiment = client.get_experiment_by_name("stock")
    found = client.search_runs([experiment.experiment_id], "tags.`mainspring.run_id` = 'stock-1'")

    assert [run.info.status for run in found] == ["FINISHED"]


def test_a_run_that_is_started_again_is_the_same_run(runs: Runs) -> None:
    first = runs.start("again", "model", "again-1")
    first.log_metric("loss", 0.5)
    first.finish("KILLED")
    assert runs.flush("again-1")

    with runs.start("again", "model", "again-1") as second:
        second.log_metric("loss", 0.5)
        second.log_params({"a": 1})
    assert runs.flush("again-1")

    records = runs.list("again")
    assert [(record.run_id, record.status) for record in records] == [("again-1", "SUCCEEDED")]
    assert len(runs.history("again", "again-1", "loss")) == 1


def test_a_parameter_keeps_its_first_value_and_tells_of_the_second(runs: Runs) -> None:
    with runs.start("params", "model", "params-1") as run:
        run.log_params({"depth": 3, "seed": 1})
        run.log_metric("auc", 0.5)
        run.log_params({"depth": 4})
    assert runs.flush("params-1")

    record = runs.get("params", "params-1")
    assert record.params == {"depth": "3", "seed": "1"}
    assert record.tags["param.depth"] == "4"


def test_a_run_that_raises_has_failed(runs: Runs) -> None:
    with pytest.raises(ZeroDivisionError), runs.start("failed", "model", "failed-1"):
        _ = 1 / 0
    assert runs.flush("failed-1")
    assert runs.get("failed", "failed-1").status == "FAILED"


def test_names_that_mlflow_refuses_are_kept_in_another_spelling(runs: Runs) -> None:
    with runs.start("names", "model", "names-1") as run:
        run.log_metric("top@3 (%)", 0.9)
        run.log_metric("../../escape", 0.1)
        run.log_params({"été[0]": "x" * 9000})
    assert runs.flush("names-1")

    record = runs.get("names", "names-1")
    assert record.metrics == {"top_3 ___": 0.9, "escape": 0.1}
    assert record.params == {"été_0_": "x" * 6000}


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../../x", ""])
def test_an_artifact_path_stays_inside_the_run(runs: Runs, path: str) -> None:
    run = runs.start("paths", "model", "paths-1")
    with pytest.raises(Invalid, match="not a path"):
        run.log_artifact(b"", path)
    run.finish()


def test_a_folder_and_a_figure_are_artifacts(runs: Runs, tmp_path: Path) -> None:
    from matplotlib.figure import Figure

    (tmp_path / "bundle" / "model").mkdir(parents=True)
    (tmp_path / "bundle" / "MLmodel").write_text("flavors: {}")
    (tmp_path / "bundle" / "model" / "model.onnx").write_bytes(b"x")
    figure = Figure()
    figure.subplots().plot([1, 2])
    with runs.start("folders", "model", "folders-1") as run:
        run.log_artifact(tmp_path / "bundle", "bundle")
        run.log_figure(figure, "plots/curve.svg")
    assert runs.flush("folders-1")

    found = runs.artifacts("folders", "folders-1")
    assert found == ["bundle/MLmodel", "bundle/model/model.onnx", "plots/curve.svg"]


def test_trials_are_children_of_their_run_and_are_stored_once(runs: Runs) -> None:
    now = runs.workspace.clock.now()
    trials = [
        Trial(0, {"depth": 3}, 0.7, "SUCCEEDED", now, now),
        Trial(1, {"depth": 9}, 0.6, "PRUNED", now, now, reports=((0, 0.5), (1, 0.6))),
        Trial(2, {"depth": 1}, None, "FAILED", now, now, error="ValueError: no"),
    ]
    for _ in range(2):
        with runs.start("trials", "model", "trials-1") as run:
            run.log_trials(trials)
        assert runs.flush("trials-1")

    children = sorted(runs.list("trials", parent="trials-1"), key=lambda record: record.run_id)

    assert [record.run_id for record in children] == ["trials-1.0", "trials-1.1", "trials-1.2"]
    assert [record.status for record in children] == ["SUCCEEDED", "KILLED", "FAILED"]
    assert [record.metrics.get("value") for record in children] == [0.7, 0.6, None]
    assert [record.run_id for record in runs.list("trials")] == ["trials-1"]


def test_the_users_own_mlflow_calls_land_in_the_run(runs: Runs) -> None:
    import mlflow

    with runs.start("fluent", "model", "fluent-1") as run:
        with run.active():
            mlflow.log_metric("mine", 7)
            mlflow.log_param("theirs", "x")
        run.log_metric("ours", 1)
    assert runs.flush("fluent-1")

    record = runs.get("fluent", "fluent-1")
    assert record.metrics == {"mine": 7, "ours": 1}
    assert (record.params, record.status) == ({"theirs": "x"}, "SUCCEEDED")
    assert mlflow.active_run() is None
    assert "MLFLOW_RUN_ID" not in os.environ


def test_a_run_that_is_not_there_is_not_found(runs: Runs) -> None:
    with pytest.raises(NotFound, match="no run"):
        runs.get("nowhere", "run-1")
    assert runs.list("nowhere") == []


def test_an_unreachable_server_delays_no_run_and_loses_nothing(local_workspace: Workspace) -> None:
    settings = replace(local_workspace.settings, mlflow="http://127.0.0.1:9")
    away = Runs(replace(local_workspace, settings=settings))
    started = time.monotonic()
    with away.start("away", "model", "away-1") as run:
        run.log_metric("auc", 0.9)
    assert time.monotonic() - started < 1
    assert not away.flush("away-1", timeout_s=0.2)
    away.close()
    assert [folder.name for folder in spools_of(local_workspace.home)] == ["away-1"]
    assert "does not answer" in away.problem

    back = Runs(local_workspace)
    back.warm()
    assert back.flush("away-1")
    assert back.get("away", "away-1").metrics == {"auc": 0.9}
    assert back.problem == ""
    back.close()


_PROGRAM = """
import json, os, signal, sys
from pathlib import Path
from mainspring.core.settings import load_settings
from mainspring.store.workspace import open_workspace
from mainspring.tracking.runs import Runs

runs = Runs(open_workspace(load_settings(Path(sys.argv[1]), environment={})))
run = runs.start("killed", "model", "killed-1")
for step in range(2000):
    run.log_metric("loss", 1.0, step)
run.log_params({"a": 1})
if sys.argv[2] == "active":
    with run.active():
        before = "mlflow" in sys.modules
        import mlflow
        mlflow.log_metric("mine", 7)
    print(json.dumps(before))
if sys.argv[2] == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
run.finish()
print(json.dumps([runs.flush("killed-1", timeout_s=60), "pandas" in sys.modules]))
"""


def _run_program(folder: Path, mode: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    return subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(folder), mode],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
    )


def test_a_killed_run_goes_on_as_the_same_run_without_mlflow_in_its_process(tmp_path: Path) -> None:
    killed = _run_program(tmp_path, "kill")
    assert killed.returncode == -signal.SIGKILL

    finished = _run_program(tmp_path, "finish")

    assert json.loads(finished.stdout) == [True, False], finished.stderr
    workspace = open_workspace(load_settings(tmp_path, environment={}), clock=FixedClock())
    runs = Runs(workspace)
    assert [(record.run_id, record.status) for record in runs.list("killed")] == [("killed-1", "SUCCEEDED")]
    steps = {point.step for point in runs.history("killed", "killed-1", "loss")}
    assert steps == set(range(2000))
    assert spools_of(workspace.home) == []
    assert all(not path.stat().st_mode & 0o077 for path in workspace.home.rglob("*"))
    workspace.close()


def test_mlflow_is_imported_only_when_the_users_code_does(tmp_path: Path) -> None:
    finished = _run_program(tmp_path, "active")

    before, (delivered, _) = map(json.loads, finished.stdout.splitlines())
    assert (before, delivered) == (False, True)
    workspace = open_workspace(load_settings(tmp_path, environment={}), clock=FixedClock())
    assert Runs(workspace).get("killed", "killed-1").metrics["mine"] == 7
    workspace.close()
