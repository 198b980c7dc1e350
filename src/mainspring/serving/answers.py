"""The answer of each protocol: scores rendered as v1, MLflow and v2 clients read them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from mainspring.core.schema import Label, Signature
from mainspring.serving.protocol import BadRequest, Batch
from mainspring.serving.runtime import Endpoint

Array = npt.NDArray[Any]

_V2_TYPES = {
    "float64": "FP64",
    "int64": "INT64",
    "bool": "BOOL",
    "string": "BYTES",
    "datetime": "BYTES",
    "date": "BYTES",
}


def predictions(endpoint: Endpoint, batch: Batch, scores: Array, ids: list[str]) -> dict[str, Any]:
    """Return the answer of v1 and of MLflow, with what makes a prediction traceable beside it."""
    return {
        "predictions": endpoint.scorer.render(scores),
        "model_version": endpoint.version,
        "prediction_id": ids[0].partition(".")[0],
        "prediction_ids": ids,
    }


def tensors(endpoint: Endpoint, batch: Batch, scores: Array, ids: list[str]) -> dict[str, Any]:
    """Return the answer of v2: one tensor per figure, in the order asked for.

    Raises:
        BadRequest: an output was asked for that the model does not have.
    """
    signature = endpoint.scorer.signature
    data = {**_figures(signature, scores), "prediction_id": ids}
    described = {tensor["name"]: tensor for tensor in describe_outputs(signature)}
    for i, name in enumerate(batch.outputs):
        if name not in data:
            raise BadRequest("no such output", pointer=f"/outputs/{i}/name", hint=f"outputs: {', '.join(data)}")
    outputs = [
        {**described[name], "shape": [batch.n, *described[name]["shape"][1:]], "data": data[name]}
        for name in batch.outputs or data
    ]
    request_id = ids[0].partition(".")[0]
    return {
        "model_name": endpoint.split.model,
        "model_version": endpoint.version,
        "id": batch.request_id or request_id,
        "parameters": {"prediction_id": request_id},
        "outputs": outputs,
    }


def describe_inputs(signature: Signature) -> list[dict[str, Any]]:
    """Return the input tensors of a model as v2 describes them; -1 is any number of rows."""
    return [{"name": c.name, "datatype": _V2_TYPES[c.dtype], "shape": [-1]} for c in signature.inputs]


def describe_outputs(signature: Signature) -> list[dict[str, Any]]:
    """Return the output tensors of a model as v2 describes them."""
    names: list[tuple[str, str, list[int]]] = [("prediction", "FP64", [-1])]
    if signature.classes:
        names = [("label", _label_type(signature.classes), [-1]), ("probability", "FP64", [-1])]
    if signature.task == "multiclass":
        names.append(("probabilities", "FP64", [-1, len(signature.classes)]))
    names.append(("prediction_id", "BYTES", [-1]))
    return [{"name": name, "datatype": datatype, "shape": shape} for name, datatype, shape in names]


def _figures(signature: Signature, scores: Array) -> dict[str, list[Any]]:
    if signature.task == "binary":
        negative, positive = signature.classes
        return {"label": [positive if p >= 0.5 else negative for p in scores.tolist()], "probability": scores.tolist()}
    if signature.task == "multiclass":
        best = np.asarray(scores.argmax(axis=1))
        labels = [signature.classes[j] for j in best.tolist()]
        highest = scores[np.arange(len(best)), best].tolist()
        return {"label": labels, "probability": highest, "probabilities": scores.ravel().tolist()}
    return {"prediction": scores.tolist()}


def _label_type(classes: tuple[Label, ...]) -> str:
    kinds = {type(label) for label in classes}
    return {bool: "BOOL", int: "INT64", float: "FP64"}.get(kinds.pop(), "BYTES") if len(kinds) == 1 else "BYTES"
