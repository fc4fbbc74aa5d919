"""Gradients of operators that move, pick, repeat and join elements."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from onnx import TensorProto

from onnxheadprune.edit.gradients import Constant, Partials, Step, Term, UnknownShapeError, gradient, summed
from onnxheadprune.model.graph.dims import Dim


@gradient("Concat")
def _concat_gradient(step: Step) -> Partials:
    """Cut into the pieces that were joined."""
    axis, count = step.node.attribute("axis", 0), len(step.node.inputs)
    if count == 1:
        return {0: step.grad}
    shapes = [step.shape(index) for index in range(count)]
    known = [shape[axis] for shape in shapes if isinstance(shape[axis], int)]
    if len(known) == count:
        sizes = step.writer.integers(known)
    else:
        sizes = step.writer.joined(
            [_sized(step.input(index), axis % len(shape), shape[axis]) for index, shape in enumerate(shapes)]
        )
    names = step.writer.node("Split", [step.grad.name, sizes.name], count, attributes={"axis": axis})
    return {index: replace(step.grad, name=name) for index, name in enumerate(names)}


@gradient("Expand")
def _expand_gradient(step: Step) -> Partials:
    """The sum over what was repeated."""
    return {0: summed(step.grad, step.input(0), step.node.shape(0), [step.node.out.shape])}


@gradient("Tile")
def _tile_gradient(step: Step) -> Partials:
    """The same: every axis is one of repetitions before one of elements."""
    x, repeats, rank = step.input(0), step.input(1), len(step.shape(0))
    pairs = step.writer.joined([repeats.unsqueeze([1]), x.shape().unsqueeze([1])], axis=1)
    return {0: step.grad.reshape(pairs.reshape([2 * rank])).sum(range(0, 2 * rank, 2), keep=False)}


SCATTERS_SUMS = 16
"""The first opset in which elements that are scattered to one place may be added up."""


@gradient("Gather")
def _gather_gradient(step: Step) -> Partials:
    """Add up at each index what was read there.

    As rows of a matrix: the axis comes first, and all others are columns.
    """
    data, indices, writer = step.input(0), step.input(1), step.writer
    shape, picked = step.shape(0), len(step.shape(1))
    rank, axis = len(shape), step.node.attribute("axis", 0) % len(shape)
    size = _sized(data, axis, shape[axis])
    between = [*range(axis, axis + picked), *range(axis), *range(axis + picked, rank - 1 + picked)]
    others = [_sized(data, other, shape[other]) for other in range(rank) if other != axis]
    width = writer.integers([1])
    for other in others:
        width = width * other
    # An empty product of the columns must not be guessed, so both sizes are told where -1 could be 0.
    rows = step.grad.transpose(between).reshape(writer.joined([writer.integers([-1]), width]))
    flat = indices.cast(TensorProto.INT64).reshape([-1])
    flat = flat.test("Less", 0).where(flat + size, flat)
    summed_rows = _summed_rows(rows, flat, size, width)
    back = summed_rows.reshape(writer.joined([size, *others]))
    return {0: back.transpose([*range(1, axis + 1), 0, *range(axis + 1, rank)])}


def _summed_rows(rows: Term, places: Term, size: Term, width: Term) -> Term:
    """Rows added up at places, [places, width] -> [size, width]."""
    writer = rows.writer
    if writer.opset >= SCATTERS_SUMS:
        zeros = writer.number(0, rows.elem_type).expand(writer.joined([size, width]))
        return zeros.op("ScatterND", places.unsqueeze([1]), rows, reduction="add")
    values = writer.joined([writer.number(number, rows.elem_type).unsqueeze([0]) for number in (0.0, 1.0)])
    hits = places.op("OneHot", size.squeeze([0]), values, axis=-1, to=rows.elem_type)
    return hits.transpose([1, 0]) @ rows


@gradient("GatherElements")
def _gather_elements_gradient(step: Step) -> Partials:
    """Every element is added where it was read."""
    if step.writer.opset < SCATTERS_SUMS:
        return {0: Constant(f"can be scattered back from opset {SCATTERS_SUMS} on")}
    axis = step.node.attribute("axis", 0)
    zeros = step.input(0).zeros()
    return {0: zeros.op("ScatterElements", step.input(1), step.grad, axis=axis, reduction="add")}


@gradient("GatherND")
def _gather_rows_gradient(step: Step) -> Partials:
    """Every row is added where it was read."""
    if step.writer.opset < SCATTERS_SUMS:
        return {0: Constant(f"can be scattered back from opset {SCATTERS_SUMS} on")}
    if step.node.attribute("batch_dims", 0):
        return {0: Constant("reads per batch")}
    return {0: step.input(0).zeros().op("ScatterND", step.input(1), step.grad, reduction="add")}


@gradient("Pad")
def _pad_gradient(step: Step) -> Partials:
    """Cut off what was put around it."""
    mode = step.node.attribute("mode", "constant")
    if mode != "constant":
        return {0: Constant(f"pads by {mode}")}
    axes = [] if step.given(3) is None else [None, step.input(3)]
    inner = step.grad.op("Pad", -step.input(1), *axes)
    if 2 not in step.wanted:
        return {0: inner}
    whole, part = (term.reshape([-1]).sum([0], keep=False) for term in (step.grad, inner))
    return {0: inner, 2: (whole - part).reshape(step.input(2).shape())}


@gradient("Reshape", "Flatten", "Unsqueeze", "Squeeze")
def _reshape_gradient(step: Step) -> Partials:
    """The same elements under the axes that they had."""
    return {0: step.grad.reshape(step.input(0).shape())}


@gradient("CumSum")
def _cumulative_sum_gradient(step: Step) -> Partials:
    """Sum from the other end: what comes after counts."""
    reverse, exclusive = (int(step.node.attribute(name, 0)) for name in ("reverse", "exclusive"))
    return {0: step.grad.op("CumSum", step.input(1), reverse=1 - reverse, exclusive=exclusive)}


@gradient("Trilu")
def _triangle_gradient(step: Step) -> Partials:
    """To the triangle that stays."""
    return {0: step.grad.op("Trilu", step.given(1), upper=int(step.node.attribute("upper", 1)))}


@gradient("ScatterND")
def _scatter_rows_gradient(step: Step) -> Partials:
    """Zero the gradient of overwritten rows, and gather that of the updates."""
    how = step.node.attribute("reduction", "none")
    if how not in ("none", "add"):
        return dict.fromkeys((0, 2), Constant(f"scatters by {how}"))
    places, grad = step.input(1), step.grad
    read = grad.op("GatherND", places)
    kept = grad if how == "add" else grad.op("ScatterND", places, step.input(2).zeros())
    return {0: kept, 2: read}


@gradient("ScatterElements")
def _scatter_elements_gradient(step: Step) -> Partials:
    """The same, element by element."""
    how, axis = step.node.attribute("reduction", "none"), step.node.attribute("axis", 0)
    if how not in ("none", "add"):
        return dict.fromkeys((0, 2), Constant(f"scatters by {how}"))
    places, grad = step.input(1), step.grad
    read = grad.op("GatherElements", places, axis=axis)
    kept = grad if how == "add" else grad.op("ScatterElements", places, step.input(2).zeros(), axis=axis)
    return {0: kept, 2: read}


@gradient("Slice")
def _slice_gradient(step: Step) -> Partials:
    """Zeros around it; between its elements, too, where only every n-th was taken."""
    shape, grad, writer = step.shape(0), step.grad, step.writer
    steps, axes = step.node.literal(4), step.node.literal(3)
    if step.node.input(4) is not None and steps is None:
        return {0: Constant("takes elements at a distance that is computed")}
    count = (step.node.shape(1) or (None,))[0]
    if step.node.input(3) is None and isinstance(count, int):
        axes = np.arange(count)
    if axes is None:
        raise UnknownShapeError("its axes are computed")
    for position, axis in enumerate(int(axis) % len(shape) for axis in axes.reshape(-1)):
        every = 1 if steps is None else int(steps.reshape(-1)[position])
        size, taken = _sized(step.input(0), axis, shape[axis]), grad.dim(axis)
        start = step.input(1).cast(TensorProto.INT64).op("Gather", writer.integers([position]), axis=0)
        start = start.test("Less", 0).where(start + size, start)
        start = start.op("Max", 0).op("Min", size if every > 0 else size - 1)
        if every < 0:
            start = start + (taken - 1) * every
            grad = _reversed(grad, axis)
        if abs(every) > 1:
            grad = _spread(grad, axis, abs(every), len(shape))
        grad = _padded(grad, axis, len(shape), start, size - start - grad.dim(axis))
    return {0: grad}


def _reversed(grad: Term, axis: int) -> Term:
    """From the last element along an axis to the first."""
    bounds = [grad.writer.integers([number]) for number in (-1, -(2**62), axis, -1)]
    return grad.op("Slice", *bounds)


def _spread(grad: Term, axis: int, every: int, rank: int) -> Term:
    """With zeros after every element along an axis."""
    writer = grad.writer
    wide = _padded(
        grad.unsqueeze([axis + 1]), axis + 1, rank + 1, writer.integers([0]), writer.integers([every - 1])
    )
    joined = [grad.dim(other) * every if other == axis else grad.dim(other) for other in range(rank)]
    return wide.reshape(writer.joined(joined))


def _padded(term: Term, axis: int, rank: int, before: Term, after: Term) -> Term:
    """Zeros before and after along one axis; a negative number of them cuts."""
    left, right = [0] * axis, [0] * (rank - 1 - axis)
    integers = term.writer.integers
    parts = [integers(left), before, integers(right + left), after, integers(right)]
    return term.op("Pad", term.writer.joined(parts))


@gradient("Split")
def _split_gradient(step: Step) -> Partials:
    """The pieces are joined; one that leads nowhere counts as zeros."""
    pieces = [step.output(i).zeros() if grad is None else grad for i, grad in enumerate(step.grads)]
    return {0: step.writer.joined(pieces, axis=step.node.attribute("axis", 0))}


@gradient("Transpose")
def _transpose_gradient(step: Step) -> Partials:
    """The axes move back."""
    order = step.node.attribute("perm") or list(reversed(range(len(step.shape(0)))))
    return {0: step.grad.transpose([order.index(axis) for axis in range(len(order))])}


def _sized(term: Term, axis: int, known: Dim | None) -> Term:
    """One entry of a term's shape, a list of one int64; stored where it is a number."""
    return term.writer.integers([known]) if isinstance(known, int) else term.dim(axis)
