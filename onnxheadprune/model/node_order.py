"""Topological order of nodes, which ONNX asks for and some converters do not keep."""

from __future__ import annotations

from collections.abc import Iterator

from onnx import AttributeProto, GraphProto, ModelProto, NodeProto

from onnxheadprune.errors import ModelError


def in_order(model: ModelProto) -> ModelProto:
    """The model itself, or a copy with its nodes in topological order.

    ONNX asks for that order, but some converters append their nodes at the end and ONNX Runtime sorts
    silently. Nodes that are in order already stay where they are.

    Raises:
        ModelError: if the graph has a cycle.
    """
    if _is_ordered(model.graph):
        return model
    order = _order(model.graph)
    if order == list(range(len(order))):
        return model
    copy = ModelProto()
    copy.CopyFrom(model)
    del copy.graph.node[:]
    copy.graph.node.extend(model.graph.node[position] for position in order)
    return copy


def _is_ordered(graph: GraphProto) -> bool:
    """Return whether no node reads what a later one computes: one pass that suffices for almost all models."""
    read: set[str] = set()
    for node in graph.node:
        read.update(_names_read(node) if node.attribute else node.input)
        read.discard("")
        if not read.isdisjoint(node.output):
            return False
    return True


def _order(graph: GraphProto) -> list[int]:
    """Positions of the nodes so that each comes after what it reads."""
    producer = {name: position for position, node in enumerate(graph.node) for name in node.output if name}
    order: list[int] = []
    state = [0] * len(graph.node)
    for start in range(len(graph.node)):
        stack = [start]
        while stack:
            position = stack[-1]
            if state[position] == 2:
                stack.pop()
                continue
            needed = {producer[name] for name in _names_read(graph.node[position]) if name in producer}
            waiting = sorted(other for other in needed if state[other] != 2 and other != position)
            if not waiting:
                state[position] = 2
                order.append(position)
                stack.pop()
            elif state[position] == 1:
                node = graph.node[position]
                raise ModelError(f"the graph has a cycle through node {node.name!r} ({node.op_type})")
            else:
                state[position] = 1
                stack += reversed(waiting)
    return order


def _names_read(node: NodeProto) -> Iterator[str]:
    """Names that a node reads, those of its bodies included."""
    yield from node.input
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            for inner in attribute.g.node:
                yield from _names_read(inner)
            yield from (output.name for output in attribute.g.output)
