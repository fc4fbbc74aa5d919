"""Quantized weights: the numbers that they stand for and can hold, and matrices that a node packs in blocks.

Numbers that follow from stored tensors are computed by ONNX Runtime, whatever operators lie between.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper

from onnxheadprune.edit.submodel import submodel
from onnxheadprune.errors import InferenceError, RefusedError
from onnxheadprune.liveness.consumers import is_shared
from onnxheadprune.liveness.packed_blocks import (
    GROUP_INDEX,
    SCALES,
    WEIGHT,
    ZERO_POINTS,
    block_size,
    is_packed,
)
from onnxheadprune.model.graph.view import Node, Value
from onnxheadprune.model.load import LoadedModel
from onnxheadprune.model.tensors import FLOATS
from onnxheadprune.runtime import CPU, Array, Provider, Session


def numbers_of(value: Value) -> npt.NDArray[Any]:
    """The numbers of a value that depends on no input; one that is not stored itself is computed."""
    if value.holds_tensor:
        return value.numbers()
    require_constant(value)
    if value.producer is None:
        raise RefusedError(f"{value.name} is stored as a sparse tensor, which cannot be read as weights")
    made = LoadedModel(submodel([value]), value.name, value.scope.sources)
    try:
        session = Session(made, Provider(CPU, "weights"), name=f"what computes {value.name}")
        return session.run({})[value.name]
    except InferenceError as error:
        raise RefusedError(f"{value.name} follows from stored tensors, but {error}") from error


def require_constant(value: Value) -> None:
    """Refuse a value that depends on the model's inputs."""
    if not value.is_constant:
        raise RefusedError(f"{value.name} depends on the model's inputs, so it has no numbers of its own")


@dataclass(frozen=True, eq=False)
class Grid:
    """The numbers that quantized values mean, `(level - zero) * scale`, and between which limits levels lie.

    Scale and zero point broadcast against the levels, those of a whole matrix against it, [in, out].
    """

    scale: Array
    zero: Array
    limits: tuple[float, float] = (-math.inf, math.inf)

    def numbers(self, levels: Array) -> Array:
        """The numbers that quantized values stand for."""
        return np.asarray((levels.astype(np.float64) - self.zero) * self.scale)

    def exact(self, numbers: Array) -> Array:
        """Levels that mean exactly these numbers, whole or not."""
        return np.asarray(numbers / self._divisor + self.zero)

    def levels(self, numbers: Array) -> Array:
        """The levels that come nearest to numbers; what is beyond the last level is clipped."""
        return np.asarray(np.clip(np.rint(numbers / self._divisor) + self.zero, *self.limits))

    def nearest(self, numbers: Array) -> Array:
        """The representable number nearest to each number."""
        return self.numbers(self.levels(numbers))

    def then(self, behind: Grid) -> Grid:
        """The grid of values whose scale and zero point were themselves quantized."""
        zero = self.zero + behind.zero / self._divisor
        return replace(self, scale=self.scale * behind.scale, zero=zero)

    def each(self, change: Callable[[Array], Array]) -> Grid:
        """The same levels with a scale and zero point that are stored otherwise."""
        return replace(self, scale=change(self.scale), zero=change(self.zero))

    def of_rows(self, rows: Sequence[int] | int) -> Grid:
        """Return the grid of some of the rows; of one row, its arrays have one axis less."""
        index = rows if isinstance(rows, int) else list(rows)
        return self.each(lambda side: side[index] if side.ndim > 1 else side)

    @property
    def _divisor(self) -> Array:
        return np.where(self.scale == 0, 1.0, self.scale)


def stored_grid(scales: Sequence[Value], zero: Value | None = None) -> Grid:
    """Read what levels of a matrix mean; its arrays are one for all columns, or one per column.

    Args:
        scales: stored scales, which are multiplied.
        zero: the stored zero point, None for zero.
    """
    scale: Array = np.ones(1)
    for side in scales:
        scale = scale * numbers_of(side).astype(np.float64).reshape(-1)
    return Grid(scale, np.zeros(1) if zero is None else numbers_of(zero).astype(np.float64).reshape(-1))


def limits_of(elem_type: int) -> tuple[int, int]:
    """The first and the last level that a type of whole numbers has."""
    if elem_type in (TensorProto.INT4, TensorProto.UINT4):
        return (-8, 7) if elem_type == TensorProto.INT4 else (0, 15)
    limits = np.iinfo(helper.tensor_dtype_to_np_dtype(elem_type))
    return int(limits.min), int(limits.max)


