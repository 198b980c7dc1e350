"""The fitting step: split, search, fit, and pack what will be served."""

from __future__ import annotations

import ast
import builtins
import io
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mainspring.core.ref import digest, digest_json
from mainspring.core.schema import Schema, Signature
from mainspring.loop.release import bundle_path
from mainspring.loop.table import TARGET, views_of
from mainspring.project.definition import LabelsDef, ModelDef, ProjectSpec, source_of
from mainspring.store.objects import file_digest

if TYPE_CHECKING:
    import polars as pl

    from mainspring.data.splits import Split
    from mainspring.orchestration.pipeline import StepContext

Array = npt.NDArray[Any]
PRUNE_FROM_ROWS = 20_000
MAX_REFERENCE_ROWS = 100_000


def split_of(model: ModelDef, frame: pl.DataFrame, time: str | None, key: tuple[str, ...]) -> Split:
    """Return which rows are learned from and which are kept for the proof; the same for the same table."""
    from mainspring.data.splits import by_chance, by_time, split

    rule = model.split if model.split is not None else (by_time(test=0.2) if time else by_chance(test=0.2))
    parts = split(frame, rule, time=time, target=TARGET, key=key)
    return replace(parts, reason=parts.reason.replace(TARGET, "class"))  # people know the column by another name


def metric_of(model: ModelDef, signature: Signature) -> str:
    """Return the metric that is optimised and compared."""
    from mainspring.evaluation.metrics import default_metric

    return model.metric or default_metric(signature.task)


def outcomes(frame: pl.DataFrame) -> Array:
    """Return the target as the model function sees it: class labels as they are, numbers as float64."""
    target = frame[TARGET]
    return (
        target.to_numpy().astype(object) if target.dtype == str or str(target.dtype) == "String" else target.to_numpy()
    )


def fit(ctx: StepContext, spec: ProjectSpec, model: ModelDef, frame: pl.DataFrame) -> dict[str, Any]:
    """Search settings, fit on the training rows, pack the bundle, and keep the baselines' answers on the test rows."""
    from mainspring.data.frames import to_pandas
    from mainspring.packaging.bundle import pack
    from mainspring.tracking.environment import capture
    from mainspring.tracking.runs import Runs
    from mainspring.training.autolog import log_fit
    from mainspring.training.trainer import fit_model

    found = ctx.inputs["features"]
    signature, inputs = Signature.from_json(found["signature"]), Schema.from_json(found["model_inputs"])
    parts = split_of(model, frame, found["time"], tuple(found["key"]))
    learned = np.concatenate([parts.train, parts.validation]) if len(parts.validation) else parts.train
    X, y = to_pandas(frame[learned], inputs), outcomes(frame[learned])
    environment = capture(ctx.ws.settings.directory)
    code = code_digest(model.function)
    metric = metric_of(model, signature)
    data = {name: item["digest"] for name, item in ctx.inputs["ingest"]["datasets"].items()}
    with Runs(ctx.ws).start(
        spec.name,
        model.name,
        ctx.run_id,
        tags={
            "mainspring.model": model.name,
            "mainspring.code": code,
            **environment.as_tags(),
            **{f"mainspring.data.{name}": content for name, content in data.items()},
        },
    ) as run:
        run.log_artifact(environment.packages, "environment.txt")
        if environment.is_dirty:
            run.log_artifact(environment.diff, "uncommitted.diff")
        params = _search(ctx, model, frame, parts, found, run, metric) if model.tune else {}
        ctx.progress(None, f"fitting {model.name} on {len(learned)} rows")
        with run.active():
            fitted = fit_model(model.function, X, y, params, seed=model.seed)
        run.log_params({**fitted.params, "seed": model.seed, "rows": len(learned), "split": parts.reason})
        log_fit(run, fitted.estimator)
        run.log_metric("fit_seconds", fitted.seconds)
        ctx.kill_point()
        ctx.progress(None, "packing the bundle and proving it")
        packed = pack(
            ctx.ws,
            estimator=fitted.estimator,
            signature=signature,
            model_inputs=inputs,
            features_json=[view.to_json() for view in views_of(spec, model)],
            sample=frame[parts.train].select(inputs.names),
            test=frame[parts.test].select(_needed(frame)),
            environment_lock=environment.packages,
            data=data,
            code=code,
            params=dict(fitted.params),
            seed=model.seed,
            trust_pickle=model.trust_pickle,
            name=model.name,
        )
        run.log_artifact(bundle_path(ctx.ws, packed.digest), "bundle")
        run.set_tags({"mainspring.bundle": packed.digest, "mainspring.format": packed.format})
        answers = _baseline_answers(ctx, model, frame, parts, found, signature, inputs)
    return {
        "bundle": packed.digest,
        "format": packed.format,
        "parity": asdict(packed.parity),
        "code": code,
        "environment": environment.packages_digest,
        "params": _plain(fitted.params),
        "metric": metric,
        "baselines": ctx.ws.objects.put(answers),
        "split": parts.reason,
        "notes": list(packed.notes),
    }


def _needed(frame: pl.DataFrame) -> list[str]:
    return [name for name in frame.columns if name != TARGET]


