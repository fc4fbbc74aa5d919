"""Quantized weights: the numbers that they stand for and can hold.

Numbers that follow from stored tensors are computed by ONNX Runtime, whatever operators lie between.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper

from onnxheadprune.edit.submodel import submodel
from onnxheadprune.errors import InferenceError, RefusedError
from onnxheadprune.model.graph.view import Value
from onnxheadprune.model.load import LoadedModel
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
class Levels:
    """Scale and zero point: a quantized value means `(level - zero) * scale`. Both broadcast against the levels."""

    scale: Array
    zero: Array

    def numbers(self, levels: Array) -> Array:
        """The numbers that quantized values stand for."""
        return np.asarray((levels.astype(np.float64) - self.zero) * self.scale)

    def exact(self, numbers: Array) -> Array:
        """Levels that mean exactly these numbers, whole or not."""
        return np.asarray(numbers / self._divisor + self.zero)

    def nearest(self, numbers: Array, limits: tuple[int, int]) -> Array:
        """The levels that come nearest to numbers; what is beyond the last level is clipped."""
        return np.asarray(np.clip(np.rint(numbers / self._divisor) + self.zero, *limits))

    def then(self, behind: Levels) -> Levels:
        """The scale and zero point of quantized values whose meaning is quantized again."""
        return Levels(self.scale * behind.scale, self.zero + behind.zero / self._divisor)

    @property
    def _divisor(self) -> Array:
        return np.where(self.scale == 0, 1.0, self.scale)


@dataclass(frozen=True, eq=False)
class StoredLevels:
    """Stored scales and zero point of a matrix, read on demand."""

    scales: tuple[Value, ...]  # stored scales, one for all columns or one per column, that are multiplied
    zero: Value | None = None  # the stored zero point, None for zero

    def read(self) -> Levels:
        """The numbers; its arrays are one for all columns, or one per column."""
        scale: Array = np.ones(1)
        for side in self.scales:
            scale = scale * numbers_of(side).astype(np.float64).reshape(-1)
        zero = np.zeros(1) if self.zero is None else numbers_of(self.zero).astype(np.float64).reshape(-1)
        return Levels(scale, zero)


@dataclass(frozen=True, eq=False)
class Grid:
    """The numbers that a quantized matrix can hold."""

    levels: Levels  # what they are made of; its arrays broadcast against the matrix [in, out]
    limits: tuple[int, int]  # the first and the last level

    def nearest(self, numbers: Array) -> Array:
        """The representable number nearest to each number of a matrix [in, out]."""
        return self.levels.numbers(self.levels.nearest(numbers, self.limits))

    def of_rows(self, rows: Sequence[int] | int) -> Grid:
        """Return the grid of some of the rows; of one row, its arrays have one axis less."""
        index = rows if isinstance(rows, int) else list(rows)
        scale, zero = (
            side[index] if side.ndim > 1 else side for side in (self.levels.scale, self.levels.zero)
        )
        return Grid(Levels(scale, zero), self.limits)


def limits_of(elem_type: int) -> tuple[int, int]:
    """The first and the last level that a type of whole numbers has."""
    if elem_type in (TensorProto.INT4, TensorProto.UINT4):
        return (-8, 7) if elem_type == TensorProto.INT4 else (0, 15)
    limits = np.iinfo(helper.tensor_dtype_to_np_dtype(elem_type))
    return int(limits.min), int(limits.max)
