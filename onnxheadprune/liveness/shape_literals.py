"""Literals instead of computed sizes in the target shape of a Reshape or Expand.

ONNX Runtime's fusions read literal head counts, and a computed shape would keep the original number, so the element of
every narrowed axis of a target is replaced, and only that element: batch and sequence stay as the exporter computed
them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxheadprune.edit import nodes
from onnxheadprune.edit.edits import MARK, AddConstant, Edit, SetInput
from onnxheadprune.edit.renaming import free_name
from onnxheadprune.liveness.live import FULL, Live
from onnxheadprune.model.graph.dims import Shape, Symbolic
from onnxheadprune.model.graph.operator import is_a
from onnxheadprune.model.graph.view import Node, Value


@dataclass(frozen=True)
class Change:
    """The change of one element of a target shape: `old // period * live`, or simply `number`."""

    axis: int
    period: int
    live: int
    number: int | None

    @property
    def tag(self) -> str:
        """A part of a name that is unique per change."""
        return f"{self.axis}_{self.live}of{self.period}"


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
    changes = [_change(live, shape, axis) for axis in live.axes if axes is None or axis in axes]
    changes = [change for change in changes if change.live != change.period]
    changes += [Change(axis, 1, 1, number) for axis, number in (copied or {}).items()]
    # An Expand target may have fewer axes than the output, and 1 where it leaves an axis as it is.
    changes = [change for change in changes if _element(target, shape, change.axis) >= 0]
    if is_a(node, "Expand") and target.elements is not None:
        changes = [c for c in changes if target.elements[_element(target, shape, c.axis)] != 1]
    if not changes:
        return []
    literal = target.literal()
    if literal is not None:
        return _new_constant(node, index, target, literal.reshape(-1), changes, shape)
    from_concat = _from_concat(node, index, target, changes)
    return from_concat if from_concat is not None else _computed(node, index, target, changes)


def _change(live: Live, shape: Shape, axis: int) -> Change:
    count, period = live.extent(axis)
    dim = shape[axis]
    return Change(axis, period, count, None if isinstance(dim, Symbolic) else dim // period * count)


def _element(target: Value, shape: Shape, axis: int) -> int:
    """The element of a target that describes an output axis; negative if none does."""
    size = len(shape)
    if target.shape is not None and len(target.shape) == 1 and isinstance(target.shape[0], int):
        size = target.shape[0]
    return axis - (len(shape) - size)


def _name(target: Value, changes: Sequence[Change]) -> str:
    return f"{target.name}/{MARK}_" + "_".join(change.tag for change in changes)


def _new_constant(
    node: Node, index: int, target: Value, literal: np.ndarray, changes: Sequence[Change], shape: Shape
) -> Sequence[Edit]:
    values = [int(item) for item in literal]
    offset = len(shape) - len(values)
    for change in changes:
        old = values[change.axis - offset]
        if change.number is not None:
            values[change.axis - offset] = change.number
        elif old > 0:
            values[change.axis - offset] = old // change.period * change.live
    if values == [int(item) for item in literal]:
        return []
    name = _name(target, changes)
    return [AddConstant(node.scope.ref, name, tuple(values)), SetInput(node.ref, index, name)]


def _from_concat(node: Node, index: int, target: Value, changes: Sequence[Change]) -> Sequence[Edit] | None:
    """The exporters' usual form: a Concat of one-element pieces and literal runs."""
    concat = target.producer
    if concat is None or not is_a(concat, "Concat") or concat.scope is not node.scope:
        return None
    pieces = list(concat.inputs)
    starts = [0]
    for piece in pieces:
        if (
            piece is None
            or piece.shape is None
            or len(piece.shape) != 1
            or not isinstance(piece.shape[0], int)
        ):
            return None
        starts.append(starts[-1] + piece.shape[0])
    offset = len(node.out.shape or ()) - starts[-1]
    names = [piece.name for piece in pieces if piece is not None]
    edits: list[Edit] = []
    for change in changes:
        element = change.axis - offset
        at = max(position for position, start in enumerate(starts[:-1]) if start <= element)
        piece = pieces[at]
        assert piece is not None
        literal = piece.literal()
        width = starts[at + 1] - starts[at]
        name = f"{target.name}/{MARK}_{change.tag}_piece{at}"
        if literal is not None:
            if names[at] != piece.name:
                return None
            values = [int(item) for item in literal.reshape(-1)]
            old = values[element - starts[at]]
            if change.number is None and old <= 0:
                continue
            new = change.number if change.number is not None else old // change.period * change.live
            values[element - starts[at]] = new
            edits.append(AddConstant(node.scope.ref, name, tuple(values)))
        elif width != 1:
            return None
        elif change.number is not None:
            edits.append(AddConstant(node.scope.ref, name, (change.number,)))
        else:
            edits += scaled(concat.ref, node.scope.ref, piece.name, name, [change.period], [change.live])
        names[at] = name
    if not edits:
        return []
    name = _name(target, changes)
    edits.append(nodes.new(concat.ref, "Concat", tuple(names), name, axis=0))
    return [*edits, SetInput(node.ref, index, name)]


def _computed(node: Node, index: int, target: Value, changes: Sequence[Change]) -> Sequence[Edit]:
    """Any other computed shape: literals replace its elements, dimensions of unknown size are scaled at run time."""
    rank = len(node.out.shape or ())
    size = rank
    if target.shape is not None and len(target.shape) == 1 and isinstance(target.shape[0], int):
        size = target.shape[0]
    periods, counts, mask, numbers = [1] * size, [1] * size, [0] * size, [0] * size
    for change in changes:
        element = change.axis - (rank - size)
        inferred = target.elements is not None and target.elements[element] == -1
        if change.number is not None:
            mask[element], numbers[element] = 1, change.number
        elif not inferred:
            periods[element], counts[element] = change.period, change.live
    scope, source, edits = node.scope.ref, target.name, list[Edit]()
    if periods != counts:
        name = free_name(node.scope, f"{node.out.name}/{MARK}_scaled")
        edits += scaled(node.ref, scope, source, name, periods, counts)
        source = name
    if any(mask):
        name = free_name(node.scope, f"{node.out.name}/{MARK}_shape")
        edits.append(AddConstant(scope, f"{name}_literals", tuple(numbers)))
        edits.append(AddConstant(scope, f"{name}_mask", tuple(mask), dtype="bool"))
        edits.append(nodes.new(node.ref, "Where", (f"{name}_mask", f"{name}_literals", source), name))
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


def reads_own_shape(node: Node, kept: Mapping[Value, Live]) -> bool:
    """Return whether a node's target shape is the `Shape` of a value narrowed exactly as its own output."""
    index = node.roles.target
    target = None if index is None else node.input(index)
    shape = None if target is None else target.producer
    if shape is None or not is_a(shape, "Shape") or shape.attribute("start") or shape.attribute("end"):
        return False
    observed = shape.input(0)
    if observed is None or observed.shape is None or node.out.shape is None:
        return False
    ours, theirs = kept.get(node.out, FULL), kept.get(observed, FULL)
    if len(observed.shape) != len(node.out.shape) or ours.is_full:
        return False
    axes = {*ours.axes, *theirs.axes}
    return all(
        observed.shape[axis] == node.out.shape[axis] and ours.extent(axis) == theirs.extent(axis)
        for axis in axes
    )
