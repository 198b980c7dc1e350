"""Fitted scikit-learn and LightGBM models as graphs of float64 operations, exact or not at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from mainspring.core.schema import Schema
from mainspring.packaging.encoders import encode
from mainspring.packaging.graph import MISSING, Block, Graph, Untranslatable, columns_of, per_column, slots
from mainspring.packaging.lightgbm import is_lightgbm, text_of, translate_lightgbm
from mainspring.packaging.trees import from_histogram, from_sklearn, sum_of_trees

NUMBERS, TEXTS = "numbers", "texts"
T = TypeVar("T")


def translate(estimator: Any, inputs: Schema) -> tuple[Graph, str]:
    """Return the graph of a fitted model and the name of its output, shape (n, 1) or (n, k).

    The graph takes `numbers`, float64 of shape (n, p), and `texts`, shape (n, q), each with the columns of its kind in
    the order of the schema. A classifier of two classes may answer (n, 1): the probability of its second class.

    Raises:
        Untranslatable: a part of the model, or a column's type, has no exact form here.
    """
    graph = Graph()
    texts = [column.name for column in inputs if column.dtype == "string"]
    numbers = [column.name for column in inputs if column.dtype in ("float64", "int64", "bool")]
    if len(texts) + len(numbers) < len(inputs):
        raise Untranslatable("a date or time column; derive numbers from it in a feature")
    where = dict(zip(numbers, slots(NUMBERS, len(numbers)), strict=True))
    where |= zip(texts, slots(TEXTS, len(texts), text=True), strict=True)
    scores = predict(graph, estimator, tuple(where[name] for name in inputs.names))
    for tensor in graph.refusals:
        # NaN * 0 is NaN, everything else adds nothing.
        total = graph.add("ReduceSum", tensor, np.array([1]), keepdims=1)
        scores = graph.add("Add", scores, graph.add("Mul", total, np.float64(0)))
    return graph, scores


def predict(graph: Graph, model: Any, block: Block) -> str:
    """Add a final estimator and return its scores, shape (n, 1) or (n, k)."""
    if is_lightgbm(model):
        return translate_lightgbm(graph, graph.matrix(block), text_of(model))
    return _lookup(_PREDICT, model)(graph, model, block)


def transform(graph: Graph, step: Any, block: Block) -> Block:
    """Add a transformer and return the columns that it gives."""
    if isinstance(step, str):
        if step == "passthrough":
            return block
        raise Untranslatable(f"the step {step!r}")
    if hasattr(step, "get_support") and _is_sklearn(step):
        return columns_of(block, [int(index) for index in step.get_support(indices=True)])
    return _lookup(_TRANSFORM, step)(graph, step, block)


def _is_sklearn(part: Any) -> bool:
    return type(part).__module__.startswith("sklearn.")


def _lookup(table: dict[str, Callable[[Graph, Any, Block], T]], part: Any) -> Callable[[Graph, Any, Block], T]:
    # By exact name and home: a subclass may compute something else.
    name = type(part).__name__
    if not _is_sklearn(part) or name not in table:
        raise Untranslatable(f"{name} has no translation")
    return table[name]


def _pipeline(graph: Graph, model: Any, block: Block) -> str:
    for _, step in model.steps[:-1]:
        block = transform(graph, step, block) if step is not None else block
    return predict(graph, model.steps[-1][1], block)


def _pipeline_transform(graph: Graph, model: Any, block: Block) -> Block:
    for _, step in model.steps:
        block = transform(graph, step, block) if step is not None else block
    return block


def _best_estimator(graph: Graph, model: Any, block: Block) -> str:
    return predict(graph, model.best_estimator_, block)


def _column_transformer(graph: Graph, model: Any, block: Block) -> Block:
    out: list[Block] = []
    for name, step, _ in model.transformers_:
        chosen = columns_of(block, list(model._transformer_to_input_indices[name]))
        if (isinstance(step, str) and step == "drop") or not chosen:
            continue
        weight = (model.transformer_weights or {}).get(name)
        part = transform(graph, step, chosen)
        if weight is not None:
            part = slots(graph.add("Mul", graph.matrix(part), np.float64(weight)), len(part))
        out.append(part)
    return tuple(slot for part in out for slot in part)


def _feature_union(graph: Graph, model: Any, block: Block) -> Block:
    if model.transformer_weights:
        raise Untranslatable("FeatureUnion with weights")
    return tuple(slot for _, step in model.transformer_list if step != "drop" for slot in transform(graph, step, block))


def _affine(before: str, shift: str, after: str, scale: str) -> Callable[[Graph, Any, Block], Block]:
    """Return a translation of `(x before shift) after scale`, leaving out what the fitted step does not have."""

    def step(graph: Graph, model: Any, block: Block) -> Block:
        value = graph.matrix(block)
        for op, name in ((before, shift), (after, scale)):
            constant = getattr(model, name, None) if name else None
            if constant is not None:
                value = graph.add(op, value, per_column(constant, len(block)))
        return slots(value, len(block))

    return step


def _min_max(graph: Graph, model: Any, block: Block) -> Block:
    value = graph.add("Mul", graph.matrix(block), per_column(model.scale_, len(block)))
    value = graph.add("Add", value, per_column(model.min_, len(block)))
    if model.clip:
        value = graph.add("Clip", value, np.float64(model.feature_range[0]), np.float64(model.feature_range[1]))
    return slots(value, len(block))


def _imputer(graph: Graph, model: Any, block: Block) -> Block:
    if model.add_indicator:
        raise Untranslatable("SimpleImputer with add_indicator")
    texts = {slot.text for slot in block}
    if len(texts) > 1:
        raise Untranslatable("SimpleImputer over numbers and texts together")
    if texts == {True}:
        if model.missing_values is not None:
            return block  # scikit-learn sees None as missing only when it is told so
        fill = np.array([[str(value) for value in model.statistics_]], dtype=object)
        value = graph.gather(block)
        empty = graph.add("Equal", value, np.array([[MISSING]], dtype=object))
        return slots(graph.add("Where", empty, fill, value), len(block), text=True)
    if not isinstance(model.missing_values, float) or not np.isnan(model.missing_values):
        raise Untranslatable(f"SimpleImputer with missing_values={model.missing_values!r}")
    statistics = per_column(model.statistics_, len(block))
    if np.isnan(statistics).any():
        raise Untranslatable("SimpleImputer over a column that was empty in training")
    value = graph.matrix(block)
    return slots(graph.add("Where", graph.add("IsNaN", value), statistics, value), len(block))


_FUNCTIONS: dict[str, tuple[tuple[str, float], ...]] = {
    "log1p": (("Add", 1.0), ("Log", np.nan)), "expm1": (("Exp", np.nan), ("Sub", 1.0)), "log": (("Log", np.nan),),
    "exp": (("Exp", np.nan),), "sqrt": (("Sqrt", np.nan),), "absolute": (("Abs", np.nan),),
    "square": (("Pow", 2.0),),
}  # fmt: skip


def _function(graph: Graph, function: Any, value: str) -> str:
    if function is None:
        return value
    if not isinstance(function, np.ufunc) or function.__name__ not in _FUNCTIONS:
        raise Untranslatable(f"the function {getattr(function, '__name__', function)!r}")
    for op, constant in _FUNCTIONS[function.__name__]:
        value = graph.add(op, value) if np.isnan(constant) else graph.add(op, value, np.float64(constant))
    return value


def _function_transformer(graph: Graph, model: Any, block: Block) -> Block:
    if model.kw_args:
        raise Untranslatable("FunctionTransformer with kw_args")
    checks = getattr(getattr(model.func, "func", None), "__name__", "") == "check_array"  # changes no value
    return (
        block if model.func is None or checks else slots(_function(graph, model.func, graph.matrix(block)), len(block))
    )


def _components(graph: Graph, model: Any, block: Block) -> Block:
    value = graph.matrix(block)
    if getattr(model, "mean_", None) is not None:
        value = graph.add("Sub", value, per_column(model.mean_, len(block)))
    graph.refusals.append(value)
    if getattr(model, "whiten", False):
        raise Untranslatable("PCA with whiten")
    return slots(graph.add("MatMul", value, model.components_.T.astype(np.float64)), len(model.components_))


def _linear(graph: Graph, model: Any, block: Block) -> str:
    coefficients = np.atleast_2d(np.asarray(model.coef_, np.float64))
    if coefficients.shape[1] != len(block):
        raise Untranslatable(f"{type(model).__name__} of several targets")
    value = graph.add("MatMul", graph.matrix(block), coefficients.T.copy())
    return graph.add("Add", value, np.asarray(model.intercept_, np.float64).reshape(1, -1))


def _generalised(graph: Graph, model: Any, block: Block) -> str:
    if type(model._base_loss.link).__name__ != "LogLink":
        raise Untranslatable(f"{type(model).__name__} with this link")
    return graph.add("Exp", _linear(graph, model, block))


def _logistic(graph: Graph, model: Any, block: Block) -> str:
    value = _linear(graph, model, block)
    return graph.add("Sigmoid", value) if len(model.classes_) == 2 else graph.add("Softmax", value, axis=1)


def _one_against_rest(graph: Graph, model: Any, block: Block) -> str:
    if model.loss != "log_loss" or len(model.classes_) != 2:
        raise Untranslatable(f"SGDClassifier with loss {model.loss!r} and {len(model.classes_)} classes")
    return graph.add("Sigmoid", _linear(graph, model, block))


def _single(graph: Graph, block: Block) -> str:
    """Return the block as scikit-learn's trees see it: rounded to float32, then compared with float64 thresholds."""
    return graph.add("Cast", graph.add("Cast", graph.matrix(block), to="float32"), to="float64")


