"""The weights of a contraction as a plain matrix: read, and written back in the form they are stored in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper

from onnxheadprune.attention.levels import Grid, Levels, StoredLevels, limits_of
from onnxheadprune.attention.steps import (
    COMPUTING,
    backward,
    forward,
    levels_of,
    loses_numbers,
    moved,
    sizes,
    sources_of,
)
from onnxheadprune.liveness.readers import is_shared
from onnxheadprune.model.graph.facts import DEQUANTIZES
from onnxheadprune.model.graph.view import Use, Value
from onnxheadprune.model.tensors import FLOATS

Array = npt.NDArray[Any]

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
        """True if something else reads them too."""

    @property
    def rows(self) -> int:
        """Inputs of the map."""

    @property
    def columns(self) -> int:
        """Outputs of the map."""

    @property
    def is_quantized(self) -> bool:
        """True if they can hold few numbers only."""

    def grid(self) -> Grid | None:
        """Return what they can hold where that is few numbers, None where they are floats."""

    def read(self, array: Array | None = None) -> npt.NDArray[np.float64]:
        """The numbers, [in, out]; of other contents than the model's where some are given."""

    def written(self, matrix: npt.NDArray[np.float64]) -> Array:
        """The stored form of a new matrix [in, out]."""


@dataclass(frozen=True, eq=False)
class Matrix:
    """Stored weights seen as a matrix [in, out].

    Attributes:
        stored: the initializer (or Constant) behind it.
        steps: the nodes between it and the contraction, from the initializer on, each with the input that leads there.
        contracted: axes of the contraction's operand that are summed over, in the order of the rows.
        free: its other axes, in the order of the columns.
        shape: shape of the contraction's operand.
        shared: whether something else reads the weights too.
        levels: what whole numbers mean that a product of integers reads, None where the operand is a float.
    """

    stored: Value
    steps: tuple[Use, ...]
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
            return Grid(self.levels.read(), limits)
        scale, zero = (
            side.transpose(self.order).reshape(self.rows, -1) if side.size > 1 else side.reshape(())
            for side in self._sides(tuple(tensor.dims))
        )
        return Grid(Levels(scale, zero), limits)

    def _sides(self, dims: tuple[int, ...]) -> tuple[Array, Array]:
        """Scale and zero point of what is stored, each for the whole operand or for every element of it."""
        found = Levels(np.ones(()), np.zeros(()))
        for node, index in self.steps:
            behind = levels_of(node, index, dims)
            if behind is not None:
                found = found.then(behind)
            else:
                found = Levels(
                    *(
                        moved(node, np.broadcast_to(side, dims)) if side.size > 1 else side
                        for side in (found.scale, found.zero)
                    )
                )
            dims = sizes(node.out)
        scale, zero = (
            np.broadcast_to(side, dims) if side.size > 1 else side for side in (found.scale, found.zero)
        )
        return scale, zero

    def read(self, array: Array | None = None) -> npt.NDArray[np.float64]:
        """The numbers, [in, out].

        Args:
            array: the stored tensor's numbers, where the model's own are not to be read.
        """
        value = self.stored.numbers() if array is None else array
        for node, index in self.steps:
            value = forward(node, index, value)
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
        for node, index in reversed(self.steps):
            value = backward(node, index, value)
        if self.is_quantized:
            value = np.clip(np.rint(value), *limits_of(tensor.data_type))
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
    return Matrix(stored, steps, order, tuple(free), sizes(value), shared, levels)


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
        for index in () if node is None else reversed(sources_of(node)):
            assert node is not None
            source = node.inputs[index]
            if source is not None and source not in seen:
                seen.add(source)
                waiting.append((source, (Use(node, index), *steps)))


def _loses_numbers(stored: Value, steps: Sequence[Use]) -> bool:
    value = stored
    for node, index in steps:
        if loses_numbers(node, index, sizes(value)):
            return True
        value = node.out
    return False
