import pytest

from mainspring.core.errors import Invalid, NotFound
from mainspring.governance.lineage import Edge, trace
from mainspring.store import tables
from mainspring.store.workspace import Workspace


@pytest.fixture
def recorded(workspace: Workspace) -> Workspace:
    now = workspace.clock.now()
    shape = {"project": "fraud", "created_at": now, "digest": "sha256:d", "schema": {}, "source": {}, "rows": 1}
    with workspace.change("fraud") as change:
        for version, previous in ((1, None), (2, 1)):
            row = {**shape, "name": "payments", "version": version, "previous": previous}
            change.execute(tables.dataset_versions.insert().values(**row))
            change.execute(
                tables.model_versions.insert().values(
                    project="fraud", model="scorer", version=version, bundle_digest=f"sha256:b{version}",
                    run_id=f"run{version}", report_digest="", policy_digest="", metrics={}, verdicts=[], author="ann",
                    status="ready", created_at=now,
                    lineage={"datasets": {"payments": {"version": version}}, "code": "sha256:c"},
                )
            )  # fmt: skip
        change.execute(
            tables.aliases.insert().values(project="fraud", model="scorer", alias="production", version=2, moved_at=now)
        )
        change.event("batch.scored", "model:scorer@2", {"dataset": "dataset:payments@2", "rows": 1, "to": "out.csv"})
    return workspace


def test_a_version_is_traced_to_its_data_and_to_what_came_of_it(recorded: Workspace) -> None:
    edges = trace(recorded, "fraud", "model:scorer@2").edges
    assert Edge("dataset:payments@2", "run:run2", "was read by") in edges
    assert Edge("dataset:payments@1", "dataset:payments@2", "became") in edges
    assert Edge("model:scorer@2", "model:scorer@production", "is what the alias points at") in edges
    assert Edge("model:scorer@2", "scores:out.csv", "scored dataset:payments@2") in edges
    assert not any("run1" in edge.source for edge in edges if edge.target == "model:scorer@2")


def test_data_is_traced_to_the_models_that_learned_from_it(recorded: Workspace) -> None:
    reached = {edge.target for edge in trace(recorded, "fraud", "dataset:payments@1").edges}
    assert {"run:run1", "model:scorer@1", "run:run2", "model:scorer@2"} <= reached


def test_the_walk_stops_at_its_depth_and_says_so(recorded: Workspace) -> None:
    short = trace(recorded, "fraud", "dataset:payments@1", depth=1)
    assert short.is_cut
    assert {edge.target for edge in short.edges} == {"dataset:payments@2", "run:run1"}
    assert not trace(recorded, "fraud", "dataset:payments@1", depth=9).is_cut


def test_what_is_not_recorded_in_this_project_is_not_found(recorded: Workspace) -> None:
    for project, ref in (("fraud", "model:scorer@9"), ("other", "model:scorer@2")):
        with pytest.raises(NotFound):
            trace(recorded, project, ref)
    with pytest.raises(Invalid):
        trace(recorded, "fraud", "scorer")