def _forest(graph: Graph, model: Any, block: Block) -> str:
    members = getattr(model, "estimators_", [model])
    if model.n_outputs_ != 1:
        raise Untranslatable(f"{type(model).__name__} of several targets")
    count = int(model.n_classes_) if hasattr(model, "classes_") else 1
    # Of two classes one is enough; each further class walks the trees once more.
    targets = [1] if count == 2 else list(range(count))
    trees = [from_sklearn(member.tree_, values=member.tree_.value[:, 0, column] / len(members), target=target)
             for target, column in enumerate(targets) for member in members]  # fmt: skip
    return sum_of_trees(graph, _single(graph, block), trees, len(targets), np.zeros(len(targets)))


def _boosting(graph: Graph, model: Any, block: Block) -> str:
    if not (isinstance(model.init_, str) or type(model.init_).__name__.startswith("Dummy")):
        raise Untranslatable("GradientBoosting that starts from a model")
    base = model._raw_predict_init(np.zeros((1, len(block))))[0]
    trees = [from_sklearn(member.tree_, values=member.tree_.value[:, 0, 0] * model.learning_rate, target=target)
             for stage in model.estimators_ for target, member in enumerate(stage)]  # fmt: skip
    matrix = _single(graph, block)
    graph.refusals.append(matrix)
    return _link(graph, model, sum_of_trees(graph, matrix, trees, len(base), base))


