"""Bodies of nodes inlined into the main graph."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from onnx import GraphProto, ModelProto, NodeProto

from onnxheadprune.edit.renaming import numbered
from onnxheadprune.model.graph.operator import is_a
from onnxheadprune.model.graph.view import GraphView, Node, Scope, Value
from onnxheadprune.model.messages import copied, replace_all


class Inliner:
    """Writes the main graph of a model anew, with the bodies of some nodes in it.

    Attributes:
        view: the model, which is not changed.
        opened: per node the bodies that become a part of the main graph; what is inside of a body that stays one stays.
        names: what values of these bodies are called in the main graph. Each keeps its name, but where two bodies use
            one name.
        same: what values of these bodies are that an Identity gives; they have no names.
    """

    def __init__(self, view: GraphView) -> None:
        """Move nothing yet."""
        self.view = view
        self.opened: dict[Node, tuple[Scope, ...]] = {}
        self.names: dict[Value, str] = {}
        self.same: dict[Value, Value] = {}
        self._taken: set[str] = set()

    def open(self, bodies: Mapping[Node, tuple[Scope, ...]]) -> None:
        """Make bodies a part of the main graph, as far as they are reached from there."""
        main = self.view.main
        self._find_opened(main, bodies)
        self._taken = set(main.values).union(*(body.values for body in self._closed(main)))
        for scope in self.moved:
            self._name(scope)

    @property
    def moved(self) -> list[Scope]:
        """The bodies that become a part of the main graph, outermost first."""
        return [body for bodies in self.opened.values() for body in bodies]

    def copied(self) -> ModelProto:
        """A copy of the model with the new nodes, and with all that the bodies store."""
        made = copied(self.view.model)
        replace_all(made.graph.node, _named_apart(self._nodes(self.view.main)))
        for scope in self.moved:
            self._move_stored(scope, made.graph)
        return made

    def fresh(self, wanted: str) -> str:
        """A name that nothing else has."""
        name = numbered(wanted, self._taken)
        self._taken.add(name)
        return name

    def name_of(self, value: Value | None) -> str:
        """The present name of a value, "" for none."""
        if value is None:
            return ""
        while value in self.same:
            value = self.same[value]
        return self.names.get(value, value.name)

    def given(self, node: Node) -> Iterator[NodeProto]:
        """The nodes that give the outputs of a node whose bodies are in the main graph."""
        raise NotImplementedError

    def copy(self, node: Node) -> NodeProto:
        """A node that reads and gives values under their new names, in its bodies as well."""
        made = copied(node.proto)
        for index, value in enumerate(node.inputs):
            if value is not None:
                made.input[index] = self.name_of(value)
        for index, value in enumerate(node.outputs):
            if value is not None:
                made.output[index] = self.names.get(value, value.name)
        for attribute in made.attribute:
            if attribute.name in node.bodies:
                inner = node.bodies[attribute.name]
                replace_all(attribute.g.node, [self.copy(item) for item in inner.nodes])
        return made

    def _find_opened(self, scope: Scope, bodies: Mapping[Node, tuple[Scope, ...]]) -> None:
        for node in scope.nodes:
            if node in bodies:
                self.opened[node] = bodies[node]
                for body in bodies[node]:
                    self._find_opened(body, bodies)

    def _closed(self, scope: Scope) -> Iterator[Scope]:
        """The bodies that stay bodies."""
        for node in scope.nodes:
            opened = self.opened.get(node)
            for body in node.bodies.values() if opened is None else opened:
                if opened is None:
                    yield body
                yield from self._closed(body)

    def _name(self, scope: Scope) -> None:
        for value in scope.values.values():
            node = value.producer
            if node is not None and is_a(node, "Identity") and node.inputs[0] is not None:
                self.same[value] = node.inputs[0]
            else:
                self.names[value] = self.fresh(value.name)

    def _nodes(self, scope: Scope) -> Iterator[NodeProto]:
        """The nodes of the new main graph, in order."""
        for node in scope.nodes:
            opened = self.opened.get(node)
            if opened is not None:
                for body in opened:
                    yield from self._nodes(body)
                yield from self.given(node)
            elif node.outputs[0] not in self.same:
                yield self.copy(node)

    def _move_stored(self, scope: Scope, graph: GraphProto) -> None:
        """Move the stored tensors and declarations of a body, under the new names."""
        proto = scope.proto
        for tensor in proto.initializer:
            graph.initializer.append(tensor)
            graph.initializer[-1].name = self.names[scope.values[tensor.name]]
        for sparse in proto.sparse_initializer:
            graph.sparse_initializer.append(sparse)
            graph.sparse_initializer[-1].values.name = self.names[scope.values[sparse.values.name]]
        for info in proto.value_info:
            value = scope.values.get(info.name)
            if value in self.names:
                graph.value_info.append(info)
                graph.value_info[-1].name = self.names[value]


def _named_apart(nodes: Iterable[NodeProto]) -> list[NodeProto]:
    """The nodes, each with a name of its own: those of two bodies may have had the same."""
    taken: set[str] = set()
    found = []
    for node in nodes:
        node.name = node.name and numbered(node.name, taken)
        taken.add(node.name)
        found.append(node)
    return found
