"""A fitted estimator tells its parameters, its training curve and its feature importance to the run."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mainspring.store.workspace import Workspace
from mainspring.tracking.runs import Runs
from mainspring.training.autolog import log_fit


def _logged(ws: Workspace, estimator: Any) -> tuple[Any, Runs]:
    runs = Runs(ws)
    with runs.start("churn", "model", "run-1") as run:
        log_fit(run, estimator)
    assert runs.flush("run-1"), runs.problem
    return runs.get("churn", "run-1"), runs


@pytest.fixture
def table() -> tuple[pd.DataFrame, Any]:
    X = pd.DataFrame(np.random.default_rng(0).normal(size=(200, 3)), columns=["a", "b", "c"])
    return X, (X["a"] > 0).to_numpy()


def test_a_pipeline_tells_its_class_and_all_its_parameters(
    local_workspace: Workspace, table: tuple[pd.DataFrame, Any]
) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    record, runs = _logged(local_workspace, make_pipeline(StandardScaler(), LogisticRegression(C=0.5)).fit(*table))
    assert record.tags["estimator_class"] == "sklearn.pipeline.Pipeline"
    assert record.params["logisticregression__C"] == "0.5"
    assert record.params["standardscaler__with_mean"] == "true"
    assert record.metrics["n_iter"] >= 1
    runs.close()


def test_lightgbm_tells_its_curve_and_its_importance(
    local_workspace: Workspace, table: tuple[pd.DataFrame, Any]
) -> None:
    from lightgbm import LGBMClassifier

    model = LGBMClassifier(n_estimators=7, verbose=-1).fit(*table, eval_X=table[0], eval_y=table[1])
    record, runs = _logged(local_workspace, model)
    name = next(name for name in record.metrics if name.endswith("binary_logloss"))
    assert [point.step for point in runs.history("churn", "run-1", name)] == list(range(7))
    gain = json.loads(runs.read_artifact("churn", "run-1", "feature_importance_gain.json"))
    assert max(gain, key=gain.__getitem__) == "a"
    runs.close()


def test_a_solver_without_iterations_tells_of_none(local_workspace: Workspace, table: tuple[pd.DataFrame, Any]) -> None:
    from sklearn.linear_model import Ridge

    record, _ = _logged(local_workspace, Ridge().fit(table[0], table[1].astype(float)))
    assert record.params["solver"] == "auto"
    assert "n_iter" not in record.metrics
