"""Sizes that a model reads off values: where does one come from if the value is narrower, or is needed no more?

* What a `Shape` or `Size` of a narrowed value shows keeps the original number in that element. Only Reshapes and their
  like get their own literals, since ONNX Runtime's fusions read the head count from them; batch and sequence stay as
  the exporter computed them.
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
from onnxheadprune.edit.renaming import free_name
from onnxheadprune.errors import RefusedError
from onnxheadprune.liveness.carriers import carried
from onnxheadprune.liveness.consumers import only_observed
from onnxheadprune.liveness.live import FULL, Live
from onnxheadprune.model.graph.dims import Dim, Shape, Symbolic
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


# Target shapes of narrowed outputs


@dataclass(frozen=True)
class _Change:
    """The change of one element of a target shape: `old // period * live`, or simply `number`."""

    tag: str  # a part of a name that is unique per change
    element: int
    period: int
    live: int
    number: int | None

    def of(self, old: int) -> int:
        """The new element; what a target copies or infers stays."""
        if self.number is not None:
            return self.number
        return old // self.period * self.live if old > 0 else old


def target_literals(
    node: Node,
    index: int,
    live: Live,
    axes: Sequence[int] | None = None,
    copied: Mapping[int, int] | None = None,
) -> Sequence[Edit]:
    """Edits that make input `index`, the target shape of `node`, describe the narrowed output.

    Args:
        axes: the narrowed axes that the input describes; all of them if None.
        copied: sizes of axes whose 0 in the target would copy a narrowed axis of the input.
    """
    target, shape = node.input(index), node.out.shape
    if target is None or shape is None:
        return []
    length = _length(target)
    size = len(shape) if length is None else length
    # An Expand target may have fewer axes than the output, and 1 where it leaves an axis as it is.
    offset = len(shape) - size
    changes = []
    for axis in live.axes if axes is None else [axis for axis in live.axes if axis in axes]:
        (count, period), dim = live.extent(axis), shape[axis]
        number = None if isinstance(dim, Symbolic) else dim // period * count
        if count != period and axis >= offset:
            changes.append(_Change(f"{axis}_{count}of{period}", axis - offset, period, count, number))
    changes += [
        _Change(f"{axis}_1of1", axis - offset, 1, 1, number)
        for axis, number in (copied or {}).items()
        if axis >= offset
    ]
    if is_a(node, "Expand") and target.elements is not None:
        changes = [change for change in changes if target.elements[change.element] != 1]
    if not changes:
        return []
    literal = target.literal()
    if literal is None:
        joined = _joined(node, index, target, changes)
        return _computed(node, index, target, changes, size) if joined is None else joined
    values = [int(item) for item in literal.reshape(-1)]
    new = list(values)
    for change in changes:
        new[change.element] = change.of(values[change.element])
    name = _name(target, changes)
    constant = AddConstant(node.scope.ref, name, tuple(new))
    return [] if new == values else [constant, SetInput(node.ref, index, name)]


def _length(value: Value | None) -> int | None:
    """The number of elements of a list, None if that is unknown."""
    shape = None if value is None else value.shape
    return shape[0] if shape is not None and len(shape) == 1 and isinstance(shape[0], int) else None


def _name(target: Value, changes: Sequence[_Change]) -> str:
    return f"{target.name}/{MARK}_" + "_".join(change.tag for change in changes)


def _joined(node: Node, index: int, target: Value, changes: Sequence[_Change]) -> Sequence[Edit] | None:
    """The exporters' usual form: a Concat of one-element pieces and literal runs."""
    concat = target.producer
    if concat is None or not is_a(concat, "Concat") or concat.scope is not node.scope:
        return None
    pieces, widths = concat.sources, [_length(piece) for piece in concat.inputs]
    known = [width for width in widths if width is not None]
    if len(known) < len(widths):
        return None
    names, ends = [piece.name for piece in pieces], np.cumsum(known)
    edits: list[Edit] = []
    for change in changes:
        at = int(np.searchsorted(ends, change.element, side="right"))
        piece, literal = pieces[at], pieces[at].literal()
        name = f"{target.name}/{MARK}_{change.tag}_piece{at}"
        if literal is not None:
            if names[at] != piece.name:
                return None
            values = [int(item) for item in literal.reshape(-1)]
            place = change.element - int(ends[at]) + known[at]
            if change.number is None and values[place] <= 0:
                continue
            values[place] = change.of(values[place])
            edits.append(AddConstant(node.scope.ref, name, tuple(values)))
        elif known[at] != 1:
            return None
        elif change.number is not None:
            edits.append(AddConstant(node.scope.ref, name, (change.number,)))
        else:
            edits += scaled(concat.ref, node.scope.ref, piece.name, name, [change.period], [change.live])
        names[at] = name
    if not edits:
        return []
    name = _name(target, changes)
    return [*edits, nodes.new(concat.ref, "Concat", names, name, axis=0), SetInput(node.ref, index, name)]


def _computed(node: Node, index: int, target: Value, changes: Sequence[_Change], size: int) -> Sequence[Edit]:
    """Any other computed shape: literals replace its elements, dimensions of unknown size are scaled at run time."""
    periods, counts, mask, numbers = [1] * size, [1] * size, [0] * size, [0] * size
    for change in changes:
        at = change.element
        if change.number is not None:
            mask[at], numbers[at] = 1, change.number
        elif target.elements is None or target.elements[at] != -1:
            periods[at], counts[at] = change.period, change.live
    scope, source, edits = node.scope.ref, target.name, list[Edit]()
    if periods != counts:
        name = free_name(node.scope, f"{node.out.name}/{MARK}_scaled")
        edits += scaled(node.ref, scope, source, name, periods, counts)
        source = name
    if any(mask):
        name = free_name(node.scope, f"{node.out.name}/{MARK}_shape")
        edits += [
            AddConstant(scope, f"{name}_literals", tuple(numbers)),
            AddConstant(scope, f"{name}_mask", tuple(mask), dtype="bool"),
            nodes.new(node.ref, "Where", (f"{name}_mask", f"{name}_literals", source), name),
        ]
        source = name
    return [*edits, SetInput(node.ref, index, source)] if edits else []


def scaled(
    before: str,
    scope: str,
    source: str,
    name: str,
    periods: Sequence[int] | int,
    counts: Sequence[int] | int,
    dtype: str = "int64",
) -> list[Edit]:
    """Edits that compute `source // periods * counts`, of type `dtype` as `source` is, as value `name`."""
    own = name if MARK in name else source
    return [
        AddConstant.of(scope, f"{own}_of", np.array(periods, dtype)),
        AddConstant.of(scope, f"{own}_live", np.array(counts, dtype)),
        nodes.new(before, "Div", (source, f"{own}_of"), f"{own}_whole"),
        nodes.new(before, "Mul", (f"{own}_whole", f"{own}_live"), name),
    ]


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
