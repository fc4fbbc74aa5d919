"""Nodes between a stored tensor and the weights that a product reads, which can be gone through both ways.

They move elements, or do to each of them what other stored numbers say: a scale, an offset, a zero point. Weights
behind such nodes are read by going forward, and written by going backward.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from onnxheadprune.attention.levels import Levels, numbers_of
from onnxheadprune.model.graph.facts import (
    ADDS,
    CASTS,
    CASTS_LIKE,
    DEQUANTIZES,
    DIVIDES,
    FLATTENS,
    IDENTITIES,
    MULTIPLIES,
    REREADS,
    SUBTRACTS,
    TRANSPOSES,
)
from onnxheadprune.model.graph.view import Node, Value
from onnxheadprune.model.tensors import FLOATS

Array = npt.NDArray[Any]
REREADING = REREADS | FLATTENS
CASTING = CASTS | CASTS_LIKE
COMPUTING = ADDS | SUBTRACTS | MULTIPLIES | DIVIDES
NEVER_WRAPS = (*FLOATS, TensorProto.INT32, TensorProto.INT64)
"""Types in which sums and products of levels are what they are of numbers."""


def sources_of(node: Node) -> tuple[int, ...]:
    """Inputs of a node from which weights can come that it hands on element by element, likely ones first."""
    if node in DEQUANTIZES:
        return (0,) if all(side is None or side.is_constant for side in node.inputs[1:]) else ()
    if node.domain:
        return ()
    if node in TRANSPOSES | IDENTITIES:
        return (0,)
    if node in REREADING:
        return (0,) if _is_static(node.inputs[0]) and _is_static(node.out) else ()
    if node in CASTING:
        return (0,) if _keeps_numbers(node) else ()
    return tuple(index for index in (0, 1) if _is_affine(node, index)) if node in COMPUTING else ()


def _is_static(value: Value | None) -> bool:
    shape = None if value is None else value.shape
    return shape is not None and all(isinstance(dim, int) for dim in shape)


def _keeps_numbers(node: Node) -> bool:
    """Return whether a Cast only rounds, as floats do: one to whole numbers cuts off, or wraps."""
    source = node.inputs[0]
    return node.out.elem_type in FLOATS or (
        source is not None and source.elem_type not in FLOATS and node.out.elem_type in NEVER_WRAPS
    )


def _is_affine(node: Node, index: int) -> bool:
    """Return whether a node does the same to each element of an input, whatever that is."""
    value, other = node.inputs[index], node.inputs[1 - index]
    if value is None or other is None or not other.is_constant or value is other:
        return False
    if value.shape is None or value.shape != node.out.shape or value.elem_type not in NEVER_WRAPS:
        return False
    if node in DIVIDES:
        return index == 0 and value.elem_type in FLOATS
    return True


def forward(node: Node, index: int, value: Array) -> Array:
    """Return what a node makes of the numbers of its input."""
    levels = levels_of(node, index, value.shape)
    return moved(node, value) if levels is None else levels.numbers(value)


def moved(node: Node, value: Array) -> Array:
    """The elements where a node puts them; another array than its input may be handed on, of the same shape."""
    if node in TRANSPOSES:
        return value.transpose(_order(node, value.ndim))
    return value.reshape(sizes(node.out)) if node in REREADING else value


def backward(node: Node, index: int, value: Array) -> Array:
    """The numbers of the input of which a node makes some, exactly: what can be stored is not asked."""
    source = node.inputs[index]
    assert source is not None
    if node in TRANSPOSES:
        return value.transpose(np.argsort(_order(node, value.ndim)))
    if node in REREADING:
        return value.reshape(sizes(source))
    levels = levels_of(node, index, value.shape)
    return value if levels is None else levels.exact(value)


def levels_of(node: Node, index: int, dims: tuple[int, ...]) -> Levels | None:
    """Return what a node takes the elements of an input for, None where it only moves them."""
    if node in DEQUANTIZES:
        scale, zero = (_spread(node, side, dims) for side in (node.input(1), node.input(2)))
        return Levels(np.ones(()) if scale is None else scale, np.zeros(()) if zero is None else zero)
    if node not in COMPUTING:
        return None
    other = node.inputs[1 - index]
    assert other is not None
    numbers, one, nothing = numbers_of(other).astype(np.float64), np.ones(()), np.zeros(())
    if node in MULTIPLIES:
        return Levels(numbers, nothing)
    if node in DIVIDES:
        with np.errstate(divide="ignore"):
            return Levels(1 / numbers, nothing)
    if node in ADDS:
        return Levels(one, -numbers)
    return Levels(one if index == 0 else -one, numbers)


def loses_numbers(node: Node, index: int, dims: tuple[int, ...]) -> bool:
    """Return whether some elements are multiplied by nothing, as a stored mask does: these cannot be written."""
    if node in DEQUANTIZES:
        return False
    levels = levels_of(node, index, dims)
    return levels is not None and not bool((np.isfinite(levels.scale) & (levels.scale != 0)).all())


def sizes(value: Value) -> tuple[int, ...]:
    """The shape of a value whose sizes are all known."""
    assert value.shape is not None
    return tuple(int(dim) for dim in value.shape if isinstance(dim, int))


def _order(node: Node, rank: int) -> list[int]:
    return list(node.attribute("perm") or range(rank)[::-1])


def _spread(node: Node, side: Value | None, dims: tuple[int, ...]) -> Array | None:
    """A scale or zero point, so that it broadcasts against levels of some shape."""
    if side is None:
        return None
    numbers = numbers_of(side).astype(np.float64)
    if numbers.size == 1:
        return numbers.reshape(())
    axis = node.attribute("axis", 1) % len(dims)
    block = node.attribute("block_size", 0)
    if block:
        return np.take(np.repeat(numbers, block, axis), range(dims[axis]), axis)
    return numbers.reshape([-1 if at == axis else 1 for at in range(len(dims))])