def _histogram_boosting(graph: Graph, model: Any, block: Block) -> str:
    if getattr(model, "_preprocessor", None) is not None:  # it numbers the categories; a new one becomes missing
        block = transform(graph, model._preprocessor, block)
    base = np.asarray(model._baseline_prediction, np.float64).reshape(-1)
    trees = [from_histogram(tree.nodes, tree.raw_left_cat_bitsets, target=target)
             for stage in model._predictors for target, tree in enumerate(stage)]  # fmt: skip
    return _link(graph, model, sum_of_trees(graph, graph.matrix(block), trees, len(base), base))


def _link(graph: Graph, model: Any, raw: str) -> str:
    link = type(model._loss.link).__name__
    if link == "IdentityLink":
        return raw
    if link == "HalfLogitLink":  # the exponential loss is fitted to half the log-odds
        return graph.add("Sigmoid", graph.add("Mul", raw, np.float64(2)))
    if link == "MultinomialLogit":
        return graph.add("Softmax", raw, axis=1)
    op = {"LogLink": "Exp", "LogitLink": "Sigmoid"}.get(link)
    if op is None:
        raise Untranslatable(f"{type(model).__name__} with the link {link}")
    return graph.add(op, raw)


def _voting(graph: Graph, model: Any, block: Block) -> str:
    if getattr(model, "voting", "soft") != "soft":
        raise Untranslatable("VotingClassifier that counts votes")
    weights = np.array(model._weights_not_none or np.ones(len(model.estimators_)), np.float64)
    parts = [graph.add("Mul", predict(graph, member, block), np.float64(weight / weights.sum()))
             for member, weight in zip(model.estimators_, weights, strict=True)]  # fmt: skip
    return graph.add("Sum", *parts)


def _transformed_target(graph: Graph, model: Any, block: Block) -> str:
    if model.transformer is not None:
        raise Untranslatable("TransformedTargetRegressor with a transformer object")
    return _function(graph, model.inverse_func, predict(graph, model.regressor_, block))


_TRANSFORM: dict[str, Callable[[Graph, Any, Block], Block]] = {
    "Pipeline": _pipeline_transform, "ColumnTransformer": _column_transformer, "FeatureUnion": _feature_union,
    "StandardScaler": _affine("Sub", "mean_", "Div", "scale_"), "MinMaxScaler": _min_max,
    "RobustScaler": _affine("Sub", "center_", "Div", "scale_"), "MaxAbsScaler": _affine("", "", "Div", "scale_"),
    "SimpleImputer": _imputer, "FunctionTransformer": _function_transformer, "OneHotEncoder": encode,
    "OrdinalEncoder": encode, "TargetEncoder": encode, "PCA": _components, "TruncatedSVD": _components,
}  # fmt: skip

_PREDICT: dict[str, Callable[[Graph, Any, Block], str]] = {
    "Pipeline": _pipeline, "GridSearchCV": _best_estimator, "RandomizedSearchCV": _best_estimator,
    **dict.fromkeys(
        ["LinearRegression", "Ridge", "RidgeCV", "Lasso", "LassoCV", "ElasticNet", "ElasticNetCV", "BayesianRidge",
         "HuberRegressor", "SGDRegressor", "LinearSVR", "QuantileRegressor"], _linear),
    **dict.fromkeys(["PoissonRegressor", "GammaRegressor", "TweedieRegressor"], _generalised),
    "LogisticRegression": _logistic, "LogisticRegressionCV": _logistic, "SGDClassifier": _one_against_rest,
    **dict.fromkeys(
        ["DecisionTreeClassifier", "DecisionTreeRegressor", "RandomForestClassifier", "RandomForestRegressor",
         "ExtraTreesClassifier", "ExtraTreesRegressor"], _forest),
    "GradientBoostingClassifier": _boosting, "GradientBoostingRegressor": _boosting,
    "HistGradientBoostingClassifier": _histogram_boosting, "HistGradientBoostingRegressor": _histogram_boosting,
    "VotingClassifier": _voting, "VotingRegressor": _voting, "TransformedTargetRegressor": _transformed_target,
}  # fmt: skip
