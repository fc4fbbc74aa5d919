"""A view of a model with the shapes of one feed: what counting operations needs, without a copy of the weights."""

from __future__ import annotations

from collections.abc import Mapping

from onnx import GraphProto, ModelProto, TensorProto, ValueInfoProto, helper, numpy_helper

from onnxheadprune.attention.sites.find import view_of
from onnxheadprune.model.graph.view import MAX_LITERAL_ELEMENTS, GraphView
from onnxheadprune.runtime.feeds.fill import Array

FEW = 64
"""Inputs of up to this many whole numbers or flags (lengths, `use_cache_branch`) become constants."""


def concrete_view(model: ModelProto, feed: Mapping[str, Array]) -> GraphView:
    """The annotated view of a model that takes exactly this feed.

    Args:
        model: as `prepared` by `model_io`; not changed, and its large weights are not copied.
        feed: an array per graph input.
    """
    graph = GraphProto(name=model.graph.name)
    graph.node.extend(model.graph.node)
    stored = {tensor.name for tensor in model.graph.initializer}
    for tensor in model.graph.initializer:
        graph.initializer.append(_without_data(tensor))
    graph.sparse_initializer.extend(model.graph.sparse_initializer)
    for info in model.graph.input:
        array = feed.get(info.name)
        if info.name in stored or array is None:
            graph.input.append(info)
        elif array.dtype.kind in "biu" and array.ndim < 2 and array.size <= FEW:
            graph.initializer.append(numpy_helper.from_array(array, info.name))
        else:
            graph.input.append(
                helper.make_tensor_value_info(info.name, info.type.tensor_type.elem_type, array.shape)
            )
    graph.output.extend(_open(info) for info in model.graph.output)
    made = ModelProto(ir_version=model.ir_version, graph=graph)
    made.opset_import.extend(model.opset_import)
    made.functions.extend(model.functions)
    return view_of(made)


def _without_data(tensor: TensorProto) -> TensorProto:
    """The tensor itself where its numbers may be read as shapes or axes, else type and dimensions alone."""
    size = 1
    for dim in tensor.dims:
        size *= dim
    if size <= MAX_LITERAL_ELEMENTS:
        return tensor
    return TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)


def _open(info: ValueInfoProto) -> ValueInfoProto:
    """The output without its declared shape, whose symbols would contradict the numbers."""
    kept = ValueInfoProto(name=info.name)
    if info.type.WhichOneof("value") == "tensor_type":
        kept.type.tensor_type.elem_type = info.type.tensor_type.elem_type
    return kept
