"""Reductions, CumSum, TopK and Trilu: exact where the live axis is not among those they mix."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial

from onnxheadprune.liveness.index_notation import ONE, Notation, numbered, same_axes
from onnxheadprune.model.graph import dims
from onnxheadprune.model.graph.dims import Dim
from onnxheadprune.model.graph.elements import Elements, boxed, elements_of
from onnxheadprune.model.graph.operator import (
    DECIDED_BY_LARGEST,
    KEEPS_ZEROS,
    REDUCES,
    Choice,
    Kind,
    Roles,
    Shapes,
)
from onnxheadprune.model.graph.view import Node, named
from onnxheadprune.operators.record import operator


def _reduced(node: Node) -> Notation | None:
    """Live axes of the output are never the reduced ones, which stay whole."""
    reduced = node.reduced_axes
    return None if reduced is None else _without(node, reduced)


def _without(node: Node, reduced: Collection[int]) -> Notation:
    letters = numbered(len(node.shape(0) or ()))
    rest = [(axis, letter) for axis, letter in enumerate(letters)]
    if node.attribute("keepdims", 1):
        return Notation(((0, letters),), tuple(ONE if axis in reduced else letter for axis, letter in rest))
    return Notation(((0, letters),), tuple(letter for axis, letter in rest if axis not in reduced))


def _reduce_product(node: Node) -> Elements | None:
    data = elements_of(node, 0)
    if data is None or any(item is None for item in data.reshape(-1)):
        return None
    total = dims.product(data.reshape(-1))
    return boxed([total], (1,) if node.attribute("keepdims", 1) and data.ndim else ())


def _best(node: Node) -> Choice | None:
    shape = node.shape(0)
    highest = node.op_type == "ArgMax"
    return Choice(node.attribute("axis", 0) % len(shape), 1, highest) if shape else None


def _arg(node: Node) -> Notation | None:
    """A reduction of one axis to an index."""
    shape = node.shape(0)
    return _without(node, {node.attribute("axis", 0) % len(shape)}) if shape else None


def _top_k_shape(node: Node) -> Shapes:
    """Values and indices, as many as are asked for along one axis."""
    shape, wanted = node.shape(0), node.input(1)
    if not shape:
        return [None, None]
    counted = None if wanted is None or wanted.elements is None else wanted.elements.reshape(-1)
    count: Dim | None = node.attribute("k") if counted is None or counted.size != 1 else counted[0]
    axis = node.attribute("axis", -1) % len(shape)
    return [(*shape[:axis], named(count, node, axis), *shape[axis + 1 :])] * 2


def _top(node: Node) -> Choice | None:
    shape, wanted = node.shape(0), node.literal(1)
    if not shape:
        return None
    count = node.attribute("k") if wanted is None else wanted.reshape(-1)[0]
    axis = node.attribute("axis", -1) % len(shape)
    return Choice(axis, None if count is None else int(count), bool(node.attribute("largest", 1)))


def _cumulative_sum(node: Node) -> Notation | None:
    """Mix one axis, which is an input."""
    axis = node.literal(1)
    return None if axis is None else same_axes(node, [int(axis.reshape(-1)[0])])


def _top_k(node: Node) -> Notation | None:
    """Sort one axis; values and indices are narrowed alike."""
    return same_axes(node, [node.attribute("axis", -1)], alike=True)


def _reduction(name: str, *kinds: Kind, elements: Callable[[Node], Elements | None] | None = None) -> None:
    operator(name, kinds=(REDUCES, *kinds), roles=Roles(places=(1,)), axes=_reduced, elements=elements)


for _name in ("ReduceMean", "ReduceSum", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceSumSquare"):
    _reduction(_name, KEEPS_ZEROS)
_reduction("ReduceProd", KEEPS_ZEROS, elements=_reduce_product)
_reduction("ReduceMax", KEEPS_ZEROS, DECIDED_BY_LARGEST)
_reduction("ReduceLogSumExp", DECIDED_BY_LARGEST)
_reduction("ReduceLogSum")
operator("ArgMax", "ArgMin", axes=_arg, choice=_best)
operator("CumSum", roles=Roles(places=(1,)), axes=_cumulative_sum)
operator("TopK", roles=Roles(places=(1,)), axes=_top_k, shape=_top_k_shape, choice=_top)
# It depends on positions along the last two axes.
operator("Trilu", roles=Roles(places=(1,)), axes=partial(same_axes, whole=(-2, -1)))
