"""`Live`: which indices of which axes of a value are needed.

A `Live` holds an array over a few axes of a value. Zero means dead, anything else live. The array need
not be boolean: site detection sends *labels* through the same rules (which column of the projection is
this, which heads read this), and labels of merged positions are united with a bitwise or.

* An axis along which the array does not vary is left out, so a fully live value has no axes at all.
* On an axis whose size is symbolic (`batch * 12`) the array covers one period and repeats. Where heads are the slower
  part (`12 * batch`, one head of all samples after the other) each entry stands for a *run* of `batch` positions.
* Over several axes the array need not be a product (query heads kept in each KV group may differ); it
  must then be *dense*: compactable into a smaller rectangular tensor.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import or_
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from onnxheadprune.model.graph.dims import Dim, divide, divisor, multiply
from onnxheadprune.model.tensors import Array

Repeats: TypeAlias = tuple[tuple[int, Dim], ...]
DIGESTED = 256
"""Bytes of an array beyond which a key has its digest."""


@dataclass(frozen=True, eq=False)
class Live:
    """The live indices of some axes of one value; build one with `Live.over`.

    Attributes:
        axes: strictly increasing axis numbers.
        array: one dimension per axis of `axes`; zero is dead.
        repeats: of the axes whose entries each stand for several positions in a row, how many; a symbolic length.
    """

    axes: tuple[int, ...]
    array: Array
    repeats: Repeats = field(default=(), repr=False)

    @classmethod
    def over(cls, axes: Sequence[int], array: Array, repeats: Repeats = ()) -> Live:
        """A canonical `Live`: axes sorted, axes without variation dropped."""
        if not array.size:
            # An axis without positions: there is nothing that could be needed.
            return cls((), np.zeros((), dtype=array.dtype))
        kept, array = _sorted(axes, array)
        for position in reversed(range(len(kept))):
            if not _varies(array, position):
                array = array.take(0, axis=position)
                del kept[position]
        return cls(tuple(kept), np.asarray(array), tuple(sorted(item for item in repeats if item[0] in kept)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Live):
            return NotImplemented
        same = self.axes == other.axes and self.repeats == other.repeats
        return same and np.array_equal(self.array, other.array)

    __hash__ = None  # type: ignore[assignment]

    @property
    def key(self) -> Hashable:
        """A key that only equal live sets have; long arrays are digested, since thousands of keys are kept."""
        data = self.array.tobytes()
        short = data if len(data) <= DIGESTED else hashlib.blake2b(data, digest_size=32).digest()
        return self.axes, self.repeats, self.array.shape, short

    @property
    def is_mask(self) -> bool:
        """True for a boolean mask without labels."""
        return self.array.dtype.kind == "b"

    @property
    def numbers_positions(self) -> bool:
        """True if it has a plain number for each position; sets of labels are Python integers."""
        return self.array.dtype.kind == "i"

    @property
    def is_full(self) -> bool:
        """True if everything is live, undistinguished."""
        return not self.axes and bool(self.array)

    @property
    def is_dead(self) -> bool:
        """True if nothing is live."""
        return not self.axes and not bool(self.array)

    @property
    def mask(self) -> npt.NDArray[np.bool_]:
        """The array as booleans."""
        return self.array if self.is_mask else np.asarray(self.array != 0)

    @classmethod
    def numbered(cls, axis: int, count: int) -> Live:
        """A label for each position of an axis, from 1 on."""
        return cls.over((axis,), np.arange(1, count + 1))

    def spread(self, rank: int) -> npt.NDArray[np.bool_]:
        """The mask with all axes of a value, of size 1 where it does not vary."""
        sizes = dict(zip(self.axes, self.array.shape, strict=True))
        return self.mask.reshape([sizes.get(axis, 1) for axis in range(rank)])

    def as_mask(self) -> Live:
        """The same liveness without labels."""
        return self if self.is_mask else Live.over(self.axes, self.mask, self.repeats)

    def only(self, axes: Iterable[int]) -> Live:
        """Projected onto `axes`: a position is live if it is so anywhere along the other axes.

        >>> Live.over((0, 1), np.array([[True, False, False], [False, False, True]])).only([1])
        Live(axes=(1,), array=array([ True, False,  True]))
        """
        keep = set(axes)
        if keep.issuperset(self.axes):
            return self
        array, left = self.array, list(self.axes)
        for position in reversed(range(len(left))):
            if left[position] not in keep:
                array = unite(array, position)
                del left[position]
        return Live.over(left, array, self.repeats)

    def renumbered(self, mapping: dict[int, int]) -> Live:
        """The same array with each axis `a` called `mapping[a]`."""
        axes = tuple(mapping[axis] for axis in self.axes)
        if axes == self.axes:
            return self
        # The array varies along each of its axes, whatever they are called.
        kept, array = _sorted(axes, self.array)
        return Live(tuple(kept), array, tuple(sorted((mapping[axis], run) for axis, run in self.repeats)))

    def aligned(self, axes: Sequence[int], sizes: Sequence[int]) -> Array:
        """The array broadcast and tiled to `sizes` over `axes` (a superset of its own, sorted)."""
        array = self.array
        for position, axis in enumerate(axes):
            if axis not in self.axes:
                array = np.expand_dims(array, position)
                array = np.repeat(array, sizes[position], axis=position)
            elif array.shape[position] != sizes[position]:
                array = np.concatenate([array] * (sizes[position] // array.shape[position]), axis=position)
        return array

    def __or__(self, other: Live) -> Live:
        """The union."""
        axes, mine, theirs, repeats = self._paired(other)
        # Sets of labels are Python integers, and numpy gives the number itself where there are no axes.
        either = np.asarray(mine | theirs, dtype=np.result_type(mine, theirs))
        return Live.over(axes, either, repeats)

    def __and__(self, other: Live) -> Live:
        """The intersection, without labels."""
        axes, mine, theirs, repeats = self._paired(other)
        return Live.over(axes, np.asarray((mine != 0) & (theirs != 0)), repeats)

    def _paired(self, other: Live) -> tuple[list[int], Array, Array, Repeats]:
        """Return both over the same axes; an axis with different runs is needed where either needs it."""
        unlike = {
            axis for axis in self.axes if axis in other.axes and self.repeat(axis) != other.repeat(axis)
        }
        pair = [live.only(set(live.axes) - unlike) for live in (self, other)]
        axes = sorted({*pair[0].axes, *pair[1].axes})
        sizes = [math.lcm(*(live.period(axis) for live in pair)) for axis in axes]
        mine, theirs = (live.aligned(axes, sizes) for live in pair)
        return axes, mine, theirs, tuple({*pair[0].repeats, *pair[1].repeats})

    def repeat(self, axis: int) -> Dim:
        """Positions along `axis` that one entry stands for."""
        return dict(self.repeats).get(axis, 1)

    def period(self, axis: int) -> int:
        """Number of entries along `axis` (1 where the array does not vary)."""
        return int(self.array.shape[self.axes.index(axis)]) if axis in self.axes else 1

    def covers(self, other: Live) -> bool:
        """Return whether everything live in `other` is live here."""
        return (self.as_mask() | other.as_mask()) == self.as_mask()

    @property
    def is_product(self) -> bool:
        """True if the mask is an outer product of one mask per axis."""
        return len(self.axes) < 2 or bool(
            np.array_equal(self.mask, self.product_closure().aligned_mask(self))
        )

    def aligned_mask(self, other: Live) -> npt.NDArray[np.bool_]:
        """This mask on the axes and sizes of `other`."""
        return np.asarray(self.aligned(other.axes, other.array.shape) != 0)

    def product_closure(self) -> Live:
        """The smallest outer product that covers the mask.

        >>> Live.over((0, 1), np.array([[True, False, False], [False, False, True]])).product_closure()
        Live(axes=(1,), array=array([ True, False,  True]))
        """
        if self.is_dead:
            return self
        mask = self.mask
        closed = np.ones_like(mask)
        for position in range(mask.ndim):
            others = tuple(i for i in range(mask.ndim) if i != position)
            closed &= np.any(mask, axis=others, keepdims=True)
        return Live.over(self.axes, closed, self.repeats)

    def dense_shape(self) -> tuple[int, ...] | None:
        """Sizes per axis after compaction, None if the live part is not rectangular.

        Two of three queries are left in each KV group, not the same ones: dense. Two of one and one of the other: not.

        >>> Live.over((0, 1), np.array([[True, True, False], [False, True, True]])).dense_shape()
        (2, 2)
        >>> Live.over((0, 1), np.array([[True, True, False], [False, True, False]])).dense_shape() is None
        True
        """
        return _dense_shape(self.mask)

    def dense_closure(self) -> Live:
        """The mask if it can be compacted, else the product that covers it."""
        return self if self.dense_shape() is not None else self.product_closure()

    def extent(self, axis: int) -> tuple[int, int]:
        """`(live, all)` entries of one period of `axis`, after compaction."""
        shape = self.dense_shape()
        if axis not in self.axes or shape is None:
            return (1, 1)
        return shape[self.axes.index(axis)], self.period(axis)

    def narrow(self, dim: Dim, axis: int) -> Dim:
        """The dimension that `axis`, of size `dim`, has after compaction.

        >>> heads = Live.over((0,), np.array([True, False, True, True]))
        >>> heads.narrow(4, 0)
        3
        """
        live, period = self.extent(axis)
        if isinstance(dim, int):
            return dim // period * live
        whole = divide(dim, period)
        return dim if whole is None else multiply(whole, live)


def _sorted(axes: Sequence[int], array: Array) -> tuple[list[int], Array]:
    """Axes in increasing order, and the array with its dimensions in that order."""
    kept = sorted(axes)
    if kept != list(axes):
        array = np.transpose(array, [axes.index(axis) for axis in kept])
    return kept, array


def _varies(array: Array, position: int) -> bool:
    """Return whether an array is not the same all along one dimension."""
    if array.shape[position] == 1:
        return False
    rows = array.swapaxes(0, position)
    # Where neighbours differ, nearly always, the rest need not be read.
    return bool((rows[:1] != rows[1:2]).any() or (rows[2:] != rows[:1]).any())


FULL = Live((), np.array(True))
DEAD = Live((), np.array(False))


def together(lives: Sequence[Live]) -> Live:
    """Unite the kept parts of outputs that are narrowed equally. Masks carry no labels.

    >>> values, indices = (Live.over((0,), np.arange(3) == place) for place in (0, 2))
    >>> together([values, indices])
    Live(axes=(0,), array=array([ True, False,  True]))
    """
    return reduce(or_, [live for live in lives if not live.is_mask] or lives)


def unite(array: Array, position: int) -> Array:
    """Collapse one dimension.

    Masks and bit sets (`object` arrays) are or-ed. Plain integer labels cannot share a position; the
    smallest one stands for all, which is enough to tell which head they belong to.
    """
    if array.dtype.kind == "i":
        largest = np.iinfo(array.dtype).max
        smallest = np.min(np.where(array == 0, largest, array), axis=position)
        return np.asarray(np.where(smallest == largest, 0, smallest))
    return np.asarray(np.bitwise_or.reduce(array, axis=position))


def fits(live: Live, shape: Sequence[Dim] | None) -> bool:
    """Return whether `live` can be read on a value of `shape`.

    On an axis whose size is a number the array has that many entries; on a symbolic one, a divisor of it.

    >>> heads = Live.over((1,), np.array([True, False, True, True]))
    >>> fits(heads, (2, 4)), fits(heads, (2, 8)), fits(heads, (4,)), fits(heads, None)
    (True, False, False, False)
    >>> from onnxheadprune.model.graph.dims import symbol
    >>> fits(heads, (2, multiply(symbol("batch"), 4)))
    True
    >>> fits(Live.over((0,), heads.array, ((0, symbol("batch")),)), (multiply(symbol("batch"), 4), 2))
    True
    """
    if shape is None:
        return not live.axes
    for axis in live.axes:
        if axis >= len(shape):
            return False
        dim, period = divide(shape[axis], live.repeat(axis)), live.period(axis)
        if dim is None or (dim != period if isinstance(dim, int) else divisor(dim) % period):
            return False
    return True


def _dense_shape(mask: npt.NDArray[np.bool_]) -> tuple[int, ...] | None:
    if mask.ndim == 0:
        return ()
    if mask.ndim == 1:
        return (int(mask.sum()),)
    rows = [row for row in mask if row.any()]
    shapes = {_dense_shape(row) for row in rows}
    if len(shapes) > 1 or None in shapes:
        return None
    inner = shapes.pop() if shapes else (0,) * (mask.ndim - 1)
    assert inner is not None
    return (len(rows), *inner)
