"""Translated models give the scores of the models they came from, to the last bits of float64."""

from __future__ import annotations

from typing import Any

import lightgbm
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor, make_column_selector, make_column_transformer
from sklearn.decomposition import PCA
from sklearn.ensemble import (
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    VotingClassifier,
    VotingRegressor,
)
from sklearn.feature_selection import SelectKBest
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression, PoissonRegressor, Ridge, SGDClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MinMaxScaler,
    OneHotEncoder,
    OrdinalEncoder,
    RobustScaler,
    StandardScaler,
    TargetEncoder,
)
from sklearn.tree import DecisionTreeRegressor

from mainspring.data.frames import to_columns
from mainspring.packaging.graph import Untranslatable
from mainspring.packaging.onnx import layout_of, load_onnx, write_onnx
from mainspring.packaging.parity import compare, edge_rows, ordinary_rows
from mainspring.packaging.predictor import EstimatorPredictor, answer_of
from packaging_models import NUMBERS, fitted, inputs_of, signature_of, split_columns, table


def lgbm(kind: str = "Classifier", **options: Any) -> Any:
    return getattr(lightgbm, f"LGBM{kind}")(n_estimators=20, verbose=-1, n_jobs=1, **options)


def ordinal() -> OrdinalEncoder:
    return OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)


def onehot(**options: Any) -> OneHotEncoder:
    return OneHotEncoder(**{"handle_unknown": "ignore", **options})


def rare_together() -> OneHotEncoder:
    return onehot(handle_unknown="infrequent_if_exist", min_frequency=150)


def logistic() -> LogisticRegression:
    return LogisticRegression(max_iter=2000)


def filled(*more: Any) -> Any:
    return make_pipeline(SimpleImputer(strategy="median"), *more)


MODELS: list[tuple[str, str, Any]] = [
    ("scaled, one-hot, logistic", "churn",
     make_pipeline(split_columns(filled(StandardScaler()), onehot()), logistic())),
    ("dropped category, refusing encoder", "churn",
     make_pipeline(split_columns(filled(MinMaxScaler()), OneHotEncoder(drop="first")), logistic())),
    ("rare categories together", "churn",
     make_pipeline(split_columns(filled(RobustScaler()), rare_together()),
                   SGDClassifier(loss="log_loss", random_state=0))),
    ("several classes, logistic", "tier",
     make_pipeline(split_columns(filled(StandardScaler()), onehot()), logistic())),
    ("several classes, forest", "tier",
     make_pipeline(split_columns(filled(), ordinal()), RandomForestClassifier(10, random_state=0))),
    ("several classes, histogram boosting", "tier",
     make_pipeline(split_columns("passthrough", ordinal()), HistGradientBoostingClassifier(max_iter=10))),
    ("several classes, lightgbm", "tier", make_pipeline(split_columns("passthrough", ordinal()), lgbm())),
    ("target encoding, lightgbm", "churn",
     make_pipeline(split_columns("passthrough", TargetEncoder(random_state=0)), lgbm())),
    ("filled text", "churn",
     make_pipeline(
         split_columns("drop", make_pipeline(SimpleImputer(missing_values=None, strategy="most_frequent"), onehot())),
         LogisticRegression())),
    ("numbers as categories", "churn",
     make_pipeline(make_column_transformer((onehot(), ["age", "active"]), (ordinal(), ["plan"])), lgbm())),
    ("selected columns, gradient boosting", "churn",
     make_pipeline(split_columns(filled(), onehot(sparse_output=False)), SelectKBest(k=4),
                   GradientBoostingClassifier(n_estimators=10, random_state=0))),
    ("categories in the trees, histogram boosting", "tier",
     make_pipeline(split_columns("passthrough", ordinal()),
                   HistGradientBoostingClassifier(max_iter=10, categorical_features=[4, 5]))),
    ("categories in the trees, lightgbm", "churn",
     make_pipeline(split_columns("passthrough", ordinal()), lgbm(categorical_feature=[2, 4], min_data_per_group=5))),
    ("soft vote", "churn",
     VotingClassifier([
         ("a", make_pipeline(split_columns(filled(StandardScaler()), onehot()), logistic())),
         ("b", make_pipeline(split_columns(filled(), ordinal()), RandomForestClassifier(10, random_state=0)))],
         voting="soft", weights=[1, 3])),
    ("searched", "churn",
     GridSearchCV(make_pipeline(split_columns(filled(StandardScaler()), onehot()), logistic()),
                  {"logisticregression__C": [0.1, 1.0]}, cv=2)),
    ("columns by type, rest kept", "spend",
     make_pipeline(make_column_transformer((onehot(), make_column_selector(dtype_include=object)),
                                           (filled(), ["rate"]), remainder="passthrough"), LinearRegression())),
    ("logarithms, poisson", "spend",
     make_pipeline(ColumnTransformer([("log", FunctionTransformer(np.log1p), ["amount"]),
                                      ("age", FeatureUnion([("a", MinMaxScaler()), ("b", "passthrough")]), ["age"])]),
                   PoissonRegressor())),
    ("components", "spend", make_pipeline(split_columns(filled(StandardScaler(), PCA(2)), onehot()), Ridge())),
    ("log of the target, lightgbm", "spend",
     TransformedTargetRegressor(make_pipeline(split_columns("passthrough", ordinal()), lgbm("Regressor")),
                                func=np.log1p, inverse_func=np.expm1)),
    ("vote of numbers", "spend",
     VotingRegressor([("a", make_pipeline(split_columns(filled(), ordinal()), ExtraTreesRegressor(5, random_state=0))),
                      ("b", make_pipeline(split_columns("drop", ordinal()), DecisionTreeRegressor(max_depth=4)))])),
    ("gradient boosting of numbers", "spend",
     make_pipeline(split_columns(filled(), ordinal()), GradientBoostingRegressor(n_estimators=10, random_state=0))),
]  # fmt: skip


