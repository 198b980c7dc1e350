"""Fitting a model function: seeded, on a fixed number of threads, with errors that point at the user's line."""

from __future__ import annotations

import importlib
import inspect
import os
import random
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mainspring.core.errors import Invalid, MainspringError, Where, nearest
from mainspring.core.schema import Label, Task

Array = npt.NDArray[Any]
ModelFunction = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Fitted:
    """A fitted estimator, the parameters its function was called with, and how long the fit took."""

    estimator: Any
    params: dict[str, Any]
    seconds: float


def fit_model(
    function: ModelFunction, X: Any, y: Array, params: Mapping[str, Any], *, seed: int = 0, threads: int = 1
) -> Fitted:
    """Call the user's model function and return its estimator, fitted.

    The same function, data, parameters, seed and threads give the same estimator, to the bit: `random`, numpy's global
    generator and thread pools are set, and put back afterwards. The function gets copies: what it does to its frame
    reaches nothing else. With one thread LightGBM too is exact without asking for `deterministic`.

    Args:
        function: Takes `X, y` and named parameters; returns an estimator, fitted or not.
        X: A pandas frame, shape (n, columns).
        y: Labels as given, or numbers, shape (n,).
        params: Values for the function's named parameters; the rest keep their defaults.
        seed: Set before the call, and passed as `seed` or `random_state` to a function that takes one.
        threads: How many threads numeric libraries may use.

    Raises:
        Invalid: a parameter that the function does not take, an error in the function, or no estimator returned.
    """
    where = where_of(function)
    given = _arguments(function, params, seed, where)
    started = time.perf_counter()
    with _fixed(seed, threads):
        try:
            estimator = function(X.copy(deep=False), y.copy(), **given)
            if _is_unfitted(estimator):
                estimator = estimator.fit(X.copy(deep=False), y.copy())
        except MainspringError:
            raise
        except Exception as error:
            raise _as_invalid(function, error, where) from error
    if not hasattr(estimator, "predict"):
        raise Invalid(
            f"{function.__name__} returned {_kind(estimator)}, which has no predict",
            hint="end the function with: return estimator.fit(X, y)",
            where=where,
        )
    return Fitted(estimator, defaults_of(function) | given, time.perf_counter() - started)


def predict_scores(estimator: Any, X: Any, task: Task, classes: Sequence[Label]) -> Array:
    """Return scores in the one shape that each task has.

    Args:
        estimator: A fitted estimator.
        X: A pandas frame, shape (n, columns).
        task: What kind of answer.
        classes: Labels; for a binary task (negative, positive).

    Returns:
        Binary: probability of the positive class, shape (n,). Multiclass: shape (n, k) in the order of `classes`, 0 for
        one that the estimator never saw. Regression and forecast: shape (n,).

    Raises:
        Invalid: no probabilities, a class that `classes` does not name, or another shape than one score a row.
    """
    if task in ("regression", "forecast"):
        values = np.asarray(estimator.predict(X), dtype=np.float64)
        return _checked(values.reshape(-1) if values.ndim == 2 and values.shape[1] == 1 else values, (len(X),))
    probabilities = _probabilities(estimator, X)
    if probabilities.ndim == 1:
        probabilities = np.column_stack([1.0 - probabilities, probabilities])
    names = [_plain(name) for name in getattr(estimator, "classes_", classes)]
    _checked(probabilities, (len(X), len(names)))
    unknown = [name for name in names if name not in classes]
    if unknown:
        raise Invalid(
            f"the estimator answers {unknown[0]!r}, which is not a class of the target",
            hint=f"fit it on y as given; its classes are {', '.join(map(repr, list(classes)[:10]))}",
        )
    scores = np.zeros((len(X), len(classes)))
    scores[:, [list(classes).index(name) for name in names]] = probabilities
    return scores[:, 1] if task == "binary" else scores


def defaults_of(function: ModelFunction) -> dict[str, Any]:
    """Return the named parameters of a model function with their defaults."""
    parameters = list(inspect.signature(function).parameters.values())[2:]
    return {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}


def where_of(function: ModelFunction) -> Where:
    """Return where a function is defined."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    return Where(code.co_filename, code.co_firstlineno) if code else Where(getattr(function, "__module__", "") or "")


def _arguments(function: ModelFunction, params: Mapping[str, Any], seed: int, where: Where) -> dict[str, Any]:
    parameters = list(inspect.signature(function).parameters.values())[2:]
    names = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    if not any(p.kind is p.VAR_KEYWORD for p in parameters):
        for name in params:
            if name not in names:
                raise Invalid(
                    f"{function.__name__} takes no parameter {name!r}{nearest(name, names)}",
                    hint=f"add it to the function: def {function.__name__}(X, y, {name}=...)",
                    where=where,
                )
    seeds: dict[str, Any] = {name: seed for name in ("seed", "random_state") if name in names}
    return {**seeds, **params}


@contextmanager
def _fixed(seed: int, threads: int) -> Iterator[None]:
    """Seed the global generators and bound the thread pools while the block runs."""
    threadpoolctl: Any = importlib.import_module("threadpoolctl")  # it has no types
    # joblib, and LightGBM through it, take their number of threads from here.
    before = {name: os.environ.get(name) for name in ("LOKY_MAX_CPU_COUNT", "PYTHONHASHSEED")}
    states = random.getstate(), np.random.get_state()
    os.environ.update(LOKY_MAX_CPU_COUNT=str(threads), PYTHONHASHSEED=str(seed))
    random.seed(seed)
    np.random.seed(seed % 2**32)  # users' libraries draw from the global one
    try:
        with threadpoolctl.threadpool_limits(threads):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})


def _is_unfitted(estimator: Any) -> bool:
    if not (hasattr(estimator, "fit") and hasattr(estimator, "get_params")):
        return False
    from sklearn.exceptions import NotFittedError
    from sklearn.utils.validation import check_is_fitted

    try:
        check_is_fitted(estimator)
    except NotFittedError:
        return True
    except TypeError:
        return False
    return False


def _probabilities(estimator: Any, X: Any) -> Array:
    if hasattr(estimator, "predict_proba"):
        return np.asarray(estimator.predict_proba(X), dtype=np.float64)
    if type(estimator).__module__.startswith("lightgbm"):  # a native booster predicts probabilities
        return np.asarray(estimator.predict(X), dtype=np.float64)
    raise Invalid(
        f"{_kind(estimator)} gives no probabilities, which gates, thresholds and drift stand on",
        hint="wrap it: CalibratedClassifierCV(estimator).fit(X, y)",
    )


def _checked(values: Array, shape: tuple[int, ...]) -> Array:
    if values.shape != shape:
        raise Invalid(f"the estimator gave scores of shape {values.shape} where {shape} were expected")
    return values


def _as_invalid(function: ModelFunction, error: Exception, where: Where) -> Invalid:
    """Return the error of a user's function, placed at the deepest line of the user's file."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename == where.file]
    text = (str(error).strip().splitlines() or [""])[0][:300]
    line = own[-1].lineno if own else None
    return Invalid(
        f"{function.__name__} raised {type(error).__name__}: {text}",
        hint="call the function in a notebook or a test: it is a plain function",
        where=Where(where.file, line or where.line),
    )


def _plain(name: Any) -> Any:
    return name.item() if isinstance(name, np.generic) else name


def _kind(value: Any) -> str:
    return "nothing" if value is None else type(value).__name__
