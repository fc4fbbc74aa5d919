"""Sizes that a model reads off values: where does one come from if the value is narrower, or is needed no more?

* What a `Shape` or `Size` of a narrowed value shows keeps the original number in that element. Only Reshapes and their
  like get their own literals (`target_shapes`).
* The shape of a value that is needed for nothing else is read off another value of that size, or computed from the
  model's inputs.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np

from onnxheadprune.edit import nodes
from onnxheadprune.edit.edits import (
    MARK,
    AddConstant,
    DropNode,
    Edit,
    InsertNode,
    SetInput,
    SetOutput,
    scope_of,
)
from onnxheadprune.errors import RefusedError
from onnxheadprune.liveness.carriers import carried
from onnxheadprune.liveness.consumers import only_observed
from onnxheadprune.liveness.live import FULL, Live
from onnxheadprune.liveness.target_shapes import scaled, target_literals
from onnxheadprune.model.graph.dims import Dim, Shape
from onnxheadprune.model.graph.elements import shape_range
from onnxheadprune.model.graph.operator import is_a
from onnxheadprune.model.graph.view import GraphView, Node, Scope, Use, Value

# Shapes of narrowed values


def freeze_observers(value: Value, live: Live, kept: Mapping[Value, Live]) -> Iterator[Edit]:
    """Edits that keep the results of the shape observers of a narrowed value."""
    for use in value.consumers:
        node = use.node
        if is_a(node, "Shape"):
            yield from _freeze_shape(node, live)
        elif is_a(node, "Size"):
            left, whole = (math.prod(live.extent(axis)[side] for axis in live.axes) for side in (0, 1))
            if left != whole:
                yield from _frozen(node, left, whole)
        elif node.out not in kept and only_observed(node):
            through = carried(node, live) or _sliced(node, live)
            if through is None:
                raise RefusedError(f"{node.label} is only there for its shape, which cannot be followed")
            if is_a(node, "Reshape"):
                yield from target_literals(node, 1, through)
            yield from freeze_observers(node.out, through, kept)


def _freeze_shape(shape: Node, live: Live) -> Iterator[Edit]:
    extents = [live.extent(axis) for axis in shape_range(shape, len(shape.shape(0) or ()))]
    left, whole = [count for count, _ in extents], [period for _, period in extents]
    if left == whole:
        return
    raw: list[Edit] = []
    patched = shape.out.is_graph_output
    for use in shape.out.consumers:
        positions = picked_positions(use, len(extents))
        if positions is not None and all(left[at] == whole[at] for at in positions.reshape(-1)):
            raw.append(SetInput(use.node.ref, use.input_index, _raw(shape)))
            continue
        numbers = use.node.out.elements if positions is not None else None
        if numbers is not None and all(isinstance(item, int) for item in numbers.reshape(-1)):
            values = tuple(int(item) for item in numbers.reshape(-1))
            yield DropNode(use.node.ref, use.node.op_type)
            yield AddConstant(use.node.scope.ref, use.node.out.name, values, scalar=numbers.ndim == 0)
        else:
            patched = True
    if patched:
        yield from _frozen(shape, left, whole)
        yield from raw


def _raw(node: Node) -> str:
    return f"{node.out.name}/{MARK}_raw"


def _frozen(node: Node, left: Sequence[int] | int, whole: Sequence[int] | int) -> Iterator[Edit]:
    """Edits that turn sizes that a node shows into those of the original, right behind it."""
    yield SetOutput(node.ref, 0, _raw(node))
    behind = f"{node.scope.ref}[{node.position + 1}]"
    yield from scaled(behind, node.scope.ref, _raw(node), node.out.name, left, whole)


def picked_positions(use: Use, size: int) -> np.ndarray | None:
    """The elements that a Gather or Slice with literal indices picks, None for any other consumer."""
    node = use.node
    if use.input_index != 0 or node.domain != "" or node.out.is_graph_output:
        return None
    if is_a(node, "Gather"):
        literal = node.literal(1)
        return None if literal is None else np.asarray(literal % size)
    bounds = _bounds(node, 1)
    return None if bounds is None else np.arange(size)[bounds[0]]


def _bounds(node: Node, rank: int) -> list[slice] | None:
    """Return the bounds of a Slice on each axis, None where they are computed or the node is another one."""
    if not is_a(node, "Slice") or any(
        node.input(index) and node.literal(index) is None for index in (1, 2, 3, 4)
    ):
        return None
    starts, ends = node.int_list("starts", 1) or [], node.int_list("ends", 2) or []
    axes = node.int_list("axes", 3) or range(len(starts))
    steps = node.int_list("steps", 4) or [1] * len(starts)
    taken = [slice(None)] * rank
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        taken[axis] = slice(start, end, step)
    return taken


def _sliced(node: Node, live: Live) -> Live | None:
    """The number of entries that a Slice picks from the rest of its input, None if none, more, or not known."""
    shape = node.out.shape
    bounds = None if shape is None else _bounds(node, len(shape))
    if shape is None or bounds is None:
        return None
    through = FULL
    for axis in live.axes:
        left, whole = (len(range(count)[bounds[axis]]) for count in live.extent(axis))
        if shape[axis] != whole or not min(1, whole) <= left <= whole:
            return None
        through &= Live.over((axis,), np.arange(whole) < left)
    return through


# Shapes of values that are needed no more


@dataclass(frozen=True)
class _Place:
    """The insertion point of nodes that compute sizes."""

    scope: Scope
    before: str  # the reference of the node before which new nodes can go
    index: float  # `Node.index` of that node; what is read has to be computed by then


class ShapeSources:
    """Other sources for shapes of otherwise unused values."""

    def __init__(
        self,
        view: GraphView,
        kept: Mapping[Value, Live],
        contents: Collection[Value | str],
        going: Collection[Value],
    ) -> None:
        """Prepare the search.

        Args:
            kept: what a cut leaves of values.
            contents: the values whose contents are needed.
            going: graph inputs that are to be removed.
        """
        self._view, self._kept, self._contents, self._going = view, kept, contents, going
        self._scopes = {scope.ref: scope for scope in view.scopes}
        self._alike: dict[tuple[object, ...], list[Value]] = {}

    def of_new(self, shape: InsertNode) -> list[Edit] | None:
        """Edits in the place of a new node that shows a shape; None if there are none."""
        scope = self._scopes[scope_of(shape.before)]
        value, before = scope.lookup(shape.inputs[0]), self._view.by_ref.get(shape.before)
        if value is None or value.shape is None:
            return None
        place = _Place(scope, shape.before, math.inf if before is None else before.index)
        static = all(isinstance(dim, int) for dim in value.shape)
        other = None if static else self._same_size(value, place, range(len(value.shape)))
        if other is not None:
            return [replace(shape, inputs=(other.name,))]
        return self._spelled(value.shape, place, shape.outputs[0])

    def of_old(self, shape: Node, readers: Sequence[Use]) -> list[Edit]:
        """Edits that let a node show the shape of another value, or that compute what it shows; none if unknown."""
        value = shape.input(0)
        if value is None or value.shape is None:
            return []
        shown = shape_range(shape, len(value.shape)) if is_a(shape, "Shape") else range(len(value.shape))
        picked = [picked_positions(use, len(shown)) for use in readers]
        axes = {
            shown[int(at)] for positions in picked if positions is not None for at in positions.reshape(-1)
        }
        if not is_a(shape, "Shape") or shape.out.is_graph_output or any(item is None for item in picked):
            axes.update(shown)
        place = _Place(shape.scope, shape.ref, shape.index)
        other = self._same_size(value, place, sorted(axes))
        if other is not None:
            return [SetInput(shape.ref, 0, other.name)]
        listed = tuple(value.shape[axis] for axis in shown)
        edits = self._spelled(listed, place, shape.out.name) if is_a(shape, "Shape") else None
        return [] if edits is None else [DropNode(shape.ref, shape.op_type), *edits]

    def _stays(self, value: Value) -> bool:
        if value.producer is None:
            return value.is_graph_input and not value.is_initializer and value not in self._going
        return value in self._contents

    def _same_size(self, value: Value, place: _Place, axes: Sequence[int]) -> Value | None:
        """Return the first value that is kept and has the size of another one on some axes, None if there is none.

        Inputs come first, then values in graph order: those that are computed early (embeddings) carry no units, so
        that no other cut narrows them.
        """

        def sizes(of: Value) -> tuple[object, ...]:
            return len(of.shape or ()), *((of.shape or ())[axis] for axis in axes)

        key = (tuple(axes), sizes(value))
        if key not in self._alike:
            self._alike[key] = sorted(
                (
                    other
                    for other in self._view.values()
                    if other.shape is not None and len(other.shape) == value.rank and not other.is_constant
                    if sizes(other) == sizes(value) and not {*self._kept.get(other, FULL).axes} & {*axes}
                ),
                key=_index,
            )
        return next(
            (
                other
                for other in self._alike[key]
                if _index(other) < place.index and place.scope.lookup(other.name) is other
                if self._stays(other)
            ),
            None,
        )

    def _spelled(self, shape: Shape, place: _Place, name: str) -> list[Edit] | None:
        """Return edits that compute a shape as value `name` from sizes of the model inputs.

        None if a dimension is no polynomial in these.
        """
        numbers = tuple(dim for dim in shape if isinstance(dim, int))
        if len(numbers) == len(shape):
            return [AddConstant(place.scope.ref, name, numbers)]
        made: dict[Edit, None] = {}
        inner = name if MARK in name else f"{name}/{MARK}_sizes"

        def number(what: int) -> str:
            made[AddConstant(place.scope.ref, f"{inner}_number{what}", (what,))] = None
            return f"{inner}_number{what}"

        def inserted(op_type: str, inputs: Sequence[str], output: str, **attributes: int) -> str:
            made[nodes.new(place.before, op_type, inputs, f"{inner}_{output}", **attributes)] = None
            return f"{inner}_{output}"

        def size(symbol: str) -> str:
            value, axis = self._input_of_size(symbol)
            whole = inserted("Shape", (value.name,), f"of_{value.name}")
            return inserted("Gather", (whole, number(axis)), symbol, axis=0)

        def spelled(axis: int, dim: Dim) -> str:
            if isinstance(dim, int):
                return number(dim)
            terms = []
            for atoms, factor in dim.terms:
                parts = [*([number(factor)] if factor != 1 or not atoms else []), *map(size, atoms)]
                terms.append(reduce(lambda one, other: together("Mul", one, other), parts))
            return reduce(lambda one, other: together("Add", one, other), terms)

        def together(op_type: str, one: str, other: str) -> str:
            return inserted(op_type, (one, other), f"step{len(made)}")

        try:
            parts = [spelled(axis, dim) for axis, dim in enumerate(shape)]
        except LookupError:
            return None
        return [*made, nodes.new(place.before, "Concat", parts, name, axis=0)]

    def _input_of_size(self, symbol: str) -> tuple[Value, int]:
        """An axis of a kept model input whose size is a symbol.

        Raises:
            LookupError: if there is none.
        """
        for value in self._view.main.values.values():
            if value.producer is None and self._stays(value):
                for axis, dim in enumerate(value.shape or ()):
                    named = not isinstance(dim, int) and dim.terms == (((symbol,), 1),)
                    if named and axis not in self._kept.get(value, FULL).axes:
                        return value, axis
        raise LookupError(symbol)


def _index(value: Value) -> int:
    return -1 if value.producer is None else value.producer.index
