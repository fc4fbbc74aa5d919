"""The common part of the propagation rules of operators that mix whole axes."""

from __future__ import annotations

from collections.abc import Collection

from onnxheadprune.liveness.live import Live
from onnxheadprune.liveness.refusal import UNITS, Reason, Refusal
from onnxheadprune.liveness.registry import Answer, refuse
from onnxheadprune.model.graph.view import Node


def coupled(node: Node) -> Refusal:
    """The refusal of an operator that mixes what lies along the live axis."""
    return refuse(
        node,
        Reason.COUPLED,
        f"{node.op_type} mixes values across {UNITS}, so removing one would change the others",
    )


def beside(live: Live, mixed: Collection[int]) -> Live | None:
    """What is live beside the axes that an operator needs whole; None if it lies along those alone, as merged heads do.

    A later Slice of the same axis (attention sinks, the largest of TopK) asks for a part of it, which says
    nothing about heads. Labels are not masks: those of one position cannot stand for another's.
    """
    if not set(mixed) & set(live.axes):
        return live
    rest = live.only([axis for axis in live.axes if axis not in mixed])
    return None if rest.is_full or live.numbers_positions else rest


def mixing(node: Node, live: Live, mixed: Collection[int]) -> Answer | Refusal:
    """The answer of an operator with one input and one output that mixes some axes."""
    rest = beside(live, mixed)
    return coupled(node) if rest is None else Answer({0: rest}, kept=(rest,))


def rank_of(node: Node) -> int | None:
    """The number of axes of the first input, None where it is not known."""
    value = node.input(0)
    return None if value is None else value.rank
