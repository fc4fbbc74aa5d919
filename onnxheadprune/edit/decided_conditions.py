"""The model that remains where conditions are decided."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, numpy_helper

from onnxheadprune.edit import nodes
from onnxheadprune.edit.edits import MARK
from onnxheadprune.edit.inlined_bodies import Inliner
from onnxheadprune.edit.submodel import needed_nodes, read_by
from onnxheadprune.model.bodies import bodies_of
from onnxheadprune.model.graph.view import GraphView, Node, Scope, Value
from onnxheadprune.model.messages import keep, replace_all
from onnxheadprune.model.tensors import Array


@dataclass(frozen=True, eq=False)
class DecidedModel:
    """The rest of a model, after an exit is taken permanently."""

    model: ModelProto
    names: Mapping[Value, str]  # what values of the original are called in it
    inputs: tuple[ValueInfoProto, ...]  # the graph inputs that nobody reads any more; they are gone
    # the graph outputs that are the same for every input now, with what they are
    constant: Mapping[str, bool]


def decided(
    view: GraphView, known: Mapping[Value, bool], choices: Mapping[Node, Scope], turns: Mapping[Node, int]
) -> DecidedModel:
    """A copy of a model in which conditions are decided.

    Args:
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

    def run(self, choices: Mapping[Node, Scope]) -> DecidedModel:
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
            graph.node.append(nodes.as_proto(nodes.new("", "Identity", (self.name_of(values[name]),), name)))
        graph.initializer.extend(self.constants.values())
        return DecidedModel(made, self.names, self._drop_unread(graph), constant)

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
                yield nodes.as_proto(nodes.new("", "Identity", (self.name_of(output),), output.name))

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
        body.node.append(
            nodes.as_proto(nodes.new("", "Identity", (self._stored("always", np.array(True)),), name))
        )
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
        replace_all(graph.node, nodes)
        # What nobody reads in the original either was useless before, and stays.
        read_before = {name for node in self.view.model.graph.node for name in read_by(node)}
        unread = (read_before | set(self.names.values())) - needed
        stored = {tensor.name for tensor in graph.initializer}
        # An input with a default is a stored tensor that callers may replace.
        gone = tuple(item for item in self.view.model.graph.input if item.name in unread - stored)
        keep(graph.input, lambda item: item.name not in unread)
        keep(graph.initializer, lambda item: item.name not in unread)
        keep(graph.sparse_initializer, lambda item: item.values.name not in unread)
        made = {name for node in graph.node for name in node.output} | {item.name for item in graph.input}
        keep(graph.value_info, lambda item: item.name in made)
        return gone


def _rename_output(graph: GraphProto, name: str) -> None:
    """Let the node that gives a value of that name, if one does, give it under another name."""
    for node in graph.node:
        if name in node.output:
            node.output[list(node.output).index(name)] = f"{name}/{MARK}_unread"


CARRIED_FROM = 2
"""Inputs of a Loop, and of its body, before what is carried: how often, and whether to go on."""


def _drop_unread_states(loop: NodeProto, needed: Iterable[str]) -> None:
    """Drop what a Loop carries only for itself, and what its body computes for that."""
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
