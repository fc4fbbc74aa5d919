"""Reductions along axes: exact where the live axis is not reduced."""

from __future__ import annotations

import math
from collections.abc import Sequence

from onnx import TensorProto

from onnxheadprune.edit.gradients import Partials, Step, UnknownShapeError, gradient
from onnxheadprune.edit.terms import Term
from onnxheadprune.liveness.live import Live
from onnxheadprune.liveness.refusal import Refusal
from onnxheadprune.liveness.registry import Answer, rule, unknown_shape
from onnxheadprune.model.graph import dims
from onnxheadprune.model.graph.elements import Elements, boxed, elements_of
from onnxheadprune.model.graph.facts import AVERAGES, REDUCES, SUMS, SUMS_MAGNITUDES
from onnxheadprune.model.graph.tables import ROLES, Roles, Shapes, number_function, shape_function
from onnxheadprune.model.graph.view import Node

REDUCTIONS = (
    "ReduceMean ReduceSum ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 ReduceLogSum"
    " ReduceLogSumExp ReduceSumSquare"
).split()

REDUCES.add(*REDUCTIONS)
SUMS.add("ReduceSum")
AVERAGES.add("ReduceMean")
SUMS_MAGNITUDES.add("ReduceL1")
ROLES.add(REDUCTIONS, "", Roles(places=(1,)))


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


def _reduced(step: Step) -> list[int]:
    """The axes that are reduced.

    Raises:
        UnknownShapeError: if they are computed, or count from a rank that is not known.
    """
    shape, axes = step.shape(0), step.node.int_list("axes", 1)
    if axes is None and step.node.input(1) is not None:
        raise UnknownShapeError("its axes are computed")
    if axes:
        return sorted(axis % len(shape) for axis in axes)
    return [] if step.node.attribute("noop_with_empty_axes", 0) else list(range(len(shape)))


def _kept(step: Step, term: Term) -> Term:
    """The output or its gradient, with the reduced axes of size 1."""
    axes = _reduced(step)
    return term if step.node.attribute("keepdims", 1) else term.unsqueeze(axes)


@gradient("ReduceSum")
def reduce_sum_gradient(step: Step) -> Partials:
    """The same for every summand."""
    return {0: _kept(step, step.grad).expand(step.input(0).shape())}


@gradient("ReduceMean")
def reduce_mean_gradient(step: Step) -> Partials:
    """An equal share for every summand."""
    x, shape = step.input(0), step.shape(0)
    sizes = [shape[axis] for axis in _reduced(step)]
    known = [size for size in sizes if isinstance(size, int)]
    if len(known) == len(sizes):
        share = step.grad / float(math.prod(known))
    else:
        total, parts = (term.op("Size", to=TensorProto.INT64) for term in (x, step.output()))
        share = step.grad / (total / parts).cast(x.elem_type)
    return {0: _kept(step, share).expand(x.shape())}


@gradient("ReduceMax", "ReduceMin")
def reduce_extremum_gradient(step: Step) -> Partials:
    """To the elements that are the extremum, in equal shares where several are, as PyTorch's amax does."""
    x = step.input(0)
    hits = x.test("Equal", _kept(step, step.output())).cast(x.elem_type)
    return {0: hits * (_kept(step, step.grad) / hits.sum(_reduced(step)))}


@gradient("ReduceL2")
def reduce_l2_gradient(step: Step) -> Partials:
    """d|x| = x dx / |x|; nothing at 0."""
    norm = _kept(step, step.output())
    zero = norm.test("Equal", 0.0)
    return {0: step.input(0) * zero.where(0.0, _kept(step, step.grad) / zero.where(1.0, norm))}


@gradient("ReduceL1")
def reduce_l1_gradient(step: Step) -> Partials:
    """The sign of each."""
    return {0: step.input(0).op("Sign") * _kept(step, step.grad)}


@gradient("ReduceSumSquare")
def reduce_square_gradient(step: Step) -> Partials:
    """d(x ** 2) = 2 x dx."""
    return {0: step.input(0) * (_kept(step, step.grad) * 2.0)}


@gradient("ReduceLogSumExp")
def reduce_log_sum_exp_gradient(step: Step) -> Partials:
    """The softmax."""
    return {0: (step.input(0) - _kept(step, step.output())).op("Exp") * _kept(step, step.grad)}
