"""Copies of a model with other inputs, for what follows from their shapes alone."""

from __future__ import annotations

import math
from collections.abc import Iterable

from onnx import ModelProto, TensorProto, ValueInfoProto

from onnxheadprune.model.graph.view import MAX_LITERAL_ELEMENTS
from onnxheadprune.model.messages import without_nodes


def restated(model: ModelProto, inputs: Iterable[ValueInfoProto | TensorProto]) -> ModelProto:
    """Return a model with these inputs, and without the numbers of large weights and the declared shapes of outputs."""
    made = without_nodes(model)
    graph = made.graph
    graph.node.extend(model.graph.node)
    graph.initializer.extend(map(_without_data, model.graph.initializer))
    graph.sparse_initializer.extend(model.graph.sparse_initializer)
    for item in inputs:
        if isinstance(item, TensorProto):
            graph.initializer.append(item)
        else:
            graph.input.append(item)
    graph.output.extend(_open(info) for info in model.graph.output)
    return made


def _without_data(tensor: TensorProto) -> TensorProto:
    """The tensor itself where its numbers may be read as shapes or axes, else type and dimensions alone."""
    if not is_large(tensor):
        return tensor
    return TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)


def is_large(tensor: TensorProto) -> bool:
    """Return whether no number of a tensor is read as a shape or an axis."""
    elements: int = math.prod(tensor.dims)
    return elements > MAX_LITERAL_ELEMENTS


def _open(info: ValueInfoProto) -> ValueInfoProto:
    """The output without its declared shape, whose symbols would contradict the numbers."""
    kept = ValueInfoProto(name=info.name)
    if info.type.WhichOneof("value") == "tensor_type":
        kept.type.tensor_type.elem_type = info.type.tensor_type.elem_type
    return kept
