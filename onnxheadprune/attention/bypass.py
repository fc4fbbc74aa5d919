"""Removing layers: who reads the state behind one reads the state in front, and nothing else is changed.

What only the layer needed is then unused, and removed like any dead code. What others read of it (position biases,
shared keys and values, gates) is still computed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from onnxheadprune.attention.sites.site import Site
from onnxheadprune.attention.sites.states import State, is_sum, learned_of_norm, released
from onnxheadprune.edit import nodes
from onnxheadprune.edit.edits import MARK, DropNode, Edit, InsertNode, SetInput, SetOutput, scope_of
from onnxheadprune.errors import RefusedError
from onnxheadprune.model.graph.facts import schema_of
from onnxheadprune.model.graph.view import GraphView, Node, Value
from onnxheadprune.model.spelling import first_few


@dataclass(frozen=True, eq=False)
class Bypass:
    """The removal of some layers of a viewed model."""

    view: GraphView
    layers: tuple[Site, ...]

    @classmethod
    def of(cls, view: GraphView, sites: Iterable[Site]) -> Bypass:
        """The removal of those of some sites that lie between two states."""
        return cls(view, tuple(site for site in sites if site.states))

    @cached_property
    def fronts(self) -> dict[Value, Value]:
        """The new input of the readers of each removed layer's output: that of the last layer kept before it."""
        found = {state.behind: state.front for layer in self.layers for state in layer.states}

        def left(value: Value) -> Value:
            return left(found[value]) if value in found else value

        return {behind: left(front) for behind, front in found.items()}

    @cached_property
    def gone(self) -> frozenset[Node]:
        """The nodes that nothing needs any more."""
        return frozenset(released([State(front, behind) for behind, front in self.fronts.items()], ()))

    def covers(self, site: Site) -> bool:
        """Return whether a site of another kind is removed with the layers."""
        ends = () if site.states else [value.producer for value in site.marks]
        return bool(ends) and all(node in self.gone for node in ends)

    @property
    def edits(self) -> dict[Edit, frozenset[str]]:
        """The edits, each with the layer that asks for it."""
        made: dict[Edit, frozenset[str]] = {}
        for layer in self.layers:
            for state in layer.states:
                made |= dict.fromkeys(self._edits(state.behind), frozenset({layer.name}))
        return made

    def _edits(self, behind: Value) -> Iterator[Edit]:
        front, node = self.fronts[behind].name, behind.producer
        for use in behind.consumers:
            yield SetInput(use.node.ref, use.input_index, front)
        if node is not None and is_sum(behind):
            yield from _norm(node, front)
        if node is not None and behind.is_graph_output:
            if len(node.results) == 1:
                yield DropNode(node.ref, node.op_type)
            elif not is_sum(behind):
                yield SetOutput(node.ref, behind.output_index, f"{behind.name}/{MARK}_removed")
            yield nodes.same(node.ref, front, behind.name)

    def after(self, edits: Mapping[Edit, frozenset[str]]) -> dict[Edit, frozenset[str]]:
        """Merge other edits with these; those that read a removed layer's output read its replacement."""
        if not self.layers:
            return dict(edits)
        scopes = {scope.ref: scope for scope in self.view.scopes}

        def moved(ref: str, name: str) -> str:
            value = scopes[scope_of(ref)].lookup(name) if name else None
            return self.fronts[value].name if value is not None and value in self.fronts else name

        instead = _instead(self.view, edits)
        made: dict[Edit, frozenset[str]] = {}
        for edit, sites in self.edits.items():
            if isinstance(edit, SetInput):
                # An `Add` whose branch is removed is itself removed.
                value = scopes[scope_of(edit.node)].lookup(edit.value)
                edit = replace(edit, value=edit.value if value is None else instead.get(value, edit.value))
            made[edit] = sites
        for edit, sites in edits.items():
            if isinstance(edit, SetInput):
                edit = replace(edit, value=moved(edit.node, edit.value))
            elif isinstance(edit, InsertNode):
                edit = replace(edit, inputs=tuple(moved(edit.before, name) for name in edit.inputs))
            made[edit] = made.get(edit, frozenset()) | sites
        return made

    def names(self, edits: Iterable[Edit]) -> dict[str, str]:
        """The name of the value that replaces each removed one: a layer's output, or an `Add` whose branch is gone."""
        found = {
            value.name: name for value, name in _instead(self.view, edits).items() if value not in self.fronts
        }
        return found | {
            behind.name: found.get(front.name, front.name) for behind, front in self.fronts.items()
        }

    def kept(self) -> Iterator[str]:
        """Yield what is still computed of each layer for others, one sentence each."""
        for layer in self.layers:
            others = [
                f"{use.node.label} reads {value.name}"
                for node in sorted({*layer.cores} - self.gone, key=lambda node: node.index)
                for value in node.results
                for use in value.consumers
                if use.node not in layer.cores and use.node not in self.gone and value not in self.fronts
            ]
            if others:
                yield f"a part of {layer.key} is still computed: {first_few(others, 3)}"


def _instead(view: GraphView, edits: Iterable[Edit]) -> dict[Value, str]:
    """The name that all readers of a value, as far as they are left, read in its place, by that value."""
    some = list(edits)
    dropped = {edit.node for edit in some if isinstance(edit, DropNode)}
    read = {(edit.node, edit.index): edit.value for edit in some if isinstance(edit, SetInput)}
    found: dict[Value, str] = {}
    for node, index in read:
        inputs = view.by_ref[node].inputs
        value = inputs[index] if index < len(inputs) else None
        if value is None or value in found or value.is_graph_output:
            continue
        uses = [(use.node.ref, use.input_index) for use in value.consumers]
        left = [use for use in uses if use[0] not in dropped] or [use for use in uses if use in read]
        names = {read.get(use, value.name) for use in left}
        if len(names) == 1 and value.name not in names:
            found[value] = names.pop()
    return found


def _norm(node: Node, front: str) -> Iterator[Edit]:
    """Yield the edits with which an operator that adds and normalizes computes the norm of a state."""
    if any(value.is_read for value in node.results if value.output_index in (1, 2)):
        raise RefusedError(f"{node.label} outputs statistics of a sum that is removed with its layer")
    learned = learned_of_norm(node)
    stored = [value.name for index in learned if (value := node.input(index)) is not None]
    alone = nodes.normalized(node.ref, node, front, stored, node.out.name)
    known = any(other.op_type == alone.op_type for other in node.scope.nodes)
    if known or schema_of(alone.op_type, node.scope.opset) is not None:
        yield DropNode(node.ref, node.op_type)
        yield alone
        return
    # An operator of the runtime's own would make the file invalid by the standard.
    zeros = f"{node.out.name}/{MARK}_nothing"
    yield nodes.subtract(node.ref, front, front, zeros)
    yield SetInput(node.ref, 0, front)
    yield SetInput(node.ref, 1, zeros)
    for index, value in enumerate(node.inputs):
        if index > 1 and index not in learned and value is not None:
            yield SetInput(node.ref, index, "")
