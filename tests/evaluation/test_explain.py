"""Attributions find the inputs that matter, by trees or by shuffling, and for one row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytest
from lightgbm import LGBMClassifier, LGBMRegressor
from sklearn.compose import make_column_transformer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler

from mainspring.evaluation.explain import attributions, row_attributions, tree_contributions

RNG = np.random.default_rng(0)
N = 600
COLUMNS: dict[str, Any] = {
    "noise": RNG.normal(size=N),
    "signal": RNG.normal(size=N),
    "kind": np.array(["a", "b"], dtype=object)[RNG.integers(0, 2, N)],
    "kind_of": RNG.normal(size=N),
}
Y = 3 * COLUMNS["signal"] + (COLUMNS["kind"] == "a") + RNG.normal(0, 0.1, N)
FRAME = pd.DataFrame(COLUMNS)


def linear(columns: Mapping[str, Any], n: int) -> Any:
    return 3 * columns["signal"] + (columns["kind"] == "a")


def lightgbm(**options: Any) -> Any:
    return LGBMRegressor(n_estimators=20, verbose=-1, n_jobs=1, **options)


def test_shuffling_finds_the_inputs_that_matter() -> None:
    found = attributions(linear, COLUMNS, Y, metric="rmse", task="regression")
    assert [a.feature for a in found[:2]] == ["signal", "kind"]
    assert [a.share for a in found[2:]] == [0, 0]
    assert sum(a.share for a in found) == pytest.approx(1)
    assert found == attributions(linear, COLUMNS, Y, metric="rmse", task="regression"), (
        "the same seed, the same figures"
    )


@pytest.mark.parametrize("encoder", [OrdinalEncoder(), OneHotEncoder(sparse_output=False)])
def test_contributions_of_trees_behind_an_encoder_belong_to_the_inputs(encoder: Any) -> None:
    steps = make_column_transformer((encoder, ["kind"]), remainder="passthrough").set_output(transform="pandas")
    model = make_pipeline(steps, lightgbm()).fit(FRAME, Y)
    found = attributions(linear, COLUMNS, Y, metric="rmse", task="regression", estimator=model, frame=FRAME)
    assert {a.method for a in found} == {"tree"}
    assert [a.feature for a in found[:2]] == ["signal", "kind"]


def test_contributions_add_up_to_the_raw_score() -> None:
    numeric = FRAME[["noise", "signal"]]
    model = lightgbm().fit(numeric, Y)
    found = tree_contributions(model, numeric)
    assert found is not None
    offset = model.predict(numeric) - found.sum(axis=1)
    assert np.ptp(offset) == pytest.approx(0, abs=1e-9)


def test_trees_of_several_classes_are_added_up() -> None:
    numeric, y = FRAME[["noise", "signal"]], np.digitize(FRAME["signal"], [-0.5, 0.5])
    found = tree_contributions(LGBMClassifier(n_estimators=5, verbose=-1, n_jobs=1).fit(numeric, y), numeric)
    assert found is not None
    assert found.shape == (N, 2)
    assert found[:, 1].mean() > found[:, 0].mean()


def test_a_model_without_trees_is_shuffled() -> None:
    numeric = FRAME[["noise", "signal"]]
    assert tree_contributions(make_pipeline(StandardScaler()), numeric) is None
    found = attributions(linear, COLUMNS, Y, metric="rmse", task="regression", estimator=object(), frame=FRAME)
    assert {a.method for a in found} == {"permutation"}


def test_one_row_is_explained_by_what_other_values_would_have_given() -> None:
    row = {name: values[:1] for name, values in COLUMNS.items()}
    found = row_attributions(linear, row, {name: values[:200] for name, values in COLUMNS.items()})
    assert next(iter(found)) in ("signal", "kind")
    assert found["noise"] == pytest.approx(0)
    assert found["signal"] == pytest.approx(3 * (COLUMNS["signal"][0] - COLUMNS["signal"][:200].mean()))
