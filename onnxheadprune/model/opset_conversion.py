"""Copies of a model at another opset."""

from __future__ import annotations

import onnx
from onnx import ModelProto, TensorProto, helper

from onnxheadprune.model.bodies import nodes_in
from onnxheadprune.model.graph.restated import is_large
from onnxheadprune.model.messages import copied


def converted_to(model: ModelProto, opset: int) -> ModelProto:
    """The model at another opset.

    `onnx.version_converter` rewrites operators whose definition changed, each into an equal one. Only nodes
    and small constants are taken from it: it drops metadata, names of dimensions and references to weights.
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
    result = copied(model)
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
    skeleton = copied(model)
    graph = skeleton.graph
    declared = {info.name for info in graph.input}
    large = list(filter(is_large, model.graph.initializer))
    del graph.initializer[:]
    graph.initializer.extend(tensor for tensor in model.graph.initializer if not is_large(tensor))
    graph.input.extend(
        helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
        for tensor in large
        if tensor.name not in declared
    )
    return skeleton, large
