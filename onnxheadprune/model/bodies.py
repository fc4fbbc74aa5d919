"""Contents of nodes: the graphs inside them (branches of an If, the body of a Loop), and the tensor of a Constant."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

import numpy as np
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

STORED = "value"
"""The attribute of a Constant that holds a tensor."""
_PLAIN = {
    "value_int": np.int64,
    "value_ints": np.int64,
    "value_float": np.float32,
    "value_floats": np.float32,
}
"""Those that hold bare numbers, and the types of these."""


class _Operation(Protocol):
    @property
    def op_type(self) -> str: ...
    @property
    def domain(self) -> str: ...


def is_constant(node: _Operation) -> bool:
    """Return whether a node is a Constant of the standard."""
    return node.op_type == "Constant" and node.domain in ("", "ai.onnx")


def stored_tensor(node: NodeProto) -> TensorProto | None:
    """The tensor attribute of a Constant, None where it has plain numbers, or for any other node."""
    return (
        next((item.t for item in node.attribute if item.name == STORED), None) if is_constant(node) else None
    )


def constant_tensor(node: NodeProto) -> TensorProto | None:
    """The tensor that a Constant outputs, whichever attribute holds it; None for text and sparse tensors."""
    for item in node.attribute:
        if item.name == STORED:
            tensor: TensorProto = item.t
            return tensor
        if item.name in _PLAIN:
            numbers = np.array(helper.get_attribute_value(item), _PLAIN[item.name])
            return numpy_helper.from_array(numbers)
    return None


def bodies_of(node: NodeProto) -> Iterator[GraphProto]:
    """The graphs in a node's attributes, not copied."""
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


def names_read(node: NodeProto) -> Iterator[str]:
    """Names that a node reads, those of its bodies included."""
    yield from node.input
    for body in bodies_of(node):
        for inner in body.node:
            yield from names_read(inner)
        yield from (output.name for output in body.output)


def has_bodies(model: ModelProto) -> bool:
    """Return whether a node of the main graph holds a graph."""
    return any(True for node in model.graph.node for _ in bodies_of(node))


def graphs_in(graph: GraphProto) -> Iterator[GraphProto]:
    """A graph and all bodies in it, outer ones first."""
    yield graph
    for node in graph.node:
        for body in bodies_of(node):
            yield from graphs_in(body)


def nodes_in(nodes: Iterable[NodeProto]) -> Iterator[NodeProto]:
    """Nodes, and those in their bodies."""
    for node in nodes:
        yield node
        for body in bodies_of(node):
            yield from nodes_in(body.node)


def nodes_of_model(model: ModelProto) -> Iterator[NodeProto]:
    """All nodes of a model: those of its graph, of local functions, and in the bodies of either."""
    for nodes in (model.graph.node, *(function.node for function in model.functions)):
        yield from nodes_in(nodes)
