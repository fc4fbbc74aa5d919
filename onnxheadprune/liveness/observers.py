"""Shape observers: a `Shape` or `Size` of a narrowed value keeps giving the original numbers.

Exports compute scales, masks and target shapes from the shapes of Q, K and V. Such a node does not need
the removed heads, only their number, so that number is frozen, in that element alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from onnxheadprune.edit.edits import MARK, AddConstant, DropNode, Edit, SetInput, SetOutput
from onnxheadprune.errors import RefusedError
from onnxheadprune.liveness.axes import reshape_back
from onnxheadprune.liveness.literals import scaled, target_literals
from onnxheadprune.liveness.live import FULL, Live, fits
from onnxheadprune.liveness.refusal import Refusal
from onnxheadprune.liveness.registry import rule_for
from onnxheadprune.model.graph.dims import divisor
from onnxheadprune.model.graph.elements import shape_range
from onnxheadprune.model.graph.facts import (
    CARRIERS,
    CASTS_LIKE,
    CHOOSES,
    GATHERS,
    OBSERVES,
    RESHAPES,
    SHOWS_SHAPE,
    SHOWS_SIZE,
    SLICES,
)
from onnxheadprune.model.graph.tables import roles_of
from onnxheadprune.model.graph.view import Node, Use, Value

"""Operators that look at a value's shape only: they never ask for its contents."""
ONLY_SHOWN = CARRIERS | SLICES
"""Operators that pass a value on under other axes or another type."""


def looks_only(use: Use) -> bool:
    """Whether one edge asks for a value's shape or type, never for its contents."""
    if use.node in CASTS_LIKE and use.input_index == 1:
        return True
    return only_observed(use.node) and (use.input_index == 0 or use.node.op_type not in ("Reshape", "Slice"))


def only_observed(node: Node, depth: int = 6) -> bool:
    """Whether a node merely carries a value to shape observers, so that it asks for no contents itself."""
    if node in OBSERVES:
        return True
    if depth == 0 or node.domain or node not in ONLY_SHOWN or node.out.is_graph_output:
        return False
    return bool(node.out.consumers) and all(
        use.input_index == 0 and only_observed(use.node, depth - 1) for use in node.out.consumers
    )


def passes_on(node: Node) -> bool:
    """Whether a node is a carrier, or takes one index of an axis (keys out of a packed cache)."""
    if node.domain:
        return False
    return node in CARRIERS or (node in GATHERS and _picked(node) is not None)


def _picked(node: Node) -> int | None:
    """The one literal index that a Gather takes, None if it takes another number of them."""
    literal = node.literal(1)
    return int(literal) if literal is not None and literal.ndim == 0 else None


def carrier_outputs(value: Value, depth: int = 6) -> list[Value]:
    """Values that merely pass `value` on: through carriers, or out of the branches of an `If`."""
    found: list[Value] = []
    if depth == 0:
        return found
    for use in value.consumers:
        if passes_on(use.node):
            found += [use.node.out, *carrier_outputs(use.node.out, depth - 1)]
    for output in branch_outputs(value):
        found += [output, *carrier_outputs(output, depth - 1)]
    return found


def branch_outputs(value: Value) -> list[Value]:
    """The output of an `If` that hands on what one of its branches hands out, none for any other value."""
    owner = value.scope.owner
    if not value.is_graph_output or owner is None or owner not in CHOOSES:
        return []
    names = [info.name for info in value.scope.proto.output]
    output = owner.outputs[names.index(value.name)] if value.name in names else None
    return [] if output is None else [output]


def only_passed_on(node: Node, free: frozenset[Value], depth: int = 6) -> bool:
    """Whether a carrier leads to graph outputs that may be narrowed, and to nothing else."""
    if depth == 0 or not passes_on(node) or node in RESHAPES:
        return False
    return leads_out(node.out, free, depth - 1)


def leads_out(value: Value, free: frozenset[Value], depth: int = 6) -> bool:
    """Whether a value is used for nothing but free graph outputs and shape observers."""
    if value.is_graph_output and value not in free:
        owner, names = value.scope.owner, [info.name for info in value.scope.proto.output]
        if owner is None or owner not in CHOOSES or value.name not in names:
            return False
        output = owner.outputs[names.index(value.name)]
        if output is None or not leads_out(output, free, depth - 1):
            return False
    elif not value.is_graph_output and not value.consumers:
        return False
    return all(looks_only(use) or only_passed_on(use.node, free, depth) for use in value.consumers)


def carried(node: Node, live: Live) -> Live | None:
    """What is left of the output of a carrier whose input keeps `live`: the rule of the node, read forwards."""
    entry, shape, source = rule_for(node), node.out.shape, node.shape(0)
    if entry is None or shape is None or source is None:
        return None
    if node in RESHAPES:
        # A reshape read backwards is a reshape.
        return reshape_back(live, shape, source)
    mapping: dict[int, int] = {}
    if node in GATHERS:
        picked = node.attribute("axis", 0) % len(source)
        others = [axis for axis in range(len(source)) if axis != picked]
        return live.renumbered({a: others.index(a) for a in live.axes}) if picked not in live.axes else None
    for axis, dim in enumerate(shape):
        size = dim if isinstance(dim, int) else divisor(dim)
        if size < 2:
            continue
        answer = entry.function(node, [Live.over((axis,), np.arange(size) % 2)])
        if not isinstance(answer, Refusal) and answer.inputs[0].axes:
            mapping[answer.inputs[0].axes[0]] = axis
    if any(axis not in mapping for axis in live.axes):
        return None
    through = live.renumbered({axis: mapping[axis] for axis in live.axes})
    if not fits(through, shape):
        return None
    answer = entry.function(node, [through])
    # A Slice of the live axis itself keeps a part of it that this does not tell.
    if isinstance(answer, Refusal) or answer.inputs[0].only(live.axes).as_mask() != live.as_mask():
        return None
    return through


def reads_own_shape(node: Node, kept: Mapping[Value, Live]) -> bool:
    """Whether a node's target shape is the `Shape` of a value narrowed exactly as its own output."""
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
        positions = _picked_positions(use, len(extents))
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


def _picked_positions(use: Use, size: int) -> np.ndarray | None:
    """Which elements a Gather or Slice with literal indices takes, None for any other consumer."""
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
    yield from scaled(_after(size), size.scope.ref, raw, size.out.name, [kept], [whole], scalar=True)


def _after(node: Node) -> str:
    """The node that follows, before which something that reads `node` can be inserted."""
    return node.scope.nodes[node.position + 1].ref
