"""Reductions, losses, CumSum, TopK and Trilu: exact where the live axis is not among those they mix."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from onnxheadprune.liveness.live import Live, together
from onnxheadprune.liveness.refusals import Refusal, coupled, inexpressible, unknown_shape
from onnxheadprune.liveness.registry import Answer, beside, mixing, rule
from onnxheadprune.model.graph import dims
from onnxheadprune.model.graph.dims import Dim
from onnxheadprune.model.graph.elements import Elements, boxed, elements_of
from onnxheadprune.model.graph.facts import (
    ACCUMULATES,
    AVERAGES,
    DECIDED_BY_LARGEST,
    KEEPS_ZEROS,
    PICKS_LABELLED,
    REDUCES,
    SUMS,
    SUMS_MAGNITUDES,
)
from onnxheadprune.model.graph.reductions import reduced_axes
from onnxheadprune.model.graph.tables import (
    Choice,
    Roles,
    Shapes,
    choice_reader,
    declare,
    named,
    number_function,
    shape_function,
)
from onnxheadprune.model.graph.view import Node

REDUCTIONS = (
    "ReduceMean ReduceSum ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 ReduceLogSum"
    " ReduceLogSumExp ReduceSumSquare"
).split()

AXES = Roles(places=(1,))
declare("ReduceMean", kinds=(REDUCES, AVERAGES, KEEPS_ZEROS), roles=AXES)
declare("ReduceSum", kinds=(REDUCES, SUMS, KEEPS_ZEROS), roles=AXES)
declare("ReduceMin", "ReduceProd", kinds=(REDUCES, KEEPS_ZEROS), roles=AXES)
declare("ReduceL2", "ReduceSumSquare", kinds=(REDUCES, KEEPS_ZEROS), roles=AXES)
declare("ReduceMax", kinds=(REDUCES, KEEPS_ZEROS, DECIDED_BY_LARGEST), roles=AXES)
declare("ReduceLogSumExp", kinds=(REDUCES, DECIDED_BY_LARGEST), roles=AXES)
declare("ReduceLogSum", kinds=(REDUCES,), roles=AXES)
declare("ReduceL1", kinds=(REDUCES, SUMS_MAGNITUDES, KEEPS_ZEROS), roles=AXES)


@shape_function(*REDUCTIONS)
def _reduce_shape(node: Node) -> Shapes:
    shape, reduced = node.shape(0), reduced_axes(node)
    if shape is None or reduced is None:
        return [None]
    if node.attribute("keepdims", 1):
        return [tuple(1 if axis in reduced else dim for axis, dim in enumerate(shape))]
    return [tuple(dim for axis, dim in enumerate(shape) if axis not in reduced)]


@number_function("ReduceProd")
def _reduce_product(node: Node) -> Elements | None:
    data = elements_of(node, 0)
    if data is None or any(item is None for item in data.reshape(-1)):
        return None
    total = dims.product(data.reshape(-1))
    return boxed([total], (1,) if node.attribute("keepdims", 1) and data.ndim else ())


@rule(*REDUCTIONS, runs=True)
def _reduce(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """Live axes of the output are never the reduced ones, but a reduced axis must not be narrowed."""
    shape, reduced = node.shape(0), reduced_axes(node)
    if shape is None or reduced is None:
        return unknown_shape(node)
    return _through(node, lives[0], reduced, len(shape))


@choice_reader("ArgMax", "ArgMin")
def _best(node: Node) -> Choice | None:
    shape = node.shape(0)
    highest = node.op_type == "ArgMax"
    return Choice(node.attribute("axis", 0) % len(shape), 1, highest) if shape else None


@rule("ArgMax", "ArgMin")
def _arg(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """A reduction of one axis to an index."""
    shape = node.shape(0)
    if shape is None:
        return unknown_shape(node)
    return _through(node, lives[0], {node.attribute("axis", 0) % len(shape)}, len(shape))


def _through(node: Node, live: Live, reduced: Collection[int], rank: int) -> Answer | Refusal:
    kept = (
        list(range(rank)) if node.attribute("keepdims", 1) else [a for a in range(rank) if a not in reduced]
    )
    return Answer({0: live.renumbered({axis: kept[axis] for axis in live.axes})})


declare("SoftmaxCrossEntropyLoss", "NegativeLogLikelihoodLoss", kinds=(PICKS_LABELLED,))
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
def _top(node: Node) -> Choice | None:
    shape, wanted = node.shape(0), node.literal(1)
    if not shape:
        return None
    count = node.attribute("k") if wanted is None else wanted.reshape(-1)[0]
    axis = node.attribute("axis", -1) % len(shape)
    return Choice(axis, None if count is None else int(count), bool(node.attribute("largest", 1)))


@rule("CumSum")
def _cumulative_sum(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """Mix one axis, which is an input."""
    shape, axis = node.shape(0), node.literal(1)
    if shape is None or axis is None:
        return unknown_shape(node)
    return mixing(node, lives[0], {int(axis.reshape(-1)[0]) % len(shape)})


@rule("TopK")
def _top_k(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """Sort one axis; values and indices are narrowed alike."""
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
