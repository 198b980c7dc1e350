"""ONNX files: equal bytes for equal models, and nothing read that lies outside them."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from mainspring.core.errors import Invalid, Refused
from mainspring.packaging.onnx import Layout, layout_of, load_onnx, write_onnx
from mainspring.packaging.predictor import Answer, answer_of
from packaging_models import fitted, inputs_of, signature_of, some_models, table


@pytest.fixture(scope="module")
def written() -> bytes:
    frame = table()
    return write_onnx(fitted(some_models()["onnx"], frame, "churn"), inputs_of(frame))


def test_the_same_model_is_written_as_the_same_bytes(written: bytes) -> None:
    frame = table()
    assert write_onnx(fitted(some_models()["onnx"], frame, "churn"), inputs_of(frame)) == written


def test_the_file_is_valid_onnx(written: bytes) -> None:
    onnx.checker.check_model(onnx.load_model_from_string(written))


def test_missing_text_and_missing_truth_values_are_taken(written: bytes) -> None:
    frame = table()
    inputs = inputs_of(frame)
    predictor = load_onnx(written, layout_of(inputs), answer_of(fitted(some_models()["onnx"], frame, "churn"),
                                                                signature_of("churn", inputs)))  # fmt: skip
    columns: dict[str, Any] = {
        "amount": np.array([1.0]), "rate": np.array([np.nan]), "age": np.array([30]),
        "plan": np.array(["gold"], object), "region": np.array([None], object), "active": np.array([None], object),
    }  # fmt: skip
    assert 0 < predictor.predict(columns, 1)[0] < 1


def test_a_model_that_keeps_tensors_in_another_file_is_refused(written: bytes, tmp_path: Path) -> None:
    model = onnx.load_model_from_string(written)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/hostname")
    with pytest.raises(Refused, match="another file"):
        load_onnx(model.SerializeToString(), layout_of(inputs_of(table())), Answer((1,)))


def test_a_column_named_location_is_no_external_tensor(written: bytes) -> None:
    model = onnx.load_model_from_string(written)
    model.graph.doc_string = ""
    model.metadata_props.add(key="location", value="Berlin")
    assert load_onnx(model.SerializeToString(), layout_of(inputs_of(table())), Answer((1,))).format == "onnx"


class Payload:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("pwned"),))


def test_a_pickle_named_onnx_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Invalid, match="cannot read"):
        load_onnx(pickle.dumps(Payload()), Layout(("x",), ()), Answer())
    assert not (tmp_path / "pwned").exists()


def test_a_model_that_takes_other_columns_is_refused(written: bytes) -> None:
    with pytest.raises(Invalid, match="takes"):
        load_onnx(written, Layout(("amount",), ("plan",)), Answer((1,)))
