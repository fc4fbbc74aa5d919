"""Positions that nobody reads in the original: they need not be cut from a value that loses heads.

A relative shift cuts positions out of scores whose rows it has folded anew: those it keeps, the heads it need not.
"""

from __future__ import annotations

from onnxheadprune.liveness.carriers import LOOKED_THROUGH
from onnxheadprune.liveness.consumers import content_uses, looks_only, selecting_answer
from onnxheadprune.liveness.live import DEAD, FULL, Live
from onnxheadprune.model.graph.view import Use, Value

_MAX_VIEWS = 8
"""Views in a row between a packed value and one of its parts."""


def beside_unread(value: Value, live: Live) -> Live:
    """`live` without the axes along which it only omits positions that are unread in the original.

    Args:
        live: the demand of its readers once heads are removed, as a mask.
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
    """Return the part of a value that consumers read in the original."""
    total: Live = DEAD
    for use in value.consumers:
        if looks_only(use):
            continue
        picked = _read_through(use)
        if picked.is_full:
            return FULL
        total = total | picked
    return total


def _read_through(use: Use) -> Live:
    """Return the part that one consumer reads in the original."""
    answer = selecting_answer(use)
    return FULL if answer is None else answer.inputs.get(use.input_index, FULL)


def _is_shared_view(value: Value) -> bool:
    """Return whether a value is a view of a value with other readers."""
    for _ in range(_MAX_VIEWS):
        node = value.producer
        if node is None or node not in LOOKED_THROUGH or node.inputs[0] is None:
            return False
        value = node.inputs[0]
        if len(content_uses(value)) > 1:
            return True
    return False
