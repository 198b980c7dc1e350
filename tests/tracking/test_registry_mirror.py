"""What the registry decides can be read in MLflow's own registry."""

from __future__ import annotations

from pathlib import Path

from mainspring.registry import models
from mainspring.store.workspace import Workspace
from mainspring.tracking.runs import Runs


def test_versions_and_aliases_appear_in_mlflows_registry_once(local_workspace: Workspace, tmp_path: Path) -> None:
    from mlflow import MlflowClient, artifacts

    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "MLmodel").write_text("flavors: {}")
    runs = Runs(local_workspace)
    with runs.start("churn", "model", "run-1") as run:
        run.log_artifact(tmp_path / "bundle", "bundle")
    models.register(
        local_workspace, "churn", "model", bundle_digest="sha256:b", run_id="run-1", report_digest="",
        policy_digest="", metrics={}, verdicts=(), author="alice",
    )  # fmt: skip
    models.set_alias(local_workspace, "churn", "model", "production", 1, reason="first")

    assert runs.mirror_registry() == 2
    assert runs.mirror_registry() == 0
    assert runs.flush("run-1"), runs.problem

    client = MlflowClient(local_workspace.settings.mlflow, local_workspace.settings.mlflow)
    found = client.search_model_versions("name = 'churn.model'")
    assert [version.tags["mainspring.bundle"] for version in found] == ["sha256:b"]
    assert client.get_model_version_by_alias("churn.model", "production").version == found[0].version
    uri = client.get_model_version_download_uri("churn.model", str(found[0].version))
    assert uri == f"runs:/{runs.get('churn', 'run-1').mlflow_run_id}/bundle"
    path = artifacts.download_artifacts(uri + "/MLmodel", tracking_uri=local_workspace.settings.mlflow)
    assert Path(path).read_text() == "flavors: {}"
    runs.close()