def _search(
    ctx: StepContext,
    model: ModelDef,
    frame: pl.DataFrame,
    parts: Split,
    found: Mapping[str, Any],
    run: Any,
    metric: str,
) -> dict[str, Any]:
    """Return the best settings on rows held out of the training rows; the test rows stay unseen."""
    from mainspring.data.frames import to_pandas
    from mainspring.evaluation.metrics import compute_metrics, metric_direction
    from mainspring.training.trainer import fit_model, predict_scores
    from mainspring.training.tuning import search

    signature, inputs = Signature.from_json(found["signature"]), Schema.from_json(found["model_inputs"])
    inner, judged = parts.train, parts.validation
    if not len(judged):
        again = split_of(model, frame[parts.train], found["time"], tuple(found["key"]))
        inner, judged = parts.train[again.train], parts.train[again.test]
    X_judged, y_judged = to_pandas(frame[judged], inputs), outcomes(frame[judged])
    # On a large table a trial first learns from a quarter of the rows: one that is hopeless there is not fitted on all.
    shares = [inner[::4], inner] if len(inner) >= PRUNE_FROM_ROWS else [inner]
    tables = [(to_pandas(frame[rows], inputs), outcomes(frame[rows])) for rows in shares]

    def objective(params: dict[str, Any], report: Callable[[int, float], None]) -> float:
        value = float("nan")
        for step, (X, y) in enumerate(tables, start=1):
            fitted = fit_model(model.function, X, y, params, seed=model.seed)
            scores = predict_scores(fitted.estimator, X_judged, signature.task, signature.classes)
            measured = compute_metrics(
                signature.task, y_judged, scores, signature.classes, intervals=False, only=[metric]
            )
            value = abs(measured[metric].value) if metric_direction(metric) == "zero" else measured[metric].value
            if step < len(tables):
                report(step, value)
        return value

    result = search(
        objective,
        model.tune,
        model.trials,
        model.seed,
        direction="maximize" if metric_direction(metric) == "higher" else "minimize",
        journal=ctx.ws.path("search", f"{ctx.run_id}.journal"),
        function=model.function,
        on_trial=lambda n, best: ctx.progress(
            n / model.trials, f"trial {n} of {model.trials}: best {metric} {best:.4g}"
        ),
    )
    run.log_trials(result.trials)
    return dict(result.best_params)


def _baseline_answers(
    ctx: StepContext,
    model: ModelDef,
    frame: pl.DataFrame,
    parts: Split,
    found: Mapping[str, Any],
    signature: Signature,
    inputs: Schema,
) -> bytes:
    """Return the baselines' scores on the test rows, as an npz file."""
    from mainspring.training.baselines import baseline_scores

    ctx.progress(None, "fitting the baselines")
    scores: Any = baseline_scores(
        signature.task,
        frame[parts.train],
        frame[parts.test],
        inputs,
        target=TARGET,
        time=found["time"],
        classes=signature.classes,
        known_after=model.predicts.matures if isinstance(model.predicts, LabelsDef) else None,
        seed=model.seed,
    )
    buffer = io.BytesIO()
    np.savez(buffer, **scores)
    return buffer.getvalue()


def _plain(params: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v if isinstance(v, (str, int, float, bool)) or v is None else str(v) for k, v in params.items()}


def code_digest(function: Callable[..., Any]) -> str:
    """Return the digest of a function and all it reaches in the user's own files.

    Functions, classes and constants of the module that the code names count by their source, modules beside it by
    their file; installed packages count in the environment instead. Comments and formatting do not count.
    """
    seen: dict[str, str] = {}
    _reach(function, seen, Path(function.__code__.co_filename).parent)
    return digest_json(seen)


def _reach(function: Any, seen: dict[str, str], root: Path) -> None:
    name = f"{function.__module__}.{function.__qualname__}"
    if name in seen:
        return
    seen[name] = source_of(function)
    for used in _names(function.__code__):
        if used in function.__globals__ and not hasattr(builtins, used):
            _count(used, function.__globals__[used], seen, root)


def _names(code: CodeType) -> set[str]:
    inner = (constant for constant in code.co_consts if isinstance(constant, CodeType))
    return set(code.co_names).union(*(_names(constant) for constant in inner))


def _count(name: str, value: Any, seen: dict[str, str], root: Path) -> None:
    if isinstance(value, ModuleType):
        file = getattr(value, "__file__", None)
        if file and Path(file).resolve().is_relative_to(root.resolve()) and "site-packages" not in file:
            seen[f"module {name}"] = file_digest(Path(file))
    elif isinstance(value, FunctionType) or isinstance(getattr(value, "function", None), FunctionType):
        target = value if isinstance(value, FunctionType) else value.function
        if Path(target.__code__.co_filename).resolve().is_relative_to(root.resolve()):
            _reach(target, seen, root)
    elif isinstance(value, type):
        module = sys.modules.get(value.__module__)
        file = getattr(module, "__file__", None)
        if file and Path(file).resolve().is_relative_to(root.resolve()) and "site-packages" not in file:
            seen[f"class {name}"] = _class_source(value, Path(file))
    elif isinstance(value, (str, int, float, bool, bytes, tuple, list, dict, set, frozenset)):
        seen[f"value {name}"] = repr(sorted(value, key=repr) if isinstance(value, (set, frozenset)) else value)


def _class_source(value: type, file: Path) -> str:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef) and node.name == value.__name__:
            return ast.unparse(node)
    return digest(file.read_bytes())
