"""Positions that nobody reads in the original, either: tokens that are cut off, the rest of a cropped window.

That they are dead has nothing to do with heads, so they stay as they are. Along an axis that is picked from, a value is
narrowed only where heads went, which is seen in the positions that are read.
"""

from __future__ import annotations

from onnxheadprune.liveness.asking import ask
from onnxheadprune.liveness.domain import MASKS
from onnxheadprune.liveness.live import DEAD, FULL, Live
from onnxheadprune.liveness.observers import content_uses, looks_only
from onnxheadprune.liveness.refusal import Refusal
from onnxheadprune.liveness.registry import Answer
from onnxheadprune.model.graph.facts import CASTS, GATHERS, GATHERS_ROWS, SLICES, TAKES_CHUNKS, VIEWS
from onnxheadprune.model.graph.view import Use, Value

PICKING = SLICES | GATHERS | GATHERS_ROWS | TAKES_CHUNKS
"""Nodes that pick a part of their input by bounds or indices of their own."""
LOOKED_THROUGH = VIEWS | CASTS
MAX_VIEWS = 8


def beside_unread(value: Value, live: Live) -> Live:
    """`live` without the axes along which it leaves out nothing but what nobody reads in the original.

    Args:
        value: the value.
        live: what its readers need of it once heads are gone, in mask form.
    """
    if not live.axes or _is_shared_view(value):
        # Views of a packed value each read a part: what one of them leaves out, another one reads.
        return live
    read = read_of(value)
    for axis in read.axes:
        wider = live.only([other for other in live.axes if other != axis])
        if axis in live.axes and wider & read == live & read and wider.dense_shape() is not None:
            live = wider
    return live


def read_of(value: Value) -> Live:
    """Return what the consumers of a value read in the original."""
    total: Live = DEAD
    for use in value.consumers:
        if looks_only(use):
            continue
        picked = _picked(use)
        if picked.is_full:
            return FULL
        total = total | picked
    return total


def _picked(use: Use) -> Live:
    """Return what one consumer reads in the original."""
    answer = selecting_answer(use)
    return FULL if answer is None else answer.inputs.get(use.input_index, FULL)


def _is_shared_view(value: Value) -> bool:
    """Return whether a value is a view of one that others read, too."""
    for _ in range(MAX_VIEWS):
        node = value.producer
        if node is None or node not in LOOKED_THROUGH or node.inputs[0] is None:
            return False
        value = node.inputs[0]
        if len(content_uses(value)) > 1:
            return True
    return False


def selecting_answer(use: Use) -> Answer | None:
    """The answer of a fully live node that picks from this input (a Slice, a Gather), None for any other."""
    if use.node not in PICKING:
        return None
    answer = ask(use.node, (FULL,) * len(use.node.outputs), MASKS)
    if isinstance(answer, Refusal) or use.input_index not in answer.selects:
        return None
    return answer
