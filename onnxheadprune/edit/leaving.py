"""A model in which some conditions are decided for good: the bodies that run take the place of the choice.

What only the others read is gone: nodes, stored tensors, inputs. Values and stored tensors keep their names, but where
two bodies use one name for two things.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, numpy_helper

from onnxheadprune.edit.edits import MARK
from onnxheadprune.edit.extract import Array, needed_nodes, read_by
from onnxheadprune.edit.loops import drop_unread_states, replace_all
from onnxheadprune.edit.nodes import as_proto, same
from onnxheadprune.model.bodies import bodies_of
from onnxheadprune.model.graph.facts import IDENTITIES
from onnxheadprune.model.graph.view import GraphView, Node, Scope, Value


@dataclass(frozen=True, eq=False)
class Left:
    """What is left of a model.

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


class _Surgeon:
    def __init__(self, view: GraphView, known: Mapping[Value, bool], turns: Mapping[Node, int]) -> None:
        self.view, self.known, self.turns = view, known, turns
        # An If inside of a body that stays one stays an If, which reads a constant.
        self.choices: dict[Node, Scope] = {}
        self.names: dict[Value, str] = {}
        self.same: dict[Value, Value] = {}
        self.constants: dict[str, TensorProto] = {}
        self.fixed: set[str] = set()
        self.inlined: list[Scope] = []
        self.taken: set[str] = set()

    def run(self, choices: Mapping[Node, Scope]) -> Left:
        main = self.view.main
        self._find_inlined(main, choices)
        self.taken = set(main.values).union(*(body.values for body in self._kept(main)))
        for scope in self.inlined:
            self._name(scope)
        made = ModelProto()
        made.CopyFrom(self.view.model)
        graph = made.graph
        nodes = _named_apart(self._nodes(main))
        constant = {
            info.name: self.known[main.values[info.name]]
            for info in graph.output
            if main.values.get(info.name) in self.known
        }
        for name in constant:
            nodes = [_without_output(node, name) for node in nodes]
            nodes.append(as_proto(same("", self._name_of(main.values[name]), name)))
        replace_all(graph.node, nodes)
        for scope in self.inlined:
            self._move_stored(scope, graph)
        graph.initializer.extend(self.constants.values())
        return Left(made, self.names, self._drop_unread(graph), constant)

    def _find_inlined(self, scope: Scope, choices: Mapping[Node, Scope]) -> None:
        """The bodies that become part of the main graph, outermost first."""
        for node in scope.nodes:
            if node in choices:
                self.choices[node] = choices[node]
                self.inlined.append(choices[node])
                self._find_inlined(choices[node], choices)

    def _kept(self, scope: Scope) -> Iterator[Scope]:
        """The bodies that stay bodies."""
        for node in scope.nodes:
            chosen = self.choices.get(node)
            if chosen is not None:
                yield from self._kept(chosen)
                continue
            for body in node.bodies.values():
                yield body
                yield from self._kept(body)

    def _name(self, scope: Scope) -> None:
        """Names the values of a body that becomes part of the main graph."""
        for value in scope.values.values():
            node = value.producer
            if node is not None and node in IDENTITIES and node.inputs[0] is not None:
                self.same[value] = node.inputs[0]
            else:
                self.names[value] = self._fresh(value.name)

    def _fresh(self, wanted: str) -> str:
        name, number = wanted, 2
        while name in self.taken:
            name, number = f"{wanted}.{number}", number + 1
        self.taken.add(name)
        return name

    def _name_of(self, value: Value | None) -> str:
        """What a value is called now: a constant if it is known, what a body gives in place of the If that gave it."""
        if value is None:
            return ""
        if value in self.known:
            return self._constant(value, self.known[value])
        while value in self.same or value.producer in self.choices:
            if value in self.same:
                value = self.same[value]
            else:
                assert value.producer is not None
                value = self._given(self.choices[value.producer], value.output_index)
            if value in self.known:
                return self._constant(value, self.known[value])
        return self.names.get(value, value.name)

    @staticmethod
    def _given(body: Scope, index: int) -> Value:
        value = body.lookup(body.proto.output[index].name)
        assert value is not None
        return value

    def _constant(self, value: Value, answer: bool) -> str:
        shape = (1,) if value.shape == (1,) else ()
        return self._stored(f"{'always' if answer else 'never'}{len(shape) or ''}", np.full(shape, answer))

    def _stored(self, key: str, array: Array) -> str:
        """The name of a constant, which is stored once."""
        if key not in self.constants:
            self.constants[key] = numpy_helper.from_array(array, self._fresh(f"{MARK}_{key}"))
        return self.constants[key].name

    def _nodes(self, scope: Scope) -> Iterator[NodeProto]:
        """The nodes of the new main graph, in order."""
        for node in scope.nodes:
            chosen = self.choices.get(node)
            if chosen is None:
                if node.outputs[0] not in self.same:
                    yield self._copy(node)
                continue
            yield from self._nodes(chosen)
            for output in node.outputs:
                # Other readers read what the body gives; a graph output keeps its name.
                if output is not None and output.is_graph_output and output.scope.parent is None:
                    if output not in self.known:
                        yield as_proto(same("", self._name_of(output), output.name))

    def _copy(self, node: Node) -> NodeProto:
        """A node that reads and gives values under their new names, in its bodies as well."""
        made = NodeProto()
        made.CopyFrom(node.proto)
        for index, value in enumerate(node.inputs):
            if value is not None:
                made.input[index] = self._name_of(value)
        for index, value in enumerate(node.outputs):
            if value is not None:
                made.output[index] = self.names.get(value, value.name)
        for attribute in made.attribute:
            if attribute.name in node.bodies:
                self._within(attribute.g, node.bodies[attribute.name])
        if node in self.turns:
            self._fix(made, self.turns[node])
        return made

    def _within(self, graph: GraphProto, scope: Scope) -> None:
        """Lets a body that stays one read values under their new names."""
        replace_all(graph.node, [self._copy(node) for node in scope.nodes])

    def _fix(self, made: NodeProto, turns: int) -> None:
        """Lets a Loop run a fixed number of turns: its body says nothing but to go on."""
        made.input[0] = self._stored(f"turns{turns}", np.array(turns, dtype=np.int64))
        made.input[1] = ""
        (body,) = bodies_of(made)
        name = self._fresh(f"{body.output[0].name}/{MARK}")
        body.node.append(as_proto(same("", self._stored("always", np.array(True)), name)))
        body.output[0].name = name
        self.fixed.add(made.output[0])

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

    def _drop_unread(self, graph: GraphProto) -> tuple[ValueInfoProto, ...]:
        """Drops what became unread, and gives the inputs among it."""
        wanted = [item.name for item in graph.output]
        _, needed = needed_nodes(graph, wanted)
        for node in graph.node:
            if self.fixed.intersection(node.output):
                drop_unread_states(node, needed)
        nodes, needed = needed_nodes(graph, wanted)
        replace_all(graph.node, nodes)
        unread = (self._read_before() | set(self.names.values())) - needed
        gone = [item for item in graph.input if item.name in unread]
        stored = {tensor.name for tensor in graph.initializer}
        replace_all(graph.input, [item for item in graph.input if item.name not in unread])
        replace_all(graph.initializer, [item for item in graph.initializer if item.name not in unread])
        sparse = [item for item in graph.sparse_initializer if item.values.name not in unread]
        replace_all(graph.sparse_initializer, sparse)
        made = {name for node in nodes for name in node.output} | {item.name for item in graph.input}
        replace_all(graph.value_info, [item for item in graph.value_info if item.name in made])
        # An input with a default is a stored tensor that callers may replace.
        return tuple(item for item in gone if item.name not in stored)

    def _read_before(self) -> set[str]:
        """What somebody reads in the original: the rest was useless before, and stays."""
        return {name for node in self.view.model.graph.node for name in read_by(node)}


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


def _without_output(node: NodeProto, name: str) -> NodeProto:
    """A node that no longer gives a value of that name."""
    if name not in node.output:
        return node
    made = NodeProto()
    made.CopyFrom(node)
    made.output[list(node.output).index(name)] = f"{name}/{MARK}_unread"
    return made
