"""What the elements of small integer values are: numbers, or dimensions of the inputs.

Exporters compute target shapes at run time (`Shape -> Gather -> Concat -> Reshape`). Following these
few operators symbolically tells which element of a target shape is the batch size, which a literal.
An element that cannot be followed is None.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, numpy_helper

from onnxheadprune.model.graph import dims
from onnxheadprune.model.graph.dims import Dim, Shape
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
    return _boxed([int(item) for item in array.reshape(-1)], array.shape)


def _boxed(items: list[Dim | None], shape: tuple[int, ...]) -> Elements:
    boxed = np.empty(len(items), dtype=object)
    boxed[:] = items
    return boxed.reshape(shape)


def shape_range(node: Node, rank: int) -> range:
    """The axes that a Shape node reports, its `start` and `end` attributes applied."""
    start, end = node.attribute("start", 0), node.attribute("end", rank)
    start = max(0, start + rank if start < 0 else min(start, rank))
    end = max(0, end + rank if end < 0 else min(end, rank))
    return range(start, end)


def _of(node: Node, index: int) -> Elements | None:
    value = node.input(index)
    return None if value is None else value.elements


def _shape(node: Node) -> Elements | None:
    shape: Shape | None = node.shape(0)
    if shape is None:
        return None
    picked: list[Dim | None] = [shape[axis] for axis in shape_range(node, len(shape))]
    return _boxed(picked, (len(picked),))


def _size(node: Node) -> Elements | None:
    shape = node.shape(0)
    return None if shape is None else _boxed([dims.product(shape)], ())


def _gather(node: Node) -> Elements | None:
    data, index = _of(node, 0), node.literal(1)
    if data is None or index is None or data.ndim != 1:
        return None
    if index.size > MAX_ELEMENTS or np.any(index >= data.size) or np.any(index < -data.size):
        return None
    return np.asarray(data[index], dtype=object) if index.ndim else _boxed([data[int(index)]], ())


def _slice(node: Node) -> Elements | None:
    data = _of(node, 0)
    starts, ends = node.int_list("starts", 1), node.int_list("ends", 2)
    if data is None or starts is None or ends is None:
        return None
    axes, steps = _given(node, "axes", 3, range(len(starts))), _given(node, "", 4, [1] * len(starts))
    if axes is None or steps is None or any(not -data.ndim <= axis < data.ndim for axis in axes):
        return None
    cuts = [slice(None)] * data.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        beyond = step < 0 and end <= -data.shape[axis] - 1
        cuts[axis] = slice(start, None if beyond else end, step)
    return np.asarray(data[tuple(cuts)], dtype=object)


def _given(node: Node, name: str, index: int, default: Sequence[int]) -> Sequence[int] | None:
    """An optional list of numbers: `default` where it is left out, None where it is computed."""
    given = node.int_list(name, index)
    return default if given is None and node.input(index) is None else given


def _transpose(node: Node) -> Elements | None:
    data = _of(node, 0)
    return None if data is None else data.transpose(node.attribute("perm"))


def _concat(node: Node) -> Elements | None:
    parts = [_part(node, index) for index in range(len(node.inputs))]
    if any(part is None or part.ndim != 1 for part in parts):
        return None
    if sum(part.size for part in parts if part is not None) > MAX_ELEMENTS:
        return None
    joined = np.concatenate([part for part in parts if part is not None])
    return None if all(item is None for item in joined) else joined


def _part(node: Node, index: int) -> Elements | None:
    """The elements of one piece of a vector; of unknown ones at least how many they are."""
    known, shape = _of(node, index), node.shape(index)
    if known is not None or shape is None or len(shape) != 1:
        return known
    count = shape[0]
    return _boxed([None] * count, (count,)) if isinstance(count, int) and count <= MAX_ELEMENTS else None


def _unsqueeze(node: Node) -> Elements | None:
    data = _of(node, 0)
    return data.reshape(1) if data is not None and data.ndim == 0 else None


def _squeeze(node: Node) -> Elements | None:
    data = _of(node, 0)
    return data.reshape(()) if data is not None and data.shape == (1,) else None


def _reshape(node: Node) -> Elements | None:
    data, target = _of(node, 0), node.literal(1)
    if data is None or target is None:
        return None
    sizes = [int(size) for size in target.reshape(-1)]
    if 0 in sizes:
        return None
    try:
        return data.reshape(sizes)
    except ValueError:
        return None


def _same(node: Node) -> Elements | None:
    return _of(node, 0)


def _constant_of_shape(node: Node) -> Elements | None:
    shape, fill = _of(node, 0), node.attribute("value")
    if shape is None or shape.ndim != 1 or shape.size > 1 or fill is None:
        return None
    count = int(shape[0]) if shape.size and isinstance(shape[0], int) else (1 if not shape.size else -1)
    if not 0 <= count <= MAX_ELEMENTS or (not fill.int64_data and not fill.raw_data):
        return None
    number = numpy_helper.to_array(fill).reshape(-1)
    if number.dtype.kind not in "iu" or number.size != 1:
        return None
    return _boxed([int(number[0])] * count, (count,) if shape.size else ())


def _combine(function: Callable[[Dim, Dim], Dim | None]) -> Callable[[Node], Elements | None]:
    def combined(node: Node) -> Elements | None:
        left, right = _of(node, 0), _of(node, 1)
        if left is None or right is None or len(node.inputs) != 2:
            return None
        try:
            pairs = np.broadcast(left, right)
        except ValueError:
            return None
        if pairs.size > MAX_ELEMENTS:
            return None
        items = [None if a is None or b is None else function(a, b) for a, b in pairs]
        return _boxed(items, pairs.shape)

    return combined


def _equal(left: Dim, right: Dim) -> Dim | None:
    if left == right:
        return 1
    if isinstance(left, int) and isinstance(right, int):
        return 0
    # A dimension is never negative: the exporters' `where(shape == -1, 1, shape)` is decided by that.
    number, other = (left, right) if isinstance(left, int) else (right, left)
    return 0 if isinstance(number, int) and number < 0 and dims.never_negative(other) else None


def _larger(left: Dim, right: Dim) -> Dim | None:
    return _extreme(left, right, max)


def _smaller(left: Dim, right: Dim) -> Dim | None:
    return _extreme(left, right, min)


def _extreme(left: Dim, right: Dim, pick: Callable[[int, int], int]) -> Dim | None:
    """Of equal polynomials either one; a dimension is never negative, a difference of two may be."""
    if left == right:
        return left
    if isinstance(left, int) and isinstance(right, int):
        return pick(left, right)
    number, other = (left, right) if isinstance(left, int) else (right, left)
    if not isinstance(number, int) or number > 0 or not dims.never_negative(other):
        return None
    return other if pick(0, 1) else number


def _where(node: Node) -> Elements | None:
    condition, yes, no = _of(node, 0), _of(node, 1), _of(node, 2)
    if condition is None or yes is None or no is None:
        return None
    try:
        triples = np.broadcast(condition, yes, no)
    except ValueError:
        return None
    if triples.size > MAX_ELEMENTS:
        return None
    return _boxed([None if c is None else (a if c else b) for c, a, b in triples], triples.shape)


def _reduce_product(node: Node) -> Elements | None:
    data = _of(node, 0)
    if data is None or any(item is None for item in data.reshape(-1)):
        return None
    total = dims.product(data.reshape(-1))
    return _boxed([total], (1,) if node.attribute("keepdims", 1) and data.ndim else ())


def _cast(node: Node) -> Elements | None:
    data = _of(node, 0)
    return data if node.attribute("to") in INTEGER_TYPES else None


def _truncating_divide(left: Dim, right: Dim) -> Dim | None:
    if isinstance(left, int) and isinstance(right, int) and (left < 0 or right <= 0):
        return None
    return dims.floor_divide(left, right)


def _negative(node: Node) -> Elements | None:
    data = _of(node, 0)
    if data is None:
        return None
    items = [None if item is None else dims.multiply(-1, item) for item in data.reshape(-1)]
    return _boxed(items, data.shape)


def _modulo(node: Node) -> Elements | None:
    """What is left of a floor division; with `fmod` the sign would be the dividend's."""
    return None if node.attribute("fmod", 0) else _combine(_remainder)(node)


