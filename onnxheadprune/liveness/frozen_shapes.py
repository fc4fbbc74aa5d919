"""Outputs of `Shape` and `Size` nodes of narrowed values, which keep the original number in that element."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from onnxheadprune.edit.edits import MARK, AddConstant, DropNode, Edit, SetInput, SetOutput
from onnxheadprune.errors import RefusedError
from onnxheadprune.liveness.carriers import carried
from onnxheadprune.liveness.consumers import only_observed
from onnxheadprune.liveness.live import FULL, Live
from onnxheadprune.liveness.shape_literals import reads_own_shape, scaled, target_literals
from onnxheadprune.model.graph.elements import shape_range
from onnxheadprune.model.graph.operator import is_a
from onnxheadprune.model.graph.view import Node, Use, Value


def freeze_observers(value: Value, live: Live, kept: Mapping[Value, Live]) -> Iterator[Edit]:
    """Edits that keep the results of the shape observers of a narrowed value."""
    for use in value.consumers:
        if use.node.domain == "" and is_a(use.node, "Shape"):
            yield from _freeze_shape(use.node, live, kept)
        elif use.node.domain == "" and is_a(use.node, "Size"):
            yield from _freeze_size(use.node, live)
        elif use.node.out not in kept and only_observed(use.node):
            through = carried(use.node, live) or _sliced(use.node, live)
            if through is None:
                raise RefusedError(f"{use.node.label} is only there for its shape, which cannot be followed")
            if is_a(use.node, "Reshape"):
                yield from target_literals(use.node, 1, through)
            yield from freeze_observers(use.node.out, through, kept)


@dataclass(frozen=True)
class _Narrowed:
    """For every element that a Shape node reports: entries kept and entries in the original."""

    live: list[int]
    whole: list[int]

    def touches(self, positions: np.ndarray) -> bool:
        return any(self.live[int(p)] != self.whole[int(p)] for p in positions.reshape(-1))


def _freeze_shape(shape: Node, live: Live, kept: Mapping[Value, Live]) -> Iterator[Edit]:
    observed = shape.input(0)
    assert observed is not None and observed.shape is not None
    extents = [live.extent(axis) for axis in shape_range(shape, len(observed.shape))]
    narrowed = _Narrowed([extent[0] for extent in extents], [extent[1] for extent in extents])
    if narrowed.live == narrowed.whole:
        return
    raw = f"{shape.out.name}/{MARK}_raw"
    readers: list[Edit] = []
    patched = False
    for use in shape.out.consumers:
        positions = picked_positions(use, len(extents))
        own = use.node.roles.target == use.input_index and reads_own_shape(use.node, kept)
        if own or (positions is not None and not narrowed.touches(positions)):
            readers.append(SetInput(use.node.ref, use.input_index, raw))
            continue
        numbers = use.node.out.elements if positions is not None else None
        if numbers is not None and all(isinstance(item, int) for item in numbers.reshape(-1)):
            values = tuple(int(item) for item in numbers.reshape(-1))
            yield DropNode(use.node.ref, use.node.op_type)
            yield AddConstant(use.node.scope.ref, use.node.out.name, values, scalar=numbers.ndim == 0)
            continue
        patched = True
    if patched or shape.out.is_graph_output:
        yield SetOutput(shape.ref, 0, raw)
        yield from scaled(_after(shape), shape.scope.ref, raw, shape.out.name, narrowed.live, narrowed.whole)
        yield from readers


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


def _freeze_size(size: Node, live: Live) -> Iterator[Edit]:
    counts = [live.extent(axis) for axis in live.axes]
    raw = f"{size.out.name}/{MARK}_raw"
    kept = int(np.prod([count for count, _ in counts]))
    whole = int(np.prod([period for _, period in counts]))
    yield SetOutput(size.ref, 0, raw)
    yield from scaled(_after(size), size.scope.ref, raw, size.out.name, kept, whole)


def _after(node: Node) -> str:
    """The next node, before which readers of `node` can be inserted."""
    return f"{node.scope.ref}[{node.position + 1}]"


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
