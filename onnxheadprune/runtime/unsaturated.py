"""Exact settings for integer products: kernels that saturate get operands that do not.

On x86 processors without VNNI instructions ONNX Runtime multiplies uint8 by int8 in pairs that saturate at 16 bits (its
documentation of quantization names this, and `reduce_range` as a remedy at quantization time). Which products make a
pair depends on how many there are, so a cut would change what saturates, and a right one would look wrong. The product
of uint8 by uint8 is exact everywhere, and moving a weight and its zero point by 128 changes no result.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from onnxheadprune.edit import nodes
from onnxheadprune.model.bodies import bodies_of
from onnxheadprune.model.graph.tables import ROLES
from onnxheadprune.model.load import LoadedModel

SHIFT = 128
_SHIFT_NAME, _UINT8_ZERO = "unsaturated/shift", "unsaturated/zero"


def unsaturated(model: LoadedModel) -> LoadedModel:
    """The model with int8 weights of integer products as uint8; itself where there are none.

    Stored weights stay where they are, in files too: three small nodes move them when the model runs.

    Args:
        model: in memory, or a structure; not changed.
    """
    if not may_saturate(model):
        return model
    copy = ModelProto()
    copy.CopyFrom(model.proto)
    constants = [
        numpy_helper.from_array(np.array(SHIFT, np.int32), _SHIFT_NAME),
        numpy_helper.from_array(np.array(SHIFT, np.uint8), _UINT8_ZERO),
    ]
    _rewrite(copy.graph, {})
    copy.graph.initializer.extend(constants)
    return model.changed(copy)


def may_saturate(model: LoadedModel) -> bool:
    """Whether a model has a product of uint8 by int8 weights."""
    return any(_signed(model.proto.graph, {}))


@dataclass(frozen=True)
class _Product:
    """An integer product by an int8 weight: its node, and which inputs are the weight and its zero point."""

    node: NodeProto
    weight: int
    zero: int


def _signed(graph: GraphProto, outer: Mapping[str, TensorProto]) -> Iterator[_Product]:
    """Products by int8 weights in a graph and the graphs inside it."""
    stored = {**outer, **{tensor.name: tensor for tensor in graph.initializer}}
    for node in graph.node:
        product = _product(node, stored)
        if product is not None:
            yield product
        for body in bodies_of(node):
            yield from _signed(body, stored)


def _product(node: NodeProto, stored: Mapping[str, TensorProto]) -> _Product | None:
    roles = ROLES.of(node)
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
    return _Product(node, roles.integer_weight, roles.weight_zero)


@dataclass
class _Moved:
    """What was moved already in one graph, by its old name, and the nodes that do it."""

    names: dict[str, str] = field(default_factory=dict)
    nodes: list[NodeProto] = field(default_factory=list)

    def of(self, name: str) -> str:
        """The uint8 form of an int8 value."""
        if name not in self.names:
            base = f"{name}/unsaturated"
            self.nodes += [
                nodes.as_proto(edit)
                for edit in (
                    nodes.cast("", name, TensorProto.INT32, f"{base}/wide"),
                    nodes.add("", f"{base}/wide", _SHIFT_NAME, f"{base}/moved"),
                    nodes.cast("", f"{base}/moved", TensorProto.UINT8, base),
                )
            ]
            self.names[name] = base
        return self.names[name]


def _rewrite(graph: GraphProto, outer: Mapping[str, TensorProto]) -> None:
    stored = {**outer, **{tensor.name: tensor for tensor in graph.initializer}}
    order: list[NodeProto] = []
    moved = _Moved()
    for node in graph.node:
        for body in bodies_of(node):
            _rewrite(body, stored)
        product = _product(node, stored)
        if product is not None:
            _move(product, moved)
            order += moved.nodes
            moved.nodes = []
        order.append(node)
    copied = [NodeProto.FromString(node.SerializeToString()) for node in order]
    del graph.node[:]
    graph.node.extend(copied)


def _move(product: _Product, moved: _Moved) -> None:
    """Lets a product read the moved weight, and its zero point with it."""
    inputs = list(product.node.input)
    inputs += [""] * (product.zero + 1 - len(inputs))
    inputs[product.weight] = moved.of(inputs[product.weight])
    inputs[product.zero] = moved.of(inputs[product.zero]) if inputs[product.zero] else _UINT8_ZERO
    del product.node.input[:]
    product.node.input.extend(inputs)


@functools.cache
def saturates(runtime: Any) -> bool:
    """Whether the kernel for uint8 by int8 saturates on this machine: tried once, on one product.

    Args:
        runtime: the onnxruntime module.
    """
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
