"""A model function is fitted the same way every time, and its errors point at its own lines."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mainspring.core.errors import Invalid, MainspringError
from mainspring.training.trainer import defaults_of, fit_model, predict_scores

HERE = Path(__file__)


@pytest.fixture
def table() -> tuple[pd.DataFrame, Any]:
    generator = np.random.default_rng(0)
    X = pd.DataFrame(generator.normal(size=(600, 8)), columns=list("abcdefgh"))
    y = np.where(X["a"] + X["b"] ** 2 + generator.normal(size=600) > 1, "yes", "no").astype(object)
    return X, y


def logistic(X: Any, y: Any, C: float = 1.0) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=C).fit(X, y)


def unfitted(X: Any, y: Any) -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression())


def forest(X: Any, y: Any, n_estimators: int = 20) -> Any:
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(n_estimators, n_jobs=-1).fit(X, y)


def boosted(X: Any, y: Any) -> Any:
    from lightgbm import LGBMClassifier

    return LGBMClassifier(n_estimators=20, subsample=0.8, subsample_freq=1, colsample_bytree=0.7, verbose=-1).fit(X, y)


@pytest.mark.parametrize("function", [logistic, unfitted, forest, boosted])
def test_the_same_seed_gives_the_same_model_to_the_bit(function: Any, table: tuple[pd.DataFrame, Any]) -> None:
    X, y = table
    scores = []
    for _ in range(2):
        random.random()
        np.random.random()
        fitted = fit_model(function, X, y, {}, seed=3)
        scores.append(predict_scores(fitted.estimator, X, "binary", ("no", "yes")))
    assert np.array_equal(*scores)


def test_another_seed_gives_another_forest(table: tuple[pd.DataFrame, Any]) -> None:
    X, y = table
    one, two = (
        predict_scores(fit_model(forest, X, y, {}, seed=s).estimator, X, "binary", ("no", "yes")) for s in (1, 2)
    )
    assert not np.array_equal(one, two)


def test_global_generators_and_threads_are_put_back(table: tuple[pd.DataFrame, Any]) -> None:
    random.seed(5)
    np.random.seed(5)
    expected = random.random(), np.random.random()
    random.seed(5)
    np.random.seed(5)
    fit_model(logistic, *table, {}, seed=1)
    assert (random.random(), np.random.random()) == expected
    assert "LOKY_MAX_CPU_COUNT" not in os.environ


def test_parameters_reach_the_function_and_are_told(table: tuple[pd.DataFrame, Any]) -> None:
    fitted = fit_model(logistic, *table, {"C": 0.01})
    assert fitted.estimator.C == 0.01
    assert fitted.params == {"C": 0.01}
    assert fit_model(logistic, *table, {}).params == defaults_of(logistic) == {"C": 1.0}


def test_a_function_that_asks_for_the_seed_gets_it(table: tuple[pd.DataFrame, Any]) -> None:
    def seeded(X: Any, y: Any, random_state: int = 0) -> Any:
        return logistic(X, y, C=random_state)

    assert fit_model(seeded, *table, {}, seed=7).params == {"random_state": 7}


def test_an_unknown_parameter_is_refused_with_the_nearest(table: tuple[pd.DataFrame, Any]) -> None:
    with pytest.raises(Invalid, match="forest takes no parameter 'n_estimator'; the nearest name is \"n_estimators\""):
        fit_model(forest, *table, {"n_estimator": 3})


def test_what_the_function_does_to_its_frame_stays_there(table: tuple[pd.DataFrame, Any]) -> None:
    X, y = table
    before, labels = X.copy(), y.copy()

    def careless(X: Any, y: Any) -> Any:
        X["a"] = 0.0
        X["b"] += 1
        y[:] = np.where(np.arange(len(y)) % 2, "yes", "no")
        return logistic(X, y)

    fit_model(careless, X, y, {})
    pd.testing.assert_frame_equal(X, before)
    assert (y == labels).all()


def test_an_error_points_at_the_users_line(table: tuple[pd.DataFrame, Any]) -> None:
    def broken(X: Any, y: Any) -> Any:
        return logistic(X[["a", "missing"]], y)  # the line

    with pytest.raises(Invalid, match="broken raised KeyError") as caught:
        fit_model(broken, *table, {})
    line = next(i for i, text in enumerate(HERE.read_text().splitlines(), 1) if "# the line" in text)
    assert caught.value.where is not None
    assert (caught.value.where.file, caught.value.where.line) == (str(HERE), line)
    assert isinstance(caught.value.__cause__, KeyError)


@pytest.mark.parametrize(("value", "text"), [(None, "returned nothing"), (3, "returned int")])
def test_a_function_that_returns_no_estimator_is_told_what_to_return(
    table: tuple[pd.DataFrame, Any], value: object, text: str
) -> None:
    with pytest.raises(Invalid, match=text) as caught:
        fit_model(lambda X, y: value, *table, {})
    assert "return estimator.fit" in caught.value.hint


def test_an_error_of_ours_passes_as_it_is(table: tuple[pd.DataFrame, Any]) -> None:
    def refusing(X: Any, y: Any) -> Any:
        raise MainspringError("stop")

    with pytest.raises(MainspringError, match="error: stop"):
        fit_model(refusing, *table, {})


def test_binary_scores_are_those_of_the_positive_class(table: tuple[pd.DataFrame, Any]) -> None:
    X, y = table
    estimator = fit_model(logistic, X, y, {}).estimator
    yes = predict_scores(estimator, X, "binary", ("no", "yes"))
    no = predict_scores(estimator, X, "binary", ("yes", "no"))
    assert np.allclose(yes + no, 1)
    assert yes[y == "yes"].mean() > yes[y == "no"].mean()


def test_multiclass_scores_follow_the_order_given_and_know_unseen_classes(table: tuple[pd.DataFrame, Any]) -> None:
    X, _ = table
    y = np.arange(len(X)) % 3
    estimator = fit_model(logistic, X, y, {}).estimator
    scores = predict_scores(estimator, X, "multiclass", (2, 5, 0, 1))
    assert scores.shape == (len(X), 4)
    assert (scores[:, 1] == 0).all()
    assert np.array_equal(scores[:, [2, 3, 0]], estimator.predict_proba(X))


def test_numbers_are_a_flat_array(table: tuple[pd.DataFrame, Any]) -> None:
    from sklearn.linear_model import LinearRegression

    X, _ = table
    estimator = LinearRegression().fit(X, X[["a"]])
    assert predict_scores(estimator, X, "regression", ()).shape == (len(X),)


def test_a_native_booster_gives_probabilities(table: tuple[pd.DataFrame, Any]) -> None:
    import lightgbm

    X, y = table
    booster = lightgbm.train({"objective": "binary", "verbose": -1}, lightgbm.Dataset(X, y == "yes"), 5)
    scores = predict_scores(booster, X, "binary", ("no", "yes"))
    assert scores.shape == (len(X),)
    assert scores[y == "yes"].mean() > scores[y == "no"].mean()


def test_an_estimator_without_probabilities_is_refused_with_a_way_out(table: tuple[pd.DataFrame, Any]) -> None:
    from sklearn.svm import LinearSVC

    X, y = table
    with pytest.raises(Invalid, match="LinearSVC gives no probabilities") as caught:
        predict_scores(LinearSVC().fit(X, y), X, "binary", ("no", "yes"))
    assert "CalibratedClassifierCV" in caught.value.hint


def test_a_class_that_the_target_does_not_have_is_refused(table: tuple[pd.DataFrame, Any]) -> None:
    X, y = table
    estimator = fit_model(logistic, X, (y == "yes").astype(int), {}).estimator
    with pytest.raises(Invalid, match="the estimator answers 0"):
        predict_scores(estimator, X, "binary", ("no", "yes"))
