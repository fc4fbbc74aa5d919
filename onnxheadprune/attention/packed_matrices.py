"""Matrices of a few bits per weight that a node packs in blocks."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnxheadprune.attention.quantized import Grid, Levels, numbers_of
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
from onnxheadprune.model.tensors import FLOATS
from onnxheadprune.runtime import Array

BITS = (2, 4, 8)


@dataclass(frozen=True, eq=False)
class PackedMatrix:
    """Weights of a node that packs them in blocks along the summed axis."""

    node: Node  # the product
    stored: Value  # the initializer with the packed levels
    bits: int  # of one level

    @functools.cached_property
    def levels(self) -> Levels:
        """The grid of quantized values; its arrays are [in, out]."""
        scales, zeros = self.node.input(SCALES), self.node.input(ZERO_POINTS)
        assert scales is not None
        scale = numbers_of(scales).astype(np.float64).reshape(self.columns, -1)
        zero: Array = np.full(scale.shape, float(2 ** (self.bits - 1)))
        if zeros is not None:
            found = numbers_of(zeros).reshape(self.columns, -1)
            zero = found if zeros.elem_type in FLOATS else unpacked(found, self.bits)[:, : scale.shape[1]]
        return Levels(self._spread(scale), self._spread(zero.astype(np.float64)))

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
        """The numbers that it can hold."""
        return Grid(self.levels, (0, 2**self.bits - 1))

    def read(self, array: Array | None = None) -> npt.NDArray[np.float64]:
        """The numbers, [in, out].

        Args:
            array: the packed levels, where the model's own are not to be read.
        """
        packed = self.stored.numbers() if array is None else array
        levels = unpacked(packed.reshape(self.columns, -1), self.bits)
        return self.levels.numbers(np.ascontiguousarray(levels[:, : self.rows].T))

    def written(self, matrix: npt.NDArray[np.float64]) -> Array:
        """The packed levels of a new matrix [in, out], in the blocks and with the scales there are."""
        tensor = self.stored.tensor
        assert tensor is not None
        new = self.levels.nearest(matrix, self.grid().limits).astype(np.uint8)
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
