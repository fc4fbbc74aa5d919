"""New nodes before those that read them: the one way to put masks and factors into a model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from onnx import GraphProto, ModelProto, NodeProto

from onnxheadprune.model.graph.view import Node, Scope
from onnxheadprune.model.messages import insert_nodes


class Insert(NamedTuple):
    """Nodes before a node, and which of its inputs reads their result."""

    node: Node
    input_index: int
    created: list[NodeProto]
    result: str


def insert(model: ModelProto, inserts: Iterable[Insert]) -> None:
    """Put new nodes before those that read them, in place."""
    every = sorted(inserts, key=lambda item: -item.node.index)
    for item in every:
        graph_of(model, item.node).node[item.node.position].input[item.input_index] = item.result
    for item in every:
        insert_nodes(graph_of(model, item.node), {item.node.position: item.created})


def graph_of(model: ModelProto, node: Node) -> GraphProto:
    """The graph of the copy that corresponds to a node's scope."""
    return graph_at(model, node.scope)


def graph_at(model: ModelProto, scope: Scope) -> GraphProto:
    """The graph of the copy that corresponds to a scope."""
    graph = model.graph
    for owner, body in reversed(list(scope.owners)):
        attributes = graph.node[owner.position].attribute
        graph = next(item.g for item in attributes if owner.bodies.get(item.name) is body)
    return graph
