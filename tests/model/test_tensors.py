"""Cutting stored tensors of every ONNX type, however stored: the surviving elements are the same bits."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxheadprune import RefusedError
from onnxheadprune.model.tensors import Array, Selection, cut, read_ranges, spell_ranges, take

SHAPE = (2, 3, 4)
RAGGED = [[True, False, True], [False, True, True]]
SELECTIONS: dict[str, tuple[tuple[int, ...], Any, tuple[int, ...]]] = {
    "first axis": ((0,), [False, True], (1,)),
    "middle axis": ((1,), [True, False, True], (2,)),
    "last axis": ((2,), [True, False, False, True], (2,)),
    "two axes": ((0, 2), np.outer([True, False], [True, True, False, True]), (1, 3)),
    "ragged neighbours": ((0, 1), RAGGED, (2, 2)),
    "ragged, apart": ((0, 2), [[True, False, True, False], [False, True, False, True]], (2, 2)),
    "odd count": ((2,), [True, True, True, False], (3,)),
}
"""Axes, which of their positions are kept, and what is left of their sizes."""
NAMES = {value: name for name, value in TensorProto.DataType.items()}
TYPES = sorted(set(NAMES) - {TensorProto.UNDEFINED, TensorProto.STRING})


def selection(name: str) -> Selection:
    axes, mask, kept = SELECTIONS[name]
    return Selection(axes, np.shape(mask), kept, spell_ranges(np.flatnonzero(mask)))


def kept_of(array: Array, name: str) -> Array:
    """What a selection keeps."""
    axes, mask, kept = SELECTIONS[name]
    places = range(len(axes))
    front = np.moveaxis(array, axes, places)
    some = front[np.array(mask)].reshape(*kept, *front.shape[len(axes) :])
    return np.moveaxis(some, places, axes)


def numbers(elem_type: int) -> Array:
    """All different where the type has enough values, and exact in it."""
    dtype = helper.tensor_dtype_to_np_dtype(elem_type)
    name = NAMES[elem_type]
    few = {"INT4": 8, "UINT4": 16, "INT2": 2, "UINT2": 4, "BOOL": 2, "FLOAT4E2M1": 3, "FLOAT8E8M0": 8}.get(
        name, 24
    )
    whole = np.arange(24).reshape(SHAPE) % few
    if name == "FLOAT8E8M0":
        return np.exp2(whole.astype(np.float32)).astype(dtype)
    return whole.astype(np.float32).astype(dtype) if "FLOAT" in name else whole.astype(dtype)


def bits(array: Array) -> Any:
    return array.tobytes(), array.shape, array.dtype


@pytest.mark.parametrize("elem_type", TYPES, ids=NAMES.get)
def test_cut_keeps_the_bits(elem_type: int) -> None:
    array = numbers(elem_type)
    for name, raw in itertools.product(SELECTIONS, (True, False)):
        tensor = numpy_helper.from_array(array, "w")
        if not raw:
            tensor = helper.make_tensor("w", elem_type, SHAPE, array.reshape(-1).tolist())
            assert bits(numpy_helper.to_array(tensor)) == bits(array)
        tensor.doc_string = "kept"
        cut(tensor, selection(name))
        assert bits(numpy_helper.to_array(tensor)) == bits(kept_of(array, name))
        assert (tensor.name, tensor.data_type, tensor.doc_string) == ("w", elem_type, "kept")
        if raw:
            assert tensor.HasField("raw_data")


@pytest.mark.parametrize("name", SELECTIONS)
def test_cut_strings(name: str) -> None:
    words = np.array([f"w{i}" for i in range(24)], dtype=object).reshape(SHAPE)
    tensor = helper.make_tensor("w", TensorProto.STRING, SHAPE, [word.encode() for word in words.reshape(-1)])
    cut(tensor, selection(name))
    want = kept_of(words, name)
    assert tuple(tensor.dims) == want.shape
    assert [item.decode() for item in tensor.string_data] == want.reshape(-1).tolist()


def test_typed_fields_stay_typed() -> None:
    tensor = helper.make_tensor("w", TensorProto.FLOAT16, SHAPE, np.arange(24.0).tolist())
    cut(tensor, selection("last axis"))
    assert len(tensor.int32_data) == 12
    assert not tensor.HasField("raw_data")


def test_nan_payloads_survive() -> None:
    array = np.array([0x7FC00001, 0x7FC00002, 0xFFC00003, 0x7F800001], np.uint32).view(np.float32)
    tensor = numpy_helper.from_array(array, "w")
    cut(tensor, Selection((0,), (4,), (3,), "1-3"))
    assert tensor.raw_data == array[1:].tobytes()


def test_what_cannot_be_cut() -> None:
    tensor = numpy_helper.from_array(np.zeros(SHAPE, np.float32), "w")
    with pytest.raises(ValueError, match="selection"):
        take(np.zeros((2, 5)), selection("middle axis"))
    tensor.data_location = TensorProto.EXTERNAL
    with pytest.raises(RefusedError, match="not loaded"):
        cut(tensor, selection("first axis"))


@pytest.mark.parametrize("positions", [[], [0], [0, 1, 2], [1, 3, 4, 9], list(range(2, 40, 3))])
def test_ranges_both_ways(positions: list[int]) -> None:
    np.testing.assert_array_equal(read_ranges(spell_ranges(np.array(positions, dtype=np.int64))), positions)
