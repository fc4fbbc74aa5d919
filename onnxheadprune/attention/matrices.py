"""The weights of a contraction as a plain matrix: read, and written back in the form they are stored in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper, numpy_helper

from onnxheadprune.liveness.observers import looks_only
from onnxheadprune.model.graph.facts import CASTS, DEQUANTIZES, IDENTITIES, TRANSPOSES
from onnxheadprune.model.graph.view import Node, Value
from onnxheadprune.model.tensors import FLOATS

Array = npt.NDArray[Any]


MOVES = TRANSPOSES | IDENTITIES | CASTS


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
    """

    stored: Value
    steps: tuple[Node, ...]
    contracted: tuple[int, ...]
    free: tuple[int, ...]
    shape: tuple[int, ...]
    shared: bool

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

    def read(self, tensor: TensorProto | None = None) -> npt.NDArray[np.float64]:
        """The numbers, [in, out].

        Args:
            tensor: the stored tensor with its data, where the model's own is not to be read.
        """
        value = self.stored.numbers() if tensor is None else numpy_helper.to_array(tensor)
        for node in self.steps:
            value = _forward(node, value)
        return value.astype(np.float64).transpose(self.order).reshape(self.rows, -1)

    def written(self, matrix: npt.NDArray[np.float64]) -> Array:
        """The stored form of a new matrix [in, out]: rounded to the stored type, or quantized again."""
        value: Array = matrix.reshape([self.shape[axis] for axis in self.order])
        value = value.transpose(np.argsort(self.order))
        for node in reversed(self.steps):
            value = _backward(node, value)
        tensor = self.stored.tensor
        assert tensor is not None
        return np.ascontiguousarray(value.astype(helper.tensor_dtype_to_np_dtype(tensor.data_type)))


def matrix_of(value: Value, contracted: Sequence[int], free: Sequence[int]) -> Matrix | None:
    """The matrix behind a contraction's operand, None where it is not stored in a form that can be rewritten.

    Args:
        value: the operand.
        contracted: its axes that are summed over.
        free: its axes that reach the output.
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
    if not steps and value.tensor.data_type not in FLOATS:
        return None
    sizes = tuple(int(dim) for dim in shape if isinstance(dim, int))
    return Matrix(value, tuple(reversed(steps)), (*contracted, *sorted(rest)), tuple(free), sizes, shared)


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
    return np.asarray((value.astype(np.float64) - zero) * scale)


def quantized(node: Node, value: Array) -> Array:
    """The stored numbers of which a DequantizeLinear makes what is nearest to a value.

    The scales stay: what is asked beyond their range is clipped, and shows in the measured drift.
    """
    scale, zero = _scales(node, value.ndim)
    source = node.inputs[0]
    assert source is not None and source.tensor is not None
    return np.asarray(np.clip(np.rint(value / scale) + zero, *_limits(source.tensor.data_type)))


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


def _limits(elem_type: int) -> tuple[int, int]:
    if elem_type in (TensorProto.INT4, TensorProto.UINT4):
        return (-8, 7) if elem_type == TensorProto.INT4 else (0, 15)
    limits = np.iinfo(helper.tensor_dtype_to_np_dtype(elem_type))
    return int(limits.min), int(limits.max)
