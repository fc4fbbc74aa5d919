"""Slice: a node cuts a stretch out of some axes.

It *selects*: what it reads is asked for precisely (a third of a packed QKV tensor), and when its input keeps
more or is renumbered, its bounds move instead of a gather being inserted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from onnxheadprune.edit.edits import MARK, AddConstant, Edit, SetAttribute, SetInput
from onnxheadprune.liveness.answers import Answer
from onnxheadprune.liveness.axes import dtype_of, place, ranks_within
from onnxheadprune.liveness.live import FULL, Live
from onnxheadprune.liveness.refusals import Refusal, inexpressible, unknown_shape
from onnxheadprune.liveness.target_shapes import scaled
from onnxheadprune.model.graph import dims
from onnxheadprune.model.graph.dims import Dim, Symbolic
from onnxheadprune.model.graph.elements import Elements, elements_of
from onnxheadprune.model.graph.operator import Roles, Shapes
from onnxheadprune.model.graph.view import Node, named
from onnxheadprune.model.tensors import Array
from onnxheadprune.operators.record import operator

TO_THE_END = 2**31 - 1
"""Exporters write this end, or a larger one, for "all that follows"."""


@dataclass(frozen=True)
class Stretch:
    """The stretch that a Slice takes of one axis, `start:end:step`; None for a bound that is not known."""

    start: Dim | None
    end: Dim | None
    step: Dim | None

    @property
    def is_whole(self) -> bool:
        """True if it takes the axis as it is, however long that is."""
        return self.start == 0 and isinstance(self.end, int) and self.end >= TO_THE_END and self.step == 1

    def positions(self, size: int) -> range | None:
        """The indices that it takes of an axis of a known size, None where a bound is not known.

        >>> Stretch(1, -1, 2).positions(6)
        range(1, 5, 2)
        >>> Stretch(-1, -9, -2).positions(4)
        range(3, -1, -2)
        """
        if not (isinstance(self.start, int) and isinstance(self.end, int) and isinstance(self.step, int)):
            return None
        # Backwards, an end before the first index takes the first one too.
        beyond = self.step < 0 and self.end < -size
        return range(size)[self.start : None if beyond else self.end : self.step]

    def length(self, dim: Dim) -> Dim | None:
        """The length of the stretch of an axis of size `dim`, None where unknown.

        >>> Stretch(2, 2**31 - 1, 1).length(8)
        6
        >>> print(Stretch(1, -1, 1).length(dims.symbol("length")))
        -2 + length
        >>> Stretch(-1, 2**31 - 1, 1).length(dims.symbol("length"))
        1
        >>> Stretch(-2, 2**31 - 1, 1).length(dims.symbol("length"))
        """
        if isinstance(dim, int):
            taken = self.positions(dim)
            return None if taken is None else len(taken)
        if self.start is None or self.end is None or self.step != 1:
            return None
        if self.is_whole:
            return dim
        if isinstance(self.start, Symbolic) or isinstance(self.end, Symbolic):
            length = dims.subtract(self.stop(dim), self.start)
            within = (self.start, length, dims.subtract(dim, self.stop(dim)))
            return length if all(map(dims.never_negative, within)) else None
        if self.end >= TO_THE_END and self.start < 0:
            # Of an axis that may be shorter it takes all there is.
            return -self.start if -self.start <= dims.divisor(dim) else None
        if self.end >= TO_THE_END:
            return dims.subtract(dim, self.start)
        if self.start >= 0 and self.end < 0:
            return dims.subtract(dims.add(dim, self.end), self.start)
        return None

    def stop(self, dim: Dim) -> Dim:
        """Return the end of what it takes of an axis of size `dim`."""
        assert self.end is not None
        return dim if isinstance(self.end, int) and self.end >= TO_THE_END else self.end

    def in_runs(self, dim: Dim, run: Dim) -> tuple[range, int] | None:
        """The runs that it takes of an axis of size `dim`, and their number; None if it takes parts."""
        if self.start is None or self.end is None or self.step != 1:
            return None
        start, end, whole = (dims.divide(bound, run) for bound in (self.start, self.stop(dim), dim))
        if not (isinstance(start, int) and isinstance(end, int) and isinstance(whole, int)):
            return None
        return range(start, end), whole


def _stretches(node: Node, rank: int) -> dict[int, Stretch] | None:
    """The stretch that a Slice takes of each axis that it cuts, None if the axes are not known."""
    starts, ends = _numbers(node, "starts", 1), _numbers(node, "ends", 2)
    axes = node.int_list("axes", 3)
    if axes is None:
        listed = ends if starts is None else starts
        if node.input(3) is not None or listed is None:
            return None
        axes = list(range(len(listed)))
    unknown: list[Dim | None] = [None] * len(axes)
    steps: list[Dim | None] | None = [1] * len(axes)
    if node.input(4) is not None:
        steps = _numbers(node, "steps", 4)
    columns = [unknown if numbers is None else numbers for numbers in (starts, ends, steps)]
    if not rank or any(len(column) != len(axes) for column in columns):
        return None
    taken: dict[int, Stretch] = {}
    for position, axis in enumerate(axes):
        start, end, step = (column[position] for column in columns)
        taken[axis % rank] = Stretch(start, end, step)
    return taken


def _numbers(node: Node, attribute: str, index: int) -> list[Dim | None] | None:
    """A list of numbers that older opsets keep in an attribute; None for each that is not known."""
    listed = node.attribute(attribute)
    if listed is not None:
        return [int(item) for item in listed]
    value = node.input(index)
    if value is None or value.elements is None:
        return None
    return list(value.elements.reshape(-1))


def _slice_shape(node: Node) -> Shapes:
    shape = node.shape(0)
    taken = None if shape is None else _stretches(node, len(shape))
    if shape is None or taken is None:
        return [None]
    result = list(shape)
    for axis, stretch in taken.items():
        result[axis] = named(stretch.length(shape[axis]), node, axis)
    return [tuple(result)]


def _slice_numbers(node: Node) -> Elements | None:
    data = elements_of(node, 0)
    taken = None if data is None else _stretches(node, data.ndim)
    if data is None or taken is None:
        return None
    for axis, stretch in taken.items():
        positions = stretch.positions(data.shape[axis])
        if positions is None:
            return None
        data = data.take(positions, axis)
    return np.asarray(data, dtype=object)


def _slice_rule(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """Only what lies within the bounds is read."""
    live, shape = lives[0], node.shape(0)
    taken = None if shape is None else _stretches(node, len(shape))
    if shape is None or taken is None:
        return unknown_shape(node)
    picked: dict[int, tuple[Array, int]] = {}
    repeats: dict[int, Dim] = {}
    for axis, stretch in taken.items():
        size = shape[axis]
        run = live.repeat(axis) if axis in live.axes else stretch.length(size)
        if isinstance(size, Symbolic) and isinstance(run, Symbolic) and not stretch.is_whole:
            whole_runs = stretch.in_runs(size, run)
            if whole_runs is not None:
                picked[axis] = (np.array(whole_runs[0], dtype=np.int64), whole_runs[1])
                repeats[axis] = run
                continue
        positions = stretch.positions(size) if isinstance(size, int) else None
        if isinstance(size, int) and positions is not None and positions.step > 0:
            picked[axis] = (np.array(positions, dtype=np.int64), size)
        elif axis in live.axes and not stretch.is_whole:
            return inexpressible(node)
    read = place(live, picked, repeats)
    moving = tuple(axis for axis in picked if taken[axis].step != 1 or axis in read.axes)
    if any(axis in read.axes for axis in moving if axis not in repeats) and not _can_move(node):
        return inexpressible(node)
    cut = _Cut(node, len(shape), read, place(FULL, picked, repeats), moving)
    return Answer({0: read}, cut.rewrite, selects=frozenset({0}), accepts=cut.accepts)


@dataclass(frozen=True)
class _Cut:
    """A Slice of which a part is asked for."""

    node: Node
    rank: int  # the number of axes of its input
    read: Live  # what it has to read of its input
    within: Live  # what lies within its bounds in the original
    moving: tuple[int, ...]  # axes along which its bounds move when the input gets narrower

    def accepts(self, have: Live) -> bool:
        """Return whether the bounds can be moved so that of an input that keeps `have` exactly `read` is taken."""
        if (have & self.within) != self.read.as_mask():
            return False
        for axis in self.moving:
            if axis not in have.axes:
                continue
            ranks = ranks_within(self.read, have, axis)
            if not ranks.size or np.any(np.diff(ranks) != 1):
                return False
        return True

    def rewrite(self, kept: Mapping[int, Live]) -> Sequence[Edit]:
        """The edits that move the bounds to where `read` lies in what the input finally keeps."""
        have = kept[0]
        bounds: dict[int, tuple[int, int]] = {}
        repeats: dict[int, tuple[Array, Array]] = {}
        for axis in self.moving:
            if axis in have.axes:
                ranks = ranks_within(self.read, have, axis)
                bounds[axis] = (int(ranks[0]), int(ranks[0]) + len(ranks))
                if self.read.repeat(axis) != 1:
                    before = np.flatnonzero(self.within.only([axis]).mask)
                    repeats[axis] = before[[0, -1]] + [0, 1], np.array(bounds.pop(axis))
        return [*_moved(self.node, self.rank, bounds), *_scaled_bounds(self.node, self.rank, repeats)]


def _can_move(node: Node) -> bool:
    """Return whether all bounds are literals: a list with a computed number in it cannot be written anew."""
    steps = node.input(4) is None or node.int_list("steps", 4) is not None
    return steps and None not in (node.int_list("starts", 1), node.int_list("ends", 2))


def _scaled_bounds(node: Node, rank: int, repeats: Mapping[int, tuple[Array, Array]]) -> Iterator[Edit]:
    """Yield edits that give some axes other bounds `(start, end)`, which are multiples of an unknown length."""
    listed = _numbers(node, "starts", 1)
    if not repeats or listed is None:
        return
    axes = node.int_list("axes", 3) or list(range(len(listed)))
    for index, which in ((1, 0), (2, 1)):
        pairs = [repeats.get(axis % rank, ((0, 0), (0, 0))) for axis in axes]
        # A start of 0 stays where it is.
        before = [int(old[which]) or 1 for old, _ in pairs]
        now = [int(new[which]) if old[which] else 1 for old, new in pairs]
        source = node.inputs[index]
        if before != now and source is not None:
            name = f"{node.out.name}/{MARK}_bound{index}"
            dtype = "int32" if source.elem_type == TensorProto.INT32 else "int64"
            yield from scaled(node.ref, node.scope.ref, source.name, name, before, now, dtype=dtype)
            yield SetInput(node.ref, index, name)


def _moved(node: Node, rank: int, bounds: Mapping[int, tuple[int, int]]) -> Sequence[Edit]:
    """Edits that give some axes new bounds `(start, end)`, in steps of 1."""
    if not bounds:
        return []
    starts, ends = node.int_list("starts", 1), node.int_list("ends", 2)
    assert starts is not None and ends is not None
    axes = node.int_list("axes", 3) or list(range(len(starts)))
    steps = None if node.input(4) is None else node.int_list("steps", 4)
    for position, axis in enumerate(axes):
        if axis % rank not in bounds:
            continue
        starts[position], ends[position] = bounds[axis % rank]
        if steps is not None:
            steps[position] = 1
    lists = [("starts", 1, starts), ("ends", 2, ends)]
    if steps is not None:
        lists.append(("steps", 4, steps))
    if node.attribute("starts") is not None:
        return [SetAttribute(node.ref, name, tuple(numbers)) for name, _, numbers in lists]
    edits: list[Edit] = []
    for name, index, numbers in lists:
        if numbers != node.int_list(name, index):
            constant = f"{node.out.name}/{MARK}_{name}"
            edits.append(AddConstant(node.scope.ref, constant, tuple(numbers), dtype=dtype_of(node, index)))
            edits.append(SetInput(node.ref, index, constant))
    return edits


operator(
    "Slice",
    roles=Roles(places=(1, 2, 3, 4)),
    shape=_slice_shape,
    elements=_slice_numbers,
    rule=_slice_rule,
    ragged=True,
    repeats=True,
)
