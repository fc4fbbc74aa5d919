"""The weights of a contraction as a plain matrix: read, and written back in the form they are stored in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper

from onnxheadprune.liveness.observers import looks_only
from onnxheadprune.model.graph.facts import CASTS, DEQUANTIZES, IDENTITIES, TRANSPOSES
from onnxheadprune.model.graph.view import Node, Value
from onnxheadprune.model.tensors import FLOATS

Array = npt.NDArray[Any]


MOVES = TRANSPOSES | IDENTITIES | CASTS


@dataclass(frozen=True, eq=False)
class Levels:
    """What whole numbers mean: `(level - zero) * scale`. Both broadcast against the matrix [in, out]."""

    scale: Array
    zero: Array

    def numbers(self, levels: Array) -> Array:
        """What levels mean."""
        return np.asarray((levels.astype(np.float64) - self.zero) * self.scale)

    def nearest(self, numbers: Array, limits: tuple[int, int]) -> Array:
        """The levels that come nearest to numbers; what is beyond the last level is clipped."""
        scale = np.where(self.scale == 0, 1.0, self.scale)
        return np.asarray(np.clip(np.rint(numbers / scale) + self.zero, *limits))


@dataclass(frozen=True, eq=False)
class StoredLevels:
    """Where it is stored what whole numbers mean. Nothing is read before it is asked for.

    Attributes:
        scales: stored scales, one for all columns or one per column, that are multiplied.
        zero: the stored zero point, None for zero.
    """

    scales: tuple[Value, ...]
    zero: Value | None = None

    def read(self) -> Levels:
        """The numbers; its arrays are one for all columns, or one per column."""
        scale: Array = np.ones(1)
        for side in self.scales:
            scale = scale * side.numbers().astype(np.float64).reshape(-1)
        zero = np.zeros(1) if self.zero is None else self.zero.numbers().astype(np.float64).reshape(-1)
        return Levels(scale, zero)


@dataclass(frozen=True, eq=False)
class Grid:
    """The numbers that a quantized matrix can hold.

    Attributes:
        levels: what they are made of; its arrays broadcast against the matrix [in, out].
        limits: the first and the last level.
    """

    levels: Levels
    limits: tuple[int, int]

    def nearest(self, numbers: Array) -> Array:
        """What can be held that is nearest to each number of a matrix [in, out]."""
        return self.levels.numbers(self.levels.nearest(numbers, self.limits))

    def of_rows(self, rows: Sequence[int]) -> Grid:
        """What some of the rows can hold."""
        scale, zero = (
            side[list(rows)] if side.ndim > 1 else side for side in (self.levels.scale, self.levels.zero)
        )
        return Grid(Levels(scale, zero), self.limits)

    def row(self, row: int) -> Grid:
        """What one row [out] can hold."""
        scale, zero = (side[row] if side.ndim > 1 else side for side in (self.levels.scale, self.levels.zero))
        return Grid(Levels(scale, zero), self.limits)


class Weights(Protocol):
    """Stored weights seen as a matrix [in, out], whatever form they are stored in."""

    @property
    def stored(self) -> Value:
        """The initializer (or Constant) that holds them."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of what the contraction reads."""

    @property
    def shared(self) -> bool:
        """Whether something else reads them too."""

    @property
    def rows(self) -> int:
        """Inputs of the map."""

    @property
    def columns(self) -> int:
        """Outputs of the map."""

    @property
    def is_quantized(self) -> bool:
        """Whether they can hold few numbers only."""

    def grid(self) -> Grid | None:
        """What they can hold where that is few numbers, None where they are floats."""

    def read(self, array: Array | None = None) -> npt.NDArray[np.float64]:
        """The numbers, [in, out]; of other contents than the model's where some are given."""

    def written(self, matrix: npt.NDArray[np.float64]) -> Array:
        """The stored form of a new matrix [in, out]."""


@dataclass(frozen=True, eq=False)
class Matrix:
    """Stored weights seen as a matrix [in, out].

    Attributes:
        stored: the initializer (or Constant) behind it.
        steps: the nodes between it and the contraction, from the initializer on.
        contracted: axes of the contraction's operand that are summed over, in the order of the rows.
        free: its other axes, in the order of the columns.
        shape: shape of the contraction's operand.
        shared: whether something else reads the weights too.
        levels: what whole numbers mean that a product of integers reads, None where the operand is a float.
    """

    stored: Value
    steps: tuple[Node, ...]
    contracted: tuple[int, ...]
    free: tuple[int, ...]
    shape: tuple[int, ...]
    shared: bool
    levels: StoredLevels | None = None

    @property
    def order(self) -> tuple[int, ...]:
        """Axes of the operand, rows first."""
        return (*self.contracted, *self.free)

    @property
    def rows(self) -> int:
        """Inputs of the map."""
        return int(np.prod([self.shape[axis] for axis in self.contracted], dtype=np.int64))

    @property
    def columns(self) -> int:
        """Outputs of the map."""
        return int(np.prod([self.shape[axis] for axis in self.free], dtype=np.int64))

    @property
    def is_quantized(self) -> bool:
        """Whether it can hold few numbers only."""
        return self.levels is not None or bool(self.steps and self.steps[0] in DEQUANTIZES)

    def grid(self) -> Grid | None:
        """The numbers that it can hold, None where it holds floats."""
        tensor = self.stored.tensor
        assert tensor is not None
        if self.levels is not None:
            return Grid(self.levels.read(), limits_of(tensor.data_type))
        if not self.is_quantized:
            return None
        dims = tuple(tensor.dims)
        scale, zero = (self._seen(side, dims) for side in _scales(self.steps[0], len(dims)))
        return Grid(Levels(scale, zero), limits_of(tensor.data_type))

    def _seen(self, side: Array, dims: Sequence[int]) -> Array:
        """A scale or zero point of the stored tensor, spread over the matrix [in, out]."""
        value = np.broadcast_to(side, dims)
        for node in self.steps[1:]:
            value = _forward(node, value)
        return value.transpose(self.order).reshape(self.rows, -1)

    def read(self, array: Array | None = None) -> npt.NDArray[np.float64]:
        """The numbers, [in, out].

        Args:
            array: the stored tensor's numbers, where the model's own are not to be read.
        """
        value = self.stored.numbers() if array is None else array
        for node in self.steps:
            value = _forward(node, value)
        found = value.astype(np.float64).transpose(self.order).reshape(self.rows, -1)
        return found if self.levels is None else self.levels.read().numbers(found)

    def written(self, matrix: npt.NDArray[np.float64]) -> Array:
        """The stored form of a new matrix [in, out]: rounded to the stored type, or quantized again."""
        tensor = self.stored.tensor
        assert tensor is not None
        if self.levels is not None:
            matrix = self.levels.read().nearest(matrix, limits_of(tensor.data_type))
        value: Array = matrix.reshape([self.shape[axis] for axis in self.order])
        value = value.transpose(np.argsort(self.order))
        for node in reversed(self.steps):
            value = _backward(node, value)
        return np.ascontiguousarray(value.astype(helper.tensor_dtype_to_np_dtype(tensor.data_type)))


