"""The graphs inside nodes: branches of an If, the body of a Loop or a Scan."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from onnx import AttributeProto, GraphProto, ModelProto, NodeProto


def bodies_of(node: NodeProto) -> Iterator[GraphProto]:
    """The graphs that a node holds in its attributes, themselves and not copies."""
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


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
