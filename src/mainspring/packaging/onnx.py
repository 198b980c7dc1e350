"""ONNX: a graph as a model file, and ONNX Runtime as its predictor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mainspring.core.errors import Invalid, Refused
from mainspring.core.schema import Schema
from mainspring.packaging.graph import MISSING, Array, Graph, Node
from mainspring.packaging.predictor import Answer, side_by_side
from mainspring.packaging.translate import NUMBERS, TEXTS, translate

FILE = "model/model.onnx"
# The first versions in which the tree operator computes in float64 and the label encoder takes tensors.
_OPSET, _ML_OPSET, _IR = 21, 5, 10
_EXTERNAL = b"\x0a\x08location"  # how a tensor that lives in another file names that file


@dataclass(frozen=True, slots=True)
class Layout:
    """Which columns each input tensor holds, in order."""

    numbers: tuple[str, ...]
    texts: tuple[str, ...]


def layout_of(inputs: Schema) -> Layout:
    """Return the layout of a model's inputs: numbers and truth values in one tensor, texts in another."""
    return Layout(
        tuple(column.name for column in inputs if column.dtype in ("float64", "int64", "bool")),
        tuple(column.name for column in inputs if column.dtype == "string"),
    )


def write_onnx(estimator: Any, inputs: Schema) -> bytes:
    """Return a fitted estimator as an ONNX file; equal models give equal bytes.

    Raises:
        Untranslatable: a part of the model has no exact form.
    """
    import onnx

    graph, output = translate(estimator, inputs)
    layout, helper, types = layout_of(inputs), onnx.helper, onnx.TensorProto
    used = {name for node in graph.nodes for name in node.inputs}
    takes = [helper.make_tensor_value_info(name, kind, ["n", len(columns)])
             for name, kind, columns in ((NUMBERS, types.DOUBLE, layout.numbers), (TEXTS, types.STRING, layout.texts))
             if name in used]  # fmt: skip
    constants = [onnx.numpy_helper.from_array(value, name) for name, value in graph.constants.items()]
    nodes = [_node(node) for node in _reached(graph, output)]
    body = helper.make_graph(nodes, "mainspring", takes,
                             [helper.make_tensor_value_info(output, types.DOUBLE, ["n", None])], constants)  # fmt: skip
    versions = [helper.make_opsetid("", _OPSET), helper.make_opsetid("ai.onnx.ml", _ML_OPSET)]
    model = helper.make_model(body, opset_imports=versions, ir_version=_IR, producer_name="mainspring")
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def _reached(graph: Graph, output: str) -> list[Node]:
    """Return the nodes that the output needs, in order."""
    wanted, kept = {output}, []
    for node in reversed(graph.nodes):
        if node.output in wanted:
            wanted.update(node.inputs)
            kept.append(node)
    return kept[::-1]


def _node(node: Node) -> Any:
    import onnx

    attributes = {
        name: onnx.numpy_helper.from_array(value, name) if isinstance(value, np.ndarray) else value
        for name, value in node.attributes.items()
    }
    if node.op == "Cast":
        attributes["to"] = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(attributes["to"]))
    return onnx.helper.make_node(node.op, node.inputs, [node.output], domain=node.domain, **attributes)


@dataclass(frozen=True, slots=True)
class OnnxPredictor:
    """An ONNX model run by ONNX Runtime on one thread; threads may share it."""

    session: Any
    layout: Layout
    answer: Answer
    takes: frozenset[str]
    format: str = "onnx"

    def predict(self, columns: Mapping[str, Array], n: int) -> Array:
        """Return the scores of n rows."""
        feed = {}
        if NUMBERS in self.takes:
            feed[NUMBERS] = side_by_side(self.layout.numbers, columns, n)
        if TEXTS in self.takes:
            texts = np.empty((n, len(self.layout.texts)), object)
            for index, name in enumerate(self.layout.texts):
                texts[:, index] = [MISSING if value is None else value for value in columns[name]]
            feed[TEXTS] = texts
        raw: Array = self.session.run(None, feed)[0]
        return self.answer.arrange(raw)


def load_onnx(data: bytes, layout: Layout, answer: Answer) -> OnnxPredictor:
    """Return a predictor of an ONNX file.

    Raises:
        Refused: the file refers to another file.
        Invalid: the file is not an ONNX model, or takes other inputs.
    """
    import onnxruntime

    if _EXTERNAL in data and _has_external_data(data):
        raise Refused("the ONNX model keeps tensors in another file", hint="pack the model again: mainspring run")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's errors share no public base class
        raise Invalid(f"ONNX Runtime cannot read the model: {str(error)[:200]}") from error
    takes = {each.name: each.shape[1] for each in session.get_inputs()}
    expected = {NUMBERS: len(layout.numbers), TEXTS: len(layout.texts)}
    if any(expected.get(name) != width for name, width in takes.items()):
        raise Invalid(f"the ONNX model takes {takes}, and the bundle describes {expected}")
    return OnnxPredictor(session, layout, answer, frozenset(takes))


def _has_external_data(data: bytes) -> bool:
    """Return whether any message of the file says that its tensor lies elsewhere; the byte search only found a hint."""
    import onnx

    def visit(message: Any) -> bool:
        if isinstance(message, onnx.TensorProto):
            return bool(message.external_data) or message.data_location == onnx.TensorProto.EXTERNAL
        for field, value in message.ListFields():
            if field.type != field.TYPE_MESSAGE:
                continue
            children = [value] if hasattr(value, "ListFields") else value
            if any(visit(child) for child in children):
                return True
        return False

    return visit(onnx.load_model_from_string(data))
