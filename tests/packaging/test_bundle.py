"""Bundles: one digest, the same in every process; nothing parsed that was changed; no pickle where none is trusted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

import packaging_models
from mainspring.core.errors import Invalid, Refused, Unavailable
from mainspring.core.ref import canonical_json, digest
from mainspring.data.frames import schema_of, to_columns, to_pandas
from mainspring.packaging.bundle import load, materialise, pack, verify_golden
from mainspring.store.workspace import Workspace
from packaging_models import fitted, inputs_of, packed, signature_of, some_models, table


class Mine(ClassifierMixin, BaseEstimator):
    """A user's own model: no safe format holds it."""

    def fit(self, X: Any, y: Any) -> Mine:
        self.classes_ = np.unique(y)
        self.cut_ = float(X["amount"].median())
        return self

    def predict_proba(self, X: Any) -> Any:
        high = (X["amount"] > self.cut_).to_numpy().astype(float)
        return np.column_stack([1 - high, high])


@pytest.fixture
def packed_onnx(local_workspace: Workspace) -> Any:
    frame = table()
    return packed(local_workspace, fitted(some_models()["onnx"], frame, "churn"), frame, "churn")


@pytest.mark.parametrize("format", ["onnx", "skops", "lightgbm"])
def test_a_bundle_comes_back_in_its_format_with_the_scores_of_the_model(
    local_workspace: Workspace, tmp_path: Path, format: str
) -> None:
    frame = table() if format != "lightgbm" else table().drop("plan", "region")
    inputs = inputs_of(frame)
    model = fitted(some_models()[format], frame, "churn")

    found = packed(local_workspace, model, frame, "churn")
    bundle = load(materialise(local_workspace.objects, found.digest, tmp_path / "bundle"))

    assert (found.format, bundle.manifest["format"], bundle.predictor.format) == (format, format, format)
    assert (bundle.digest, bundle.signature, bundle.model_inputs) == (
        found.digest,
        signature_of("churn", inputs),
        inputs,
    )
    assert verify_golden(bundle) == 32
    scores = bundle.predictor.predict(to_columns(frame, inputs), 600)
    assert scores == pytest.approx(model.predict_proba(to_pandas(frame, inputs))[:, 1], abs=1e-12)
    assert all(note.startswith("onnx: ") for note in found.notes)


def test_two_processes_give_the_same_bytes(tmp_path: Path) -> None:
    outputs = []
    for seed in ("1", "2"):
        path = os.pathsep.join([str(Path(packaging_models.__file__).parent), *sys.path])
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": path}
        done = subprocess.run(
            [sys.executable, "-W", "ignore", packaging_models.__file__, str(tmp_path / seed)],
            env=environment, capture_output=True, text=True, check=True,
        )  # fmt: skip
        outputs.append(done.stdout)
    assert outputs[0] == outputs[1]
    assert outputs[0].count("sha256:") == 3


def test_packing_twice_gives_one_digest(local_workspace: Workspace) -> None:
    frame = table()
    digests = {packed(local_workspace, fitted(some_models()["onnx"], frame, "churn"), frame, "churn").digest
               for _ in range(2)}  # fmt: skip
    assert len(digests) == 1


@pytest.mark.parametrize("path", ["model/model.onnx", "signature.json", "features.json", "golden.json", "MLmodel",
                                  "environment.lock", "requirements.txt"])  # fmt: skip
def test_one_changed_byte_in_any_file_is_refused_by_name(
    local_workspace: Workspace, tmp_path: Path, packed_onnx: Any, path: str
) -> None:
    folder = materialise(local_workspace.objects, packed_onnx.digest, tmp_path / "bundle")
    content = bytearray((folder / path).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / path).write_bytes(content)
    with pytest.raises(Refused, match=path):
        load(folder)


def test_a_changed_manifest_is_refused_in_a_folder_named_by_its_digest(
    local_workspace: Workspace, tmp_path: Path, packed_onnx: Any
) -> None:
    folder = materialise(local_workspace.objects, packed_onnx.digest, tmp_path / packed_onnx.digest[7:])
    manifest = json.loads((folder / "manifest.json").read_bytes())
    (folder / "manifest.json").write_bytes(canonical_json({**manifest, "seed": 8}))
    with pytest.raises(Refused, match=r"manifest\.json was changed"):
        load(folder)


