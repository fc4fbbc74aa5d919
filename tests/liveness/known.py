"""What a view says of the types, sizes and numbers of values, against what ONNX Runtime computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from onnx import helper

from onnxheadprune.model.graph.dims import Dim, evaluated
from onnxheadprune.model.graph.view import GraphView
from tests.liveness.masks import Array


def onnx_type(array: Array) -> int:
    """The ONNX element type of an array."""
    return int(helper.np_dtype_to_tensor_dtype(array.dtype))


def assert_known(view: GraphView, arrays: Mapping[str, Array]) -> None:
    """What is said of values of the main graph holds; what is not said may be anything.

    Args:
        arrays: values by name, inputs before all others.
    """
    sizes: dict[str, int] = {}
    for name, array in arrays.items():
        value = view.main.values[name]
        assert value.elem_type in (0, onnx_type(array)), name
        if value.shape is not None:
            _agree(value.shape, array.shape, sizes, f"the shape {array.shape} of {name}")
        if value.elements is not None:
            assert value.elements.shape == array.shape, name
            _agree(value.elements.reshape(-1), array.reshape(-1), sizes, f"the numbers {array} of {name}")


def _agree(
    told: Sequence[Dim | None], found: Sequence[Any] | Array, sizes: dict[str, int], what: str
) -> None:
    """Each dimension is as large as it is said to be, and as everywhere else where it has that name."""
    assert len(told) == len(found), what
    for dim, number in zip(told, found, strict=True):
        if dim is not None:
            sizes.setdefault(str(dim), int(number))
            known = evaluated(dim, sizes)
            assert known is None or np.equal(known, number), f"{what} is said to be {told}"
