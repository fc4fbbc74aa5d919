"""The elements of small integer values: numbers, or dimensions of the inputs.

Exporters compute target shapes at run time (`Shape -> Gather -> Concat -> Reshape`). Following these
few operators symbolically tells which element of a target shape is the batch size, which a literal.
An element that cannot be followed is None.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from onnxheadprune.model.graph.dims import Dim
from onnxheadprune.model.graph.view import Node

Elements: TypeAlias = npt.NDArray[np.object_]
MAX_ELEMENTS = 64
"""Elements of a value that is followed; target shapes have a handful."""
INTEGER_TYPES = frozenset(
    (
        TensorProto.INT64,
        TensorProto.INT32,
        TensorProto.INT16,
        TensorProto.INT8,
        TensorProto.UINT64,
        TensorProto.UINT32,
        TensorProto.UINT16,
        TensorProto.UINT8,
    )
)


def as_elements(array: npt.NDArray[np.generic]) -> Elements | None:
    """Integer literals as elements; None for other types or too many of them."""
    if array.dtype.kind not in "iub" or array.size > MAX_ELEMENTS:
        return None
    return boxed([int(item) for item in array.reshape(-1)], array.shape)


def boxed(items: list[Dim | None], shape: tuple[int, ...]) -> Elements:
    """Elements in a shape."""
    boxed = np.empty(len(items), dtype=object)
    boxed[:] = items
    return boxed.reshape(shape)


def shape_range(node: Node, rank: int) -> range:
    """The axes that a Shape node reports, its `start` and `end` attributes applied."""
    start, end = node.attribute("start", 0), node.attribute("end", rank)
    start = max(0, start + rank if start < 0 else min(start, rank))
    end = max(0, end + rank if end < 0 else min(end, rank))
    return range(start, end)


def elements_of(node: Node, index: int) -> Elements | None:
    """Return what is known of the elements of input `index`."""
    value = node.input(index)
    return None if value is None else value.elements
