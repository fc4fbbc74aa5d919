"""The weights of a contraction as a plain matrix: read, and written back in the form they are stored in.

Nodes between the stored tensor and the product move elements, or scale and shift each of them: going forward through
them reads the weights, going backward writes them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper

from onnxheadprune.attention.quantized import Grid, PackedMatrix, limits_of, numbers_of
from onnxheadprune.liveness.consumers import is_shared
from onnxheadprune.model.graph.operator import DEQUANTIZES, REREADS, is_a, kind
from onnxheadprune.model.graph.view import Node, Use, Value
from onnxheadprune.model.tensors import FLOATS
from onnxheadprune.runtime import Array

STORABLE = (
    *FLOATS,
    TensorProto.INT4,
    TensorProto.UINT4,
    TensorProto.INT8,
    TensorProto.UINT8,
    TensorProto.INT16,
    TensorProto.UINT16,
    TensorProto.INT32,
    TensorProto.INT64,
)
"""Types that hold weights which can be written."""


@dataclass(frozen=True, eq=False)
class Matrix:
    """Stored weights seen as a matrix [in, out]."""

    stored: Value  # the initializer (or Constant) behind it
    # the nodes between it and the contraction, from the initializer on, each with the input that leads there
    steps: tuple[Use, ...]
    # axes of the contraction's operand that are summed over, in the order of the rows
    contracted: tuple[int, ...]
    free: tuple[int, ...]  # its other axes, in the order of the columns
    shape: tuple[int, ...]  # shape of the contraction's operand
    shared: bool  # whether something else reads the weights too
    # what whole numbers mean that a product of integers reads, None where the operand is a float
    levels: Callable[[], Grid] | None = None

    @property
    def order(self) -> tuple[int, ...]:
        """Axes of the operand, rows first."""
        return (*self.contracted, *self.free)

    @property
    def rows(self) -> int:
        """Inputs of the layer."""
        return int(np.prod([self.shape[axis] for axis in self.contracted], dtype=np.int64))

    @property
    def columns(self) -> int:
        """Outputs of the layer."""
        return int(np.prod([self.shape[axis] for axis in self.free], dtype=np.int64))

    @property
    def is_quantized(self) -> bool:
        """True if it can hold few numbers only."""
        tensor = self.stored.tensor
        assert tensor is not None
        return tensor.data_type not in FLOATS

    def grid(self) -> Grid | None:
        """The numbers that it can hold, None where it holds floats."""
        if not self.is_quantized:
            return None
        tensor = self.stored.tensor
        assert tensor is not None
        limits = limits_of(tensor.data_type)
        if self.levels is not None:
            return replace(self.levels(), limits=limits)
        found, dims = Grid(np.ones(()), np.zeros(()), limits), tuple(tensor.dims)
        for node, index in self.steps:
            behind = levels_of(node, index, dims)
            found = found.each(partial(_side_moved, node, dims)) if behind is None else found.then(behind)
            dims = _sizes(node.out)

        def seen(side: Array) -> Array:
            if side.size == 1:
                return side.reshape(())
            return np.broadcast_to(side, dims).transpose(self.order).reshape(self.rows, -1)

        return found.each(seen)

    def read(self, array: Array | None = None) -> npt.NDArray[np.float64]:
        """The numbers, [in, out].

        Args:
            array: the stored tensor's numbers, where the model's own are not to be read.
        """
        value = self.stored.numbers() if array is None else array
        for node, index in self.steps:
            value = forward(node, index, value)
        found = value.astype(np.float64).transpose(self.order).reshape(self.rows, -1)
        return found if self.levels is None else self.levels().numbers(found)

    def written(self, matrix: npt.NDArray[np.float64]) -> Array:
        """The stored form of a new matrix [in, out]: rounded to the stored type, or quantized again."""
        tensor = self.stored.tensor
        assert tensor is not None
        if self.levels is not None:
            matrix = replace(self.levels(), limits=limits_of(tensor.data_type)).levels(matrix)
        value: Array = matrix.reshape([self.shape[axis] for axis in self.order])
        value = value.transpose(np.argsort(self.order))
        for node, index in reversed(self.steps):
            value = _backward(node, index, value)
        if self.is_quantized:
            value = np.clip(np.rint(value), *limits_of(tensor.data_type))
        return np.ascontiguousarray(value.astype(helper.tensor_dtype_to_np_dtype(tensor.data_type)))


Weights: TypeAlias = Matrix | PackedMatrix
"""Stored weights seen as a matrix [in, out], whatever form they are stored in."""


def matrix_of(
    value: Value, contracted: Sequence[int], free: Sequence[int], levels: Callable[[], Grid] | None = None
) -> Matrix | None:
    """The matrix behind a contraction's operand, None where it is not stored in a form that can be rewritten."""
    shape = value.shape
    if shape is None or not all(isinstance(dim, int) for dim in shape):
        return None
    rest = set(range(len(shape))) - {*contracted, *free}
    if any(shape[axis] != 1 for axis in rest):
        return None
    way = next(_ways(value), None)
    if way is None:
        return None
    stored, steps = way
    assert stored.tensor is not None
    if levels is None:
        if not steps and stored.tensor.data_type not in FLOATS:
            return None
    elif stored.tensor.data_type in FLOATS or any(step.node in DEQUANTIZES | COMPUTING for step in steps):
        return None
    order = (*contracted, *sorted(rest))
    shared = is_shared(stored) or any(is_shared(step.node.out) for step in steps)
    return Matrix(stored, steps, order, tuple(free), _sizes(value), shared, levels)