BITS = (2, 4, 8)


@dataclass(frozen=True, eq=False)
class PackedMatrix:
    """Weights of a node that packs them in blocks along the summed axis."""

    node: Node  # the product
    stored: Value  # the initializer with the packed levels
    bits: int  # of one level

    @functools.cached_property
    def _grid(self) -> Grid:
        scales, zeros = self.node.input(SCALES), self.node.input(ZERO_POINTS)
        assert scales is not None
        scale = numbers_of(scales).astype(np.float64).reshape(self.columns, -1)
        zero: Array = np.full(scale.shape, float(2 ** (self.bits - 1)))
        if zeros is not None:
            found = numbers_of(zeros).reshape(self.columns, -1)
            zero = found if zeros.elem_type in FLOATS else unpacked(found, self.bits)[:, : scale.shape[1]]
        return Grid(self._spread(scale), self._spread(zero.astype(np.float64)), (0, 2**self.bits - 1))

    def _spread(self, side: Array) -> Array:
        # Rows are worked on one after the other, so each lies in one piece.
        return np.repeat(side.T, block_size(self.node), axis=0)[: self.rows]

    @property
    def shape(self) -> tuple[int, ...]:
        """[in, out]."""
        return self.rows, self.columns

    @property
    def shared(self) -> bool:
        """True if something else reads the weights too."""
        return is_shared(self.stored)

    @property
    def rows(self) -> int:
        """Inputs of the layer."""
        return int(self.node.attribute("K"))

    @property
    def columns(self) -> int:
        """Outputs of the layer."""
        return int(self.node.attribute("N"))

    @property
    def is_quantized(self) -> bool:
        """Always."""
        return True

    def grid(self) -> Grid:
        """The numbers that it can hold; its arrays are [in, out]."""
        return self._grid

    def read(self, array: Array | None = None) -> npt.NDArray[np.float64]:
        """The numbers, [in, out].

        Args:
            array: the packed levels, where the model's own are not to be read.
        """
        packed = self.stored.numbers() if array is None else array
        levels = unpacked(packed.reshape(self.columns, -1), self.bits)
        return self._grid.numbers(np.ascontiguousarray(levels[:, : self.rows].T))

    def written(self, matrix: npt.NDArray[np.float64]) -> Array:
        """The packed levels of a new matrix [in, out], in the blocks and with the scales there are."""
        tensor = self.stored.tensor
        assert tensor is not None
        new = self._grid.levels(matrix).astype(np.uint8)
        # What fills the last block up belongs to no input, and stays unchanged.
        whole = unpacked(self.stored.numbers().reshape(self.columns, -1), self.bits)
        whole[:, : self.rows] = new.T
        return np.ascontiguousarray(packed_again(whole, self.bits).reshape(tuple(tensor.dims)))


def packed_matrix(node: Node) -> PackedMatrix | None:
    """The packed weights of a node, None where it has none or they are in no form that can be written."""
    bits = int(node.attribute("bits", 4))
    weight, scales, zeros = (node.input(index) for index in (WEIGHT, SCALES, ZERO_POINTS))
    if not is_packed(node) or bits not in BITS or node.input(GROUP_INDEX) is not None:
        return None
    if weight is None or scales is None or not weight.holds_tensor or not scales.is_constant:
        return None
    if zeros is not None and not zeros.is_constant:
        return None
    if not node.attribute("K", 0) or not node.attribute("N", 0):
        return None
    return PackedMatrix(node, weight, bits)


def unpacked(array: Array, bits: int) -> npt.NDArray[np.uint8]:
    """Levels, [rows, levels], of bytes [rows, bytes]; the first level lies in the lowest bits."""
    each = [(array >> shift) & (2**bits - 1) for shift in range(0, 8, bits)]
    return np.asarray(np.stack(each, axis=-1).reshape(len(array), -1).astype(np.uint8))


def packed_again(levels: npt.NDArray[np.uint8], bits: int) -> npt.NDArray[np.uint8]:
    """The bytes of levels."""
    parts = levels.reshape(len(levels), -1, 8 // bits).astype(np.uint16)
    shifts = np.arange(0, 8, bits, dtype=np.uint16)
    return np.asarray((parts << shifts).sum(axis=-1).astype(np.uint8))
