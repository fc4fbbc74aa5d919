"""Both bodies of an If beside each other with a choice of elements after them.

Numbers inside a body cannot be read while a model runs. Here everything is in the main graph, and runs whether its
condition holds or not; each node from a body has the conditions under which it counts (`counts_where`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TypeAlias

from onnx import ModelProto, NodeProto, TensorProto

from onnxheadprune.edit import nodes
from onnxheadprune.edit.inlined_bodies import Inliner
from onnxheadprune.model.graph.dims import Shape
from onnxheadprune.model.graph.view import GraphView, Node, Value
from onnxheadprune.model.typed_json import json_text, parsed

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
