"""Values for one input, given its shape."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from onnxheadprune.feeds.inputs import Input, Role

Array: TypeAlias = npt.NDArray[Any]
UNKNOWN_ROWS = 2
"""Integers whose table is not found stay below this; 0 and 1 are valid almost everywhere."""


@dataclass(frozen=True)
class Style:
    """How to fill a feed.

    Attributes:
        past: length of the cache, where positions start.
        length: length of the sequence.
        padded: whether masks end in zeros in some rows.
        flag: value of flags ("use_cache_branch").
        plain: second try for models that choke on the first: floats between 0 and 1, and boolean masks
            the other way round (True means "ignore" in some exports).
    """

    past: int
    length: int
    padded: bool
    flag: bool
    plain: bool = False


def fill(item: Input, shape: tuple[int, ...], style: Style, generator: np.random.Generator) -> Array:
    """An array of `shape` and of the input's type.

    Args:
        item: the input.
        shape: its concrete shape.
        style: how to fill it.
        generator: where random numbers come from.
    """
    return _values(item, shape, style, generator).astype(item.dtype)


def _values(item: Input, shape: tuple[int, ...], style: Style, generator: np.random.Generator) -> Array:
    match item.role:
        case Role.FLOATS:
            return generator.uniform(size=shape) if style.plain else generator.standard_normal(shape)
        case Role.MASK:
            mask = _mask(shape, style.padded)
            return ~mask if style.plain and item.dtype == np.bool_ else mask
        case Role.POSITIONS:
            return _positions(shape, style.past, item.rows)
        case Role.LENGTHS:
            return np.full(shape, style.past + style.length)
        case Role.FLAG:
            return np.full(shape, style.flag)
        case Role.BOOLS:
            return generator.integers(0, 2, shape)
        case Role.PIXELS:
            limits = np.iinfo(item.dtype)
            return generator.integers(limits.min, limits.max, shape, endpoint=True)
        case Role.IDS:
            return generator.integers(0, item.rows or UNKNOWN_ROWS, shape)


def _mask(shape: tuple[int, ...], padded: bool) -> npt.NDArray[np.bool_]:
    """Ones; when padded, row `i` loses its last `1 + i` places, but never more than half."""
    mask = np.ones(shape, dtype=np.bool_)
    if padded and len(shape) > 1 and shape[-1] > 1:
        for row in range(shape[0]):
            mask[row, ..., shape[-1] - min(1 + row, shape[-1] // 2) :] = False
    return mask


def _positions(shape: tuple[int, ...], past: int, rows: int | None) -> Array:
    if not shape:
        return np.array(past)
    positions = np.arange(past, past + shape[-1])
    if rows is not None:
        positions = positions % rows
    return np.broadcast_to(positions, shape).copy()
