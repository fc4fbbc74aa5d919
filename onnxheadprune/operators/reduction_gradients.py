"""Gradients of sums, means, extremes and norms along axes, and of softmax."""

from __future__ import annotations

import math

from onnx import TensorProto

from onnxheadprune.edit.gradients import Partials, Step, UnknownShapeError, gradient
from onnxheadprune.edit.terms import Term


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
def _reduce_sum_gradient(step: Step) -> Partials:
    """The same for every summand."""
    return {0: _kept(step, step.grad).expand(step.input(0).shape())}


@gradient("ReduceMean")
def _reduce_mean_gradient(step: Step) -> Partials:
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
def _reduce_extremum_gradient(step: Step) -> Partials:
    """To the elements that are the extremum, in equal shares where several are, as PyTorch's amax does."""
    x = step.input(0)
    hits = x.test("Equal", _kept(step, step.output())).cast(x.elem_type)
    return {0: hits * (_kept(step, step.grad) / hits.sum(_reduced(step)))}


@gradient("ReduceL2")
def _reduce_l2_gradient(step: Step) -> Partials:
    """d|x| = x dx / |x|; nothing at 0."""
    norm = _kept(step, step.output())
    zero = norm.test("Equal", 0.0)
    return {0: step.input(0) * zero.where(0.0, _kept(step, step.grad) / zero.where(1.0, norm))}


@gradient("ReduceL1")
def _reduce_l1_gradient(step: Step) -> Partials:
    """The sign of each."""
    return {0: step.input(0).op("Sign") * _kept(step, step.grad)}


@gradient("ReduceSumSquare")
def _reduce_square_gradient(step: Step) -> Partials:
    """d(x ** 2) = 2 x dx."""
    return {0: step.input(0) * (_kept(step, step.grad) * 2.0)}


@gradient("ReduceLogSumExp")
def _reduce_log_sum_exp_gradient(step: Step) -> Partials:
    """The softmax."""
    return {0: (step.input(0) - _kept(step, step.output())).op("Exp") * _kept(step, step.grad)}


@gradient("Softmax")
def _softmax_gradient(step: Step) -> Partials:
    """Dx = y (dy - sum(dy y)) along the axis."""
    y, axis = step.output(), step.node.attribute("axis", -1)
    weighted = step.grad * y
    return {0: weighted - y * weighted.sum([axis])}


@gradient("LogSoftmax")
def _log_softmax_gradient(step: Step) -> Partials:
    """Dx = dy - exp(y) sum(dy) along the axis."""
    axis = step.node.attribute("axis", -1)
    return {0: step.grad - step.output().op("Exp") * step.grad.sum([axis])}
