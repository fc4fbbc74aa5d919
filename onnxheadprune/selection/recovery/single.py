"""A model in single precision: what gradients of half-precision models are taken of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from onnx import (
    AttributeProto,
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    TypeProto,
    helper,
    numpy_helper,
)

from onnxheadprune.runtime import Array

OTHERS = (TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
TYPE_ATTRIBUTES = ("to", "dtype", "output_dtype", "stash_type", "softmax_precision")
"""Attributes of standard operators that name a type."""
_NUMPY = tuple(helper.tensor_dtype_to_np_dtype(kind) for kind in OTHERS)


def in_single_precision(model: ModelProto) -> ModelProto:
    """The model with float32 in the place of every other float type; itself where there is none.

    Args:
        model: with its weights in memory, without local functions; not changed.
    """
    made = ModelProto()
    made.CopyFrom(model)
    _graph(made.graph)
    return made


def _graph(graph: GraphProto) -> None:
    for info in (*graph.input, *graph.output, *graph.value_info):
        _type(info.type)
    for tensor in graph.initializer:
        _tensor(tensor)
    _nodes(graph.node)


def _nodes(nodes: Iterable[NodeProto]) -> None:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.TENSOR:
                _tensor(attribute.t)
            elif attribute.type == AttributeProto.INT and attribute.name in TYPE_ATTRIBUTES:
                attribute.i = TensorProto.FLOAT if attribute.i in OTHERS else attribute.i
            for body in (attribute.g, *attribute.graphs):
                _graph(body)


def _type(kind: TypeProto) -> None:
    if kind.tensor_type.elem_type in OTHERS:
        kind.tensor_type.elem_type = TensorProto.FLOAT


def _tensor(tensor: TensorProto) -> None:
    if tensor.data_type in OTHERS:
        array = numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def single(feed: Mapping[str, Array]) -> dict[str, Array]:
    """A feed for such a model."""
    return {
        name: array.astype(np.float32) if array.dtype in _NUMPY else array for name, array in feed.items()
    }
