"""Reductions and scans along axes: exact where the live axis is not reduced."""

from __future__ import annotations

from collections.abc import Sequence

from onnxheadprune.liveness.live import Live
from onnxheadprune.liveness.refusal import Refusal
from onnxheadprune.liveness.registry import Answer, inexpressible, rule, unknown_shape
from onnxheadprune.liveness.rules.normalization import beside, coupled, mixing
from onnxheadprune.model.graph.view import Node

REDUCTIONS = (
    "ReduceMean ReduceSum ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 ReduceLogSum"
    " ReduceLogSumExp ReduceSumSquare"
).split()


@rule(*REDUCTIONS)
def reduce(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """Live axes of the output are never the reduced ones, but a reduced axis must not be narrowed."""
    shape = node.shape(0)
    if shape is None:
        return unknown_shape(node)
    axes = node.int_list("axes", 1)
    if axes is None and node.input(1) is not None:
        return unknown_shape(node)
    if not axes:
        reduced = set() if node.attribute("noop_with_empty_axes", 0) else set(range(len(shape)))
    else:
        reduced = {axis % len(shape) for axis in axes}
    return _through(node, lives[0], reduced, len(shape))


@rule("ArgMax", "ArgMin")
def arg(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """A reduction of one axis to an index."""
    shape = node.shape(0)
    if shape is None:
        return unknown_shape(node)
    return _through(node, lives[0], {node.attribute("axis", 0) % len(shape)}, len(shape))


def _through(node: Node, live: Live, reduced: set[int], rank: int) -> Answer | Refusal:
    kept = (
        list(range(rank)) if node.attribute("keepdims", 1) else [a for a in range(rank) if a not in reduced]
    )
    return Answer({0: live.renumbered({axis: kept[axis] for axis in live.axes})})


@rule("CumSum")
def cumulative_sum(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """Mixes one axis, which is an input."""
    shape, axis = node.shape(0), node.literal(1)
    if shape is None or axis is None:
        return unknown_shape(node)
    return mixing(node, lives[0], {int(axis.reshape(-1)[0]) % len(shape)})


@rule("TopK")
def top_k(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """Sorts one axis; values and indices are narrowed alike."""
    shape = node.shape(0)
    if shape is None:
        return unknown_shape(node)
    wanted = lives[0] if len(lives) < 2 else lives[0] | lives[1]
    live = beside(wanted, {node.attribute("axis", -1) % len(shape)})
    if live is None:
        return coupled(node)
    return Answer({0: live}, kept=(live,) * len(lives))


@rule("Trilu")
def triangle(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """Depends on positions along the last two axes."""
    shape = node.shape(0)
    if shape is None:
        return unknown_shape(node)
    return (
        inexpressible(node)
        if any(axis >= len(shape) - 2 for axis in lives[0].axes)
        else Answer({0: lives[0]})
    )