def test_a_blob_changed_in_the_store_is_refused_by_name(
    local_workspace: Workspace, tmp_path: Path, packed_onnx: Any
) -> None:
    manifest = json.loads(local_workspace.objects.get(packed_onnx.digest))
    blob = local_workspace.objects.open_path(manifest["files"]["golden.json"]["digest"])
    blob.write_bytes(b"{}")
    with pytest.raises(Refused, match=r"golden\.json"):
        materialise(local_workspace.objects, packed_onnx.digest, tmp_path / "bundle")
    assert not any(tmp_path.glob("bundle*"))


@pytest.mark.parametrize("path", ["../evil", "/etc/evil", "a/../../evil", "C:\\evil", "manifest.json"])
def test_a_manifest_that_names_a_path_outside_is_refused(local_workspace: Workspace, tmp_path: Path, path: str) -> None:
    blob = local_workspace.objects.put(b"x")
    manifest = {"version": 1, "files": {path: {"digest": blob, "size": 1}}}
    name = local_workspace.objects.put(canonical_json(manifest))
    with pytest.raises(Refused, match="leaves the bundle"):
        materialise(local_workspace.objects, name, tmp_path / "deep" / "bundle")
    assert not (tmp_path / "evil").exists()


def test_a_link_in_a_bundle_is_refused(local_workspace: Workspace, tmp_path: Path, packed_onnx: Any) -> None:
    folder = materialise(local_workspace.objects, packed_onnx.digest, tmp_path / "bundle")
    real = (folder / "golden.json").rename(tmp_path / "elsewhere.json")
    (folder / "golden.json").symlink_to(real)
    with pytest.raises(Refused, match="link"):
        load(folder)


def test_a_bundle_that_the_store_does_not_hold_is_unavailable(local_workspace: Workspace, tmp_path: Path) -> None:
    with pytest.raises(Unavailable):
        materialise(local_workspace.objects, digest(b"nothing"), tmp_path / "bundle")


def test_other_scores_than_when_it_was_packed_are_refused(
    local_workspace: Workspace, tmp_path: Path, packed_onnx: Any
) -> None:
    bundle = load(materialise(local_workspace.objects, packed_onnx.digest, tmp_path / "bundle"))

    class Off:
        format = "onnx"

        def predict(self, columns: Any, n: int) -> Any:
            return bundle.predictor.predict(columns, n) + 1e-4

    with pytest.raises(Refused, match=r"differs by 0\.0001"):
        verify_golden(replace(bundle, predictor=Off()))


def test_a_model_of_ones_own_is_refused_with_what_would_work(local_workspace: Workspace) -> None:
    frame = table()
    with pytest.raises(Refused, match="Mine") as error:
        packed(local_workspace, fitted(Mine(), frame, "churn"), frame, "churn")
    assert "trust_pickle" in error.value.hint


def test_a_pickle_is_made_and_read_only_where_both_sides_trust_it(local_workspace: Workspace, tmp_path: Path) -> None:
    frame = table()
    model = fitted(Mine(), frame, "churn")
    with pytest.raises(Refused):
        packed(local_workspace, model, frame, "churn", trust_pickle=True)

    trusting = replace(local_workspace, settings=replace(local_workspace.settings, trust_pickle=True))
    found = packed(trusting, model, frame, "churn", trust_pickle=True)
    folder = materialise(trusting.objects, found.digest, tmp_path / "bundle")

    assert found.format == "pickle"
    assert packed(trusting, model, frame, "churn", trust_pickle=True).digest == found.digest
    with pytest.raises(Refused, match="does not trust pickles"):
        load(folder)
    bundle = load(folder, trust_pickle=True)
    assert bundle.manifest["pickle"] is True
    assert verify_golden(bundle) == 32


def test_a_pickle_that_calls_itself_another_format_is_not_run(local_workspace: Workspace, tmp_path: Path) -> None:
    frame = table()
    trusting = replace(local_workspace, settings=replace(local_workspace.settings, trust_pickle=True))
    found = packed(trusting, fitted(Mine(), frame, "churn"), frame, "churn", trust_pickle=True)
    manifest = json.loads(trusting.objects.get(found.digest))
    for change in ({"format": "skops"}, {"pickle": False}):
        name = trusting.objects.put(canonical_json({**manifest, **change}))
        with pytest.raises(Refused, match="contradicts itself"):
            load(materialise(trusting.objects, name, tmp_path / name[7:20]))


