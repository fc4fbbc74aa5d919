"""Signatures of sites, the same in every file that holds one: the signs of some numbers of its output projection.

Signs survive what exporters and quantizers do to weights: transposing, rounding, scaling by columns, packing in blocks
of four bits. Of two maps that have nothing to do with each other about half of them are the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, numpy_helper

from onnxheadprune.attention.matrices import Array, matrix_of
from onnxheadprune.attention.sites.projection import Projection
from onnxheadprune.attention.sites.unit import Site
from onnxheadprune.liveness.blocks import SCALES, WEIGHT, ZERO_POINTS, block_size, is_packed
from onnxheadprune.liveness.contraction import contraction_of
from onnxheadprune.model.graph.tables import roles_of
from onnxheadprune.model.graph.view import Value
from onnxheadprune.model.load import LoadedModel
from onnxheadprune.model.storage.reading import in_memory

Signs = npt.NDArray[np.float32]
SAME = 0.7
"""Share of equal signs from which on two maps are one; refitting changes some."""
ENOUGH = 64
"""Signs that two maps must have in common to be compared."""
_NUMBERS = 4096
"""Numbers of a map that are looked at, at most."""
_COLUMNS = 64
_INTEGERS = (TensorProto.INT8, TensorProto.UINT8, TensorProto.INT4, TensorProto.UINT4)


def signs_of(site: Site, model: LoadedModel) -> Signs | None:
    """Signs (-1, 0, 1) of the projection's numbers, the units in order; None where its weights are in no known form."""
    for projection in site.projections:
        matrix = _matrix(projection, model)
        if matrix is not None and matrix.shape[0] >= 1 + max(map(max, projection.channels)):
            rows = np.concatenate([np.asarray(channels) for channels in projection.channels])
            columns = _spread(matrix.shape[1], _COLUMNS)
            rows = rows[_spread(len(rows), _NUMBERS // len(columns))]
            signs = np.asarray(np.sign(matrix[np.ix_(rows, columns)]), np.float32).reshape(-1)
            # Nothing is known of a map that is nearly all zeros.
            return signs if np.count_nonzero(signs) >= min(ENOUGH, signs.size) else None
    return None


def likeness(signs: Sequence[Signs]) -> npt.NDArray[np.float32]:
    """Share of equal signs for each pair; 0 for pairs that have too few in common."""
    stacked = np.stack(signs)
    known = np.abs(stacked)
    common, agreed = known @ known.T, stacked @ stacked.T
    share = (common + agreed) / 2 / np.maximum(common, 1)
    return np.asarray(np.where(common >= min(ENOUGH, stacked.shape[1]), share, 0), np.float32)


def _spread(size: int, most: int) -> npt.NDArray[np.int64]:
    """Up to `most` positions, evenly spread."""
    return np.unique(np.linspace(0, size - 1, min(size, max(most, 1))).astype(np.int64))


def _matrix(projection: Projection, model: LoadedModel) -> Array | None:
    """The weights as [in, out], up to a positive factor per column; None in a form that is not known."""
    node = projection.node
    if is_packed(node):
        return _packed(projection, model)
    if projection.weight is None:
        return None
    index, contracted = projection.weight
    operand, found = node.inputs[index], contraction_of(node)
    if operand is None or found is None or index not in found.indices:
        return None
    letters = found.axes_of(index)
    free = [axis for axis, letter in enumerate(letters) if axis not in contracted and letter is not None]
    matrix = matrix_of(operand, contracted, free)
    if matrix is not None:
        tensor = matrix.stored.tensor
        assert tensor is not None
        return matrix.read(numpy_helper.to_array(in_memory(tensor, model.sources)))
    if not operand.holds_tensor or operand.tensor is None or operand.tensor.data_type not in _INTEGERS:
        return None
    zero = roles_of(node).weight_zero
    whole = _numbers(operand, model) - (0 if zero is None else _zero(node.input(zero), model))
    rest = [axis for axis in range(whole.ndim) if axis not in contracted]
    return whole.transpose([*contracted, *rest]).reshape(int(np.prod(projection.sizes)), -1)


def _zero(value: Value | None, model: LoadedModel) -> Array:
    if value is None or not value.holds_tensor:
        return np.zeros(())
    numbers = _numbers(value, model)
    return numbers.reshape(()) if numbers.size == 1 else numbers


def _packed(projection: Projection, model: LoadedModel) -> Array | None:
    """Weights in blocks of 4 or 8 bits, in units of their scales."""
    node = projection.node
    stored, scales, zeros = (node.input(index) for index in (WEIGHT, SCALES, ZERO_POINTS))
    bits, size = int(node.attribute("bits", 4)), block_size(node)
    if (
        stored is None
        or scales is None
        or not stored.holds_tensor
        or not scales.holds_tensor
        or bits not in (4, 8)
    ):
        return None
    data = _numbers(stored, model).astype(np.uint8)
    columns, blocks = data.shape[:2]
    levels = _levels(data, bits).reshape(columns, blocks, size)
    middle: Array = np.full((columns, blocks), 1 << (bits - 1), np.float64)
    if zeros is not None and zeros.holds_tensor and zeros.tensor is not None:
        given = _numbers(zeros, model)
        if zeros.tensor.data_type == TensorProto.UINT8:
            given = _levels(given.astype(np.uint8).reshape(columns, -1), bits)
        middle = given.reshape(columns, -1)[:, :blocks]
    signed = np.sign(_numbers(scales, model).astype(np.float64)).reshape(columns, -1)[:, :blocks]
    rows = ((levels - middle[..., None]) * signed[..., None]).reshape(columns, -1)
    return np.asarray(rows[:, : int(node.attribute("K"))].T)


def _levels(data: npt.NDArray[np.uint8], bits: int) -> npt.NDArray[np.float64]:
    """Levels out of bytes along the last axis, the lower bits first."""
    if bits == 8:
        return data.astype(np.float64)
    return np.stack([data & 15, data >> 4], axis=-1).reshape(*data.shape[:-1], -1).astype(np.float64)


def _numbers(value: Value, model: LoadedModel) -> Array:
    assert value.tensor is not None
    array = numpy_helper.to_array(in_memory(value.tensor, model.sources))
    return array.astype(np.float64)
