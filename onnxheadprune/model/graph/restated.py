"""Copies of a model with other inputs, for what follows from their shapes alone, and copies at another opset."""

from __future__ import annotations

import math
from collections.abc import Iterable

import onnx
from onnx import ModelProto, TensorProto, ValueInfoProto

from onnxheadprune.errors import first_line, heed
from onnxheadprune.model.bodies import nodes_in
from onnxheadprune.model.graph.view import MAX_LITERAL_ELEMENTS
from onnxheadprune.model.messages import copied, replace_all, store_tensors, without_nodes


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


def converted_to(model: ModelProto, opset: int) -> ModelProto:
    """The model at another opset.

    `onnx.version_converter` rewrites operators whose definition changed, each into an equal one. Only nodes
    and small constants are taken from it: it drops metadata, names of dimensions and references to weights.
    """
    foreign = sorted({node.domain for node in nodes_in(model.graph.node)} - {"", "ai.onnx"})
    if foreign:
        raise ValueError(f"it uses operators of {', '.join(foreign)}")
    skeleton = copied(model)
    del skeleton.graph.initializer[:]
    store_tensors(skeleton.graph, model.graph.initializer, is_large)
    try:
        converted = onnx.version_converter.convert_version(skeleton, opset)
    except Exception as error:  # the converter raises plain RuntimeErrors, and protobuf its own
        heed(error)
        raise ValueError(first_line(error)) from error
    result = copied(model)
    replace_all(result.opset_import, converted.opset_import)
    replace_all(result.graph.node, converted.graph.node)
    replace_all(result.graph.value_info, converted.graph.value_info)
    weights = filter(is_large, model.graph.initializer)
    replace_all(result.graph.initializer, [*weights, *converted.graph.initializer])
    return result
