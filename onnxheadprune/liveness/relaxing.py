"""A view between a shared value and a node that picks from it hands on all that the value keeps.

Queries, keys and values are often views of one packed value (`Transpose`, then `Gather` number 1 of 3). Asked for
precisely, each view would need a gather of its own, although the picking node can move its indices instead.
"""

from __future__ import annotations

from collections.abc import Callable

from onnxheadprune.liveness.asking import ask
from onnxheadprune.liveness.carriers import carried
from onnxheadprune.liveness.domain import MASKS
from onnxheadprune.liveness.live import FULL, Live
from onnxheadprune.liveness.observers import looks_only
from onnxheadprune.liveness.refusal import Refusal
from onnxheadprune.liveness.registry import Answer
from onnxheadprune.model.graph.facts import CASTS, VIEWS
from onnxheadprune.model.graph.view import Node, Use, Value

LOOKED_THROUGH = VIEWS | CASTS
MAX_HOPS = 4

Found = dict[Node, tuple[Live, Live, Answer]]
"""Per view: what it now reads, what it now hands on, and its answer to that."""


def relaxed(
    node: Node, have: Live, picking: Callable[[Use], Answer | None], hops: int = MAX_HOPS
) -> Found | None:
    """The views from `node` on that can take all of `have`; None if some reader behind them cannot pick from that.

    Args:
        node: a visited node that asks for less than its first input keeps.
        have: what the input keeps.
        picking: the answer of a use that picks for itself, None for any other.
        hops: how many views are looked through.
    """
    if hops == 0 or node not in LOOKED_THROUGH or node.out.is_graph_output:
        return None
    through = FULL if have.is_full else carried(node, have)
    if through is None:
        return None
    answer = ask(node, [through], MASKS)
    if isinstance(answer, Refusal) or answer.inputs.get(0) != have:
        return None
    found: Found = {node: (have, through, answer)}
    for use in node.out.consumers:
        if looks_only(use):
            continue
        chosen = picking(use)
        if chosen is not None and chosen.accepts(through):
            continue
        behind = relaxed(use.node, through, picking, hops - 1) if use.input_index == 0 else None
        if behind is None:
            return None
        found |= behind
    return found


def chunk_left(node: Node, have: Live) -> tuple[Live, Answer] | None:
    """Return what a node hands on that takes a chunk of a sequence which keeps `have`, and its answer to that.

    None where it cannot be said: chunks differ, and which one is taken is computed.
    """
    literal, shape = node.literal(1), node.out.shape
    if shape is None or (literal is None and 0 in have.axes):
        return None
    array, axes = have.array, have.axes
    if axes[:1] == (0,) and literal is not None:
        array, axes = array.take(int(literal.reshape(-1)[0]), axis=0), axes[1:]
    for position, axis in enumerate(axes):
        size = shape[axis - 1]
        if isinstance(size, int):
            # Behind it lies the padding of a chunk that is shorter than others.
            array = array.take(range(size), axis=position)
    through = Live.over([axis - 1 for axis in axes], array)
    answer = ask(node, [through], MASKS)
    return None if isinstance(answer, Refusal) or not answer.accepts(have) else (through, answer)


def source_of(node: Node) -> Value | None:
    """The value that a view shows, None for other nodes and for stored values, which are cut for free."""
    value = node.inputs[0] if node.inputs and node in LOOKED_THROUGH else None
    return None if value is None or value.holds_tensor else value
