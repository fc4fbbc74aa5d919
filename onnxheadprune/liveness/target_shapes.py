"""Target shapes of Reshape, Expand and the like, where what they make is narrower.

ONNX Runtime's fusions read the head count from literals, so these replace what a target computes of units; batch and
sequence stay as the exporter computed them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxheadprune.edit import nodes
from onnxheadprune.edit.edits import MARK, AddConstant, Edit, SetInput
from onnxheadprune.edit.nodes import free_name
from onnxheadprune.liveness.live import Live
from onnxheadprune.model.graph.dims import Symbolic
from onnxheadprune.model.graph.operator import is_a
from onnxheadprune.model.graph.view import Node, Value


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
