"""The element type of a value, from what is stored or cast.

Shape inference does not know the output types of ONNX Runtime's own operators, and files that were converted to half
precision often still declare float for values in between. Stored tensors and casts are reliable. An operator of which
nothing is known is taken to output the type that it reads first.
"""

from __future__ import annotations

from onnx import TensorProto

from onnxheadprune.model.graph.operator import is_a
from onnxheadprune.model.graph.types import inputs_alike
from onnxheadprune.model.graph.view import Value

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
        if is_a(node, "Cast"):
            return int(node.attribute("to"))
        alike = inputs_alike(node, value.output_index)
        if not alike and (value.elem_type or declared or not node.sources):
            return value.elem_type or declared
        alike = alike or node.sources[:1]
        value = next((source for source in alike if source.tensor is not None), alike[0])
    return declared or int(TensorProto.UNDEFINED)
