"""The view algebra: what a live set on the output of a view operator means on its input.

A Reshape only re-reads a row-major buffer, so its two shapes split into groups of adjacent axes with
equal products; inside a group, live indices are flattened and split anew. Equal numbers cannot confuse
this (batch = heads = 4): only products of whole prefixes and suffixes are compared.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import numpy as np

from onnxheadprune.liveness.live import Array, Live
from onnxheadprune.model.graph import dims
from onnxheadprune.model.graph.dims import Dim, Shape

MAX_POSITIONS = 2**24
"""Positions that are told apart at most: declared sizes beyond that are nonsense, or not worth the memory."""


class Group(NamedTuple):
    """Adjacent input axes `[in_start, in_stop)` that hold the same elements as output axes `[out_start, out_stop)`."""

    in_start: int
    in_stop: int
    out_start: int
    out_stop: int


def align(in_shape: Shape, out_shape: Shape) -> list[Group]:
    """Splits the two shapes of a reshape into the finest groups that their products prove."""
    cuts = _matches(in_shape, out_shape)
    last_in, last_out = cuts[-1]
    tail = _matches(in_shape[last_in:][::-1], out_shape[last_out:][::-1])
    cuts += sorted((len(in_shape) - a, len(out_shape) - b) for a, b in tail)
    groups = []
    for (in_start, out_start), (in_stop, out_stop) in itertools.pairwise(cuts):
        if (in_start, out_start) != (in_stop, out_stop):
            groups.append(Group(in_start, in_stop, out_start, out_stop))
    return groups


def _matches(in_shape: Shape, out_shape: Shape) -> list[tuple[int, int]]:
    """Pairs of prefix lengths with equal products, increasing, starting with (0, 0)."""
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
    totals: list[Dim] = [1]
    for dim in shape:
        totals.append(dims.multiply(totals[-1], dim))
    return totals


def reshape_back(live: Live, in_shape: Shape, out_shape: Shape) -> Live | None:
    """The live set on the input of a reshape whose output must keep `live`; None if inexpressible."""
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
    """Spells out every axis from the first live one to the end of its group."""
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
    """The live set on one input of an element-wise operator; None where its broadcast is unknown."""
    offset = len(out_shape) - len(in_shape)
    carried: dict[int, int] = {}
    for axis in live.axes:
        if axis < offset or in_shape[axis - offset] == 1:
            continue
        dim, period = in_shape[axis - offset], live.period(axis)
        if dim != out_shape[axis] and (isinstance(dim, int) or dims.divisor(dim) % period):
            return None
        if isinstance(dim, int) and dim != period:
            return None
        carried[axis] = axis - offset
    if tuple(carried) != live.axes[: len(carried)] and not live.is_product:
        # Which trailing entries survive differs between leading ones: a broadcast cannot follow that.
        return None
    return live.only(carried).renumbered(carried)
