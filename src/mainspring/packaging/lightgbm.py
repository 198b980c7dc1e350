"""LightGBM's text format: read into trees, or run by LightGBM's own library through its C interface."""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from mainspring.core.errors import Invalid, MissingExtra
from mainspring.packaging.graph import Array, Graph, Untranslatable
from mainspring.packaging.predictor import Answer, is_booster, side_by_side
from mainspring.packaging.trees import Tree, set_bits, sum_of_trees

FILE = "model/model.txt"
_IDENTITY = {"regression", "regression_l1", "huber", "fair", "quantile", "mape"}
_EXPONENT = {"poisson", "gamma", "tweedie"}


def is_lightgbm(estimator: Any) -> bool:
    """Return whether the estimator is one of LightGBM's own classes, and no subclass of them."""
    kind = type(estimator)
    wrapped = kind.__module__ == "lightgbm.sklearn" and kind.__name__ in ("LGBMClassifier", "LGBMRegressor")
    return wrapped or is_booster(estimator)


def text_of(estimator: Any) -> str:
    """Return the fitted model as LightGBM writes it, without the training parameters, which no prediction reads."""
    booster = estimator if is_booster(estimator) else estimator.booster_
    text: str = booster.model_to_string()
    head, _, rest = text.partition("\nparameters:\n")
    return head + rest[rest.find("end of parameters") + len("end of parameters") :] if rest else head


def translate_lightgbm(graph: Graph, matrix: str, text: str) -> str:
    """Add the ensemble to a graph and return its scores: (n, 1), or (n, k) for several classes.

    Raises:
        Untranslatable: the model has linear leaves, zero as missing, or an objective of its own.
    """
    head, *blocks = text.split("\nTree=")
    fields = dict(line.partition("=")[::2] for line in head.splitlines())
    targets = int(fields["num_tree_per_iteration"])
    trees = [_tree(_fields(block), number % targets) for number, block in enumerate(blocks)]
    if "average_output" in fields:
        rounds = len(trees) // targets
        trees = [replace(tree, leaves=tree.leaves / rounds) for tree in trees]
    raw = sum_of_trees(graph, matrix, trees, targets, np.zeros(targets))
    objective, *options = fields.get("objective", "custom").split()
    slope = float(dict(option.partition(":")[::2] for option in options).get("sigmoid", 1))
    if objective in ("binary", "multiclassova", "cross_entropy"):
        return graph.add("Sigmoid", raw if slope == 1 else graph.add("Mul", raw, np.float64(slope)))
    if objective == "multiclass":
        return graph.add("Softmax", raw, axis=1)
    if objective in _EXPONENT:
        return graph.add("Exp", raw)
    if objective in _IDENTITY:
        return raw if "sqrt" not in options else graph.add("Mul", raw, graph.add("Abs", raw))
    raise Untranslatable(f"LightGBM's objective {objective!r}")


def _fields(block: str) -> dict[str, str]:
    return dict(line.partition("=")[::2] for line in block.split("\n\n", 1)[0].splitlines())


def _tree(fields: dict[str, str], target: int) -> Tree:
    if fields.get("is_linear", "0") != "0":
        raise Untranslatable("LightGBM with linear leaves")

    def read(name: str, kind: type) -> Array:
        return np.array(fields.get(name, "").split(), dtype=kind)

    flags, threshold = read("decision_type", np.int64), read("threshold", np.float64)
    missing_kind = (flags >> 2) & 3  # 0: a missing value counts as 0.0; 1: zero counts as missing; 2: NaN is missing
    if (missing_kind == 1).any():
        raise Untranslatable("LightGBM with zero_as_missing")
    asks = (flags & 1) > 0
    bounds, words = read("cat_boundaries", np.int64), read("cat_threshold", np.uint32)
    sets = threshold[asks].astype(np.int64)
    return Tree(
        feature=read("split_feature", np.int64), threshold=threshold,
        missing_left=np.where(missing_kind == 2, (flags & 2) > 0, threshold >= 0.0) & ~asks,
        left=read("left_child", np.int64), right=read("right_child", np.int64),
        leaves=read("leaf_value", np.float64), target=target,
        members=tuple((int(node), set_bits(words[bounds[one] : bounds[one + 1]]))
                      for node, one in zip(np.flatnonzero(asks), sets, strict=True)),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class LightgbmPredictor:
    """A LightGBM model run by `lib_lightgbm`; threads may share it. Exact: it is the code that trained the model."""

    handle: Any
    columns: tuple[str, ...]
    width: int
    answer: Answer
    format: str = "lightgbm"

    def predict(self, columns: Mapping[str, Array], n: int) -> Array:
        """Return the scores of n rows."""
        matrix = side_by_side(self.columns, columns, n)
        scores = np.empty((n, self.width), np.float64)
        written = ctypes.c_int64()
        # 1: values are float64, rows lie one after the other; 0, 0, -1: normal scores of every iteration.
        _checked(_library().LGBM_BoosterPredictForMat(
            self.handle, matrix.ctypes.data_as(ctypes.c_void_p), 1, ctypes.c_int32(n),
            ctypes.c_int32(len(self.columns)), 1, 0, 0, -1, b"num_threads=1", ctypes.byref(written),
            scores.ctypes.data_as(ctypes.POINTER(ctypes.c_double)),
        ))  # fmt: skip
        return self.answer.arrange(scores)


def load_lightgbm(text: bytes, columns: tuple[str, ...], answer: Answer) -> LightgbmPredictor:
    """Return a predictor of a model text.

    Raises:
        Invalid: the text is not a LightGBM model, or takes another number of columns.
    """
    handle, rounds = ctypes.c_void_p(), ctypes.c_int()
    _checked(_library().LGBM_BoosterLoadModelFromString(text, ctypes.byref(rounds), ctypes.byref(handle)))
    features, width = ctypes.c_int(), ctypes.c_int()
    _checked(_library().LGBM_BoosterGetNumFeature(handle, ctypes.byref(features)))
    _checked(_library().LGBM_BoosterGetNumClasses(handle, ctypes.byref(width)))
    if features.value != len(columns):
        raise Invalid(f"the LightGBM model takes {features.value} columns, and the bundle names {len(columns)}")
    return LightgbmPredictor(handle, columns, width.value, answer)


@cache
def _library() -> ctypes.CDLL:
    # Only the C library: the Python package imports pandas and scikit-learn, which a server has no use for.
    spec = importlib.util.find_spec("lightgbm")
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtra("the bundle holds a LightGBM model, and lightgbm is absent", hint="pip install lightgbm")
    folder = Path(spec.submodule_search_locations[0])
    found = [path for name in ("lib_lightgbm.so", "lib_lightgbm.dylib", "lib_lightgbm.dll")
             for path in (folder / "lib" / name, folder / "bin" / name) if path.exists()]  # fmt: skip
    library = ctypes.CDLL(str(found[0]))
    library.LGBM_GetLastError.restype = ctypes.c_char_p
    return library


def _checked(status: int) -> None:
    if status != 0:
        raise Invalid(f"LightGBM refuses the model or its input: {_library().LGBM_GetLastError().decode()}")
