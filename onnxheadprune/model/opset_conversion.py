"""Copies of a model at another opset."""

from __future__ import annotations

import onnx
from onnx import ModelProto

from onnxheadprune.errors import heed
from onnxheadprune.model.bodies import nodes_in
from onnxheadprune.model.graph.restated import is_large
from onnxheadprune.model.messages import copied, replace_all, store_tensors


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
        reason = str(error).strip().splitlines()
        raise ValueError(reason[0] if reason else type(error).__name__) from error
    result = copied(model)
    replace_all(result.opset_import, converted.opset_import)
    replace_all(result.graph.node, converted.graph.node)
    replace_all(result.graph.value_info, converted.graph.value_info)
    weights = filter(is_large, model.graph.initializer)
    replace_all(result.graph.initializer, [*weights, *converted.graph.initializer])
    return result
