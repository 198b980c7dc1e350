"""A scorer gives in serving what the same bundle gave in training, and MLflow loads it too."""

from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest

from mainspring.core.errors import Invalid, NotFound, Refused
from mainspring.core.schema import Column, Schema, Signature
from mainspring.features.views import define, request_features
from mainspring.packaging.bundle import Packed, materialise, pack
from mainspring.serving.protocol import RequestParser
from mainspring.serving.runtime import ModelFailed, Scorer
from mainspring.store.workspace import Workspace

from .conftest import FunctionPredictor

REQUEST = Schema((Column("amount", "float64", nullable=False), Column("age", "int64"), Column("city", "string")))
MODEL = Schema((Column("amount", "float64", nullable=False), Column("ratio", "float64"), Column("is_koeln", "float64")))
ROWS = pl.DataFrame(
    {
        "amount": np.linspace(-5, 5, 120),
        "age": [None if i % 7 == 0 else i % 60 for i in range(120)],
        "city": [None if i % 11 == 0 else ["Köln", "Bonn"][i % 2] for i in range(120)],
    }
)


def ratio(request):  # type: ignore[no-untyped-def]
    return request.amount / (request.age + 1.0)


def is_koeln(request):  # type: ignore[no-untyped-def]
    return (request.city == "Köln") * 1.0


VIEWS = [define(ratio), define(is_koeln)]


def trained(ws: Workspace) -> tuple[Packed, pl.DataFrame, np.ndarray]:
    from sklearn.ensemble import HistGradientBoostingClassifier

    from mainspring.data.frames import to_columns, to_pandas

    values = request_features(VIEWS, to_columns(ROWS, REQUEST), ROWS.height)
    frame = to_pandas(values, MODEL)
    y = (ROWS["amount"].to_numpy() > 0).astype(int)
    fitted = HistGradientBoostingClassifier(max_iter=20, random_state=0).fit(frame, y)
    table = pl.DataFrame({name: frame[name].to_numpy() for name in MODEL.names})
    bundle = pack(
        ws, estimator=fitted, signature=Signature(REQUEST, "binary", (0, 1), 1), model_inputs=MODEL,
        features_json=[view.to_json() for view in VIEWS], sample=table, test=table, environment_lock="numpy==2",
        data={}, code="sha256:1", params={}, seed=0,
    )  # fmt: skip
    return bundle, ROWS, fitted.predict_proba(frame)[:, 1]


def test_features_in_serving_are_those_of_training(local_workspace: Workspace, tmp_path: Path) -> None:
    bundle, rows, expected = trained(local_workspace)
    scorer = Scorer.load(materialise(local_workspace.objects, bundle.digest, tmp_path / "bundle"))
    batch = RequestParser(scorer.signature).v1(
        b'{"instances":' + rows.write_json().encode() + b"}"  # as a client sends them
    )
    np.testing.assert_allclose(scorer.score(batch.columns, batch.n), expected, atol=1e-6)
    answers = scorer.render(expected)
    assert [a["label"] for a in answers] == [int(p >= 0.5) for p in expected]


@pytest.mark.filterwarnings("ignore::UserWarning:mlflow", "ignore:.*type hint is inferred:UserWarning")
def test_mlflow_loads_the_bundle(local_workspace: Workspace, tmp_path: Path) -> None:
    import mlflow.pyfunc

    bundle, rows, expected = trained(local_workspace)
    path = materialise(local_workspace.objects, bundle.digest, tmp_path / "bundle")
    model = mlflow.pyfunc.load_model(str(path))
    frame = rows.to_pandas()
    frame["age"] = frame["age"].astype("float64")
    frame.index = pd.Index(range(100, 220))
    answers = model.predict(frame)
    assert list(answers.columns) == ["label", "probability"]
    assert list(answers.index) == list(frame.index)
    np.testing.assert_allclose(answers["probability"], expected, atol=1e-6)


def test_the_mlflow_form_refuses_a_frame_that_lacks_a_column(local_workspace: Workspace, tmp_path: Path) -> None:
    from mainspring.serving.pyfunc import BundleModel

    bundle, rows, _ = trained(local_workspace)
    model = BundleModel(Scorer.load(materialise(local_workspace.objects, bundle.digest, tmp_path / "bundle")))
    with pytest.raises(NotFound, match="amount"):
        model.predict(rows.to_pandas().drop(columns="amount"))
    with pytest.raises(Invalid, match="amount"):
        model.predict(rows.to_pandas().assign(amount="much"))


def test_a_bundle_must_be_the_one_that_was_released(local_workspace: Workspace, tmp_path: Path) -> None:
    bundle, _, _ = trained(local_workspace)
    path = materialise(local_workspace.objects, bundle.digest, tmp_path / "bundle")
    with pytest.raises(Refused):
        Scorer.load(path, bundle_digest="sha256:" + "0" * 64)


@pytest.mark.parametrize("scores", [np.array([0.5]), np.array([[0.5], [0.5]]), np.array([0.5, np.nan]), np.array([])])
def test_scores_of_another_shape_are_no_answer(scores: np.ndarray) -> None:
    scorer = Scorer(Signature(REQUEST, "regression"), FunctionPredictor(lambda c, n: scores), REQUEST, (), {})
    with pytest.raises(ModelFailed):
        scorer.score({}, 2)
