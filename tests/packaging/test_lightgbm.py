"""LightGBM's text format: what trained the model answers for it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import lightgbm
import numpy as np
import pytest

from mainspring.core.errors import Invalid
from mainspring.data.frames import to_columns
from mainspring.packaging.lightgbm import load_lightgbm, text_of
from mainspring.packaging.predictor import Answer, EstimatorPredictor, answer_of
from packaging_models import fitted, inputs_of, signature_of, table


@pytest.mark.parametrize("target", ["churn", "tier", "spend"])
@pytest.mark.parametrize("options", [{"categorical_feature": [2]}, {"zero_as_missing": True}, {}], ids=str)
def test_the_library_gives_the_scores_of_the_python_package(target: str, options: dict[str, Any]) -> None:
    frame = table().drop("plan", "region")
    inputs = inputs_of(frame)
    kind = lightgbm.LGBMRegressor if target == "spend" else lightgbm.LGBMClassifier
    model = fitted(kind(n_estimators=10, verbose=-1, n_jobs=1, min_data_per_group=5, **options), frame, target)
    answer = answer_of(model, signature_of(target, inputs))
    columns = to_columns(frame, inputs)

    predictor = load_lightgbm(text_of(model).encode(), inputs.names, answer)

    np.testing.assert_array_equal(
        predictor.predict(columns, 600), EstimatorPredictor(model, inputs, answer).predict(columns, 600)
    )


def test_the_text_says_nothing_of_the_training_machine() -> None:
    frame = table().drop("plan", "region")
    texts = {
        text_of(fitted(lightgbm.LGBMClassifier(n_estimators=3, verbose=-1, n_jobs=jobs), frame, "churn"))
        for jobs in (1, 2)
    }
    assert len(texts) == 1
    assert "num_threads" not in texts.pop()


def test_threads_share_one_predictor() -> None:
    frame = table().drop("plan", "region")
    inputs = inputs_of(frame)
    model = fitted(lightgbm.LGBMClassifier(n_estimators=10, verbose=-1, n_jobs=1), frame, "churn")
    predictor = load_lightgbm(text_of(model).encode(), inputs.names, answer_of(model, signature_of("churn", inputs)))
    columns = to_columns(frame, inputs)
    expected = predictor.predict(columns, 600)
    with ThreadPoolExecutor(8) as pool:
        for scores in pool.map(lambda _: predictor.predict(columns, 600), range(64)):
            np.testing.assert_array_equal(scores, expected)


def test_a_model_of_another_width_is_refused() -> None:
    frame = table().drop("plan", "region")
    model = fitted(lightgbm.LGBMClassifier(n_estimators=3, verbose=-1, n_jobs=1), frame, "churn")
    with pytest.raises(Invalid, match="4 columns"):
        load_lightgbm(text_of(model).encode(), ("amount",), Answer((1,)))


def test_a_text_that_is_no_model_is_refused() -> None:
    with pytest.raises(Invalid, match="LightGBM"):
        load_lightgbm(b"\x80\x04not a model", ("amount",), Answer((1,)))


def test_a_native_booster_is_scored_by_its_probabilities() -> None:
    frame = table().drop("plan", "region")
    inputs = inputs_of(frame)
    columns = to_columns(frame, inputs)
    X = np.column_stack([columns[name].astype(float) for name in inputs.names])
    booster = lightgbm.train(
        {"objective": "binary", "verbose": -1, "num_threads": 1},
        lightgbm.Dataset(X, (frame["churn"] == "yes").to_numpy()), 5,
    )  # fmt: skip
    answer = answer_of(booster, signature_of("churn", inputs))
    predictor = load_lightgbm(text_of(booster).encode(), inputs.names, answer)
    np.testing.assert_array_equal(predictor.predict(columns, 600), booster.predict(X))
