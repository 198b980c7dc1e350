"""The data plane described: OpenAPI with each model's own columns, and the same as a page that needs no script."""

from __future__ import annotations

import json
from collections.abc import Iterable
from html import escape
from typing import Any

from mainspring.core.schema import Column, Signature
from mainspring.serving.runtime import Endpoint

_JSON_TYPES: dict[str, dict[str, Any]] = {
    "float64": {"type": "number"},
    "int64": {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1},
    "bool": {"type": "boolean"},
    "string": {"type": "string"},
    "datetime": {"type": "string", "format": "date-time"},
    "date": {"type": "string", "format": "date"},
}
_EXAMPLES = {
    "float64": 1.5, "int64": 1, "bool": True, "string": "text",
    "datetime": "2026-01-31T08:00:00Z", "date": "2026-01-31",
}  # fmt: skip
_CSS = (
    "body{font:16px/1.5 system-ui;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "pre{background:#f4f4f4;padding:1rem;overflow:auto}td{padding:.2rem 1rem .2rem 0;vertical-align:top}"
)
_PROBLEM = {
    "type": "object",
    "required": ["code", "error", "status"],
    "properties": {
        "code": {"type": "string"},
        "error": {"type": "string"},
        "hint": {"type": "string"},
        "pointer": {"type": "string", "description": "JSON pointer of the place that is wrong"},
        "request_id": {"type": "string"},
        "status": {"type": "integer"},
    },
}
_ERRORS = {
    "400": "not JSON", "413": "too large", "415": "a content type that is not read", "422": "against the signature",
    "503": "not available now; nothing was done",
}  # fmt: skip
# (method, path, what it gives); `{name}` and `{version}` stand for each model that is live.
ROUTES = (
    ("POST", "/v1/models/{name}:predict", "predict: TensorFlow Serving, KServe v1, Vertex AI"),
    ("POST", "/v1/models/{name}/versions/{version}:predict", "predict, or 404 when that version is not live"),
    ("GET", "/v1/models/{name}", "status of a model"),
    ("GET", "/v1/models/{name}/versions/{version}", "status of a version"),
    ("GET", "/v1/models", "models that are live"),
    ("POST", "/v1/labels", "labels for predictions made earlier"),
    ("POST", "/v2/models/{name}/infer", "predict: Open Inference Protocol"),
    ("POST", "/v2/models/{name}/versions/{version}/infer", "predict, or 404 when that version is not live"),
    ("GET", "/v2/models/{name}", "tensors of a model"),
    ("GET", "/v2/models/{name}/versions/{version}", "tensors of a version"),
    ("GET", "/v2/models/{name}/ready", "whether the model answers"),
    ("GET", "/v2/models/{name}/versions/{version}/ready", "whether the version answers"),
    ("GET", "/v2", "server"),
    ("GET", "/v2/health/live", "the process runs"),
    ("GET", "/v2/health/ready", "every model answers"),
    ("POST", "/invocations", "predict: MLflow, SageMaker; JSON in five forms, or CSV"),
    ("GET", "/ping", "every model answers"),
    ("GET", "/health", "state of each model"),
    ("GET", "/health/live", "the process runs"),
    ("GET", "/health/ready", "every model answers"),
    ("GET", "/version", "model, data, code and approver of what is live"),
    ("GET", "/metrics", "counters for Prometheus"),
    ("GET", "/docs", "this page"),
    ("GET", "/openapi.json", "this as OpenAPI 3.1"),
)


def openapi(endpoints: Iterable[Endpoint]) -> dict[str, Any]:
    """Return the OpenAPI document of the models that are live."""
    paths: dict[str, Any] = {}
    schemas: dict[str, Any] = {"Problem": _PROBLEM}
    models = list(endpoints)
    for method, path, summary in ROUTES:
        if "{name}" not in path:
            paths.setdefault(path, {})[method.lower()] = _operation(summary)
    for endpoint in models:
        name, signature = endpoint.split.model, endpoint.scorer.signature
        schemas[f"{name}.Row"] = row_schema(signature)
        schemas[f"{name}.Request"] = _request_schema(name, signature)
        schemas[f"{name}.Response"] = _response_schema(signature)
        for method, template, summary in ROUTES:
            if "{name}" in template:
                path = template.format(name=name, version=endpoint.version)
                is_v1 = template.endswith(":predict")
                paths.setdefault(path, {})[method.lower()] = _operation(summary, name if is_v1 else "")
    return {
        "openapi": "3.1.0",
        "info": {"title": "Mainspring predictions", "version": "1"},
        "paths": paths,
        "components": {"schemas": schemas},
    }


def row_schema(signature: Signature) -> dict[str, Any]:
    """Return the JSON schema of one instance."""
    return {
        "type": "object",
        "additionalProperties": False,
        "required": list(signature.inputs.names),
        "properties": {
            **{c.name: _column_schema(c, c.nullable) for c in signature.inputs},
            **{c.name: _column_schema(c, True, "kept in the log, not seen by the model") for c in signature.extras},
        },
    }


def docs_page(endpoints: Iterable[Endpoint]) -> bytes:
    """Return the page at /docs: each model with its columns and a command to try, then every path."""
    parts = [
        "<!doctype html><meta charset=utf-8><title>Mainspring predictions</title>",
        f"<style>{_CSS}</style>",
        "<h1>Predictions</h1>",
    ]
    for endpoint in endpoints:
        parts.append(_model_section(endpoint))
    rows = "".join(f"<tr><td>{m}<td><code>{escape(p)}</code><td>{escape(s)}" for m, p, s in ROUTES)
    parts.append(f'<h2>Paths</h2><table>{rows}</table><p>Machines read <a href="/openapi.json">/openapi.json</a>.')
    return "".join(parts).encode()


def _model_section(endpoint: Endpoint) -> str:
    signature, name = endpoint.scorer.signature, endpoint.split.model
    example = json.dumps({"instances": [{c.name: _EXAMPLES[c.dtype] for c in signature.inputs}]}, ensure_ascii=False)
    command = f"curl -H 'content-type: application/json' localhost:8080/v1/models/{name}:predict -d '{example}'"
    columns = [(c, "may be null" if c.nullable else "required") for c in signature.inputs]
    columns += [(c, "optional; logged, not seen by the model") for c in signature.extras]
    rows = "".join(
        f"<tr><td><code>{escape(c.name)}</code><td>{c.dtype}<td>{note}<td>{escape(c.description)} {escape(c.unit)}"
        for c, note in columns
    )
    answers = ", ".join(escape(str(label)) for label in signature.classes)
    return (
        f"<h2>{escape(name)} <small>version {endpoint.version}, {signature.task}</small></h2>"
        f"<table>{rows}</table>{f'<p>Answers: {answers}' if answers else ''}<pre>{escape(command)}</pre>"
    )


def _operation(summary: str, model: str = "") -> dict[str, Any]:
    content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    responses: dict[str, Any] = {code: {"description": text, "content": content} for code, text in _ERRORS.items()}
    responses["200"] = {"description": "answered"}
    operation: dict[str, Any] = {"summary": summary, "responses": responses}
    if model:
        reference = {"application/json": {"schema": {"$ref": f"#/components/schemas/{model}.Request"}}}
        operation["requestBody"] = {"required": True, "content": reference}
        answer = {"application/json": {"schema": {"$ref": f"#/components/schemas/{model}.Response"}}}
        responses["200"] = {"description": "predictions, one per row", "content": answer}
    return operation


def _request_schema(name: str, signature: Signature) -> dict[str, Any]:
    columns = {c.name: {"type": "array", "items": _column_schema(c, c.nullable)} for c in signature.inputs}
    rows = {"type": "array", "minItems": 1, "items": {"$ref": f"#/components/schemas/{name}.Row"}}
    return {
        "oneOf": [
            {"type": "object", "required": ["instances"], "properties": {"instances": rows}},
            {
                "type": "object",
                "required": ["inputs"],
                "properties": {"inputs": {"type": "object", "required": list(columns), "properties": columns}},
            },
        ]
    }


def _response_schema(signature: Signature) -> dict[str, Any]:
    one: dict[str, Any] = {"type": "number"}
    if signature.classes:
        of = f"of {signature.positive!r}" if signature.task == "binary" else "of the label"
        one = {
            "type": "object",
            "required": ["label", "probability"],
            "properties": {
                "label": {"enum": list(signature.classes)},
                "probability": {"type": "number", "minimum": 0, "maximum": 1, "description": of},
            },
        }
    return {
        "type": "object",
        "required": ["predictions", "model_version", "prediction_id", "prediction_ids"],
        "properties": {
            "predictions": {"type": "array", "items": one},
            "model_version": {"type": "string"},
            "prediction_id": {"type": "string", "description": "UUID version 7 of the request"},
            "prediction_ids": {"type": "array", "items": {"type": "string"}, "description": "one per row"},
        },
    }


def _column_schema(column: Column, nullable: bool, note: str = "") -> dict[str, Any]:
    schema = dict(_JSON_TYPES[column.dtype])
    if nullable:
        schema["type"] = [schema["type"], "null"]
    text = "; ".join(part for part in (column.description, column.unit, note) if part)
    return {**schema, "description": text} if text else schema
