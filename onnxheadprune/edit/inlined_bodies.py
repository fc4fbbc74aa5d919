"""Bodies of nodes inlined into the main graph, and the model that remains where conditions are decided."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, numpy_helper

from onnxheadprune.edit.edits import MARK
from onnxheadprune.edit.nodes import as_proto, same
from onnxheadprune.edit.renaming import numbered
from onnxheadprune.edit.submodel import Array, needed_nodes, read_by
from onnxheadprune.model.bodies import bodies_of
from onnxheadprune.model.graph.facts import IDENTITIES
from onnxheadprune.model.graph.view import GraphView, Node, Scope, Value


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
        """Say which bodies become a part of the main graph, as far as they are reached from there."""
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
        _replace_all(made.graph.node, _named_apart(self._nodes(self.view.main)))
        for scope in self.moved:
            self._move_stored(scope, made.graph)
        return made

    def fresh(self, wanted: str) -> str:
        """A name that nothing else has."""
        name = numbered(wanted, self._taken)
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
                _replace_all(attribute.g.node, [self.copy(item) for item in inner.nodes])
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
        node.name = node.name and numbered(node.name, taken)
        taken.add(node.name)
        found.append(node)
    return found


@dataclass(frozen=True, eq=False)
class Left:
    """The rest of a model, after an exit is taken permanently.

    Attributes:
        model: the model.
        names: what values of the original are called in it.
        inputs: the graph inputs that nobody reads any more; they are gone.
        constant: the graph outputs that are the same for every input now, with what they are.
    """

    model: ModelProto
    names: Mapping[Value, str]
    inputs: tuple[ValueInfoProto, ...]
    constant: Mapping[str, bool]


def decided(
    view: GraphView, known: Mapping[Value, bool], choices: Mapping[Node, Scope], turns: Mapping[Node, int]
) -> Left:
    """A copy of a model in which conditions are decided.

    Args:
        view: a view of the model, which is not changed.
        known: conditions with their answers; whatever reads one reads a constant.
        choices: the body that runs, per If; it takes the place of the If.
        turns: how often a Loop runs its body, per Loop; its own condition is gone.
    """
    return _Surgeon(view, known, turns).run(choices)


class _Surgeon(Inliner):
    def __init__(self, view: GraphView, known: Mapping[Value, bool], turns: Mapping[Node, int]) -> None:
        super().__init__(view)
        self.known, self.turns = known, turns
        self.constants: dict[str, TensorProto] = {}
        self.fixed: set[str] = set()

    def run(self, choices: Mapping[Node, Scope]) -> Left:
        self.open({node: (body,) for node, body in choices.items()})
        made = self.copied()
        graph, values = made.graph, self.view.main.values
        constant = {
            info.name: self.known[values[info.name]]
            for info in graph.output
            if values.get(info.name) in self.known
        }
        for name in constant:
            _rename_output(graph, name)
            graph.node.append(as_proto(same("", self.name_of(values[name]), name)))
        graph.initializer.extend(self.constants.values())
        return Left(made, self.names, self._drop_unread(graph), constant)

    def name_of(self, value: Value | None) -> str:
        """A constant for what is known; for what an If gave, what its body gives in its place."""
        while value is not None and value not in self.known:
            node = value.producer
            if node is None or node not in self.opened:
                inner = self.same.get(value)
            else:
                inner = self._given_by(self.opened[node][0], value.output_index)
            if inner is None:
                return super().name_of(value)
            value = inner
        return "" if value is None else self._constant(value, self.known[value])

    def given(self, node: Node) -> Iterator[NodeProto]:
        """Other readers read what the body gives; a graph output keeps its name."""
        for output in node.outputs:
            if output is None or not output.is_graph_output or output.scope.parent is not None:
                continue
            if output not in self.known:
                yield as_proto(same("", self.name_of(output), output.name))

    def copy(self, node: Node) -> NodeProto:
        """A node; a Loop that is held runs a fixed number of turns."""
        made = super().copy(node)
        if node in self.turns:
            self._fix(made, self.turns[node])
        return made

    @staticmethod
    def _given_by(body: Scope, index: int) -> Value | None:
        return body.lookup(body.proto.output[index].name)

    def _constant(self, value: Value, answer: bool) -> str:
        shape = (1,) if value.shape == (1,) else ()
        return self._stored(f"{'always' if answer else 'never'}{len(shape) or ''}", np.full(shape, answer))

    def _stored(self, key: str, array: Array) -> str:
        """The name of a constant, which is stored once."""
        if key not in self.constants:
            self.constants[key] = numpy_helper.from_array(array, self.fresh(f"{MARK}_{key}"))
        return self.constants[key].name

    def _fix(self, made: NodeProto, turns: int) -> None:
        """Let the body of a Loop say nothing but to go on, as often as it is to run."""
        made.input[0] = self._stored(f"turns{turns}", np.array(turns, dtype=np.int64))
        made.input[1] = ""
        (body,) = bodies_of(made)
        name = self.fresh(f"{body.output[0].name}/{MARK}")
        body.node.append(as_proto(same("", self._stored("always", np.array(True)), name)))
        body.output[0].name = name
        self.fixed.add(made.output[0])

    def _drop_unread(self, graph: GraphProto) -> tuple[ValueInfoProto, ...]:
        """Drop what became unread, and return the inputs among it."""
        wanted = [item.name for item in graph.output]
        _, needed = needed_nodes(graph, wanted)
        for node in graph.node:
            if self.fixed.intersection(node.output):
                _drop_unread_states(node, needed)
        nodes, needed = needed_nodes(graph, wanted)
        _replace_all(graph.node, nodes)
        # What nobody reads in the original either was useless before, and stays.
        read_before = {name for node in self.view.model.graph.node for name in read_by(node)}
        unread = (read_before | set(self.names.values())) - needed
        stored = {tensor.name for tensor in graph.initializer}
        # An input with a default is a stored tensor that callers may replace.
        gone = tuple(item for item in self.view.model.graph.input if item.name in unread - stored)
        _keep(graph.input, lambda item: item.name not in unread)
        _keep(graph.initializer, lambda item: item.name not in unread)
        _keep(graph.sparse_initializer, lambda item: item.values.name not in unread)
        made = {name for node in graph.node for name in node.output} | {item.name for item in graph.input}
        _keep(graph.value_info, lambda item: item.name in made)
        return gone


def _rename_output(graph: GraphProto, name: str) -> None:
    """Let the node that gives a value of that name, if one does, give it under another name."""
    for node in graph.node:
        if name in node.output:
            node.output[list(node.output).index(name)] = f"{name}/{MARK}_unread"


CARRIED_FROM = 2
"""Inputs of a Loop, and of its body, before what is carried: how often, and whether to go on."""


def _drop_unread_states(loop: NodeProto, needed: Iterable[str]) -> None:
    """Drop what a Loop carries only for itself, and what its body computes for that.

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
    _replace_all(loop.input, [*loop.input[:CARRIED_FROM], *(loop.input[CARRIED_FROM + i] for i in carried)])
    _replace_all(loop.output, [given[index] for index in sorted(wanted)])
    _replace_all(body.input, [*body.input[:CARRIED_FROM], *(body.input[CARRIED_FROM + i] for i in carried)])
    _replace_all(body.output, [body.output[0], *(body.output[1 + index] for index in sorted(wanted))])
    _replace_all(body.node, nodes)
    _replace_all(body.initializer, [item for item in body.initializer if item.name in names])


def _replace_all(field: Any, items: Iterable[Any]) -> None:
    """Give a repeated field of a protobuf other items, which may be some of its own."""
    kept = [
        item if isinstance(item, str) else type(item).FromString(item.SerializeToString()) for item in items
    ]
    del field[:]
    field.extend(kept)


def _keep(field: Any, is_kept: Callable[[Any], bool]) -> None:
    """Drop items of a repeated field of a protobuf, without a copy of the others."""
    for position in reversed(range(len(field))):
        if not is_kept(field[position]):
            del field[position]
