"""Hollow tensors: a type and a shape without numbers. Random numbers are only made where a file is written."""

from __future__ import annotations

import math
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, TensorProto, helper, numpy_helper

from onnxheadprune.model.storage.tensors import BITS, Role, Stored, bytes_needed, tensors_of

MOST_STRUCTURE = 64
"""Integers that a vector may have and still be taken for a part of the structure: a shape, axes, sizes."""
_FIELDS = (
    "raw_data float_data int32_data int64_data double_data uint64_data string_data external_data"
    " data_location segment"
).split()
_INTEGERS = {
    TensorProto.DataType.Value(name)
    for name in "INT64 INT32 INT16 INT8 UINT64 UINT32 UINT16 UINT8 BOOL".split()
}
INDICES = frozenset({TensorProto.INT64, TensorProto.INT32})


def is_structure(stored: Stored) -> bool:
    """Whether the numbers of a tensor are a part of the graph's structure: shapes, axes, single numbers."""
    tensor = stored.tensor
    count = math.prod(tensor.dims)
    if stored.role is Role.SPARSE and tensor.data_type == TensorProto.INT64:
        return True
    if tensor.data_type in _INTEGERS:
        return count == 1 or (len(tensor.dims) <= 1 and count <= MOST_STRUCTURE)
    return count == 1 and tensor.data_type != TensorProto.STRING


def hollow_out(tensor: TensorProto) -> None:
    """Takes the numbers of a tensor away."""
    for field in _FIELDS:
        tensor.ClearField(field)


def is_hollow(tensor: TensorProto) -> bool:
    """Whether a tensor has elements and no numbers for them."""
    return math.prod(tensor.dims) > 0 and not any(
        tensor.HasField(field) if field == "raw_data" else len(getattr(tensor, field))
        for field in _FIELDS[:7]
    )


def filled(model: ModelProto, seed: int) -> ModelProto:
    """A copy whose hollow tensors have random numbers.

    Args:
        model: with hollow tensors.
        seed: of the numbers; a tensor of one name gets the same ones whatever is around it.
    """
    made = ModelProto()
    made.CopyFrom(model)
    for position, stored in enumerate(tensors_of(made)):
        if is_hollow(stored.tensor):
            name = stored.tensor.name or str(position)
            fill(stored.tensor, np.random.default_rng([seed, zlib.crc32(name.encode())]))
    return made


def fill(tensor: TensorProto, random: np.random.Generator) -> None:
    """Gives a hollow tensor numbers.

    Matrices get a normal distribution that keeps activations near 1. Vectors and single numbers, which scale,
    divide and are added, are positive and near 1. Indices are 0 or 1, which every axis has.
    """
    shape, kind = tuple(tensor.dims), tensor.data_type
    if kind == TensorProto.STRING:
        tensor.string_data.extend(b"%d" % index for index in range(math.prod(shape)))
        return
    if kind in INDICES or kind == TensorProto.BOOL:
        numbers: npt.NDArray[Any] = np.asarray(random.integers(0, 2, shape))
    elif kind in (TensorProto.INT8, TensorProto.UINT8):
        low = -100 if kind == TensorProto.INT8 else 0
        numbers = np.asarray(random.integers(low, low + 200, shape))
    elif BITS[kind] < 8 or kind in _INTEGERS:
        tensor.raw_data = random.bytes(bytes_needed(kind, shape))
        return
    elif len(shape) < 2:
        numbers = np.asarray(random.uniform(0.5, 1.5, shape))
    else:
        numbers = np.asarray(random.standard_normal(shape)) / math.sqrt(max(shape[-2], 1))
    array = numbers.astype(helper.tensor_dtype_to_np_dtype(kind))
    tensor.raw_data = numpy_helper.from_array(array).raw_data
