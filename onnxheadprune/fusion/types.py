"""Element types of values, from where they come from.

Shape inference does not know what ONNX Runtime's own operators give, and files that were converted to half
precision often still declare float for what lies in between. Stored tensors and casts do not err.
"""

from __future__ import annotations

from onnx import TensorProto

from onnxheadprune.model.graph.facts import CASTS, CHOOSES_ELEMENTS
from onnxheadprune.model.graph.view import Node, Value

MAX_STEPS = 64
UNIFORM = ("MatMul", "FusedMatMul", "Gemm", "FusedGemm", "Add", "Sub", "Mul", "Div", "BiasAdd")
"""Operators whose operands and result are of one type."""
FOLLOWED = (
    *UNIFORM,
    *(
        "Reshape",
        "Transpose",
        "Squeeze",
        "Unsqueeze",
        "Expand",
        "Identity",
        "Slice",
        "Split",
        "Concat",
        "Flatten",
    ),
    *("Softmax", "Neg", "Dropout", "Tile", "Sqrt", "Pow", "Where", "LayerNormalization"),
    *("SkipLayerNormalization", "SimplifiedLayerNormalization", "SkipSimplifiedLayerNormalization"),
    *("RotaryEmbedding", "MultiHeadAttention", "Attention", "GroupQueryAttention"),
)
"""Operators whose result has the type of their first input (Where: of its second)."""


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
        if node.op_type not in FOLLOWED:
            return value.elem_type or declared
        value = _source(node)
    return declared or int(TensorProto.UNDEFINED)


def _source(node: Node) -> Value | None:
    """The input that tells the type of the output: a stored one where all are alike."""
    if node in CHOOSES_ELEMENTS:
        return node.input(1)
    if node.op_type in UNIFORM:
        stored = [value for value in node.inputs if value is not None and value.tensor is not None]
        if stored:
            return stored[0]
    return node.input(0)
