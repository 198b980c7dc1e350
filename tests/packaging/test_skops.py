"""skops files: equal bytes for equal models, and no type loaded that the platform does not know."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.ensemble import GradientBoostingRegressor, HistGradientBoostingRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from mainspring.core.errors import Refused
from mainspring.data.frames import to_pandas
from mainspring.packaging.graph import Untranslatable
from mainspring.packaging.skops import load_skops, write_skops
from packaging_models import fitted, inputs_of, some_models, table


@pytest.fixture(scope="module")
def model() -> Any:
    return fitted(some_models()["skops"], table(), "churn")


@pytest.fixture(scope="module")
def written(model: Any) -> bytes:
    return write_skops(model)


def rewritten(data: bytes, change: Any, compression: int = zipfile.ZIP_STORED) -> bytes:
    """Return the archive with its schema changed in place by `change`."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(buffer, "w", compression) as target:
        for name in source.namelist():
            content = source.read(name)
            if name == "schema.json":
                schema = json.loads(content)
                change(schema)
                content = json.dumps(schema).encode()
            target.writestr(name, content)
    return buffer.getvalue()


def test_a_loaded_model_gives_the_same_scores_and_the_same_bytes(model: Any, written: bytes) -> None:
    loaded = load_skops(written)
    X = to_pandas(table(), inputs_of(table()))
    np.testing.assert_array_equal(loaded.predict_proba(X), model.predict_proba(X))
    assert write_skops(loaded) == written


def test_a_type_that_is_not_on_the_list_is_refused_by_name(written: bytes) -> None:
    def smuggle(schema: dict[str, Any]) -> None:
        schema["content"]["content"]["memory"] = {
            "__class__": "system",
            "__module__": "os",
            "__loader__": "FunctionNode",
        }

    with pytest.raises(Refused, match=r"os\.system"):
        load_skops(rewritten(written, smuggle))


def test_what_the_file_says_of_trust_is_not_heard(written: bytes) -> None:
    def smuggle(schema: dict[str, Any]) -> None:
        schema["trusted"] = schema["skops_trusted_types"] = ["os.system"]
        schema["content"]["content"]["memory"] = {"__class__": "system", "__module__": "os", "__loader__": "TypeNode"}

    with pytest.raises(Refused, match=r"os\.system"):
        load_skops(rewritten(written, smuggle))


def test_an_older_reader_with_fewer_checks_cannot_be_asked_for(written: bytes) -> None:
    with pytest.raises(Refused, match="protocol 0"):
        load_skops(rewritten(written, lambda schema: schema.update(protocol=0)))


def test_a_compressed_archive_is_refused_before_it_is_unpacked(written: bytes) -> None:
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("schema.json", b" " * (64 << 20))
    assert len(bomb.getvalue()) < 1 << 20
    with pytest.raises(Refused, match="compressed"):
        load_skops(bomb.getvalue())


class Payload:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("pwned"),))


def test_a_pickle_named_skops_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Refused, match="not a skops archive"):
        load_skops(pickle.dumps(Payload()))
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("kind", [GradientBoostingRegressor, HistGradientBoostingRegressor])
def test_a_tree_that_points_outside_its_table_is_refused(kind: Any) -> None:
    rng = np.random.default_rng(0)
    model = kind(max_depth=3).fit(rng.normal(size=(100, 2)), rng.normal(size=100))
    data = write_skops(model)
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(buffer, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name.endswith(".npy") and (array := np.load(io.BytesIO(content))).dtype.names:
                side = "left_child" if "left_child" in array.dtype.names else "left"
                array[side][0] = 1_000_000
                out = io.BytesIO()
                np.save(out, array)
                content = out.getvalue()
            target.writestr(name, content)
    with pytest.raises(Refused, match="outside"):
        load_skops(buffer.getvalue())


def test_a_function_of_the_users_own_is_not_written() -> None:
    def mine(X: Any) -> Any:
        return X

    model = make_pipeline(FunctionTransformer(mine), GradientBoostingRegressor(n_estimators=2))
    model.fit(np.ones((5, 1)), np.arange(5.0))
    with pytest.raises(Untranslatable, match="mine"):
        write_skops(model)
