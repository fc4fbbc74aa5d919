"""Masks of what is picked, cut or joined along an axis."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from onnxheadprune.liveness.live import Live
from onnxheadprune.model.graph.dims import Dim
from onnxheadprune.model.graph.view import Node
from onnxheadprune.model.tensors import Array

NO_REPEATS: Mapping[int, Dim] = MappingProxyType({})


def place(
    live: Live, picked: Mapping[int, tuple[Array, int]], repeats: Mapping[int, Dim] = NO_REPEATS
) -> Live:
    """The mask of a tensor from the mask of what was picked from it.

    Args:
        picked: per axis the indices that were picked from it, and its size.
        repeats: of the axes where these count runs of positions, how many each of them has.

    Examples:
        Number 4, 2 and 0 of five were picked, and the last of these is dead.

        >>> place(Live.over((1,), np.array([7, 8, 0])), {1: (np.array([4, 2, 0]), 5)})
        Live(axes=(1,), array=array([0, 0, 8, 0, 7]))
    """
    # Of an axis from which nothing is picked nothing is needed but that it is there: the other axes keep their say.
    picked = {axis: (chosen, size) for axis, (chosen, size) in picked.items() if len(chosen)}
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
            # Where positions repeat, all that is picked from one is needed of it.
            np.bitwise_or.at(placed, tuple(index), array)
        array = placed
    return Live.over(
        axes, array, (*live.repeats, *(item for item in repeats.items() if item not in live.repeats))
    )


def ranks_within(wanted: Live, have: Live, axis: int) -> Array:
    """Positions of `wanted`'s live indices of `axis` in the compacted numbering of `have`.

    Empty if they differ between the live rows of the other axes, so that no single index list serves.

    Examples:
        Of five positions the first and the last two are kept; the last one is wanted: it is number 2 now.

        >>> kept = Live.over((0,), np.array([True, False, False, True, True]))
        >>> ranks_within(Live.over((0,), np.array([False, False, False, False, True])), kept, 0)
        array([2])
    """
    axes = sorted({*wanted.axes, *have.axes, axis})
    sizes = [int(np.lcm(wanted.period(a), have.period(a))) for a in axes]
    # Compaction goes from the first axis to the last: rows are what lies before the axis, and an index
    # of the axis survives if anything after it does.
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


def rows(piece: Live, axis: int) -> tuple[tuple[int, ...], bytes]:
    """A fingerprint of what is live apart from `axis`."""
    rest = piece.only([other for other in piece.axes if other != axis])
    return rest.axes, rest.mask.tobytes()


def dtype_of(node: Node, index: int) -> str:
    """The numpy type of literal numbers that are put in place of those of input `index`."""
    literal = node.literal(index)
    return "int64" if literal is None else str(literal.dtype)
