"""Slice and Gather: a node picks some indices of an axis.

They *select*: what they read is asked for precisely (a third of a packed QKV tensor), and when their
input keeps more or is renumbered, their bounds and indices move instead of a gather being inserted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from onnxheadprune.edit.edits import MARK, AddConstant, Edit, SetAttribute, SetInput
from onnxheadprune.liveness.live import FULL, Array, Live
from onnxheadprune.liveness.refusal import Refusal
from onnxheadprune.liveness.registry import Answer, inexpressible, rule, unknown_shape
from onnxheadprune.model.graph.view import Node


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


def place(live: Live, picked: Mapping[int, tuple[Array, int]]) -> Live:
    """The mask of a tensor from the mask of what was picked from it: `{axis: (indices, size)}`."""
    axes = sorted({*live.axes, *picked})
    sizes = [len(picked[axis][0]) if axis in picked else live.period(axis) for axis in axes]
    array = live.aligned(axes, sizes)
    for position, axis in enumerate(axes):
        if axis not in picked:
            continue
        chosen, size = picked[axis]
        shape = list(array.shape)
        shape[position] = size
        placed = np.zeros(shape, dtype=array.dtype)
        index: list[Any] = [slice(None)] * array.ndim
        index[position] = chosen
        if len(np.unique(chosen)) == len(chosen):
            placed[tuple(index)] = array
        else:
            _unite_at(placed, tuple(index), array)
        array = placed
    return Live.over(axes, array)


def _unite_at(placed: Array, index: Any, array: Array) -> None:
    """`placed[index] |= array`, also where positions repeat."""
    np.bitwise_or.at(placed, index, array)


def ranks_within(wanted: Live, have: Live, axis: int) -> Array:
    """Positions of `wanted`'s live indices of `axis` in the compacted numbering of `have`.

    Empty if they differ between the live rows of the other axes, so that no single index list serves.
    """
    axes = sorted({*wanted.axes, *have.axes, axis})
    sizes = [int(np.lcm(wanted.period(a), have.period(a))) for a in axes]
    # Compaction goes from the first axis to the last: rows are what lies before the axis, and an index
    # of the axis survives if anything behind it does.
    rows = int(np.prod(sizes[: axes.index(axis)], dtype=np.int64))
    asked, kept = (
        np.any(live.aligned(axes, sizes).reshape(rows, sizes[axes.index(axis)], -1) != 0, axis=2)
        for live in (wanted, have)
    )
    result: Array | None = None
    for asked_row, kept_row in zip(asked, kept, strict=True):
        if not kept_row.any():
            continue
        ranks = (np.cumsum(kept_row) - 1)[asked_row]
        if result is not None and not np.array_equal(result, ranks):
            return np.zeros(0, dtype=np.int64)
        result = ranks
    return np.zeros(0, dtype=np.int64) if result is None else result


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
            edits += [AddConstant(node.scope.ref, constant, tuple(numbers), dtype=_dtype(node, index))]
            edits += [SetInput(node.ref, index, constant)]
    return edits


def _dtype(node: Node, index: int) -> str:
    literal = node.literal(index)
    return "int64" if literal is None else str(literal.dtype)


@rule("Gather", ragged=True)
def gather(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """Literal indices are followed one by one; computed ones leave the gathered axis whole."""
    data, index_shape, live = node.shape(0), node.shape(1), lives[0]
    if data is None or index_shape is None:
        return unknown_shape(node)
    axis = node.attribute("axis", 0) % len(data)
    width = len(index_shape)
    on_index = [a for a in live.axes if axis <= a < axis + width]
    mapping = {a: a if a < axis else a - width + 1 for a in live.axes if a not in on_index}
    literal, dim = node.literal(1), data[axis]
    if literal is None or not isinstance(dim, int) or width > 1:
        if on_index and literal is not None:
            return inexpressible(node)
        through = live.only(mapping)
        inputs = {0: through.renumbered({a: mapping[a] for a in through.axes})}
        along = live.only(on_index)
        inputs[1] = along.renumbered({a: a - axis for a in along.axes})
        return Answer(inputs) if live.is_product or not on_index else inexpressible(node)
    return _by_numbers(node, live, axis, width, literal, dim)


def _by_numbers(node: Node, live: Live, axis: int, width: int, literal: Array, dim: int) -> Answer | Refusal:
    """Picks from `axis`, of size `dim`, at known positions that fill `width` axes of the output (one or none)."""
    on_index = [a for a in live.axes if axis <= a < axis + width]
    mapping = {a: a if a < axis else a - width + 1 for a in live.axes if a not in on_index}
    chosen = literal.reshape(-1).astype(np.int64) % dim
    if width == 0:
        mapped = Live.over([mapping[a] for a in live.axes], live.array)
        back = place(mapped, {axis: (chosen, dim)})
        survivors = chosen
    else:
        back = place(live, {axis: (chosen, dim)})
        mask = live.only(on_index).mask
        survivors = chosen[mask] if on_index else chosen
        if on_index and not live.is_product:
            return inexpressible(node)

    def renumbered(have: Live) -> Array | None:
        if axis not in have.axes:
            return survivors
        numbering = ranks_within(Live.over((axis,), np.isin(np.arange(dim), survivors)), have, axis)
        used = np.unique(survivors)
        if len(numbering) != len(used):
            return None
        return np.asarray(numbering[np.searchsorted(used, survivors)])

    def rewrite(kept: Mapping[int, Live]) -> Sequence[Edit]:
        indices = renumbered(kept[0])
        assert indices is not None
        if np.array_equal(indices, literal.reshape(-1) if axis in kept[0].axes else chosen):
            return []
        name = f"{node.out.name}/{MARK}_indices"
        numbers = tuple(int(item) for item in indices)
        nested = tuple((item,) for item in numbers) if literal.ndim > width else numbers
        scalar = width == 0
        dtype = _dtype(node, 1)
        return [AddConstant(node.scope.ref, name, nested, scalar, dtype), SetInput(node.ref, 1, name)]

    box = place(FULL, {axis: (survivors, dim)})

    def accepts(have: Live) -> bool:
        return (have & box) == back.as_mask() and renumbered(have) is not None

    return Answer({0: back}, rewrite, selects=frozenset({0}), accepts=accepts)


@rule("GatherElements")
def gather_elements(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """Data and indices run in parallel on every axis but the gathered one."""
    data, indices = node.shape(0), node.shape(1)
    if data is None or indices is None:
        return unknown_shape(node)
    live = lives[0]
    axis = node.attribute("axis", 0) % len(data)
    if axis in live.axes or any(data[a] != indices[a] for a in live.axes):
        return inexpressible(node)
    return Answer({0: live, 1: live})


@rule("GatherND", ragged=True)
def gather_nd(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """Batch axes are parallel; axes of the data behind the indexed ones pass through; a list of numbers is a Gather."""
    data, indices, live = node.shape(0), node.shape(1), lives[0]
    if data is None or indices is None or not isinstance(indices[-1], int):
        return unknown_shape(node)
    batch, rank, literal = node.attribute("batch_dims", 0), len(indices), node.literal(1)
    if literal is not None and literal.shape[1:] == (1,) and not batch and isinstance(data[0], int):
        return _by_numbers(node, live, 0, 1, literal, data[0])
    if not live.is_product:
        return inexpressible(node)
    through = [a for a in live.axes if a >= rank - 1]
    parallel = [a for a in live.axes if a < batch]
    if len(through) + len(parallel) != len(live.axes):
        return inexpressible(node)
    to_data = {a: a if a < batch else a - (rank - 1) + batch + indices[-1] for a in live.axes}
    along = live.only(parallel)
    return Answer({0: live.renumbered(to_data), 1: along})