def _ways(value: Value) -> Iterator[tuple[Value, tuple[Use, ...]]]:
    """Stored tensors that a value can be written to, and the steps from each of them, likely ones first."""
    waiting: list[tuple[Value, tuple[Use, ...]]] = [(value, ())]
    seen = {value}
    while waiting:
        value, steps = waiting.pop()
        if value.tensor is not None:
            if value.tensor.data_type in STORABLE and not _loses_numbers(value, steps):
                yield value, steps
            continue
        node = value.producer
        for index in () if node is None else reversed(_sources_of(node)):
            assert node is not None
            source = node.inputs[index]
            if source is not None and source not in seen:
                seen.add(source)
                waiting.append((source, (Use(node, index), *steps)))


def _loses_numbers(stored: Value, steps: Sequence[Use]) -> bool:
    """Return whether some elements are multiplied by zero, as by a stored mask: these cannot be written."""
    value = stored
    for node, index in steps:
        levels = None if node in DEQUANTIZES else levels_of(node, index, _sizes(value))
        if levels is not None and not bool((np.isfinite(levels.scale) & (levels.scale != 0)).all()):
            return True
        value = node.out
    return False


REREADING = REREADS | kind("Flatten")
CASTING = kind("Cast", "CastLike")
COMPUTING = kind("Add", "Sub", "Mul", "Div")
NEVER_WRAPS = (*FLOATS, TensorProto.INT32, TensorProto.INT64)
"""Types in which sums and products of levels are what they are of numbers."""


def _sources_of(node: Node) -> tuple[int, ...]:
    """Inputs of a node from which weights can come that it hands on element by element, likely ones first."""
    if node in DEQUANTIZES:
        return (0,) if all(side is None or side.is_constant for side in node.inputs[1:]) else ()
    if node.domain:
        return ()
    if is_a(node, "Transpose", "Identity"):
        return (0,)
    if node in REREADING:
        return (0,) if _is_static(node.inputs[0]) and _is_static(node.out) else ()
    if node in CASTING:
        # It only rounds, as floats do: one to whole numbers cuts off, or wraps.
        source, target = node.inputs[0], node.out.elem_type
        whole = source is not None and source.elem_type not in FLOATS and target in NEVER_WRAPS
        return (0,) if whole or target in FLOATS else ()
    return tuple(index for index in (0, 1) if _is_affine(node, index)) if node in COMPUTING else ()


def _is_static(value: Value | None) -> bool:
    shape = None if value is None else value.shape
    return shape is not None and all(isinstance(dim, int) for dim in shape)


def _is_affine(node: Node, index: int) -> bool:
    """Return whether a node does the same to each element of an input, whatever that is."""
    value, other = node.inputs[index], node.inputs[1 - index]
    if value is None or other is None or not other.is_constant or value is other:
        return False
    if value.shape is None or value.shape != node.out.shape or value.elem_type not in NEVER_WRAPS:
        return False
    if is_a(node, "Div"):
        return index == 0 and value.elem_type in FLOATS
    return True


def forward(node: Node, index: int, value: Array) -> Array:
    """The numbers that a node computes from those of its input."""
    levels = levels_of(node, index, value.shape)
    return _moved(node, value) if levels is None else levels.numbers(value)


def _moved(node: Node, value: Array) -> Array:
    """The elements where a node puts them; another array than its input may be handed on, of the same shape."""
    if is_a(node, "Transpose"):
        return value.transpose(_order(node, value.ndim))
    return value.reshape(_sizes(node.out)) if node in REREADING else value


def _side_moved(node: Node, dims: tuple[int, ...], side: Array) -> Array:
    """A scale or zero point where a node puts it, which reads elements of some shape."""
    return _moved(node, np.broadcast_to(side, dims)) if side.size > 1 else side


def _backward(node: Node, index: int, value: Array) -> Array:
    """The numbers of the input of which a node makes some, exactly: what can be stored is not asked."""
    source = node.inputs[index]
    assert source is not None
    if is_a(node, "Transpose"):
        return value.transpose(np.argsort(_order(node, value.ndim)))
    if node in REREADING:
        return value.reshape(_sizes(source))
    levels = levels_of(node, index, value.shape)
    return value if levels is None else levels.exact(value)


def levels_of(node: Node, index: int, dims: tuple[int, ...]) -> Grid | None:
    """The meaning of an input's quantized values at a node, None where it only moves them."""
    if node in DEQUANTIZES:
        scale, zero = (_spread(node, side, dims) for side in (node.input(1), node.input(2)))
        return Grid(np.ones(()) if scale is None else scale, np.zeros(()) if zero is None else zero)
    if node not in COMPUTING:
        return None
    other = node.inputs[1 - index]
    assert other is not None
    numbers, one, nothing = numbers_of(other).astype(np.float64), np.ones(()), np.zeros(())
    if is_a(node, "Mul"):
        return Grid(numbers, nothing)
    if is_a(node, "Div"):
        with np.errstate(divide="ignore"):
            return Grid(1 / numbers, nothing)
    if is_a(node, "Add"):
        return Grid(one, -numbers)
    return Grid(one if index == 0 else -one, numbers)


def _sizes(value: Value) -> tuple[int, ...]:
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
