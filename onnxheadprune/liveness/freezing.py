"""Frozen shapes: a `Shape` or `Size` of a narrowed value keeps giving the original number, in that element alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from onnxheadprune.edit.edits import MARK, AddConstant, DropNode, Edit, SetInput, SetOutput
from onnxheadprune.errors import RefusedError
from onnxheadprune.liveness.carriers import carried
from onnxheadprune.liveness.literals import scaled, target_literals
from onnxheadprune.liveness.live import FULL, Live
from onnxheadprune.liveness.observers import only_observed
from onnxheadprune.model.graph.elements import shape_range
from onnxheadprune.model.graph.facts import GATHERS, RESHAPES, SHOWS_SHAPE, SHOWS_SIZE, SLICES
from onnxheadprune.model.graph.tables import roles_of
from onnxheadprune.model.graph.view import Node, Use, Value


def reads_own_shape(node: Node, kept: Mapping[Value, Live]) -> bool:
    """Return whether a node's target shape is the `Shape` of a value narrowed exactly as its own output."""
    index = roles_of(node).target
    target = None if index is None else node.input(index)
    shape = None if target is None else target.producer
    if shape is None or shape not in SHOWS_SHAPE or shape.attribute("start") or shape.attribute("end"):
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


def freeze_observers(value: Value, live: Live, kept: Mapping[Value, Live]) -> Iterator[Edit]:
    """Edits that keep what the shape observers of a narrowed value report."""
    for use in value.consumers:
        if use.node.domain == "" and use.node in SHOWS_SHAPE:
            yield from _freeze_shape(use.node, live, kept)
        elif use.node.domain == "" and use.node in SHOWS_SIZE:
            yield from _freeze_size(use.node, live)
        elif use.node.out not in kept and only_observed(use.node):
            through = carried(use.node, live)
            if through is None:
                raise RefusedError(f"{use.node.label} is only there for its shape, which cannot be followed")
            if use.node in RESHAPES:
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
        own = roles_of(use.node).target == use.input_index and reads_own_shape(use.node, kept)
        if own or (positions is not None and not narrowed.touches(positions)):
            readers.append(SetInput(use.node.ref, use.input_index, raw))
            continue
        numbers = use.node.out.elements if positions is not None else None
        if numbers is not None and all(isinstance(item, int) for item in numbers.reshape(-1)):
            yield from _become_constant(use.node, numbers)
            continue
        patched = True
    if patched or shape.out.is_graph_output:
        yield SetOutput(shape.ref, 0, raw)
        yield from scaled(_after(shape), shape.scope.ref, raw, shape.out.name, narrowed.live, narrowed.whole)
        yield from readers


def picked_positions(use: Use, size: int) -> np.ndarray | None:
    """Return which elements a Gather or Slice with literal indices takes, None for any other consumer."""
    node = use.node
    if use.input_index != 0 or node.domain != "" or node.out.is_graph_output:
        return None
    if node in GATHERS:
        literal = node.literal(1)
        return None if literal is None else np.asarray(literal % size)
    if node in SLICES:
        starts, ends = node.int_list("starts", 1), node.int_list("ends", 2)
        if starts is None or ends is None or (node.input(4) is not None and node.literal(4) is None):
            return None
        steps = node.literal(4)
        step = 1 if steps is None else int(steps.reshape(-1)[0])
        return np.arange(size)[starts[0] : ends[0] : step] if step > 0 else None
    return None


def _become_constant(node: Node, numbers: np.ndarray) -> Iterator[Edit]:
    values = tuple(int(item) for item in numbers.reshape(-1))
    yield DropNode(node.ref, node.op_type)
    yield AddConstant(node.scope.ref, node.out.name, values, scalar=numbers.ndim == 0)


def _freeze_size(size: Node, live: Live) -> Iterator[Edit]:
    counts = [live.extent(axis) for axis in live.axes]
    raw = f"{size.out.name}/{MARK}_raw"
    kept = int(np.prod([count for count, _ in counts]))
    whole = int(np.prod([period for _, period in counts]))
    yield SetOutput(size.ref, 0, raw)
    yield from scaled(_after(size), size.scope.ref, raw, size.out.name, kept, whole)


def _after(node: Node) -> str:
    """The node that follows, before which something that reads `node` can be inserted."""
    return node.scope.nodes[node.position + 1].ref