@pytest.mark.parametrize(("target", "model"), [case[1:] for case in MODELS], ids=[case[0] for case in MODELS])
def test_a_translated_model_agrees_on_test_rows_and_edge_rows(target: str, model: Any) -> None:
    frame = table()
    inputs = inputs_of(frame)
    fitted(model, frame[:400], target)
    answer = answer_of(model, signature_of(target, inputs))
    reference = EstimatorPredictor(model, inputs, answer)
    translated = load_onnx(write_onnx(model, inputs), layout_of(inputs), answer)

    tested = to_columns(frame[400:], inputs)
    report = compare(
        translated,
        ordinary_rows(reference.predict, tested, 200),
        edge_rows(reference.predict, to_columns(frame[:400], inputs), 400, inputs),
    )

    assert report.agrees, report.note
    assert report.largest < 1e-12


OBJECTIVES = ["regression", "regression_l1", "huber", "poisson", "gamma", "tweedie", "quantile", "mape", "fair"]


WAYS: list[dict[str, Any]] = [
    *({"objective": name} for name in OBJECTIVES), {"reg_sqrt": True}, {"boosting_type": "dart"}, {"num_leaves": 2},
    {"use_missing": False}, {"categorical_feature": [2], "min_data_per_group": 5},
    {"boosting_type": "rf", "subsample": 0.6, "subsample_freq": 1},
]  # fmt: skip


@pytest.mark.parametrize("options", WAYS, ids=str)
def test_lightgbm_is_translated_for_each_way_of_boosting(options: dict[str, Any]) -> None:
    frame = table().drop("plan", "region")
    inputs = inputs_of(frame)
    model = fitted(lgbm("Regressor", **options), frame, "spend")
    answer = answer_of(model, signature_of("spend", inputs))
    columns = to_columns(frame, inputs)

    translated = load_onnx(write_onnx(model, inputs), layout_of(inputs), answer).predict(columns, 600)

    assert translated == pytest.approx(EstimatorPredictor(model, inputs, answer).predict(columns, 600), rel=1e-12)


def test_histogram_boosting_alone_takes_missing_numbers() -> None:
    frame = table().drop("plan", "region")
    inputs = inputs_of(frame)
    model = fitted(HistGradientBoostingRegressor(max_iter=10), frame, "spend")
    answer = answer_of(model, signature_of("spend", inputs))
    columns = to_columns(frame, inputs)

    translated = load_onnx(write_onnx(model, inputs), layout_of(inputs), answer).predict(columns, 600)

    assert translated == pytest.approx(EstimatorPredictor(model, inputs, answer).predict(columns, 600), rel=1e-12)


