"""Turn the body of a prediction request, in any protocol, into typed columns, strictly by the model's signature.

Rows of objects (`{"instances": [{...}]}`) have a fast path: one decoder generated from the signature checks types in C.
Every other form, and every body the fast path refuses, takes the general path, which finds the exact place of the first
mistake. Both use the same types, so they accept the same requests. No answer ever repeats a value that was sent.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Annotated, Any

import msgspec
import numpy as np
import numpy.typing as npt

from mainspring.core.errors import Invalid, nearest
from mainspring.core.schema import Column, Signature

Array = npt.NDArray[Any]
Point = Callable[[int], str]

MAX_ROWS = 10_000

_INT64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
_TYPES: dict[str, Any] = {
    "float64": float,
    "int64": _INT64,
    "bool": bool,
    "string": str,
    "datetime": datetime,
    "date": date,
}
_NUMBERS = {"FP16", "FP32", "FP64", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64"}
_DATATYPES = {
    "float64": _NUMBERS,
    "int64": {name for name in _NUMBERS if "INT" in name},
    "bool": {"BOOL"},
    "string": {"BYTES"},
    "datetime": {"BYTES"},
    "date": {"BYTES"},
}


class BadRequest(Invalid):
    """A request that can never be answered.

    Args:
        status: The HTTP status: 400 not readable, 413 too large, 415 wrong kind, 422 against the signature.
        pointer: JSON pointer of the offending place; its value is never part of the message.
    """

    def __init__(self, message: str, *, status: int = 422, pointer: str = "", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.pointer = pointer


@dataclass(slots=True)
class Batch:
    """A parsed request: `columns` are the signature's inputs, each of shape (n,), in the canonical dtypes.

    float64 and nullable int64 are float64 with NaN for missing; int64 and bool are themselves; string and nullable bool
    are object arrays with None; datetime and date are datetime64[us] in UTC with NaT.
    """

    columns: dict[str, Array]
    n: int
    extras: dict[str, list[Any]] = field(default_factory=dict)
    request_id: str = ""
    outputs: tuple[str, ...] = ()


class RequestParser:
    """Parses requests for one signature; it holds no state, so threads may share it."""

    def __init__(self, signature: Signature, *, max_rows: int = MAX_ROWS) -> None:
        self.signature = signature
        self.max_rows = max_rows
        self._inputs = tuple(signature.inputs)
        self._extras = tuple(signature.extras)
        self._known = {c.name for c in (*self._inputs, *self._extras)}
        # Numeric columns come first in the generated row, so that one call makes one matrix of all of them.
        block = [c for c in self._inputs if _is_float(c)]
        self._rest = [c for c in self._inputs if not _is_float(c)]
        self._block_names = [c.name for c in block]
        self._decoder = _row_decoder((*block, *self._rest), self._extras)

    def v1(self, body: bytes) -> Batch:
        """Parse `{"instances": [...]}` or `{"inputs": {...}}` (TensorFlow Serving, KServe v1, Vertex AI)."""
        return self._fast(body) or self._general(body, ("instances", "inputs"))

    def invocations(self, body: bytes, content_type: str) -> Batch:
        """Parse one of MLflow's five forms (MLflow, SageMaker).

        Raises:
            BadRequest: 415 for a content type that is neither JSON nor CSV.
        """
        kind = content_type.partition(";")[0].strip().lower()
        if kind == "text/csv":
            return self._csv(body)
        if kind not in ("application/json", ""):
            raise BadRequest("this content type is not read", status=415, hint="send application/json or text/csv")
        forms = ("dataframe_split", "dataframe_records", "instances", "inputs")
        return self._fast(body) or self._general(body, forms)

    def v2(self, body: bytes) -> Batch:
        """Parse an Open Inference Protocol request: one tensor per column, or one matrix of all (numeric) columns."""
        request = _decode(body, _V2_DECODER)
        tensors = {tensor.name: (i, tensor) for i, tensor in enumerate(request.inputs)}
        if len(tensors) != len(request.inputs):
            raise BadRequest("two tensors have the same name", pointer="/inputs")
        if len(request.inputs) == 1 and len(request.inputs[0].shape) == 2 and not self._known & set(tensors):
            rows = self._matrix(request.inputs[0])
            n, cells = len(rows), {c.name: [row[j] for row in rows] for j, c in enumerate(self._inputs)}
            points = {c.name: _point("/inputs/0/data", j) for j, c in enumerate(self._inputs)}
        else:
            self._check_names(tensors, "/inputs")
            n = request.inputs[0].shape[0] if request.inputs and request.inputs[0].shape else 0
            cells = {name: self._tensor(tensor, i, n) for name, (i, tensor) in tensors.items()}
            points = {name: _point(f"/inputs/{i}/data") for name, (i, _) in tensors.items()}
        batch = self._batch(n, cells, points, "/inputs")
        batch.request_id = request.id or ""
        batch.outputs = tuple(output.name for output in request.outputs or ())
        return batch

    def _fast(self, body: bytes) -> Batch | None:
        """Parse rows of objects; None when the body is another form or wrong, which the general path sorts out."""
        try:
            rows = self._decoder.decode(body).instances
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        n = len(rows)
        if not 0 < n <= self.max_rows:
            return None
        cells = [msgspec.structs.astuple(row) for row in rows]
        extras: dict[str, list[Any]] = {}
        unset = 0
        first = len(self._inputs)
        for j, column in enumerate(self._extras, start=first):
            values = [row[j] for row in cells]
            absent = values.count(msgspec.UNSET)
            if absent < n:
                extras[column.name] = [None if value is msgspec.UNSET else _plain(value) for value in values]
            unset += absent
        # The decoder lets the last of two equal keys win; a repeated key leaves a colon too many.
        pairs = 1 + n * (first + len(self._extras)) - unset
        if body.count(b":") != pairs and _count_pairs(body) != pairs:
            return None
        width = len(self._block_names)
        columns: dict[str, Array] = {}
        if width:
            block = np.array(cells if width == len(cells[0]) else [row[:width] for row in cells], np.float64)
            columns = dict(zip(self._block_names, block.T, strict=True))
        try:
            for j, column in enumerate(self._rest, start=width):
                columns[column.name] = _array(column, [row[j] for row in cells])
        except OverflowError:
            return None
        return Batch(columns, n, extras)

    def _general(self, body: bytes, forms: Sequence[str]) -> Batch:
        document = _decode(body, _ANY_DECODER)
        _refuse_repeated_keys(document, body, self._known)
        if not isinstance(document, dict):
            raise BadRequest("the body is not a JSON object", hint=_forms_hint(forms))
        given = [form for form in forms if form in document]
        if len(given) != 1:
            count = "two" if given else "none"
            raise BadRequest(f"the body has {count} of the known forms", hint=_forms_hint(forms))
        form = given[0]
        for key in document.keys() - {form}:
            # Clients send these empty by default; a value would ask for something that has no effect here.
            if key not in ("parameters", "params") or document[key]:
                raise BadRequest(f"a key beside {form!r} is not known to this model", hint=_forms_hint(forms))
        value, pointer = document[form], f"/{form}"
        if form == "inputs":
            return self._from_columns(value, pointer)
        if form == "dataframe_split":
            return self._from_split(value, pointer)
        return self._from_rows(value, pointer)

    def _from_rows(self, rows: Any, pointer: str) -> Batch:
        n = self._check_count(rows, pointer)
        if isinstance(rows[0], list):
            names = [c.name for c in self._inputs]
            return self._from_positions(names, rows, pointer)
        for i, row in enumerate(rows):
            if not isinstance(row, dict):
                raise BadRequest("a row is not a JSON object", pointer=f"{pointer}/{i}")
            self._check_names(row, f"{pointer}/{i}")
        cells = {name: [row.get(name) for row in rows] for name in self._known if any(name in row for row in rows)}
        return self._batch(n, cells, {name: _point(pointer, name) for name in cells}, pointer)

    def _from_positions(self, names: Sequence[str], rows: Any, pointer: str) -> Batch:
        n = self._check_count(rows, pointer)
        for i, row in enumerate(rows):
            if not isinstance(row, list) or len(row) != len(names):
                raise BadRequest(f"a row is not a list of {len(names)} values", pointer=f"{pointer}/{i}")
        cells = {name: [row[j] for row in rows] for j, name in enumerate(names)}
        return self._batch(n, cells, {name: _point(pointer, j) for j, name in enumerate(names)}, pointer)

    def _from_split(self, value: Any, pointer: str) -> Batch:
        if not isinstance(value, dict) or not {"columns", "data"} <= value.keys() <= {"columns", "data", "index"}:
            raise BadRequest("not an object of columns and data", pointer=pointer)
        names = value["columns"]
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise BadRequest("not a list of column names", pointer=f"{pointer}/columns")
        if len(set(names)) != len(names):
            raise BadRequest("a column is named twice", pointer=f"{pointer}/columns")
        self._check_names(dict.fromkeys(names), f"{pointer}/columns")
        return self._from_positions(names, value["data"], f"{pointer}/data")

    def _from_columns(self, value: Any, pointer: str) -> Batch:
        if not isinstance(value, dict):
            raise BadRequest("not an object of columns", pointer=pointer)
        self._check_names(value, pointer)
        n = -1
        for name, values in value.items():
            count = self._check_count(values, f"{pointer}/{_escape(name)}")
            n = count if n < 0 else n
            if count != n:
                raise BadRequest("columns differ in length", pointer=f"{pointer}/{_escape(name)}")
        return self._batch(n, value, {name: _point(f"{pointer}/{_escape(name)}") for name in value}, pointer)

    def _csv(self, body: bytes) -> Batch:
        try:
            lines = list(csv.reader(io.StringIO(body.decode("utf-8-sig"), newline=""), strict=True))
        except (UnicodeDecodeError, csv.Error):
            raise BadRequest("the body is not CSV in UTF-8", status=400) from None
        if not lines or len(set(lines[0])) != len(lines[0]):
            raise BadRequest("the first line does not name each column once", pointer="/0")
        names = lines[0]
        self._check_names(dict.fromkeys(names), "/0")
        rows = [line for line in lines[1:] if line]
        n = self._check_count(rows, "")
        for i, row in enumerate(rows):
            if len(row) != len(names):
                raise BadRequest(f"a line does not have {len(names)} values", pointer=f"/{i + 1}")
        columns = {c.name: c for c in (*self._inputs, *self._extras)}
        cells = {name: [_from_text(columns[name].dtype, row[j]) for row in rows] for j, name in enumerate(names)}
        return self._batch(n, cells, {name: _point("", j, first=1) for j, name in enumerate(names)}, "")

    def _matrix(self, tensor: _Tensor) -> list[list[Any]]:
        n, k = tensor.shape
        if k != len(self._inputs):
            raise BadRequest(f"the matrix does not have {len(self._inputs)} columns", pointer="/inputs/0/shape")
        for column in self._inputs:
            _check_datatype(column, tensor, 0)
        data = tensor.data
        if not any(isinstance(value, list) for value in data) and len(data) == n * k:
            data = [data[i * k : (i + 1) * k] for i in range(n)]
        if len(data) != n or not all(isinstance(row, list) and len(row) == k for row in data):
            raise BadRequest("the data does not have the shape that is given", pointer="/inputs/0/data")
        return data

    def _tensor(self, tensor: _Tensor, i: int, n: int) -> list[Any]:
        column = next(c for c in (*self._inputs, *self._extras) if c.name == tensor.name)
        _check_datatype(column, tensor, i)
        if tensor.shape not in ([n], [n, 1]):
            raise BadRequest("the shape is not [n] or [n, 1], with one n for all tensors", pointer=f"/inputs/{i}/shape")
        if len(tensor.data) != n:
            raise BadRequest("the data does not have the shape that is given", pointer=f"/inputs/{i}/data")
        return [v[0] if isinstance(v, list) and len(v) == 1 else v for v in tensor.data]

    def _check_count(self, rows: Any, pointer: str) -> int:
        if not isinstance(rows, list):
            raise BadRequest("not a list", pointer=pointer)
        if not rows:
            raise BadRequest("there are no rows", pointer=pointer)
        if len(rows) > self.max_rows:
            message = f"more than {self.max_rows} rows"
            raise BadRequest(message, status=413, pointer=pointer, hint="send fewer at a time")
        return len(rows)

    def _check_names(self, given: dict[str, Any], pointer: str) -> None:
        """Check that every input is there and nothing unknown is; an unknown name is counted, not repeated."""
        for position, name in enumerate(given, start=1):
            if name not in self._known:
                known = ", ".join(c.name for c in self._inputs[:20])
                message = f"name {position} is not a column of this model{nearest(name, self._known)}"
                raise BadRequest(message, pointer=pointer, hint=f"columns: {known}")
        for column in self._inputs:
            if column.name not in given:
                raise BadRequest(f"the column {column.name!r} is missing", pointer=pointer)

    def _batch(self, n: int, cells: dict[str, list[Any]], points: dict[str, Point], pointer: str) -> Batch:
        if not 0 < n <= self.max_rows:
            self._check_count([None] * min(n, self.max_rows + 1), pointer)
        columns = {c.name: _checked(c, cells[c.name], points[c.name]) for c in self._inputs}
        extras = {
            c.name: [_plain(v) for v in _converted(c, cells[c.name], points[c.name], optional=True)]
            for c in self._extras
            if c.name in cells
        }
        return Batch(columns, n, extras)


class _Tensor(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    shape: list[Annotated[int, msgspec.Meta(ge=0, le=2**31)]]
    datatype: str
    data: list[Any]
    parameters: dict[str, Any] | None = None


class _Output(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    parameters: dict[str, Any] | None = None


class _V2Request(msgspec.Struct, forbid_unknown_fields=True):
    inputs: list[_Tensor]
    id: Annotated[str, msgspec.Meta(max_length=128)] | None = None
    parameters: dict[str, Any] | None = None
    outputs: list[_Output] | None = None


_ANY_DECODER = msgspec.json.Decoder()
_V2_DECODER = msgspec.json.Decoder(_V2Request)
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def _row_decoder(inputs: Sequence[Column], extras: Sequence[Column]) -> msgspec.json.Decoder[Any]:
    """Return a decoder of `{"instances": [row, ...]}` with a row type made from the columns."""
    fields: list[Any] = [(f"f{i}", _type(column)) for i, column in enumerate(inputs)]
    for i, column in enumerate(extras, start=len(inputs)):
        fields.append((f"f{i}", _type(column, optional=True) | msgspec.UnsetType, msgspec.UNSET))
    names = {f"f{i}": column.name for i, column in enumerate((*inputs, *extras))}
    row = msgspec.defstruct("Row", fields, rename=names, forbid_unknown_fields=True, gc=False)
    body = msgspec.defstruct("Body", [("instances", list.__class_getitem__(row))], forbid_unknown_fields=True)
    return msgspec.json.Decoder(body)


def _decode(body: bytes, decoder: msgspec.json.Decoder[Any]) -> Any:
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        reason, _, path = str(error).partition(" - at `$")
        # Past a key of an untyped object msgspec writes [...]: point at the deepest place that is certain.
        certain = path.rstrip("`").partition("[...]")[0]
        reason = "an unknown key" if "unknown field" in reason else reason[:1].lower() + reason[1:]
        raise BadRequest(reason, pointer=re.sub(r"[.\[]", "/", certain).replace("]", "")) from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise BadRequest("the body is not JSON in UTF-8", status=400) from None
    except RecursionError:
        raise BadRequest("the body is nested too deep", status=400) from None


def _count_pairs(body: bytes) -> int:
    return _STRING.sub(b"", body).count(b":")


def _refuse_repeated_keys(document: Any, body: bytes, known: set[str]) -> None:
    """Refuse a body in which an object repeats a key: readers disagree on which of the two counts."""
    pairs, stack = 0, [document]
    while stack:
        value = stack.pop()
        if isinstance(value, dict):
            pairs += len(value)
            stack.extend(value.values())
        elif isinstance(value, list):
            stack.extend(v for v in value if isinstance(v, (dict, list)))
    if _count_pairs(body) == pairs:
        return
    repeated: list[str] = []

    def note(items: list[tuple[str, Any]]) -> None:
        keys = [key for key, _ in items]
        repeated.extend(key for key in known.intersection(keys) if keys.count(key) > 1)

    json.loads(body, object_pairs_hook=note)
    name = f" {repeated[0]!r}" if repeated else ""
    raise BadRequest(f"an object repeats the key{name}")


def _type(column: Column, *, optional: bool = False) -> Any:
    kind = _TYPES[column.dtype]
    return kind | None if column.nullable or optional else kind


def _is_float(column: Column) -> bool:
    return column.dtype == "float64" or (column.dtype == "int64" and column.nullable)


def _converted(column: Column, values: list[Any], point: Point, *, optional: bool = False) -> list[Any]:
    kind: Any = list.__class_getitem__(_type(column, optional=optional))
    try:
        converted: list[Any] = msgspec.convert(values, kind)
    except msgspec.ValidationError as error:
        reason, _, path = str(error).partition(" - at `$[")
        position = int(path[: path.index("]")])
        reason = reason[:1].lower() + reason[1:]
        raise BadRequest(f"column {column.name!r}: {reason}", pointer=point(position)) from None
    return converted


def _checked(column: Column, values: list[Any], point: Point) -> Array:
    converted = _converted(column, values, point)
    try:
        return _array(column, converted)
    except OverflowError:
        far = next(i for i, v in enumerate(converted) if v is not None and not 1 < v.year < 9999)
        raise BadRequest(f"column {column.name!r}: an instant out of range", pointer=point(far)) from None


def _array(column: Column, values: list[Any]) -> Array:
    """Return checked values in the canonical dtype of their column."""
    if _is_float(column):
        return np.array(values, np.float64)
    if column.dtype == "int64":
        return np.array(values, np.int64)
    if column.dtype == "bool" and not column.nullable:
        return np.array(values, np.bool_)
    if column.dtype in ("bool", "string"):
        result = np.empty(len(values), object)
        result[:] = values
        return result
    if column.dtype == "datetime":
        # An instant without a zone is UTC, as it is in the training data.
        values = [v.astimezone(UTC).replace(tzinfo=None) if v is not None and v.tzinfo else v for v in values]
    return np.array(values, "datetime64[us]")


def _from_text(dtype: str, text: str) -> Any:
    """Return the value a CSV cell spells; what is not one is returned as it is, for the type check to refuse."""
    if text == "":
        return None
    if dtype in ("float64", "int64") and len(text) <= 64 and _NUMBER.fullmatch(text):
        number = float(text) if dtype == "float64" else text
        if isinstance(number, float):
            return number if math.isfinite(number) else text
        return int(text) if text.lstrip("+-").isdigit() else text
    if dtype == "bool" and text.lower() in ("true", "false"):
        return text.lower() == "true"
    return text


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, (datetime, date)) else value


def _check_datatype(column: Column, tensor: _Tensor, i: int) -> None:
    if tensor.parameters and not tensor.parameters.keys() <= {"content_type"}:
        raise BadRequest("tensor parameters are not read", pointer=f"/inputs/{i}/parameters", hint="send data as JSON")
    if tensor.datatype not in _DATATYPES[column.dtype]:
        wanted = ", ".join(sorted(_DATATYPES[column.dtype]))
        raise BadRequest(f"column {column.name!r} takes {wanted}", pointer=f"/inputs/{i}/datatype")


def _escape(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _point(head: str, tail: str | int | None = None, *, first: int = 0) -> Point:
    """Return the function that gives the pointer of row i: `head/i` or `head/i/tail`."""
    end = "" if tail is None else f"/{_escape(str(tail))}"
    return lambda i: f"{head}/{i + first}{end}"


def _forms_hint(forms: Sequence[str]) -> str:
    return f"send an object with {' or '.join(forms)}"
