"""The producers of values: the names of a model's graphs, looked up from the inside out.

A view of the model says more, at the price of an analysis; here the protobuf is all that is needed.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from onnx import AttributeProto, GraphProto, NodeProto

from onnxheadprune.model.bodies import nodes_in, stored_tensor
from onnxheadprune.model.graph.operator import is_a


class ProducerKind(enum.Enum):
    """The identity of a value."""

    NODE = "a node's output"
    TENSOR = "a stored tensor"
    SPARSE = "a sparse tensor"
    INPUT = "an input"
    UNKNOWN = "made nowhere"


@dataclass(frozen=True)
class Producer:
    """The producer of a value."""

    place: ProducerKind  # what kind of thing that is
    scope: Scope  # the graph it lies in
    name: str  # of the value there, after Identity nodes
    thing: Any  # a NodeProto, TensorProto, SparseTensorProto or ValueInfoProto
    index: int = 0  # which output of the node, or which input of the graph

    @property
    def label(self) -> str:
        """The name in messages."""
        if self.place is ProducerKind.NODE:
            return label(self.thing)
        return f"{self.place.value} ({self.name})"


@dataclass(eq=False)
class Scope:
    """One graph, and the graphs in its nodes."""

    graph: GraphProto
    parent: Scope | None = None  # the graph around it
    made: dict[str, Producer] = field(default_factory=dict)  # what makes each of its values
    # graphs by attribute, by the identity of the node that holds them
    bodies: dict[int, dict[str, Scope]] = field(default_factory=dict)

    def source(self, name: str) -> Producer:
        """The producer of the value of that name, seen from here; Identity nodes are passed over."""
        scope: Scope | None = self
        passed: set[int] = set()
        while scope is not None:
            found = scope.made.get(name)
            if found is None:
                scope = scope.parent
            elif found.place is not ProducerKind.NODE or not passes_on(found.thing):
                return found
            elif id(found) in passed:
                # A forged model may have a value that is its own source.
                break
            else:
                passed.add(id(found))
                name, scope = found.thing.input[0], found.scope
        return Producer(ProducerKind.UNKNOWN, self, name, None)


def scopes_of(graph: GraphProto, parent: Scope | None = None) -> list[Scope]:
    """The graph's scope, and those of all bodies in it."""
    own = Scope(graph, parent)
    found = [own]
    for index, info in enumerate(graph.input):
        own.made[info.name] = Producer(ProducerKind.INPUT, own, info.name, info, index)
    for tensor in graph.initializer:
        own.made[tensor.name] = Producer(ProducerKind.TENSOR, own, tensor.name, tensor)
    for sparse in graph.sparse_initializer:
        own.made[sparse.values.name] = Producer(ProducerKind.SPARSE, own, sparse.values.name, sparse)
    for node in graph.node:
        tensor = stored_tensor(node)
        for index, name in enumerate(node.output):
            if tensor is not None:
                own.made[name] = Producer(ProducerKind.TENSOR, own, name, tensor)
            elif name:
                own.made[name] = Producer(ProducerKind.NODE, own, name, node, index)
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                inner = scopes_of(attribute.g, own)
                own.bodies.setdefault(id(node), {})[attribute.name] = inner[0]
                found += inner
    return found


def label(node: NodeProto) -> str:
    """A node's name in messages."""
    return f"{node.op_type} ({node.name or next(filter(None, node.output), 'without outputs')})"


def own_nodes(graph: GraphProto) -> Iterator[NodeProto]:
    """Nodes of a graph that compute something, without those of bodies in it."""
    return (node for node in graph.node if _computes(node))


def nodes_of(graph: GraphProto) -> Iterator[NodeProto]:
    """Nodes of a graph and of the bodies in it that compute something."""
    return (node for node in nodes_in(graph.node) if _computes(node))


def _computes(node: NodeProto) -> bool:
    return stored_tensor(node) is None and not passes_on(node)


def passes_on(node: NodeProto) -> bool:
    """Return whether a node gives what it takes."""
    return is_a(node, "Identity") and len(node.input) == len(node.output) == 1
