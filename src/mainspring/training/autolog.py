"""What a fitted estimator tells of itself, under the names that MLflow's autologging uses.

MLflow's own autologging costs 0.4 s for each fit of a scikit-learn pipeline, and its import; this costs milliseconds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from mainspring.tracking.runs import Run

MAX_PARAMS = 200


def log_fit(run: Run, estimator: Any) -> None:
    """Record class, parameters, training curve and feature importance of a scikit-learn or LightGBM estimator."""
    last = _last_step(estimator)
    run.set_tags(
        {
            "estimator_name": type(estimator).__name__,
            "estimator_class": f"{type(estimator).__module__}.{type(estimator).__qualname__}",
        }
    )
    if hasattr(estimator, "get_params"):
        params = estimator.get_params(deep=True)
        run.log_params({name: _short(params[name]) for name in sorted(params)[:MAX_PARAMS]})
    elif hasattr(last, "params"):  # a native LightGBM booster
        run.log_params({name: _short(value) for name, value in last.params.items()})
    for name, curve in _curves(last).items():
        for step, value in enumerate(curve):
            run.log_metric(name, value, step)
    best = getattr(last, "best_iteration_", None) or getattr(last, "best_iteration", None)
    if isinstance(best, int) and best > 0:
        run.log_metric("best_iteration", best)
    # One number, one per class or target, or None where the solver needs no iteration (Ridge).
    iterations = getattr(last, "n_iter_", None)
    if iterations is not None:
        run.log_metric("n_iter", float(max(iterations) if hasattr(iterations, "__len__") else iterations))
    booster = getattr(last, "booster_", last)
    if type(booster).__module__.startswith("lightgbm"):
        for kind in ("split", "gain"):
            names, values = booster.feature_name(), booster.feature_importance(importance_type=kind)
            table = {name: float(value) for name, value in zip(names, values, strict=True)}
            run.log_artifact(json.dumps(table, indent=1), f"feature_importance_{kind}.json")


def _curves(estimator: Any) -> dict[str, list[float]]:
    """Return the metrics that the estimator measured while it learned, one value an iteration."""
    results: Mapping[str, Mapping[str, list[float]]] = getattr(estimator, "evals_result_", None) or {}
    curves = {f"{data}-{metric}": values for data, metrics in results.items() for metric, values in metrics.items()}
    for name, attribute in (("loss", "loss_curve_"), ("train_score", "train_score_"), ("val", "validation_score_")):
        values = getattr(estimator, attribute, None)
        if values is not None and len(values):
            curves[name] = [float(value) for value in values]
    return curves


def _last_step(estimator: Any) -> Any:
    """Return the estimator at the end of pipelines and target transformers."""
    for attribute in ("steps", "regressor_"):
        inner = getattr(estimator, attribute, None)
        if inner is not None:
            return _last_step(inner[-1][1] if attribute == "steps" else inner)
    return estimator


def _short(value: Any) -> Any:
    return value if isinstance(value, bool | int | float | str | None) else str(value)[:500]