def test_a_classifier_without_probabilities_is_told_what_to_do(local_workspace: Workspace) -> None:
    frame = table().drop("plan", "region")
    model = fitted(make_pipeline(SimpleImputer(), StandardScaler(), RidgeClassifier()), frame, "churn")
    with pytest.raises(Invalid, match="no probabilities"):
        packed(local_workspace, model, frame, "churn")


def test_classes_come_in_the_order_of_the_signature(local_workspace: Workspace, tmp_path: Path) -> None:
    frame = table().drop("plan", "region")
    inputs = inputs_of(frame)
    model = make_pipeline(SimpleImputer(), StandardScaler(), LogisticRegression())
    model.fit(to_pandas(frame, inputs), np.array(["low", "mid", "high"], object)[frame["tier"].to_numpy()])
    signature = replace(signature_of("tier", inputs), classes=("low", "mid", "high", "never"))

    found = pack(
        local_workspace, estimator=model, signature=signature, model_inputs=inputs, sample=frame, test=frame,
        environment_lock="", data={}, code="", params={}, seed=0,
    )  # fmt: skip
    bundle = load(materialise(local_workspace.objects, found.digest, tmp_path / "bundle"))
    scores = bundle.predictor.predict(to_columns(frame, inputs), 600)

    order = [list(model.classes_).index(name) for name in ("low", "mid", "high")]
    assert scores[:, :3] == pytest.approx(model.predict_proba(to_pandas(frame, inputs))[:, order])
    assert (scores[:, 3] == 0).all()


def test_a_server_of_an_onnx_bundle_loads_no_library_that_it_does_not_need(
    local_workspace: Workspace, tmp_path: Path, packed_onnx: Any
) -> None:
    folder = materialise(local_workspace.objects, packed_onnx.digest, tmp_path / "bundle")
    code = (
        "import sys; from pathlib import Path; from mainspring.packaging.bundle import load, verify_golden; "
        f"verify_golden(load(Path({str(folder)!r}))); print(*sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert not {"pandas", "sklearn", "scipy", "lightgbm", "onnx", "skops", "sqlalchemy.orm"} & set(done.stdout.split())


def test_mlflow_reads_the_bundle_as_a_model(local_workspace: Workspace, tmp_path: Path, packed_onnx: Any) -> None:
    from mlflow.models import Model

    found = Model.load(str(materialise(local_workspace.objects, packed_onnx.digest, tmp_path / "bundle")))

    assert found.flavors["python_function"]["loader_module"] == "mainspring.serving.pyfunc"
    assert found.signature.inputs.input_names() == list(inputs_of(table()).names)


def test_requirements_hold_what_serving_needs_and_no_more(
    local_workspace: Workspace, tmp_path: Path, packed_onnx: Any
) -> None:
    folder = materialise(local_workspace.objects, packed_onnx.digest, tmp_path / "bundle")
    lines = (folder / "requirements.txt").read_text().splitlines()
    assert lines == ["mainspring==0.1.0", "numpy==2.4.6", "onnxruntime==1.31.1"]


def test_a_real_table_comes_out_as_onnx(local_workspace: Workspace, tmp_path: Path, data_dir: Path) -> None:
    frame = pl.read_csv(data_dir / "telco_churn" / "telco_customer_churn.csv.gz", null_values=[" "]).drop("customerID")
    X, y = frame.drop("Churn"), frame["Churn"].to_numpy().astype(object)
    inputs = schema_of(X)
    texts = [column.name for column in inputs if column.dtype == "string"]
    numbers = [column.name for column in inputs if column.dtype != "string"]
    from sklearn.compose import ColumnTransformer

    model = make_pipeline(
        ColumnTransformer([("n", make_pipeline(SimpleImputer(), StandardScaler()), numbers),
                           ("t", OneHotEncoder(handle_unknown="ignore"), texts)]),
        LogisticRegression(max_iter=1000),
    ).fit(to_pandas(X[:5000], inputs), y[:5000])  # fmt: skip

    found = pack(
        local_workspace, estimator=model, signature=replace(signature_of("churn", inputs), classes=("No", "Yes"),
        positive="Yes"), model_inputs=inputs, sample=X[:5000], test=X[5000:], environment_lock="", data={}, code="",
        params={}, seed=0,
    )  # fmt: skip

    assert found.format == "onnx"
    assert found.parity.agrees
    assert found.parity.largest < 1e-12
    assert verify_golden(load(materialise(local_workspace.objects, found.digest, tmp_path / "bundle"))) == 32
