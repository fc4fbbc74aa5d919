"""Bodies of nodes in the main graph: of decided conditions the body that runs, of others both beside each other.

Numbers inside a body cannot be read while a model runs. Side by side, everything is in the main graph and runs whether
its condition holds or not; each node from a body has the conditions under which it counts (`counts_where`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, numpy_helper

from onnxheadprune.edit import nodes
from onnxheadprune.edit.edits import MARK
from onnxheadprune.edit.nodes import numbered
from onnxheadprune.edit.submodel import needed_nodes, read_by
from onnxheadprune.model.graph.dims import Shape
from onnxheadprune.model.graph.operator import is_a
from onnxheadprune.model.graph.view import GraphView, Node, Scope, Value
from onnxheadprune.model.messages import copied, keep, replace_all
from onnxheadprune.model.typed_json import json_text, parsed


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


BRANCHES: Mapping[bool, str] = {True: "then_branch", False: "else_branch"}
_KEY = "onnxheadprune.counts_where"
_Conditions: TypeAlias = tuple[tuple[str, bool], ...]


def with_both_branches(view: GraphView, nodes: Iterable[Node]) -> ModelProto | None:
    """A copy of a model in which both bodies of each If run, and the condition picks what they give.

    The model; None where a body gives something of another shape than the other one, so that no elements can be picked,
    or where a stored tensor would get another name.
    """
    chosen = list(nodes)
    if not all(_is_alike(node) for node in chosen):
        return None
    unfolding = _Unfolding(view)
    unfolding.open({node: tuple(node.bodies.values()) for node in chosen})
    return unfolding.copied() if keeps_stored_names(unfolding.names) else None


def keeps_stored_names(names: Mapping[Value, str]) -> bool:
    """Return whether stored tensors keep their names, shapes and axes aside: a refit finds tensors by name."""
    return all(
        value.name == name or value.tensor is None or _is_number(value) for value, name in names.items()
    )


def counts_where(node: Node) -> tuple[tuple[str, bool], ...]:
    """By which conditions a node of such a model counts: names of values, each with the answer that it must have.

    A file may have such an entry from elsewhere; what is no condition of its graph is none.
    """
    entries = [entry.value for entry in node.proto.metadata_props if entry.key == _KEY]
    try:
        found: _Conditions = parsed(_Conditions, entries[-1]) if entries else ()
    except ValueError:
        return ()
    values = [node.scope.lookup(name) for name, _ in found]
    return found if all(value is not None and value.elem_type == TensorProto.BOOL for value in values) else ()


def _is_alike(node: Node) -> bool:
    """Return whether both bodies of an If give the same shapes, as far as these are known."""
    for index in range(len(node.outputs)):
        shapes = [_shape(body.lookup(body.proto.output[index].name)) for body in node.bodies.values()]
        first, second = shapes
        if first is None or second is None or len(first) != len(second):
            return False
        if any(_differ(one, other) for one, other in zip(first, second, strict=True)):
            return False
    return True


def _shape(value: Value | None) -> Shape | None:
    return None if value is None else value.shape


def _differ(one: object, other: object) -> bool:
    return one != other and (isinstance(one, int) or isinstance(other, int))


def _is_number(value: Value) -> bool:
    """Return whether a stored tensor is a shape or an axis, of which no refit makes another one."""
    return value.literal() is not None and value.literal().dtype.kind in "biu"  # type: ignore[union-attr]


class _Unfolding(Inliner):
    def given(self, node: Node) -> Iterator[NodeProto]:
        """Of each output the elements that the body gives whose answer the condition has."""
        bodies = [node.bodies[BRANCHES[answer]] for answer in (True, False)]
        for index, output in enumerate(node.outputs):
            if output is None:
                continue
            given = [body.lookup(body.proto.output[index].name) for body in bodies]
            yes, no = (self.name_of(value) for value in given)
            name, condition = self.name_of(output), self.name_of(node.inputs[0])
            edits = [nodes.new(node.ref, "Where", (condition, yes, no), name)]
            if any(value is not None and value.elem_type == TensorProto.BOOL for value in (output, *given)):
                # ONNX Runtime picks numbers, and no truth values.
                edits = [
                    nodes.new(node.ref, "Cast", (yes,), f"{name}/yes", to=TensorProto.INT32),
                    nodes.new(node.ref, "Cast", (no,), f"{name}/no", to=TensorProto.INT32),
                    nodes.new(node.ref, "Where", (condition, f"{name}/yes", f"{name}/no"), f"{name}/number"),
                    nodes.new(node.ref, "Cast", (f"{name}/number",), name, to=TensorProto.BOOL),
                ]
            for made in (nodes.as_proto(edit, node.opset) for edit in edits):
                self._tag(made, node)
                yield made

    def copy(self, node: Node) -> NodeProto:
        """A node, with the conditions that it counts by."""
        made = super().copy(node)
        self._tag(made, node)
        return made

    def _tag(self, made: NodeProto, node: Node) -> None:
        conditions = []
        scope = node.scope
        while scope.owner is not None and scope.owner in self.opened:
            answer = next(answer for answer, name in BRANCHES.items() if scope.owner.bodies[name] is scope)
            conditions.append((self.name_of(scope.owner.inputs[0]), answer))
            scope = scope.owner.scope
        if conditions:
            made.metadata_props.add(key=_KEY, value=json_text(conditions))


@dataclass(frozen=True, eq=False)
class DecidedModel:
    """The rest of a model, after an exit is taken permanently."""

    model: ModelProto
    names: Mapping[Value, str]  # what values of the original are called in it
    inputs: tuple[ValueInfoProto, ...]  # the graph inputs that nobody reads any more; they are gone
    # the graph outputs that are the same for every input now, with what they are
    constant: Mapping[str, bool]


def decided(view: GraphView, known: Mapping[Value, bool], choices: Mapping[Node, Scope]) -> DecidedModel:
    """A copy of a model in which conditions are decided.

    Args:
        choices: the body that runs, per If; it takes the place of the If.
    """
    return _Surgeon(view, known).run(choices)


class _Surgeon(Inliner):
    def __init__(self, view: GraphView, known: Mapping[Value, bool]) -> None:
        super().__init__(view)
        self.known = known
        self.constants: dict[str, TensorProto] = {}

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

    @staticmethod
    def _given_by(body: Scope, index: int) -> Value | None:
        return body.lookup(body.proto.output[index].name)

    def _constant(self, value: Value, answer: bool) -> str:
        shape = (1,) if value.shape == (1,) else ()
        key = f"{'always' if answer else 'never'}{len(shape) or ''}"
        if key not in self.constants:
            self.constants[key] = numpy_helper.from_array(np.full(shape, answer), self.fresh(f"{MARK}_{key}"))
        return self.constants[key].name

    def _drop_unread(self, graph: GraphProto) -> tuple[ValueInfoProto, ...]:
        """Drop what became unread, and return the inputs among it."""
        nodes, needed = needed_nodes(graph, [item.name for item in graph.output])
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


def flag_choices(view: GraphView) -> tuple[Node, ...]:
    """Return the nodes of the main graph that choose between two branches, if all of them read one graph input."""
    nodes = tuple(node for node in view.main.nodes if is_a(node, "If"))
    flags = {node.inputs[0] for node in nodes}
    flag = next(iter(flags), None)
    alone = len(flags) == 1 and flag is not None and flag.is_graph_input and not flag.is_initializer
    return nodes if alone else ()


def with_answer(view: GraphView, answer: bool) -> ModelProto | None:
    """Return the model for one answer of its flag, with the branches that run then in its main graph.

    None where the model has no flag, or where a stored tensor would get another name.
    """
    choices = {node: node.bodies[BRANCHES[answer]] for node in flag_choices(view)}
    if not choices:
        return None
    made = decided(view, {}, choices)
    return made.model if keeps_stored_names(made.names) else None
