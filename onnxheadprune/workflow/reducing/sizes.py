"""Smaller sizes: every number of a model that is a multiple of one becomes as many times another."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np
from onnx import AttributeProto, ModelProto, TensorProto, ValueInfoProto, numpy_helper

from onnxheadprune.model.storage.tensors import tensors_of
from onnxheadprune.workflow.reducing.hollow import INDICES, is_hollow
from onnxheadprune.workflow.reducing.parts import nodes_of

SMALLEST = 4
"""Sizes below this one are small enough, and easily taken for an axis."""
MOST_QUOTIENTS = 4096
_NO_SIZES = frozenset("axis axes perm to dtype batch_dims saturate".split())
"""Attributes whose numbers are no sizes."""
_INFINITE = 2**31 - 1
"""Ends of slices from here on mean the end."""


def bases(model: ModelProto) -> list[int]:
    """Sizes that others may be multiples of, the largest first: those that occur, and their quotients."""
    found = {size for size in _sizes(model) if SMALLEST <= size < _INFINITE}
    small = [size for size in found if size <= MOST_QUOTIENTS]
    quotients = {large // size for large, size in itertools.permutations(small, 2) if not large % size}
    return sorted(found | {size for size in quotients if size >= SMALLEST}, reverse=True)


def targets(base: int) -> list[int]:
    """Smaller sizes to try, the smallest first."""
    tried = [2, 3, math.isqrt(base), base // 2]
    return sorted({size for size in tried if 2 <= size < base})


def scaled(model: ModelProto, base: int, target: int, *, deep: bool = False) -> ModelProto:
    """A copy in which multiples of a size are as many times another.

    Args:
        model: with hollow tensors.
        base: the size.
        target: the size in its place.
        deep: exchange it as often as it is a factor: eight heads of eight are 64, and two of two are 4.
    """

    def new(size: int) -> int:
        factor = 1
        while base <= abs(size) < _INFINITE and size % base == 0:
            size, factor = size // base, factor * target
            if not deep:
                break
        return size * factor

    made = ModelProto()
    made.CopyFrom(model)
    for tensor, _ in tensors_of(made):
        _resize(tensor, [new(dim) for dim in tensor.dims])
        if not is_hollow(tensor) and tensor.data_type in INDICES:
            array = numpy_helper.to_array(tensor)
            sizes = np.array([new(int(item)) for item in array.reshape(-1)], array.dtype)
            tensor.CopyFrom(numpy_helper.from_array(sizes.reshape(array.shape), tensor.name))
    for node in nodes_of(made):
        for attribute in node.attribute:
            if attribute.name in _NO_SIZES:
                continue
            attribute.ints[:] = [new(item) for item in attribute.ints]
            if attribute.type == AttributeProto.INT:
                attribute.i = new(attribute.i)
    for info in _infos(made):
        for dim in info.type.tensor_type.shape.dim:
            if dim.HasField("dim_value"):
                dim.dim_value = new(dim.dim_value)
    return made


def _resize(tensor: TensorProto, dims: list[int]) -> None:
    """Gives a tensor other dimensions; numbers that it has are repeated or left out."""
    if dims == list(tensor.dims):
        return
    if is_hollow(tensor):
        tensor.dims[:] = dims
    else:
        array = np.resize(numpy_helper.to_array(tensor), dims)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def _sizes(model: ModelProto) -> Iterator[int]:
    for tensor, _ in tensors_of(model):
        yield from tensor.dims
        if not is_hollow(tensor) and tensor.data_type in INDICES:
            yield from (int(item) for item in numpy_helper.to_array(tensor).reshape(-1))
    for node in nodes_of(model):
        for attribute in node.attribute:
            if attribute.name not in _NO_SIZES:
                yield from attribute.ints
                yield attribute.i
    for info in _infos(model):
        yield from (dim.dim_value for dim in info.type.tensor_type.shape.dim)


def _infos(model: ModelProto) -> Iterator[ValueInfoProto]:
    graph = model.graph
    yield from (*graph.input, *graph.output, *graph.value_info)
