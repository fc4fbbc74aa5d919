"""The stored tensors that a recovery may train: weights, biases and normalizations, but no tables."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from onnx import TensorProto

from onnxheadprune.liveness.index_notation import contraction_of, operand_indices
from onnxheadprune.model.graph.operator import CARRIERS, is_a, kind
from onnxheadprune.model.graph.view import GraphView, Node, Value
from onnxheadprune.model.tensors import FLOATS
from onnxheadprune.runtime.feeds.inputs import Role, graph_inputs
from onnxheadprune.runtime.feeds.tables import tables_behind

LOOKUPS = kind("Gather", "GatherND")
KNOWN = (*FLOATS, TensorProto.UNDEFINED)
"""Types that features may have: onnx does not tell those of ONNX Runtime's own operators."""


@dataclass(frozen=True, eq=False)
class Trainable:
    """A stored tensor with learned contents."""

    stored: Value  # the initializer or Constant
    # the nodes between it and the value that is learned, from the initializer on; more than one way leads
    # from tensors that several nodes read, and this is the first
    steps: tuple[Node, ...]


def trainable(view: GraphView) -> dict[str, Trainable]:
    """The trainable stored tensors of the main graph, by name, in graph order.

    Operands of products, biases, scales and shifts of normalisations, as far as they act on what is computed from
    embeddings or float inputs: slopes and frequencies that act on positions are no parameters. Tables that ids or
    positions index are not trained, even where a product reads them too.
    """
    tables = set(_tables(view))
    active = _active(view, tables)
    found: dict[str, Trainable] = {}
    for node in view.main.nodes:
        if active.isdisjoint(node.sources):
            continue
        for value in _learned(node):
            way = _way(value)
            if way is not None and way.stored not in tables and not _is_looked_up(way):
                found.setdefault(way.stored.name, way)
    return found


def _tables(view: GraphView) -> Iterator[Value]:
    """Stored tensors whose rows are looked up by integers."""
    for item in graph_inputs(view):
        if item.dtype.kind in "iu":
            yield from tables_behind(view.main.values[item.name])
    for node in view.main.nodes:
        if node in LOOKUPS and (table := node.input(0)) is not None and table.is_constant:
            way = _way(table)
            if way is not None and len(way.stored.shape or ()) > 1:
                yield way.stored


def _active(view: GraphView, tables: set[Value]) -> set[Value]:
    """Values that are features of the data: not positions, masks or shapes."""
    found: set[Value] = {
        view.main.values[item.name]
        for item in graph_inputs(view)
        if item.role is not Role.MASK and view.main.values[item.name].elem_type in FLOATS
    }
    for node in view.main.nodes:
        reads = not (found | tables).isdisjoint(node.sources)
        if node.computed and (reads or _mixes(node)):
            found.update(value for value in node.results if value.elem_type in KNOWN)
    return found


def _mixes(node: Node) -> bool:
    """Return whether a node multiplies with a stored table, as a one-hot encoding does. A single row is no table."""
    found = contraction_of(node)
    if found is None:
        return False
    for index, axes in found.terms:
        value = node.input(index)
        if value is not None and value.is_constant and value.shape is not None:
            summed = [
                size for size, letter in zip(value.shape, axes, strict=True) if letter in found.contracted
            ]
            if math.prod(size for size in summed if isinstance(size, int)) > 1:
                return True
    return False


def _learned(node: Node) -> Iterator[Value]:
    """Constant inputs of a node that training changes."""
    roles = node.roles
    indices = [*operand_indices(node), *roles.learned, *([] if roles.bias is None else [roles.bias])]
    for index in dict.fromkeys(indices):
        value = node.input(index)
        if value is not None and value.is_constant and value.elem_type in FLOATS:
            yield value
    if (is_a(node, "Add") or is_a(node, "Mul")) and not node.domain:
        for value in node.inputs:
            if value is not None and value.is_constant and value.elem_type in FLOATS and _is_vector(value):
                yield value


def _is_vector(value: Value) -> bool:
    """Return whether one axis alone has more than one element: a single number is a temperature or an epsilon."""
    sizes = value.shape
    return sizes is not None and sum(size != 1 for size in sizes) == 1


def _way(value: Value) -> Trainable | None:
    """The path from a stored tensor to a value, None if the path computes something."""
    steps: list[Node] = []
    while not value.holds_tensor:
        node = value.producer
        if node is None or node not in CARRIERS or (source := node.inputs[0]) is None:
            return None
        steps.append(node)
        value = source
    return Trainable(value, tuple(reversed(steps)))


def _is_looked_up(way: Trainable) -> bool:
    """Return whether rows of the tensor are looked up by integers somewhere."""
    values = [way.stored, *(step.out for step in way.steps)]
    return any(use.node in LOOKUPS and use.input_index == 0 for value in values for use in value.consumers)
