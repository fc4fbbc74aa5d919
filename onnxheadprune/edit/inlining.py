"""Bodies that become a part of the main graph: names that stay apart, stored tensors that move along."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from onnx import GraphProto, ModelProto, NodeProto

from onnxheadprune.edit.extract import needed_nodes
from onnxheadprune.model.bodies import bodies_of
from onnxheadprune.model.graph.facts import IDENTITIES
from onnxheadprune.model.graph.view import GraphView, Node, Scope, Value

CARRIED_FROM = 2
"""Inputs of a Loop, and of its body, before what is carried: how often, and whether to go on."""


def drop_unread_states(loop: NodeProto, needed: Iterable[str]) -> None:
    """Drops what a Loop carries only for itself, and what its body computes for that.

    Args:
        loop: the node, which is changed.
        needed: names that somebody reads outside of it.
    """
    (body,) = bodies_of(loop)
    read = set(needed)
    given = [*loop.output, *[""] * (len(body.output) - 1 - len(loop.output))]
    count = len(loop.input) - CARRIED_FROM
    wanted = {index for index, name in enumerate(given) if name in read}
    while True:
        outputs = [body.output[0].name, *(body.output[1 + index].name for index in sorted(wanted))]
        nodes, names = needed_nodes(body, outputs)
        inputs = (body.input[CARRIED_FROM + index].name for index in range(count))
        more = wanted | {index for index, name in enumerate(inputs) if name in names}
        if more == wanted:
            break
        wanted = more
    carried = [index for index in range(count) if index in wanted]
    replace_all(loop.input, [*loop.input[:CARRIED_FROM], *(loop.input[CARRIED_FROM + i] for i in carried)])
    replace_all(loop.output, [given[index] for index in sorted(wanted)])
    replace_all(body.input, [*body.input[:CARRIED_FROM], *(body.input[CARRIED_FROM + i] for i in carried)])
    replace_all(body.output, [body.output[0], *(body.output[1 + index] for index in sorted(wanted))])
    replace_all(body.node, nodes)
    replace_all(body.initializer, [item for item in body.initializer if item.name in names])


def replace_all(field: Any, items: Iterable[Any]) -> None:
    """Gives a repeated field of a protobuf other items, which may be some of its own."""
    kept = [
        item if isinstance(item, str) else type(item).FromString(item.SerializeToString()) for item in items
    ]
    del field[:]
    field.extend(kept)


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
        """Moves nothing yet."""
        self.view = view
        self.opened: dict[Node, tuple[Scope, ...]] = {}
        self.names: dict[Value, str] = {}
        self.same: dict[Value, Value] = {}
        self._taken: set[str] = set()

    def open(self, bodies: Mapping[Node, tuple[Scope, ...]]) -> None:
        """Says which bodies become a part of the main graph, as far as they are reached from there."""
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
        made = ModelProto()
        made.CopyFrom(self.view.model)
        replace_all(made.graph.node, _named_apart(self._nodes(self.view.main)))
        for scope in self.moved:
            self._move_stored(scope, made.graph)
        return made

    def fresh(self, wanted: str) -> str:
        """A name that nothing else has."""
        name, number = wanted, 2
        while name in self._taken:
            name, number = f"{wanted}.{number}", number + 1
        self._taken.add(name)
        return name

    def name_of(self, value: Value | None) -> str:
        """Return what a value is called now, "" for none."""
        if value is None:
            return ""
        while value in self.same:
            value = self.same[value]
        return self.names.get(value, value.name)

    def given(self, node: Node) -> Iterator[NodeProto]:
        """Return what gives the outputs of a node whose bodies are in the main graph."""
        raise NotImplementedError

    def copy(self, node: Node) -> NodeProto:
        """A node that reads and gives values under their new names, in its bodies as well."""
        made = NodeProto()
        made.CopyFrom(node.proto)
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
            if node is not None and node in IDENTITIES and node.inputs[0] is not None:
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
        """What a body stores and declares, under the new names."""
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
        wanted, number = node.name, 2
        while node.name and node.name in taken:
            node.name, number = f"{wanted}.{number}", number + 1
        taken.add(node.name)
        found.append(node)
    return found


def keep(field: Any, is_kept: Callable[[Any], bool]) -> None:
    """Drops items of a repeated field of a protobuf, without a copy of the others."""
    for position in reversed(range(len(field))):
        if not is_kept(field[position]):
            del field[position]
