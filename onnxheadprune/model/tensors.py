"""Cutting stored tensors, byte for byte: no value is converted, whatever its type."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper, numpy_helper

from onnxheadprune.errors import RefusedError
from onnxheadprune.model.typed_json import LONG, Size

Array: TypeAlias = npt.NDArray[Any]
Floats: TypeAlias = npt.NDArray[np.float64]
Mask: TypeAlias = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Selection:
    """Live positions of a stored tensor: flat row-major indices over `sizes` of `axes`."""

    axes: tuple[Size, ...]  # the axes that are cut
    sizes: tuple[Size, ...]  # their sizes before the cut
    kept: tuple[Size, ...]  # their sizes after it
    live: Annotated[str, LONG]  # the surviving positions, as compact ranges ("0-63,128-191")

    def __str__(self) -> str:
        cuts = (f"axis {a}: {s} -> {k}" for a, s, k in zip(self.axes, self.sizes, self.kept, strict=True))
        return ", ".join(cuts)


def spell_ranges(positions: np.ndarray[Any, np.dtype[np.int64]]) -> str:
    """Sorted positions as "0-3,8,10-11"."""
    if not positions.size:
        return ""
    breaks = np.flatnonzero(np.diff(positions) != 1)
    starts = positions[np.concatenate([[0], breaks + 1])]
    ends = positions[np.concatenate([breaks, [positions.size - 1]])]
    return ",".join(f"{a}" if a == b else f"{a}-{b}" for a, b in zip(starts, ends, strict=True))


def read_ranges(text: str) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The inverse of `spell_ranges`."""
    parts = [part.split("-") for part in text.split(",") if part]
    ranges = [np.arange(int(part[0]), int(part[-1]) + 1) for part in parts]
    return np.concatenate(ranges) if ranges else np.zeros(0, dtype=np.int64)


FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
"""Types that hold real numbers."""
_PACKED = {
    number
    for name, number in TensorProto.DataType.items()
    if name in ("INT4", "UINT4", "FLOAT4E2M1", "INT2", "UINT2", "FLOAT6E2M3", "FLOAT6E3M2")
}
"""Types whose elements share bytes; onnx knows more of them with every release."""
FIELDS = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data")
"""The fields that hold the elements of a tensor without `raw_data`."""


def array_of(tensor: TensorProto) -> npt.NDArray[Any]:
    """The elements of a tensor that is in memory; text as bytes, which need not be UTF-8."""
    if tensor.data_type != TensorProto.STRING:
        return numpy_helper.to_array(tensor)
    cells = np.empty(len(tensor.string_data), dtype=object)
    cells[:] = list(tensor.string_data)
    return cells.reshape(tuple(tensor.dims))


def take(array: npt.NDArray[Any], selection: Selection) -> npt.NDArray[Any]:
    """The selected part of an array, compacted."""
    if tuple(array.shape[axis] for axis in selection.axes) != selection.sizes:
        raise ValueError(f"selection for sizes {selection.sizes} on an array of shape {array.shape}")
    live = read_ranges(selection.live)
    if len(selection.axes) == 1:
        return array.take(live, axis=selection.axes[0])
    count = len(selection.axes)
    front = np.moveaxis(array, selection.axes, range(count))
    rest = front.shape[count:]
    picked = front.reshape(math.prod(selection.sizes), *rest)[live].reshape(*selection.kept, *rest)
    return np.moveaxis(picked, range(count), selection.axes)


def cut(tensor: TensorProto, selection: Selection) -> None:
    """Cut a tensor in place, keeping its name, type, doc string and how its data is stored."""
    if tensor.data_location == TensorProto.EXTERNAL:
        raise RefusedError(f"the data of initializer {tensor.name!r} is not loaded")
    dims = tuple(tensor.dims)
    if tensor.data_type in _PACKED:
        array = take(numpy_helper.to_array(tensor), selection)
        _store_raw(tensor, numpy_helper.from_array(np.ascontiguousarray(array)).raw_data, array.shape)
        return
    if tensor.HasField("raw_data"):
        width = int(helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
        cells = np.frombuffer(tensor.raw_data, dtype=np.dtype((np.void, width))).reshape(dims)
        kept = np.ascontiguousarray(take(cells, selection))
        _store_raw(tensor, kept.tobytes(), kept.shape)
        return
    for field in FIELDS:
        stored = getattr(tensor, field)
        if len(stored):
            # Complex types keep two entries per element.
            width = len(stored) // int(np.prod(dims, dtype=np.int64))
            cells = np.array(list(stored), dtype=object).reshape(*dims, width)
            kept = take(cells, selection)
            del stored[:]
            stored.extend(kept.reshape(-1).tolist())
            _set_dims(tensor, kept.shape[:-1])
            return
    _set_dims(tensor, take(np.empty(dims, dtype=np.int8), selection).shape)


def _store_raw(tensor: TensorProto, data: bytes, shape: tuple[int, ...]) -> None:
    for field in FIELDS:
        tensor.ClearField(field)
    tensor.raw_data = data
    _set_dims(tensor, shape)


def _set_dims(tensor: TensorProto, shape: tuple[int, ...]) -> None:
    del tensor.dims[:]
    tensor.dims.extend(shape)
