"""skops: fitted scikit-learn objects as data, loaded only when the platform knows every type in the file."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np

from mainspring.core.errors import Refused
from mainspring.core.ref import canonical_json, digest
from mainspring.packaging.graph import Array, Untranslatable

FILE = "model/model.skops"
MAX_ENTRIES, MAX_BYTES = 10_000, 2 << 30

# What may be loaded beside skops' own list (scikit-learn's public estimators, numpy's types and functions). The list
# lives here and nowhere else: no file can add to it. Trees are on it because `_check_trees` bounds their indices.
TRUSTED = (
    "collections.OrderedDict", "collections.defaultdict", "functools.partial", "lightgbm.basic.Booster",
    "lightgbm.sklearn.LGBMClassifier", "lightgbm.sklearn.LGBMRegressor", "numpy.dtype",
    "sklearn.calibration._CalibratedClassifier", "sklearn.calibration._SigmoidCalibration",
    "sklearn.compose._column_transformer._RemainderColsList",
    "sklearn.compose._column_transformer.make_column_selector",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.neural_network._stochastic_optimizers.SGDOptimizer", "sklearn.tree._tree.Tree",
    "sklearn.utils._bunch.Bunch", "sklearn.utils.validation.check_array",
)  # fmt: skip


def write_skops(estimator: Any) -> bytes:
    """Return a fitted estimator as a skops file; equal models give equal bytes.

    Raises:
        Untranslatable: it holds something that skops cannot write, or a type that could not be loaded again.
    """
    import skops.io

    try:
        data = skops.io.dumps(estimator)
        unknown = sorted(set(skops.io.get_untrusted_types(data=data)) - set(TRUSTED))
    except Exception as error:  # skops raises whatever the object's own code raises
        raise Untranslatable(f"skops cannot write it: {str(error).splitlines()[0][:200]}") from error
    if unknown:
        raise Untranslatable(f"types that are not on the platform's list: {', '.join(unknown)}")
    return _canonical(data)


def load_skops(data: bytes) -> Any:
    """Return the estimator of a skops file; nothing in the file decides what is trusted.

    Raises:
        Refused: the file is not a plain skops archive, or holds a type that is not on the platform's list.
    """
    import skops.io
    from skops.io._protocol import PROTOCOL

    # Before skops reads anything: a stored (never compressed) member cannot be larger than the file that holds it.
    with _archive(data) as archive:
        members = archive.infolist()
        if len(members) > MAX_ENTRIES or len(data) > MAX_BYTES:
            raise Refused(f"the skops file is too large: {len(members):,} members, {len(data):,} bytes")
        if any(each.compress_type != zipfile.ZIP_STORED or each.file_size > len(data) for each in members):
            raise Refused("the skops file is compressed; Mainspring writes none that is")
        if len({each.filename for each in members}) < len(members):
            raise Refused("the skops file names one member twice")
        schema = json.loads(archive.read("schema.json")) if "schema.json" in archive.namelist() else {}
    if schema.get("protocol") != PROTOCOL:  # older readers of skops check less
        raise Refused(f"the skops file has protocol {schema.get('protocol')!r}; only {PROTOCOL} is read")
    try:
        unknown = sorted(set(skops.io.get_untrusted_types(data=data)) - set(TRUSTED))
        if unknown:
            raise Refused(f"the skops file holds types that are not on the platform's list: {', '.join(unknown[:5])}")
        estimator = skops.io.loads(data, trusted=TRUSTED)
    except Refused:
        raise
    except Exception as error:
        raise Refused(f"the skops file is damaged: {type(error).__name__}") from error
    _check_trees(estimator)
    return estimator


def _archive(data: bytes) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(io.BytesIO(data))
    except zipfile.BadZipFile as error:
        raise Refused("the file is not a skops archive") from error


def _canonical(data: bytes) -> bytes:
    """Return the same archive without what differs between two runs: memory addresses, random names, the time."""
    with _archive(data) as archive:
        schema = json.loads(archive.read("schema.json"))
        payloads = {name: _settled(name, archive.read(name)) for name in archive.namelist() if name != "schema.json"}
    names = {name: f"{digest(payload)[7:39]}{name[name.rfind('.') :]}" for name, payload in payloads.items()}
    content = {names[name]: payload for name, payload in payloads.items()}
    numbers: dict[int, int] = {}
    count = iter(range(1 << 62))

    def visit(value: Any) -> None:
        if isinstance(value, list):
            for child in value:
                visit(child)
        if not isinstance(value, dict):
            return
        if value.get("__loader__") == "SetNode":  # the order of a set of texts differs from process to process
            value["content"].sort(key=_without_ids)
        if isinstance(value.get("__id__"), int):
            # Whether two equal constants are one object is chance; whether two parts share one object is the model.
            constant = value.get("__loader__") == "JsonNode"
            value["__id__"] = next(count) if constant else numbers.setdefault(value["__id__"], next(count))
        if "_stop_words_id" in value:  # a memory address that scikit-learn's text vectorisers remember
            value["_stop_words_id"]["content"] = "0"
        if isinstance(value.get("file"), str) and "__loader__" in value:
            value["file"] = names[value["file"]]
        for child in value.values():
            visit(child)

    visit(schema)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as out:
        for name, payload in [("schema.json", json.dumps(schema).encode()), *sorted(content.items())]:
            out.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), payload)
    return buffer.getvalue()


def _settled(name: str, payload: bytes) -> bytes:
    """Return an array file with the bytes that mean nothing set to zero: trees are allocated, not initialised."""
    if not name.endswith(".npy"):
        return payload
    array = np.load(io.BytesIO(payload), allow_pickle=False)
    if array.dtype.names is None:
        return payload
    clean = np.frombuffer(bytearray(array.nbytes), array.dtype).reshape(array.shape)
    for field in array.dtype.names:
        clean[field] = array[field]
    if {"left_child", "missing_go_to_left"} <= set(array.dtype.names):
        clean["missing_go_to_left"][clean["left_child"] < 0] = 0
    buffer = io.BytesIO()
    np.save(buffer, clean, allow_pickle=False)
    return buffer.getvalue()


def _without_ids(node: Any) -> bytes:
    def strip(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: strip(child) for key, child in value.items() if key not in ("__id__", "file")}
        return [strip(child) for child in value] if isinstance(value, list) else value

    return canonical_json(strip(node))


def _check_trees(estimator: Any) -> None:
    """Refuse trees whose nodes point outside their tables: scikit-learn follows them without looking."""
    for part in _parts(estimator, set()):
        width = getattr(part, "n_features_in_", 0)
        if hasattr(part, "tree_"):
            tree = part.tree_
            _check_nodes(tree.children_left, tree.children_right, tree.feature, tree.children_left < 0, width)
        for stage in getattr(part, "_predictors", ()):
            for nodes in (predictor.nodes for predictor in stage):
                _check_nodes(nodes["left"], nodes["right"], nodes["feature_idx"], nodes["is_leaf"] != 0, width)


def _check_nodes(left: Array, right: Array, feature: Array, is_leaf: Array, width: int) -> None:
    rows = np.flatnonzero(~np.asarray(is_leaf, bool))
    for child in (left, right):
        found = np.asarray(child).astype(np.int64)[rows]
        if (found <= rows).any() or (found >= len(is_leaf)).any():
            raise Refused("the skops file holds a tree whose nodes point outside it")
    columns = np.asarray(feature).astype(np.int64)[rows]
    if (columns < 0).any() or (columns >= width).any():
        raise Refused("the skops file holds a tree that reads columns the model does not have")


def _parts(value: Any, seen: set[int]) -> Iterator[Any]:
    """Yield every object that a loaded estimator holds, itself first."""
    if id(value) in seen or isinstance(value, str | bytes | int | float | None):
        return
    seen.add(id(value))
    if isinstance(value, np.ndarray):
        value = value.ravel().tolist() if value.dtype == object else ()
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple | set):
        for child in value:
            yield from _parts(child, seen)
    elif hasattr(value, "__dict__"):
        yield value
        yield from _parts(vars(value), seen)