def _remainder(left: Dim, right: Dim) -> Dim | None:
    if isinstance(left, int) and isinstance(right, int):
        return left % right if right else None
    if not isinstance(right, int) or right <= 0:
        return None
    return dims.subtract(left, dims.multiply(right, dims.floor_divide(left, right)))


def split_elements(node: Node) -> list[Elements | None]:
    """The elements of every output of a Split of a shape vector."""
    data = _of(node, 0)
    sizes = [None if value is None or value.shape is None else value.shape[0] for value in node.outputs]
    if data is None or data.ndim != 1 or not all(isinstance(size, int) for size in sizes):
        return [None] * len(sizes)
    stops = np.cumsum([size for size in sizes if isinstance(size, int)])
    return list(np.split(data, stops[:-1]))


FOLLOWED: dict[str, Callable[[Node], Elements | None]] = {
    "Shape": _shape,
    "Size": _size,
    "Gather": _gather,
    "Slice": _slice,
    "Concat": _concat,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Reshape": _reshape,
    "Transpose": _transpose,
    "Identity": _same,
    "Cast": _cast,
    "ConstantOfShape": _constant_of_shape,
    "Add": _combine(dims.add),
    "Sub": _combine(dims.subtract),
    "Mul": _combine(dims.multiply),
    "Div": _combine(_truncating_divide),
    "Neg": _negative,
    "Mod": _modulo,
    "Equal": _combine(_equal),
    "Where": _where,
    "ReduceProd": _reduce_product,
    "Max": _combine(_larger),
    "Min": _combine(_smaller),
}
