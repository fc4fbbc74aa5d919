"""The view algebra: what a live set on the output of a view operator means on its input.

A Reshape only re-reads a row-major buffer, so its two shapes split into groups of adjacent axes with
equal products; inside a group, live indices are flattened and split again. Equal numbers cannot confuse
this (batch = heads = 4): only products of whole prefixes and suffixes are compared.

Nodes that pick positions, or join pieces, need masks of those alone (`place`, `ranks_within`).

In the examples labels stand in for masks, because they show where each index came from; 0 is dead.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Hashable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from onnxheadprune.liveness.live import Live
from onnxheadprune.model.graph import dims
from onnxheadprune.model.graph.dims import Dim, Shape
from onnxheadprune.model.graph.view import Node
from onnxheadprune.model.tensors import Array

MAX_POSITIONS = 2**24
"""Positions that are told apart at most: declared sizes beyond that are nonsense, or not worth the memory."""


class Group(NamedTuple):
    """Adjacent input axes `[in_start, in_stop)` that hold the same elements as output axes `[out_start, out_stop)`."""

    in_start: int
    in_stop: int
    out_start: int
    out_stop: int


@functools.lru_cache(maxsize=1024)  # Layers are alike.
def align(in_shape: Shape, out_shape: Shape) -> tuple[Group, ...]:
    """Split the two shapes of a reshape into the finest groups that their products prove.

    Examples:
        Heads and features become one axis:

        >>> align((4, 5), (20,))
        (Group(in_start=0, in_stop=2, out_start=0, out_stop=1),)

        Axes before them stay unchanged:

        >>> [tuple(group) for group in align((2, 3, 4, 5), (2, 3, 20))]
        [(0, 1, 0, 1), (1, 2, 1, 2), (2, 4, 2, 3)]

        Batch and heads become one axis, whatever the batch is:

        >>> batch = dims.symbol("batch")
        >>> [tuple(group) for group in align((batch, 4, 7), (dims.multiply(batch, 4), 7))]
        [(0, 2, 0, 1), (2, 3, 1, 2)]

        Equal numbers that are not the same axis stay in one group, and axes of size 1 are in no group:

        >>> [tuple(group) for group in align((4, 6), (6, 4))]
        [(0, 2, 0, 2)]
        >>> [tuple(group) for group in align((4, 1, 6), (4, 2, 3))]
        [(0, 1, 0, 1), (1, 3, 1, 3)]
    """
    cuts = _matches(in_shape, out_shape)
    last_in, last_out = cuts[-1]
    tail = _matches(in_shape[last_in:][::-1], out_shape[last_out:][::-1])
    cuts += sorted((len(in_shape) - a, len(out_shape) - b) for a, b in tail)
    groups = []
    for (in_start, out_start), (in_stop, out_stop) in itertools.pairwise(cuts):
        if (in_start, out_start) != (in_stop, out_stop):
            groups.append(Group(in_start, in_stop, out_start, out_stop))
    return tuple(groups)


def _matches(in_shape: Shape, out_shape: Shape) -> list[tuple[int, int]]:
    """Pairs of prefix lengths with equal products, increasing, starting with (0, 0).

    >>> _matches((2, 3, 4), (2, 12))
    [(0, 0), (1, 1), (3, 2)]
    """
    cuts = [(0, 0)]
    out_products = _prefix_products(out_shape)
    for in_length, total in enumerate(_prefix_products(in_shape)):
        if total == 0 or in_length <= cuts[-1][0]:
            continue
        for out_length in range(cuts[-1][1] + 1, len(out_products)):
            if out_products[out_length] == total:
                cuts.append((in_length, out_length))
                break
    return cuts


def _prefix_products(shape: Shape) -> list[Dim]:
    """The number of elements of the first 0, 1, 2 ... axes.

    >>> _prefix_products((2, 3, 4))
    [1, 2, 6, 24]
    """
    totals: list[Dim] = [1]
    for dim in shape:
        totals.append(dims.multiply(totals[-1], dim))
    return totals


def reshape_back(live: Live, in_shape: Shape, out_shape: Shape) -> Live | None:
    """The live set on the input of a reshape whose output must keep `live`; None if inexpressible.

    Args:
        live: what is live of the output.
        in_shape: the shape before the reshape.
        out_shape: the shape after it.

    Examples:
        Two heads of three features were split out of one axis of six; the second head is dead.

        >>> reshape_back(Live.over((2,), np.array([1, 0])), (5, 7, 6), (5, 7, 2, 3))
        Live(axes=(2,), array=array([1, 1, 1, 0, 0, 0]))

        They are merged back: features 0-2 are head 0.

        >>> reshape_back(Live.over((2,), np.array([1, 1, 1, 0, 0, 0])), (5, 7, 2, 3), (5, 7, 6))
        Live(axes=(2,), array=array([1, 0]))

        Features within heads have separate labels on both axes:

        >>> reshape_back(Live.over((0,), np.array([1, 2, 3, 1, 2, 0])), (2, 3), (6,))
        Live(axes=(0, 1), array=array([[1, 2, 3],
               [1, 2, 0]]))

        Heads in `batch * heads` repeat with every sample, so the array covers one period of four:

        >>> batch = dims.symbol("batch")
        >>> reshape_back(Live.over((1,), np.array([1, 2, 0, 4])), (dims.multiply(batch, 4), 7), (batch, 4, 7))
        Live(axes=(0,), array=array([1, 2, 0, 4]))

        In `heads * batch` all samples of one head follow each other: each entry stands for a run of them:

        >>> heads = reshape_back(Live.over((0,), np.array([1, 2, 0, 4])), (dims.multiply(batch, 4), 7), (4, batch, 7))
        >>> heads, str(heads.repeat(0))
        (Live(axes=(0,), array=array([1, 2, 0, 4])), 'batch')
    """
    found = None if live.repeats else _reshaped(live, in_shape, out_shape)
    return _in_runs(live, in_shape, out_shape) if found is None else found


def _in_runs(live: Live, in_shape: Shape, out_shape: Shape) -> Live | None:
    """The same, where entries stand for runs of symbolic length: an axis of runs is treated as two, number and length.

    Examples:
        >>> tokens = dims.symbol("tokens")
        >>> rows = Live.over((0,), np.array([1, 0, 3]), ((0, tokens),))
        >>> _in_runs(rows, (3, tokens, 8), (dims.multiply(tokens, 3), 8))
        Live(axes=(0,), array=array([1, 0, 3]))
    """
    cuts = [_cut_across(out_shape, dims.product(in_shape[axis + 1 :])) for axis in range(len(in_shape))]
    whole = {axis: run for cut in cuts for axis, run in cut.items() if axis not in live.axes}
    apart = _apart(out_shape, whole | dict(live.repeats))
    if apart is None:
        return None
    outer, owners = apart
    plain = Live.over([owners.index(axis) for axis in live.axes], live.array)
    repeats: dict[int, Dim] = {}
    for axis in plain.axes:
        repeats |= _cut_across(in_shape, dims.product(outer[axis + 1 :]))
    apart = _apart(in_shape, repeats) if repeats or whole or live.repeats else None
    back = None if apart is None else _reshaped(plain, apart[0], outer)
    if apart is None or back is None:
        return None
    places = [apart[1][axis] for axis in back.axes]
    if len(set(places)) != len(places):
        return None
    slow = [place for place, axis in zip(places, back.axes, strict=True) if apart[1].index(place) == axis]
    return Live.over(places, back.array, tuple((place, repeats[place]) for place in slow if place in repeats))


def _apart(shape: Shape, repeats: Mapping[int, Dim]) -> tuple[Shape, list[int]] | None:
    """The shape with each axis of runs as two axes, and for each of its axes the one that it comes from.

    >>> _apart((7, 12), {1: 3})
    ((7, 4, 3), [0, 1, 1])
    """
    found: list[tuple[Dim, int]] = []
    for axis, dim in enumerate(shape):
        run = repeats.get(axis, 1)
        many = dims.divide(dim, run) if axis in repeats else dim
        if many is None:
            return None
        found += [(many, axis), (run, axis)] if axis in repeats else [(dim, axis)]
    return tuple(dim for dim, _ in found), [axis for _, axis in found]


def _cut_across(shape: Shape, behind: Dim) -> dict[int, Dim]:
    """The axis that is cut in two where `behind` elements are left of a shape, and the length after the cut.

    >>> tokens = dims.symbol("tokens")
    >>> _cut_across((2, dims.multiply(tokens, 3), 8), dims.multiply(tokens, 8)) == {1: tokens}
    True
    """
    for axis in reversed(range(len(shape))):
        rest = dims.divide(behind, shape[axis])
        if rest is None:
            many = dims.divide(shape[axis], behind)
            return {} if many is None or isinstance(behind, int) else {axis: behind}
        behind = rest
    return {}


def _reshaped(live: Live, in_shape: Shape, out_shape: Shape) -> Live | None:
    """The same, without runs; None for unrelated symbols.

    >>> batch, rows = dims.symbol("batch"), dims.symbol("rows")
    >>> _reshaped(Live.over((1,), np.array([1, 2, 0, 4])), (rows, 7), (batch, 4, 7)) is None
    True
    """
    array, axes = live.array, list(live.axes)
    new_axes: list[int] = []
    position = 0
    for group in align(in_shape, out_shape):
        mine = [axis for axis in axes if group.out_start <= axis < group.out_stop]
        if not mine:
            continue
        widened = _widen(array, position, mine, out_shape, group.out_stop)
        if widened is None:
            return None
        array, width = widened
        flat = math.prod(array.shape[position : position + width])
        target = _suffix(in_shape, group.in_start, group.in_stop, flat)
        if target is None:
            return None
        sizes = [size for _, size in target]
        if array.size // max(1, flat) * math.prod(sizes) > MAX_POSITIONS:
            return None
        shape = array.shape
        array = array.reshape(*shape[:position], flat, *shape[position + width :])
        array = np.concatenate([array] * (math.prod(sizes) // flat), axis=position)
        array = array.reshape(*shape[:position], *sizes, *shape[position + width :])
        new_axes += [axis for axis, _ in target]
        position += len(target)
    return Live.over(new_axes, array)


def _widen(array: Array, position: int, mine: list[int], shape: Shape, stop: int) -> tuple[Array, int] | None:
    """Expand the array to every axis from the first live one to the end of its group.

    Returns:
        The array, and how many of its dimensions the group has now. None where a size is not known.

    Examples:
        Two heads, live as a whole, of three features each:

        >>> _widen(np.array([1, 2]), 0, [0], (2, 3), 2)
        (array([[1, 1, 1],
               [2, 2, 2]]), 2)
    """
    for offset, axis in enumerate(range(mine[0], stop)):
        dim = shape[axis]
        if axis not in mine:
            if not isinstance(dim, int) or array.size * dim > MAX_POSITIONS:
                return None
            array = np.repeat(np.expand_dims(array, position + offset), dim, axis=position + offset)
        elif offset and array.shape[position + offset] != dim:
            return None
    return array, stop - mine[0]


def _suffix(shape: Shape, start: int, stop: int, period: int) -> list[tuple[int, int]] | None:
    """The last axes of `[start, stop)` whose product is a multiple of `period`, with their sizes.

    The first of them may be symbolic: then a divisor of it serves as its period.

    Examples:
        >>> _suffix((5, 2, 3), 0, 3, 6)
        [(1, 2), (2, 3)]
        >>> _suffix((5, dims.multiply(dims.symbol("batch"), 4)), 0, 2, 4)
        [(1, 4)]
        >>> _suffix((dims.symbol("batch"), 7), 0, 2, 4) is None
        True
    """
    taken: list[tuple[int, int]] = []
    total = 1
    for axis in reversed(range(start, stop)):
        if total % period == 0:
            break
        dim = shape[axis]
        if isinstance(dim, int):
            taken.insert(0, (axis, dim))
            total *= dim
            continue
        needed = period // math.gcd(period, total)
        if dims.divisor(dim) % needed:
            return None
        taken.insert(0, (axis, needed))
        total *= needed
    return taken if taken and total % period == 0 else None


def broadcast_back(live: Live, in_shape: Shape, out_shape: Shape) -> Live | None:
    """The live set on one input of an element-wise operator; None where its broadcast is unknown.

    Args:
        live: what is live of the output.
        in_shape: the shape of the input; its axes are the last ones of the output.
        out_shape: the shape of the output.

    Examples:
        A bias of heads and features, added to `[batch, tokens, heads, features]`:

        >>> heads = Live.over((2,), np.array([1, 2, 0]))
        >>> broadcast_back(heads, (3, 8), (5, 7, 3, 8))
        Live(axes=(0,), array=array([1, 2, 0]))

        A bias that all heads share stays whole, and their labels are united to one:

        >>> broadcast_back(heads, (1, 8), (5, 7, 3, 8))
        Live(axes=(), array=array(1))
    """
    offset = len(out_shape) - len(in_shape)
    carried: dict[int, int] = {}
    for axis in live.axes:
        if axis < offset or in_shape[axis - offset] == 1:
            continue
        dim, period = in_shape[axis - offset], live.period(axis)
        if dim != out_shape[axis] and (isinstance(dim, int) or live.repeats or dims.divisor(dim) % period):
            return None
        if isinstance(dim, int) and dim != period:
            return None
        carried[axis] = axis - offset
    if tuple(carried) != live.axes[: len(carried)] and not live.is_product:
        # Which trailing entries survive differs between leading ones: a broadcast cannot follow that.
        return None
    return live.only(carried).renumbered(carried)


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


def rows(piece: Live, axis: int) -> Hashable:
    """A fingerprint of what is live apart from `axis`."""
    return piece.only([other for other in piece.axes if other != axis]).as_mask().key


def dtype_of(node: Node, index: int) -> str:
    """The numpy type of literal numbers that are put in place of those of input `index`."""
    literal = node.literal(index)
    return "int64" if literal is None else str(literal.dtype)