@pytest.fixture(scope="module")
def boosted() -> tuple[Any, Any, np.ndarray[Any, Any]]:
    frame = table().drop("plan", "region", "age")
    inputs = inputs_of(frame)
    model = fitted(lgbm(), frame, "churn")
    answer = answer_of(model, signature_of("churn", inputs))
    text = model.booster_.model_to_string()
    thresholds = [float(word) for line in text.splitlines() if line.startswith("threshold=")
                  for word in line.partition("=")[2].split()]  # fmt: skip
    translated = load_onnx(write_onnx(model, inputs), layout_of(inputs), answer)
    return EstimatorPredictor(model, inputs, answer), translated, np.array(thresholds)


@given(choice=st.integers(0, 10_000), around=st.sampled_from(["on", "above", "below", "float32", "float32 above"]))
@settings(deadline=None, max_examples=150)
def test_no_decision_flips_on_a_threshold_or_beside_it(boosted: Any, choice: int, around: str) -> None:
    reference, translated, thresholds = boosted
    threshold = thresholds[choice % len(thresholds)]
    single = np.float32(threshold)
    value = {
        "on": threshold, "above": np.nextafter(threshold, np.inf), "below": np.nextafter(threshold, -np.inf),
        "float32": float(single), "float32 above": float(np.nextafter(single, np.float32(np.inf))),
    }[around]  # fmt: skip
    columns = {name: np.full(1, value) for name in ("amount", "rate")} | {"active": np.array([True])}
    assert translated.predict(columns, 1) == pytest.approx(reference.predict(columns, 1), abs=1e-12)


def test_a_row_that_the_model_refuses_gets_no_number() -> None:
    frame = table()
    inputs = inputs_of(frame)
    model = fitted(make_pipeline(split_columns(filled(), OneHotEncoder()), lgbm()), frame, "churn")
    translated = load_onnx(
        write_onnx(model, inputs), layout_of(inputs), answer_of(model, signature_of("churn", inputs))
    )
    columns = to_columns(frame[:2], inputs)
    columns["plan"] = np.array(["never seen", "gold"], object)

    scores = translated.predict(columns, 2)

    assert np.isnan(scores[0])
    assert 0 <= scores[1] <= 1


def test_the_positive_class_may_be_the_first_of_the_model() -> None:
    frame = table()
    inputs = inputs_of(frame)
    model = fitted(make_pipeline(split_columns(filled(), onehot()), logistic()), frame, "churn")
    yes, no = (
        load_onnx(write_onnx(model, inputs), layout_of(inputs), answer_of(model, signature)).predict(
            to_columns(frame, inputs), 600
        )
        for signature in (
            signature_of("churn", inputs),
            type(signature_of("churn", inputs))(inputs, "binary", ("yes", "no"), "no"),
        )
    )
    assert yes + no == pytest.approx(np.ones(600))
    assert no == pytest.approx(EstimatorPredictor(
        model, inputs, answer_of(model, type(signature_of("churn", inputs))(inputs, "binary", ("yes", "no"), "no"))
    ).predict(to_columns(frame, inputs), 600))  # fmt: skip


class Louder(StandardScaler):
    """A class of the user's own that computes something else than its parent."""

    def transform(self, X: Any, copy: Any = None) -> Any:
        return super().transform(X, copy) * 2


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (make_pipeline(split_columns(filled(Louder()), onehot()), LogisticRegression()), "Louder"),
        (make_pipeline(split_columns(filled(), onehot()), KNeighborsClassifier()), "KNeighborsClassifier"),
        (make_pipeline(split_columns(filled(FunctionTransformer(np.cbrt)), onehot()), LogisticRegression()), "cbrt"),
    ],
    ids=["subclass", "unknown model", "unknown function"],
)
def test_what_has_no_exact_form_is_said_by_name(model: Any, says: str) -> None:
    frame = table()
    with pytest.raises(Untranslatable, match=says):
        write_onnx(fitted(model, frame, "churn"), inputs_of(frame))


def test_a_date_column_is_left_to_features() -> None:
    frame = table().with_columns(since=pl.date(2026, 1, 1))
    model = fitted(make_pipeline(make_column_transformer((filled(), NUMBERS)), LogisticRegression()), frame, "churn")
    with pytest.raises(Untranslatable, match="date"):
        write_onnx(model, inputs_of(frame))
