"""Copies of a model: with other inputs, for what follows from their shapes alone, and at another opset."""

from __future__ import annotations

import math
from collections.abc import Iterable

import onnx
from onnx import GraphProto, ModelProto, TensorProto, ValueInfoProto, helper

from onnxheadprune.model.bodies import nodes_in
from onnxheadprune.model.graph.view import MAX_LITERAL_ELEMENTS


def restated(model: ModelProto, inputs: Iterable[ValueInfoProto | TensorProto]) -> ModelProto:
    """Return a model with these inputs, and without the numbers of large weights and the declared shapes of outputs.

    Args:
        model: not changed.
        inputs: each as it is declared now, or as a constant.
    """
    graph = GraphProto(name=model.graph.name)
    graph.node.extend(model.graph.node)
    for tensor in model.graph.initializer:
        graph.initializer.append(_without_data(tensor))
    graph.sparse_initializer.extend(model.graph.sparse_initializer)
    for item in inputs:
        if isinstance(item, TensorProto):
            graph.initializer.append(item)
        else:
            graph.input.append(item)
    graph.output.extend(_open(info) for info in model.graph.output)
    made = ModelProto(ir_version=model.ir_version, graph=graph)
    made.opset_import.extend(model.opset_import)
    made.functions.extend(model.functions)
    return made


def _without_data(tensor: TensorProto) -> TensorProto:
    """The tensor itself where its numbers may be read as shapes or axes, else type and dimensions alone."""
    if not _is_large(tensor):
        return tensor
    return TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)


def _is_large(tensor: TensorProto) -> bool:
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

    Raises:
        ValueError: if it cannot, with its reason.
    """
    foreign = sorted({node.domain for node in nodes_in(model.graph.node)} - {"", "ai.onnx"})
    if foreign:
        raise ValueError(f"it uses operators of {', '.join(foreign)}")
    skeleton, weights = _without_weights(model)
    try:
        converted = onnx.version_converter.convert_version(skeleton, opset)
    except Exception as error:  # the converter raises plain RuntimeErrors, and protobuf its own
        reason = str(error).strip().splitlines()
        raise ValueError(reason[0] if reason else type(error).__name__) from error
    result = ModelProto()
    result.CopyFrom(model)
    del result.opset_import[:]
    result.opset_import.extend(converted.opset_import)
    for part in ("node", "value_info"):
        del getattr(result.graph, part)[:]
        getattr(result.graph, part).extend(getattr(converted.graph, part))
    del result.graph.initializer[:]
    result.graph.initializer.extend([*weights, *converted.graph.initializer])
    return result


def _without_weights(model: ModelProto) -> tuple[ModelProto, list[TensorProto]]:
    """The model with its large tensors declared as inputs, and those tensors: the converter needs no weights."""
    skeleton = ModelProto()
    skeleton.CopyFrom(model)
    graph = skeleton.graph
    declared = {info.name for info in graph.input}
    large = list(filter(_is_large, model.graph.initializer))
    del graph.initializer[:]
    graph.initializer.extend(tensor for tensor in model.graph.initializer if not _is_large(tensor))
    graph.input.extend(
        helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
        for tensor in large
        if tensor.name not in declared
    )
    return skeleton, large
