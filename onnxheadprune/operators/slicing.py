"""Slice: a node cuts a stretch out of some axes.

It *selects*: what it reads is asked for precisely (a third of a packed QKV tensor), and when its input keeps
more or is renumbered, its bounds move instead of a gather being inserted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from onnx import TensorProto

from onnxheadprune.edit.edits import MARK, AddConstant, Edit, SetAttribute, SetInput
from onnxheadprune.edit.gradients import Constant, Partials, Step, UnknownShapeError, gradient
from onnxheadprune.edit.terms import Term, sized
from onnxheadprune.liveness.live import FULL, Array, Live
from onnxheadprune.liveness.picking import dtype_of, place, ranks_within
from onnxheadprune.liveness.refusal import Refusal
from onnxheadprune.liveness.registry import Answer, inexpressible, rule, unknown_shape
from onnxheadprune.model.graph import dims
from onnxheadprune.model.graph.dims import Dim
from onnxheadprune.model.graph.elements import (
    Elements,
    elements_of,
)
from onnxheadprune.model.graph.facts import SLICES
from onnxheadprune.model.graph.tables import Shapes, number_function, shape_function
from onnxheadprune.model.graph.view import Node

SLICES.add("Slice")


@shape_function("Slice")
def _slice_shape(node: Node) -> Shapes:
    shape = node.shape(0)
    starts, ends = node.int_list("starts", 1), node.int_list("ends", 2)
    if shape is None:
        return [None]
    axes = node.int_list("axes", 3)
    if axes is None and node.input(3) is None:
        axes = list(range(len(starts or ends or ())))
    steps = node.literal(4)
    if axes is None:
        return [None]
    result = list(shape)
    for position, axis in enumerate(axes):
        step = 1 if node.input(4) is None else (None if steps is None else int(steps.reshape(-1)[position]))
        start = None if starts is None else starts[position]
        end = None if ends is None else ends[position]
        result[axis % len(shape)] = _sliced(
            node, shape[axis % len(shape)], axis % len(shape), start, end, step
        )
    return [tuple(result)]


def _sliced(node: Node, dim: Dim, axis: int, start: int | None, end: int | None, step: int | None) -> Dim:
    if isinstance(dim, int) and None not in (start, end, step):
        stop = None if step is not None and step < 0 and end is not None and end < -dim else end
        return len(range(dim)[start:stop:step])
    if start is not None and end is not None and step == 1:
        if start == 0 and end >= 2**31 - 1:
            return dim
        if end >= 2**31 - 1:
            return dims.subtract(dim, start) if start >= 0 else -start
        if start >= 0 and end < 0:
            return dims.subtract(dims.add(dim, end), start)
    return dims.symbol(f"{node.out.name}.{axis}")


@number_function("Slice")
def _slice_numbers(node: Node) -> Elements | None:
    data = elements_of(node, 0)
    starts, ends = node.int_list("starts", 1), node.int_list("ends", 2)
    if data is None or starts is None or ends is None:
        return None
    axes, steps = _given(node, "axes", 3, range(len(starts))), _given(node, "", 4, [1] * len(starts))
    if axes is None or steps is None or any(not -data.ndim <= axis < data.ndim for axis in axes):
        return None
    cuts = [slice(None)] * data.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        beyond = step < 0 and end <= -data.shape[axis] - 1
        cuts[axis] = slice(start, None if beyond else end, step)
    return np.asarray(data[tuple(cuts)], dtype=object)


def _given(node: Node, name: str, index: int, default: Sequence[int]) -> Sequence[int] | None:
    """An optional list of numbers: `default` where it is left out, None where it is computed."""
    given = node.int_list(name, index)
    return default if given is None and node.input(index) is None else given


@rule("Slice", ragged=True)
def slice_rule(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """Only what lies within the bounds is read."""
    shape = node.shape(0)
    bounds = None if shape is None else slice_bounds(node, len(shape))
    if shape is None or bounds is None:
        return unknown_shape(node)
    live = lives[0]
    picked: dict[int, Array] = {}
    for axis, (start, end, step) in bounds.items():
        dim = shape[axis]
        whole = start == 0 and end is not None and end >= 2**31 - 1 and step == 1
        if isinstance(dim, int) and start is not None and end is not None and step is not None and step > 0:
            picked[axis] = np.arange(dim)[_slice(dim, start, end, step)]
        elif axis in live.axes and not whole:
            return inexpressible(node)
    back = place(live, {axis: (chosen, _size(shape[axis])) for axis, chosen in picked.items()})
    changing = [axis for axis in picked if bounds[axis][2] != 1 or axis in back.axes]
    if any((bounds[axis][2] or 1) < 0 and axis in live.axes for axis in bounds):
        return inexpressible(node)

    def rewrite(kept: Mapping[int, Live]) -> Sequence[Edit]:
        have = kept[0]
        new: dict[int, tuple[int, int]] = {}
        for axis in changing:
            if axis not in have.axes:
                continue
            ranks = ranks_within(back, have, axis)
            first, count = int(ranks[0]), len(ranks)
            new[axis] = (first, first + count)
        return _move_bounds(node, len(shape), new)

    box = place(FULL, {axis: (chosen, _size(shape[axis])) for axis, chosen in picked.items()})

    def contiguous(have: Live) -> bool:
        if (have & box) != back.as_mask():
            return False
        for axis in changing:
            ranks = ranks_within(back, have, axis) if axis in have.axes else None
            if ranks is not None and (not ranks.size or np.any(np.diff(ranks) != 1)):
                return False
        return True

    return Answer({0: back}, rewrite, selects=frozenset({0}), accepts=contiguous)


def _slice(dim: int, start: int, end: int, step: int) -> slice:
    stop = None if step < 0 and end < -dim else end
    return slice(start, stop, step)


def _size(dim: object) -> int:
    assert isinstance(dim, int)
    return dim


def slice_bounds(node: Node, rank: int) -> dict[int, tuple[int | None, int | None, int | None]] | None:
    """`(start, end, step)` per sliced axis, None for what is not a literal; None if the axes are unknown."""
    starts, ends = _numbers(node, "starts", 1), _numbers(node, "ends", 2)
    axes = node.int_list("axes", 3)
    if axes is None:
        if node.input(3) is not None or (starts is None and ends is None):
            return None
        axes = list(range(len(starts if starts is not None else ends or ())))
    steps = _numbers(node, "steps", 4) if node.input(4) is not None else [1] * len(axes)
    bounds = {}
    for position, axis in enumerate(axes):
        bounds[axis % rank] = (
            None if starts is None else starts[position],
            None if ends is None else ends[position],
            None if steps is None else steps[position],
        )
    return bounds


def _numbers(node: Node, attribute: str, index: int) -> list[int | None] | None:
    listed = node.attribute(attribute)
    if listed is not None:
        return [int(item) for item in listed]
    value = node.input(index)
    if value is None or value.elements is None:
        return None
    return [item if isinstance(item, int) else None for item in value.elements.reshape(-1)]


def _move_bounds(node: Node, rank: int, new: Mapping[int, tuple[int, int]]) -> Sequence[Edit]:
    if not new:
        return []
    axes = node.int_list("axes", 3)
    starts, ends = node.int_list("starts", 1), node.int_list("ends", 2)
    steps = None if node.input(4) is None else node.int_list("steps", 4)
    assert starts is not None and ends is not None
    axes = list(range(len(starts))) if axes is None else axes
    for position, axis in enumerate(axes):
        if axis % rank in new:
            starts[position], ends[position] = new[axis % rank]
            if steps is not None:
                steps[position] = 1
    lists = [("starts", 1, starts), ("ends", 2, ends)] + ([("steps", 4, steps)] if steps is not None else [])
    if node.attribute("starts") is not None:
        return [SetAttribute(node.ref, name, tuple(numbers)) for name, _, numbers in lists]
    edits: list[Edit] = []
    for name, index, numbers in lists:
        constant = f"{node.out.name}/{MARK}_{name}"
        if numbers != node.int_list(name, index):
            edits += [AddConstant(node.scope.ref, constant, tuple(numbers), dtype=dtype_of(node, index))]
            edits += [SetInput(node.ref, index, constant)]
    return edits


@gradient("Slice")
def slice_gradient(step: Step) -> Partials:
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
        size, taken = sized(step.input(0), axis, shape[axis]), grad.dim(axis)
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
    """With zeros behind every element along an axis."""
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
