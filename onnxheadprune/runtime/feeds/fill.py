"""Values for one input, given its shape."""

from __future__ import annotations

import enum
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnxheadprune.model.tensors import Array
from onnxheadprune.runtime.feeds.inputs import Input, Role

UNKNOWN_ROWS = 2
"""Integers whose table is not found stay below this; 0 and 1 are valid almost everywhere."""

GENERATED = 3
"""Tokens that a generation adds to its prompt."""
HOLE_FROM = 6
"""Shorter masks get no hole."""


class Padding(enum.Enum):
    """The side on which masks have zeros."""

    NONE = "none"
    RIGHT = "right"
    LEFT = "left, and a hole"


class Reading(enum.Enum):
    """Another way to read an input of integers or booleans than by its type and name."""

    ONES = "ones"
    ZEROS = "zeros"
    ROWS = "row numbers"
    LENGTH = "the length"


def read_as(item: Input, shape: tuple[int, ...], style: Style, reading: Reading) -> Array:
    """An array of `shape` and of the input's type, filled by another reading."""
    if reading is Reading.ROWS:
        values = _positions(shape, style.past, item.rows)
    else:
        length = style.past + style.length
        values = np.full(shape, {Reading.ONES: 1, Reading.ZEROS: 0, Reading.LENGTH: length}[reading])
    return values.astype(item.dtype)


@dataclass(frozen=True)
class Special:
    """Ids that an input is compared with, in every row of it."""

    count: int  # how often each of them stands there, one after the other
    # the position of the only one that does, as often as something has features; None for all of them
    which: int | None = None


USUAL = Special(2)


@dataclass(frozen=True)
class Style:
    """The style in which inputs are filled."""

    past: int  # length of the cache, where positions start
    length: int  # length of the sequence
    padding: Padding  # where masks have zeros in some rows
    flag: bool  # value of flags ("use_cache_branch")
    # second try for models that choke on the first: floats between 0 and 1, and boolean masks the other way
    # round (True means "ignore" in some exports)
    plain: bool = False
    # which ids among those that inputs are compared with stand in a row, None for none of them
    special: Special | None = USUAL


def fill(item: Input, shape: tuple[int, ...], style: Style, generator: np.random.Generator) -> Array:
    """An array of `shape` and of the input's type."""
    special = style.special
    if item.marks_places and shape and special is not None and special.which is not None:
        places = np.arange(shape[-1])
        return np.broadcast_to((places > 0) & (places <= special.count), shape).astype(item.dtype)
    return _values(item, shape, style, generator).astype(item.dtype)


def _values(item: Input, shape: tuple[int, ...], style: Style, generator: np.random.Generator) -> Array:
    match item.role:
        case Role.FLOATS:
            return generator.uniform(size=shape) if style.plain else generator.standard_normal(shape)
        case Role.MASK:
            mask = _mask(shape, style.padding)
            return ~mask if style.plain and item.dtype == np.bool_ else mask
        case Role.POSITIONS:
            return _positions(shape, style.past, item.rows)
        case Role.LENGTHS:
            return np.full(shape, length_of(item, style.past, style.past + style.length))
        case Role.FLAG:
            return np.full(shape, style.flag)
        case Role.BOOLS:
            return generator.integers(0, 2, shape)
        case Role.PIXELS:
            limits = np.iinfo(item.dtype)
            return generator.integers(limits.min, limits.max, shape, endpoint=True)
        case Role.IDS:
            return _with_special(generator.integers(0, item.rows or UNKNOWN_ROWS, shape), item, style.special)


def _with_special(drawn: Array, item: Input, special: Special | None) -> Array:
    """Ids, of which some after the first one are special as far as others are left."""
    if special is None or not item.special or not drawn.ndim:
        return drawn
    # Signed even where ids are not: some stand for images by being negative.
    chosen = item.special if special.which is None else item.special[special.which : special.which + 1]
    repeated = np.repeat(chosen, special.count)[: max(drawn.shape[-1] - 2, 0)]
    drawn[..., 1 : 1 + len(repeated)] = repeated
    return drawn


def length_of(item: Input, past: int, total: int) -> int:
    """Return what an input that holds a length has to say."""
    lowered = item.name.lower()
    if item.ends_generation:
        return total + GENERATED
    if "past" in lowered:
        return past
    # GroupQueryAttention is told the index of the last key.
    return total - 1 if "seqlens_k" in lowered else total


def _mask(shape: tuple[int, ...], padding: Padding) -> npt.NDArray[np.bool_]:
    """Ones; when padded, row `i` loses `1 + i` places at one end, but never more than half.

    Padding on the left comes with a hole: the place after the middle is lost too.
    """
    mask = np.ones(shape, dtype=np.bool_)
    if padding is Padding.NONE or len(shape) < 2 or shape[-1] < 2:
        return mask
    length = shape[-1]
    for row in range(shape[0]):
        lost = min(1 + row, length // 2)
        if padding is Padding.RIGHT:
            mask[row, ..., length - lost :] = False
        else:
            mask[row, ..., :lost] = False
            if length >= HOLE_FROM:
                mask[row, ..., length // 2 + 1] = False
    return mask


def _positions(shape: tuple[int, ...], past: int, rows: int | None) -> Array:
    if not shape:
        return np.array(past)
    positions = np.arange(past, past + shape[-1])
    if rows is not None:
        positions = positions % rows
    return np.broadcast_to(positions, shape).copy()