def matrix_of(
    value: Value, contracted: Sequence[int], free: Sequence[int], levels: StoredLevels | None = None
) -> Matrix | None:
    """The matrix behind a contraction's operand, None where it is not stored in a form that can be rewritten.

    Args:
        value: the operand.
        contracted: its axes that are summed over.
        free: its axes that reach the output.
        levels: what whole numbers mean, where the contraction is one of integers.
    """
    shape = value.shape
    if shape is None or not all(isinstance(dim, int) for dim in shape):
        return None
    rest = set(range(len(shape))) - {*contracted, *free}
    if any(shape[axis] != 1 for axis in rest):
        return None
    steps: list[Node] = []
    shared = _is_shared(value)
    while not value.holds_tensor:
        node = value.producer
        if node is None or not _is_invertible(node) or (source := node.inputs[0]) is None:
            return None
        steps.append(node)
        shared = shared or _is_shared(source)
        value = source
    assert value.tensor is not None
    scaled = [node for node in steps if node in DEQUANTIZES]
    if value.tensor.data_type in FLOATS:
        if scaled or levels is not None:
            return None
    elif (not steps and levels is None) or (
        scaled and (levels is not None or len(scaled) > 1 or steps[-1] is not scaled[0])
    ):
        return None
    sizes = tuple(int(dim) for dim in shape if isinstance(dim, int))
    order = (*contracted, *sorted(rest))
    return Matrix(value, tuple(reversed(steps)), order, tuple(free), sizes, shared, levels)


def _is_shared(value: Value) -> bool:
    return value.is_graph_output or sum(not looks_only(use) for use in value.consumers) > 1


def _is_invertible(node: Node) -> bool:
    if node.domain:
        return False
    if node in DEQUANTIZES:
        sides = [node.input(index) for index in (1, 2)]
        return node.attribute("block_size", 0) == 0 and all(
            side is None or side.holds_tensor for side in sides
        )
    return node in MOVES


def _forward(node: Node, value: Array) -> Array:
    if node in TRANSPOSES:
        return value.transpose(node.attribute("perm") or tuple(range(value.ndim))[::-1])
    return dequantized(node, value) if node in DEQUANTIZES else value


def _backward(node: Node, value: Array) -> Array:
    if node in TRANSPOSES:
        return value.transpose(np.argsort(node.attribute("perm") or tuple(range(value.ndim))[::-1]))
    return quantized(node, value) if node in DEQUANTIZES else value


def dequantized(node: Node, value: Array) -> Array:
    """What a DequantizeLinear with stored scales makes of stored numbers."""
    scale, zero = _scales(node, value.ndim)
    return Levels(scale, zero).numbers(value)


def quantized(node: Node, value: Array) -> Array:
    """The stored numbers of which a DequantizeLinear makes what is nearest to a value.

    The scales stay: what is asked beyond their range is clipped, and shows in the measured drift.
    """
    scale, zero = _scales(node, value.ndim)
    source = node.inputs[0]
    assert source is not None and source.tensor is not None
    return Levels(scale, zero).nearest(value, limits_of(source.tensor.data_type))


def _scales(node: Node, rank: int) -> tuple[Array, Array]:
    axis = node.attribute("axis", 1) % rank if rank else 0
    found: list[Array] = []
    for index in (1, 2):
        side = node.input(index)
        numbers = (np.zeros(()) if side is None or side.tensor is None else side.numbers()).astype(np.float64)
        if numbers.ndim == 1 and numbers.size > 1:
            numbers = numbers.reshape([-1 if at == axis else 1 for at in range(rank)])
        found.append(numbers if numbers.size > 1 else numbers.reshape(()))
    return found[0], found[1]


def limits_of(elem_type: int) -> tuple[int, int]:
    """The first and the last level that a type of whole numbers has."""
    if elem_type in (TensorProto.INT4, TensorProto.UINT4):
        return (-8, 7) if elem_type == TensorProto.INT4 else (0, 15)
    limits = np.iinfo(helper.tensor_dtype_to_np_dtype(elem_type))
    return int(limits.min), int(limits.max)
