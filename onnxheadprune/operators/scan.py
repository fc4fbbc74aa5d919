"""CumSum, TopK and Trilu: what is somewhere depends on where it is, or on what comes before."""

from __future__ import annotations

from collections.abc import Sequence

from onnxheadprune.liveness.live import Live, together
from onnxheadprune.liveness.refusal import Refusal
from onnxheadprune.liveness.registry import (
    Answer,
    beside,
    coupled,
    inexpressible,
    mixing,
    rule,
    unknown_shape,
)
from onnxheadprune.model.graph.broadcasting import named
from onnxheadprune.model.graph.dims import Dim
from onnxheadprune.model.graph.facts import ACCUMULATES
from onnxheadprune.model.graph.tables import Choice, Roles, Shapes, choice_reader, declare, shape_function
from onnxheadprune.model.graph.view import Node

declare("CumSum", kinds=(ACCUMULATES,), roles=Roles(places=(1,)))
declare("TopK", "Trilu", roles=Roles(places=(1,)))


@shape_function("CumSum", "Trilu")
def _scan_shape(node: Node) -> Shapes:
    return [node.shape(0)]


@shape_function("TopK")
def _top_k_shape(node: Node) -> Shapes:
    """Values and indices, as many as are asked for along one axis."""
    shape, wanted = node.shape(0), node.input(1)
    if not shape:
        return [None, None]
    counted = None if wanted is None or wanted.elements is None else wanted.elements.reshape(-1)
    count: Dim | None = node.attribute("k") if counted is None or counted.size != 1 else counted[0]
    axis = node.attribute("axis", -1) % len(shape)
    return [(*shape[:axis], named(count, node, axis), *shape[axis + 1 :])] * 2


@choice_reader("TopK")
def _best(node: Node) -> Choice | None:
    shape, wanted = node.shape(0), node.literal(1)
    if not shape:
        return None
    count = node.attribute("k") if wanted is None else wanted.reshape(-1)[0]
    axis = node.attribute("axis", -1) % len(shape)
    return Choice(axis, None if count is None else int(count), bool(node.attribute("largest", 1)))


@rule("CumSum")
def _cumulative_sum(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """Mixes one axis, which is an input."""
    shape, axis = node.shape(0), node.literal(1)
    if shape is None or axis is None:
        return unknown_shape(node)
    return mixing(node, lives[0], {int(axis.reshape(-1)[0]) % len(shape)})


@rule("TopK")
def _top_k(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """Sorts one axis; values and indices are narrowed alike."""
    shape = node.shape(0)
    if shape is None:
        return unknown_shape(node)
    live = beside(together(lives), {node.attribute("axis", -1) % len(shape)})
    if live is None:
        return coupled(node)
    return Answer({0: live}, kept=(live,) * len(lives))


@rule("Trilu")
def _triangle(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """Depends on positions along the last two axes."""
    shape = node.shape(0)
    if shape is None:
        return unknown_shape(node)
    return (
        inexpressible(node)
        if any(axis >= len(shape) - 2 for axis in lives[0].axes)
        else Answer({0: lives[0]})
    )
