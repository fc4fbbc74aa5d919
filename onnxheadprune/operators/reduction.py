"""Reductions along axes: exact where the live axis is not reduced."""

from __future__ import annotations

from collections.abc import Sequence

from onnxheadprune.liveness.live import Live
from onnxheadprune.liveness.refusal import Refusal
from onnxheadprune.liveness.registry import Answer, rule, unknown_shape
from onnxheadprune.model.graph import dims
from onnxheadprune.model.graph.elements import Elements, boxed, elements_of
from onnxheadprune.model.graph.facts import (
    AVERAGES,
    DECIDED_BY_LARGEST,
    KEEPS_ZEROS,
    REDUCES,
    SUMS,
    SUMS_MAGNITUDES,
)
from onnxheadprune.model.graph.tables import (
    Choice,
    Roles,
    Shapes,
    choice_reader,
    declare,
    number_function,
    shape_function,
)
from onnxheadprune.model.graph.view import Node

REDUCTIONS = (
    "ReduceMean ReduceSum ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 ReduceLogSum"
    " ReduceLogSumExp ReduceSumSquare"
).split()

declare("ReduceMean", kinds=(REDUCES, AVERAGES, KEEPS_ZEROS), roles=Roles(places=(1,)))
declare("ReduceSum", kinds=(REDUCES, SUMS, KEEPS_ZEROS), roles=Roles(places=(1,)))
declare(
    "ReduceMin",
    "ReduceProd",
    "ReduceL2",
    "ReduceSumSquare",
    kinds=(REDUCES, KEEPS_ZEROS),
    roles=Roles(places=(1,)),
)
declare("ReduceMax", kinds=(REDUCES, KEEPS_ZEROS, DECIDED_BY_LARGEST), roles=Roles(places=(1,)))
declare("ReduceLogSumExp", kinds=(REDUCES, DECIDED_BY_LARGEST), roles=Roles(places=(1,)))
declare("ReduceLogSum", kinds=(REDUCES,), roles=Roles(places=(1,)))
declare("ReduceL1", kinds=(REDUCES, SUMS_MAGNITUDES, KEEPS_ZEROS), roles=Roles(places=(1,)))


@shape_function("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2", "ReduceL1", "ReduceProd")
def _reduce_shape(node: Node) -> Shapes:
    shape = node.shape(0)
    if shape is None:
        return [None]
    axes = node.int_list("axes", 1)
    if axes is None and node.input(1) is not None:
        return [None]
    if not axes:
        axes = [] if node.attribute("noop_with_empty_axes", 0) else list(range(len(shape)))
    reduced = {axis % len(shape) for axis in axes}
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


def _through(node: Node, live: Live, reduced: set[int], rank: int) -> Answer | Refusal:
    kept = (
        list(range(rank)) if node.attribute("keepdims", 1) else [a for a in range(rank) if a not in reduced]
    )
    return Answer({0: live.renumbered({axis: kept[axis] for axis in live.axes})})
