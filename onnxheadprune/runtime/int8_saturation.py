"""Exact settings: kernels that saturate get operands that do not, and packed weights no rounded activations.

On x86 processors without VNNI instructions ONNX Runtime multiplies uint8 by int8 in pairs that saturate at 16 bits (its
documentation of quantization names this, and `reduce_range` as a remedy at quantization time). Which products make a
pair depends on how many there are, so a cut would change what saturates, and a right one would look wrong. The product
of uint8 by uint8 is exact everywhere, and moving a weight and its zero point by 128 changes no result.

Exact settings for weights packed in blocks: their products without rounded activations.

`com.microsoft.MatMulNBits` with `accuracy_level` 4 rounds activations to int8, block by block, before it multiplies.
That is a choice of speed and no part of the mathematics: two inputs that differ in the last bit may round to
neighbouring levels, so a right cut would look wrong by a whole level.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from onnxheadprune.edit import nodes
from onnxheadprune.model.bodies import bodies_of, nodes_of_model
from onnxheadprune.model.graph.operator import DEQUANTIZES, QUANTIZES, is_a, operator_of
from onnxheadprune.model.load import LoadedModel
from onnxheadprune.model.messages import copied, insert_nodes, keep, replace_all

LEVEL = "accuracy_level"


def unrounded(model: LoadedModel) -> LoadedModel:
    """The model with MatMulNBits computing in the precision of its inputs; itself where it does so already."""
    if not any(map(_level, _packed(model.proto))):
        return model
    copy = copied(model.proto)
    for node in _packed(copy):
        keep(node.attribute, lambda attribute: attribute.name != LEVEL)
    return model.changed(copy)


def _level(node: NodeProto) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == LEVEL), 0)


def _packed(model: ModelProto) -> Iterator[NodeProto]:
    return (node for node in nodes_of_model(model) if is_a(node, "com.microsoft.MatMulNBits"))


SHIFT = 128
_SHIFT_NAME, _UINT8_ZERO = "unsaturated/shift", "unsaturated/zero"


def unsaturated(model: LoadedModel) -> LoadedModel:
    """The model with int8 weights of integer products as uint8; itself where there are none.

    Stored weights stay where they are, in files too: three small nodes move them when the model runs.
    """
    if not may_saturate(model):
        return model
    copy = copied(model.proto)
    for graph, products in list(_products(copy.graph, {})):
        _rewrite(graph, products)
    constants = [
        numpy_helper.from_array(np.array(SHIFT, np.int32), _SHIFT_NAME),
        numpy_helper.from_array(np.array(SHIFT, np.uint8), _UINT8_ZERO),
    ]
    copy.graph.initializer.extend(constants)
    return model.changed(copy)


def may_saturate(model: LoadedModel) -> bool:
    """Return whether a model has a product of uint8 by int8 weights."""
    return any(products for _, products in _products(model.proto.graph, {}))


def fuses_int8(model: LoadedModel) -> bool:
    """Return whether ONNX Runtime makes such products of dequantized operands when it optimizes, uint8 of int8 ones.

    Where the zero point of a weight is left out, ONNX Runtime 1.28 ends the process when it is asked for exact ones.
    """
    graph = model.proto.graph
    int8 = {tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.INT8}
    weights = [node for node in graph.node if node in DEQUANTIZES and node.input[0] in int8]
    has_zeros = bool(weights) and all(len(node.input) > 2 and node.input[2] for node in weights)
    return has_zeros and any(node in QUANTIZES for node in graph.node)


@dataclass(frozen=True)
class _Product:
    """An integer product by an int8 weight."""

    position: int  # of its node in the graph
    weight: int  # input index of the weight
    zero: int  # input index of the weight's zero point


def _products(
    graph: GraphProto, outer: Mapping[str, TensorProto]
) -> Iterator[tuple[GraphProto, list[_Product]]]:
    """Each graph with its products by int8 weights, the graphs inside its nodes first."""
    stored = {**outer, **{tensor.name: tensor for tensor in graph.initializer}}
    products = []
    for position, node in enumerate(graph.node):
        for body in bodies_of(node):
            yield from _products(body, stored)
        product = _product(position, node, stored)
        if product is not None:
            products.append(product)
    yield graph, products


def _product(position: int, node: NodeProto, stored: Mapping[str, TensorProto]) -> _Product | None:
    roles = operator_of(node).roles
    if roles is None or roles.integer_weight is None or roles.weight_zero is None:
        return None
    if len(node.input) <= roles.integer_weight:
        return None
    weight = stored.get(node.input[roles.integer_weight])
    if weight is None or weight.data_type != TensorProto.INT8:
        return None
    asked = roles.zero_points.get(0, len(node.input))
    zero = stored.get(node.input[asked]) if asked < len(node.input) else None
    if zero is not None and zero.data_type == TensorProto.INT8:
        # The product of int8 by int8 saturates nowhere, and of int8 by uint8 there is no kernel.
        return None
    return _Product(position, roles.integer_weight, roles.weight_zero)


def _rewrite(graph: GraphProto, products: Sequence[_Product]) -> None:
    """Let products read their weights and zero points moved by 128; each is moved before the first that reads it."""
    moved: dict[str, str] = {}
    movers: dict[int, list[NodeProto]] = {}
    for product in products:
        node = graph.node[product.position]
        inputs = list(node.input)
        inputs += [""] * (product.zero + 1 - len(inputs))
        for index in (product.weight, product.zero):
            name = inputs[index]
            if name and name not in moved:
                moved[name] = f"{name}/unsaturated"
                movers.setdefault(product.position, []).extend(_movers(name, moved[name]))
            inputs[index] = moved[name] if name else _UINT8_ZERO
        replace_all(node.input, inputs)
    insert_nodes(graph, movers)


def _movers(name: str, moved: str) -> list[NodeProto]:
    """Nodes that make the uint8 form of an int8 value."""
    edits = (
        nodes.new("", "Cast", (name,), f"{moved}/wide", to=TensorProto.INT32),
        nodes.new("", "Add", (f"{moved}/wide", _SHIFT_NAME), f"{moved}/moved"),
        nodes.new("", "Cast", (f"{moved}/moved",), moved, to=TensorProto.UINT8),
    )
    return [nodes.as_proto(edit) for edit in edits]


@functools.cache
def saturates(runtime: Any) -> bool:
    """Return whether the kernel for uint8 by int8 saturates on this machine: tried once, on one product."""
    weight = np.full((64, 16), 127, np.int8)
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["a", "b"], ["y"])],
        "probe",
        [helper.make_tensor_value_info("a", TensorProto.UINT8, [1, 64])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, [1, 16])],
        [numpy_helper.from_array(weight, "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"a": np.full((1, 64), 255, np.uint8)})
    return bool((found != 64 * 255 * 127).any())
