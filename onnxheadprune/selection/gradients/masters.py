"""Parameters in float32, whatever type the model stores them in."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper

from onnxheadprune.edit.extract import read_by
from onnxheadprune.edit.terms import Attribute, Writer
from onnxheadprune.model.graph.facts import DEQUANTIZES
from onnxheadprune.model.graph.view import GraphView, Node
from onnxheadprune.model.tensors import FLOATS
from onnxheadprune.operators import annotated
from onnxheadprune.selection.gradients.forward import names_of
from onnxheadprune.selection.gradients.widening import HALVES, widened


def with_masters(model: ModelProto, parameters: Sequence[str]) -> tuple[ModelProto, dict[str, int]]:
    """The model with its parameters in float32, and the types of those that can be differentiated.

    Float16 and bfloat16 become float32 everywhere, since a gradient in half precision underflows. A quantized weight
    is quantized from its float32 master in the graph.

    Args:
        model: with the parameters as inputs in their own type.
        parameters: their names.
    """
    types = {info.name: info.type.tensor_type.elem_type for info in model.graph.input}
    made = _requantized(model, [name for name in parameters if types[name] not in FLOATS])
    masters = {info.name: info.type.tensor_type.elem_type for info in made.graph.input}
    masters = {name: masters[name] for name in parameters if masters[name] in FLOATS}
    wide = widened(made, frozenset(masters))
    return wide, {name: TensorProto.FLOAT if kind in HALVES else kind for name, kind in masters.items()}


def _requantized(model: ModelProto, quantized: Sequence[str]) -> ModelProto:
    """Quantized parameters are inputs in float32 where nothing but a DequantizeLinear per tensor or axis reads them."""
    if not quantized:
        return model
    made = ModelProto()
    made.CopyFrom(model)
    view = annotated(GraphView(made))
    writer = Writer(view.main.opset, names_of(made.graph), "master")
    infos = {info.name: info for info in made.graph.input}
    before: dict[int, list[NodeProto]] = {}
    for name in quantized:
        nodes = [node for node in view.main.nodes if name in read_by(node.proto)]
        if not nodes or any(node not in DEQUANTIZES or not _is_plain(node) for node in nodes):
            continue
        for node in nodes:
            start = len(writer.nodes)
            _quantize(node, infos[name].type.tensor_type.elem_type, writer)
            before[node.position] = writer.nodes[start:]
        infos[name].type.tensor_type.elem_type = TensorProto.FLOAT
    rows = [part for i, node in enumerate(made.graph.node) for part in (*before.get(i, ()), node)]
    kept = ModelProto()
    kept.graph.node.extend(row for row in rows if row.op_type != DROPPED)
    del made.graph.node[:]
    made.graph.node.extend(kept.graph.node)
    made.graph.initializer.extend(writer.constants)
    return made


DROPPED = ""
"""The operator of a node that goes."""


def _is_plain(node: Node) -> bool:
    scale = node.input(1)
    known = scale is not None and scale.is_initializer and len(scale.shape or ()) <= 1
    return known and not node.attribute("block_size", 0)


def _quantize(node: Node, elem_type: int, writer: Writer) -> None:
    """Puts the quantizer of a master before the node that reads it.

    Args:
        node: the DequantizeLinear.
        elem_type: what it reads.
        writer: for the quantizer.
    """
    master, scale, zero = node.proto.input[0], node.input(1), node.input(2)
    assert scale is not None
    if elem_type == TensorProto.INT32:
        # Biases: no quantizer makes int32, and so fine a step need not be seen.
        writer.node("Identity", [master], [node.out.name])
        node.proto.op_type = DROPPED
        return
    assert scale.shape is not None
    dtype = helper.tensor_dtype_to_np_dtype(elem_type)
    sizes = [size for size in scale.shape if isinstance(size, int)]
    point = zero.name if zero is not None else writer.constant(np.zeros(sizes, dtype))
    axis: dict[str, Attribute] = {item.name: item.i for item in node.proto.attribute if item.name == "axis"}
    (node.proto.input[0],) = writer.node("QuantizeLinear", [master, scale.name, point], 1, node.domain, axis)
