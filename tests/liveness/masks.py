"""Random live masks, and compaction spelled out in numpy: the oracle of all engine tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from onnxheadprune.liveness.live import FULL, Live
from onnxheadprune.model.graph.dims import Shape, Symbolic, divide, divisor

Array: TypeAlias = npt.NDArray[Any]
Draw: TypeAlias = Callable[..., Any]
"""What a composite strategy or `data.draw` is."""


def compact(array: Array, live: Live) -> Array:
    """`array` without what is dead, by recursion over the live axes (fails if that is not rectangular)."""
    count = len(live.axes)
    front = np.moveaxis(array, live.axes, range(count))
    mask = live.mask
    for position, axis in enumerate(live.axes):
        repeats, rest = divmod(front.shape[position], mask.shape[position])
        assert rest == 0, f"period {mask.shape[position]} on an axis of {front.shape[position]}"
        in_runs = live.repeat(axis) != 1
        mask = mask.repeat(repeats, position) if in_runs else np.concatenate([mask] * repeats, axis=position)
    return np.moveaxis(_rows(front, mask), range(count), live.axes)


def _rows(array: Array, mask: Array) -> Array:
    if mask.ndim == 0:
        return array
    return np.stack([_rows(row, alive) for row, alive in zip(array, mask, strict=True) if alive.any()])


@st.composite
def lives(draw: Draw, shape: Shape) -> Live:
    """A compactable mask over one to three axes: an outer product, or ragged."""
    periods = {axis: divisor(dim) for axis, dim in enumerate(shape)}
    candidates = [axis for axis, period in periods.items() if period > 1]
    if not candidates:
        return FULL
    count = draw(st.sampled_from((1, 1, 1, 2, 2, 3)))
    axes = sorted(draw(st.permutations(candidates))[:count])
    sizes = [periods[axis] for axis in axes]
    if len(axes) > 1 and draw(st.booleans()):
        counts = [_count(draw, size) for size in sizes]
        return Live.over(axes, _ragged(draw, sizes, counts))
    mask = np.array(True)
    for size in sizes:
        mask = np.multiply.outer(mask, _subset(draw, size, _count(draw, size)))
    return Live.over(axes, mask)


@st.composite
def lives_in_runs(draw: Draw, shape: Shape) -> Live:
    """The same, where entries along an axis of unknown length stand for runs of positions."""
    live = draw(lives(shape))
    wholes = ((axis, divide(shape[axis], live.period(axis))) for axis in live.axes)
    repeats = [(axis, run) for axis, run in wholes if isinstance(run, Symbolic)]
    return replace(live, repeats=tuple(repeats)) if draw(st.integers(0, 4)) else live


@st.composite
def block_lives(draw: Draw, shape: Shape, blocks: Mapping[int, int]) -> Live:
    """A mask over one axis in which blocks of neighbours share their fate; the axis that `shape` has."""
    axes = [axis for axis in blocks if axis < len(shape)] or [*range(len(shape))][:1]
    if not axes:
        return FULL
    axis = draw(st.sampled_from(axes))
    size, block = divisor(shape[axis]), blocks.get(axis, 1)
    if size % block or size == block:
        return FULL
    alive = _subset(draw, size // block, _count(draw, size // block))
    return Live.over((axis,), alive.repeat(block))


def _count(draw: Draw, size: int) -> int:
    """How many survive: rarely all."""
    return size if draw(st.integers(0, 7)) == 7 else draw(st.integers(1, size - 1))


def _subset(draw: Draw, size: int, count: int) -> Array:
    chosen = draw(st.permutations(range(size)))[:count]
    mask = np.zeros(size, dtype=bool)
    mask[list(chosen)] = True
    return mask


def _ragged(draw: Draw, sizes: Sequence[int], counts: Sequence[int]) -> Array:
    """Equally many survivors in every surviving row, but not the same ones."""
    rows = _subset(draw, sizes[0], counts[0])
    if len(sizes) == 1:
        return rows
    mask = np.zeros(sizes, dtype=bool)
    for row in np.flatnonzero(rows):
        mask[row] = _ragged(draw, sizes[1:], counts[1:])
    return mask
