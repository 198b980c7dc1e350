"""The bundle in MLflow's terms: its MLmodel file and the packages that serving it takes."""

from __future__ import annotations

import json
import re

from mainspring.core.schema import Column, Signature

_MLFLOW_TYPES = {"float64": "double", "int64": "long", "bool": "boolean", "string": "string", "date": "datetime",
                 "datetime": "datetime"}  # fmt: skip
_NEEDS = {
    "onnx": ("numpy", "onnxruntime", "pandas", "polars"),
    "lightgbm": ("lightgbm", "numpy", "pandas", "polars"),
    "skops": ("lightgbm", "numpy", "pandas", "polars", "scikit-learn", "scipy", "skops"),
    "pickle": ("cloudpickle", "lightgbm", "numpy", "pandas", "polars", "scikit-learn", "scipy"),
}


def render_mlmodel(signature: Signature, *, name: str, format: str, python: str) -> str:
    """Return the text of an MLmodel file whose loader is `mainspring.serving.pyfunc`.

    It holds no time, run or random name, so that the same model gives the same text.
    """
    inputs = [_mlflow_column(column) for column in signature.inputs]
    outputs = [{"type": "double", "name": "prediction", "required": True}]
    if signature.classes:
        label = {str: "string", bool: "boolean", int: "long"}.get(type(signature.classes[0]), "double")
        outputs = [{"type": label, "name": "label", "required": True},
                   {"type": "double", "name": "probability", "required": True}]  # fmt: skip
    return "\n".join([
        "flavors:",
        "  python_function:",
        "    loader_module: mainspring.serving.pyfunc",
        f"    python_version: {python}",
        "metadata:",
        f"  mainspring.format: {format}",
        f"  mainspring.name: {json.dumps(name)}",
        f"  mainspring.task: {signature.task}",
        "signature:",
        # A JSON text is a YAML text in single quotes when its own are doubled.
        f"  inputs: '{json.dumps(inputs).replace(chr(39), chr(39) * 2)}'",
        f"  outputs: '{json.dumps(outputs)}'",
        "",
    ])  # fmt: skip


def _mlflow_column(column: Column) -> dict[str, object]:
    # MLflow's integers cannot be missing; ours become floats then, in training and in serving.
    kind = "double" if column.dtype == "int64" and column.nullable else _MLFLOW_TYPES[column.dtype]
    return {"type": kind, "name": column.name, "required": True}


def render_requirements(lock: str, format: str) -> str:
    """Return the lines of an environment lock that serving a bundle of this format needs, Mainspring's first."""
    wanted = {"mainspring", *_NEEDS[format]}
    lines = [line for line in lock.splitlines() if _normal(re.split(r"[=<>@ ;\[]", line, maxsplit=1)[0]) in wanted]
    return "".join(f"{line}\n" for line in sorted(lines, key=lambda line: (not line.startswith("mainspring"), line)))


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
