"""Carriers: nodes that only hand a value on, under other axes or another type, and where they lead.

A cache is such a value: what is left of it, its carriers hand out.
"""

from __future__ import annotations

import numpy as np

from onnxheadprune.liveness.asking import ask
from onnxheadprune.liveness.axes import reshape_back
from onnxheadprune.liveness.domain import MASKS
from onnxheadprune.liveness.live import Live, fits
from onnxheadprune.liveness.observers import looks_only
from onnxheadprune.liveness.refusal import Refusal
from onnxheadprune.model.graph.dims import divisor
from onnxheadprune.model.graph.facts import CARRIERS, CHOOSES, GATHERS, RESHAPES
from onnxheadprune.model.graph.view import Node, Value

MAX_HOPS = 6
"""Carriers in a row that are followed."""


def passes_on(node: Node) -> bool:
    """Return whether a node is a carrier, or takes one index of an axis (keys out of a packed cache)."""
    if node.domain:
        return False
    return node in CARRIERS or (node in GATHERS and _picked(node) is not None)


def _picked(node: Node) -> int | None:
    """The one literal index that a Gather takes, None if it takes another number of them."""
    literal = node.literal(1)
    return int(literal) if literal is not None and literal.ndim == 0 else None


def outlet(value: Value) -> Value | None:
    """The output of an `If` that a value becomes which one of its branches hands out; None for any other value."""
    owner = value.scope.owner
    if not value.is_graph_output or owner is None or owner not in CHOOSES:
        return None
    names = [info.name for info in value.scope.proto.output]
    return owner.outputs[names.index(value.name)] if value.name in names else None


def carrier_outputs(value: Value, depth: int = MAX_HOPS) -> list[Value]:
    """Values that merely pass `value` on: through carriers, or out of the branches of an `If`."""
    if depth == 0:
        return []
    handed_on = [use.node.out for use in value.consumers if passes_on(use.node)]
    output = outlet(value)
    if output is not None:
        handed_on.append(output)
    return [found for item in handed_on for found in (item, *carrier_outputs(item, depth - 1))]


def only_passed_on(node: Node, free: frozenset[Value], depth: int = MAX_HOPS) -> bool:
    """Return whether a carrier leads to graph outputs that may be narrowed, and to nothing else."""
    if depth == 0 or not passes_on(node) or node in RESHAPES:
        return False
    return leads_out(node.out, free, depth - 1)


def leads_out(value: Value, free: frozenset[Value], depth: int = MAX_HOPS) -> bool:
    """Return whether a value is used for nothing but free graph outputs and shape observers."""
    if value.is_graph_output and value not in free:
        output = outlet(value)
        if output is None or not leads_out(output, free, depth - 1):
            return False
    elif not value.is_graph_output and not value.consumers:
        return False
    return all(looks_only(use) or only_passed_on(use.node, free, depth) for use in value.consumers)


def carried(node: Node, live: Live) -> Live | None:
    """What is left of the output of a carrier whose input keeps `live`, a mask or labels: its law, read forwards."""
    shape, source = node.out.shape, node.shape(0)
    if shape is None or source is None:
        return None
    if node in RESHAPES:
        # A reshape read backwards is a reshape.
        return reshape_back(live, shape, source)
    mapping = _picked_axes(node, len(source)) if node in GATHERS else _moved_axes(node)
    if any(axis not in mapping for axis in live.axes):
        return None
    through = live.renumbered({axis: mapping[axis] for axis in live.axes})
    if node in GATHERS:
        return through
    if not fits(through, shape):
        return None
    answer = ask(node, [through.as_mask()], MASKS)
    # A Slice of the live axis itself keeps a part of it that this does not tell.
    if isinstance(answer, Refusal) or answer.inputs[0].only(live.axes).as_mask() != live.as_mask():
        return None
    return through


def _picked_axes(node: Node, rank: int) -> dict[int, int]:
    """Return where the axes of the input of a Gather lie that takes one index: all but the one that is picked from."""
    picked = node.attribute("axis", 0) % rank
    others = [axis for axis in range(rank) if axis != picked]
    return {axis: position for position, axis in enumerate(others)}


def _moved_axes(node: Node) -> dict[int, int]:
    """Return where the axes of a carrier's input lie in its output: its law is asked for every other index of each."""
    mapping: dict[int, int] = {}
    for axis, dim in enumerate(node.out.shape or ()):
        size = dim if isinstance(dim, int) else divisor(dim)
        if size < 2:
            continue
        answer = ask(node, [Live.over((axis,), np.arange(size) % 2 == 1)], MASKS)
        if not isinstance(answer, Refusal) and answer.inputs[0].axes:
            mapping[answer.inputs[0].axes[0]] = axis
    return mapping
