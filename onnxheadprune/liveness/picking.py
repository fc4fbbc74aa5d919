"""Masks of what is picked, cut or joined along an axis."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from onnxheadprune.liveness.live import Array, Live
from onnxheadprune.model.graph.view import Node


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


def rows(piece: Live, axis: int) -> tuple[tuple[int, ...], bytes]:
    """A fingerprint of what is live apart from `axis`."""
    rest = piece.only([other for other in piece.axes if other != axis])
    return rest.axes, rest.mask.tobytes()


def dtype_of(node: Node, index: int) -> str:
    """The numpy type of literal numbers that are put in place of those of input `index`."""
    literal = node.literal(index)
    return "int64" if literal is None else str(literal.dtype)
