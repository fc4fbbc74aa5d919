"""Element types of values, from where they come from.

Shape inference does not know what ONNX Runtime's own operators give, and files that were converted to half
precision often still declare float for what lies in between. Stored tensors and casts do not err. An operator of which
nothing is known is taken to output the type that it reads first.
"""

from __future__ import annotations

from onnx import TensorProto

from onnxheadprune.model.graph.facts import CASTS
from onnxheadprune.model.graph.schemas import inputs_alike
from onnxheadprune.model.graph.tables import roles_of
from onnxheadprune.model.graph.view import Node, Value

MAX_STEPS = 64


def type_of(value: Value | None) -> int:
    """The element type; UNDEFINED where nothing tells it."""
    declared = 0 if value is None else value.elem_type
    for _ in range(MAX_STEPS):
        if value is None:
            break
        if value.tensor is not None or value.is_graph_input or value.producer is None:
            return value.elem_type or declared
        node = value.producer
        if node in CASTS:
            return int(node.attribute("to"))
        alike = _alike(node, value)
        if not alike and (value.elem_type or declared or not node.sources):
            return value.elem_type or declared
        alike = alike or node.sources[:1]
        value = next((source for source in alike if source.tensor is not None), alike[0])
    return declared or int(TensorProto.UNDEFINED)


def _alike(node: Node, output: Value) -> list[Value]:
    """The inputs that have the type of an output, as the operator's schema or its roles say."""
    indices = (
        roles_of(node).alike
        if node.domain
        else inputs_alike(node.op_type, node.opset, len(node.inputs), output.output_index)
    )
    indices = indices or roles_of(node).alike
    return [value for index in indices if (value := node.input(index)) is not None]
