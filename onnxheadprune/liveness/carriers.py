"""Carriers: nodes that only pass a value on under other axes or another type, as on the way to a cache."""

from __future__ import annotations

import numpy as np

from onnxheadprune.liveness.axes import reshape_back
from onnxheadprune.liveness.consumers import MAX_CARRIERS, looks_only
from onnxheadprune.liveness.domain import MASKS
from onnxheadprune.liveness.live import DEAD, FULL, Live, fits
from onnxheadprune.liveness.refusals import Refusal
from onnxheadprune.liveness.rule_calls import ask
from onnxheadprune.model.graph.dims import divisor
from onnxheadprune.model.graph.operator import CARRIERS, VIEWS, is_a, kind
from onnxheadprune.model.graph.view import Node, Value


def passes_on(node: Node) -> bool:
    """Return whether a node is a carrier, or takes one index of an axis (keys out of a packed cache)."""
    if node.domain:
        return False
    return node in CARRIERS or (is_a(node, "Gather") and _picked(node) is not None)


def _picked(node: Node) -> int | None:
    """The one literal index that a Gather takes, None if it takes another number of them."""
    literal = node.literal(1)
    return int(literal) if literal is not None and literal.ndim == 0 else None


def outlet(value: Value) -> Value | None:
    """The output of an `If` for an output of one of its branches; None for any other value."""
    owner = value.scope.owner
    if not value.is_graph_output or owner is None or not is_a(owner, "If"):
        return None
    names = [info.name for info in value.scope.proto.output]
    return owner.outputs[names.index(value.name)] if value.name in names else None


def carrier_outputs(value: Value, depth: int = MAX_CARRIERS) -> list[Value]:
    """Copies of `value`: through carriers, or out of the branches of an `If`."""
    if depth == 0:
        return []
    handed_on = [use.node.out for use in value.consumers if passes_on(use.node)]
    output = outlet(value)
    if output is not None:
        handed_on.append(output)
    return [found for item in handed_on for found in (item, *carrier_outputs(item, depth - 1))]


def only_passed_on(node: Node, narrowable: frozenset[Value], depth: int = MAX_CARRIERS) -> bool:
    """Return whether a carrier leads to graph outputs that may be narrowed, and to nothing else."""
    if depth == 0 or not passes_on(node) or is_a(node, "Reshape"):
        return False
    return leads_out(node.out, narrowable, depth - 1)


def leads_out(value: Value, narrowable: frozenset[Value], depth: int = MAX_CARRIERS) -> bool:
    """Return whether a value is only used for graph outputs that may be narrowed and shape observers."""
    if value.is_graph_output and value not in narrowable:
        output = outlet(value)
        if output is None or not leads_out(output, narrowable, depth - 1):
            return False
    elif not value.is_graph_output and not value.consumers:
        return False
    return all(looks_only(use) or only_passed_on(use.node, narrowable, depth) for use in value.consumers)


def carried(node: Node, live: Live) -> Live | None:
    """The kept part of a carrier's output if its input keeps `live`, a mask or labels: its rule, applied forwards."""
    shape, source = node.out.shape, node.shape(0)
    if shape is None or source is None:
        return None
    if is_a(node, "Reshape", "Flatten"):
        # A reshape read backwards is a reshape.
        return reshape_back(live, shape, source)
    mapping = _picked_axes(node, len(source)) if is_a(node, "Gather") else moved_axes(node)
    if any(axis not in mapping for axis in live.axes):
        return None
    through = live.renumbered({axis: mapping[axis] for axis in live.axes})
    if is_a(node, "Gather"):
        return through
    if not fits(through, shape):
        return None
    answer = ask(node, [through.as_mask()], MASKS)
    # A Slice of the live axis itself keeps a part of it that this does not tell.
    if isinstance(answer, Refusal) or answer.inputs[0].only(live.axes).as_mask() != live.as_mask():
        return None
    return through


def _picked_axes(node: Node, rank: int) -> dict[int, int]:
    """Return the output axes of the input axes of a Gather with one index: all but the picked one."""
    picked = node.attribute("axis", 0) % rank
    others = [axis for axis in range(rank) if axis != picked]
    return {axis: position for position, axis in enumerate(others)}


def on_all_outputs(node: Node, live: Live) -> list[Live]:
    """Return one live set for the first output of a node and for all others that are read."""
    return [
        live if not index or (value is not None and value.is_read) else DEAD
        for index, value in enumerate(node.outputs)
    ]


def moved_axes(node: Node, index: int = 0) -> dict[int, int]:
    """Return the output axes of a node's input axes, found by asking its rule for every second index of each."""
    mapping: dict[int, int] = {}
    for axis, dim in enumerate(node.out.shape or ()):
        size = dim if isinstance(dim, int) else divisor(dim)
        if size < 2:
            continue
        half = Live.over((axis,), np.arange(size) % 2 == 1)
        answer = ask(node, on_all_outputs(node, half), MASKS)
        read = DEAD if isinstance(answer, Refusal) else answer.inputs.get(index, DEAD)
        for own in read.axes:
            # Of another axis the node may pick a part.
            if np.array_equal(read.only([own]).mask, half.mask):
                mapping[own] = axis
    return mapping


def labels_behind(node: Node, index: int, live: Live) -> Live | None:
    """The labels of a node's output if an input has `live`; None where its rule does not let them through."""
    shape, source = node.out.shape, node.shape(index)
    if shape is None or source is None:
        return None
    if node in CARRIERS | kind("Flatten") and index == 0:
        return carried(node, live)
    moved = moved_axes(node, index)
    if not moved.keys() >= set(live.axes):
        return None
    found = live.renumbered(moved)
    half, wanted = (Live.over(item.axes, item.array % 2 == 0) for item in (found, live))
    answer = ask(node, on_all_outputs(node, half), MASKS)
    # A Slice of another axis reads a part of that.
    read = FULL if isinstance(answer, Refusal) else answer.inputs.get(index, FULL)
    return found if read.only(live.axes) == wanted else None


LOOKED_THROUGH = VIEWS | kind("Cast")
