import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from mainspring.api.call import call
from mainspring.api.worker import Worker, carry_out, pipelines_of, triggers_of
from mainspring.core.clock import FixedClock
from mainspring.core.errors import NotFound
from mainspring.core.settings import load_settings
from mainspring.governance.access import local_actor
from mainspring.governance.audit import verify
from mainspring.orchestration.journal import list_runs
from mainspring.project.loading import load_project
from mainspring.project.plan import apply
from mainspring.store.workspace import Workspace, open_workspace

PROJECT = """
import mainspring as ms

shop = ms.Project("shop")
sales = shop.dataset("sales.csv", key="id", schedule="0 2 * * *")

@shop.model(predicts=sales["bought"], on="new_data", schedule="0 3 * * 0")
def model(X, y):
    from sklearn.dummy import DummyClassifier
    return DummyClassifier().fit(X, y)

model.batch(to="scores.csv", schedule="0 4 * * *")
"""


@pytest.fixture
def ws(tmp_path: Path, clock: FixedClock) -> Workspace:
    (tmp_path / "project.py").write_text(PROJECT)
    rows = [f"{i},{i % 7},{'yes' if i % 3 else 'no'}" for i in range(60)]
    (tmp_path / "sales.csv").write_text("\n".join(["id,visits,bought", *rows]))
    found = open_workspace(load_settings(tmp_path, environment={}), clock=clock, actor="ann")
    apply(found, load_project(tmp_path / "project.py"))
    return found


class Children:
    """Stands for the child: counts how often one was started, and starts one that ends at once."""

    def __init__(self) -> None:
        self.started = 0

    def __call__(self) -> "subprocess.Popen[bytes]":
        self.started += 1
        child = subprocess.Popen([sys.executable, "-c", ""])
        child.wait()
        return child


def test_nothing_is_started_while_nothing_is_due(ws: Workspace) -> None:
    children = Children()
    worker = Worker(ws, children)
    for _ in range(3):
        worker.tick()
    assert children.started == 0


def test_a_run_that_was_asked_for_starts_a_child(ws: Workspace) -> None:
    children = Children()
    call(ws, local_actor("ann"), "runs.start", {"project": "shop", "model": "model"})
    Worker(ws, children).tick()
    assert children.started == 1


def test_a_run_of_an_unknown_model_names_the_nearest(ws: Workspace) -> None:
    with pytest.raises(NotFound, match='the nearest name is "model"'):
        call(ws, local_actor("ann"), "runs.start", {"project": "shop", "model": "modle"})


def test_a_slot_that_is_due_is_asked_for_once_by_any_number_of_workers(ws: Workspace, clock: FixedClock) -> None:
    clock.advance(timedelta(hours=2, minutes=1))
    for _ in range(3):
        Worker(ws, Children()).tick()
    assert [(run.pipeline, run.trigger) for run in list_runs(ws, "shop")] == [("ingest-sales", "schedule")]


def test_every_pipeline_that_a_schedule_names_is_one_that_the_child_can_run(ws: Workspace, clock: FixedClock) -> None:
    clock.advance(timedelta(days=8))
    Worker(ws, Children()).tick()
    assert ws.settings.project_file is not None
    known = {pipeline.name for pipeline in pipelines_of(ws, load_project(ws.settings.project_file))}
    asked = {run.pipeline for run in list_runs(ws, "shop")}
    assert asked == {"ingest-sales", "model", "score-model-0"}
    assert asked <= known


def test_new_data_asks_for_a_run_of_the_model_that_waits_for_it(ws: Workspace) -> None:
    worker = Worker(ws, Children())
    worker.tick()
    call(ws, local_actor("ann"), "data.ingest", {"project": "shop", "dataset": "sales"})
    for _ in range(2):
        worker.tick()
    assert [(run.pipeline, run.trigger) for run in list_runs(ws, "shop")] == [("model", "event")]


def test_causes_become_triggers_of_the_log() -> None:
    parts = {"model:a": {"on": ["new_data", "deploy.done"]}, "dataset:d": {}}
    found = triggers_of(parts)
    assert [(t.pipeline, t.types, t.subject) for t in found] == [
        ("a", ("dataset.ingested",), "dataset:*"),
        ("a", ("deploy.done",), "*"),
    ]


def test_the_log_is_sealed_in_passing(ws: Workspace) -> None:
    Worker(ws, Children()).tick()
    assert verify(ws, "shop").chains[0].seals == 1


@pytest.mark.slow
def test_the_child_carries_out_what_waits_as_the_one_who_asked_for_it(ws: Workspace) -> None:
    call(ws, local_actor("bob"), "runs.start", {"project": "shop", "model": "model"})
    done = carry_out(ws)
    assert [result.status for result in done] == ["SUCCEEDED"], done
    assert carry_out(ws) == []
    (version,) = call(ws, local_actor("ann"), "models.list", {"project": "shop"})
    assert version["version"]["author"] == "bob"
