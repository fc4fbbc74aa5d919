"""Raising a model's opset to the one that has `Attention`, and importing ONNX Runtime's domain."""

from __future__ import annotations

import math

import onnx
from onnx import ModelProto, TensorProto, helper

from onnxheadprune.errors import RefusedError
from onnxheadprune.model.bodies import nodes_in
from onnxheadprune.model.graph.schemas import opset_of
from onnxheadprune.model.graph.view import MAX_LITERAL_ELEMENTS

ATTENTION_OPSET = 23
ATTENTION_IR = 11


def raised(model: ModelProto, name: str) -> ModelProto:
    """The model at the first opset that has `Attention`.

    Raises:
        RefusedError: if it cannot be raised, with the reason.
    """
    try:
        result = converted_to(model, ATTENTION_OPSET)
    except ValueError as error:
        raise RefusedError(_sentence(model, name, str(error))) from error
    result.ir_version = max(model.ir_version, ATTENTION_IR)
    return result


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
    large = [tensor for tensor in model.graph.initializer if math.prod(tensor.dims) > MAX_LITERAL_ELEMENTS]
    names = {tensor.name for tensor in large}
    small = [tensor for tensor in model.graph.initializer if tensor.name not in names]
    del graph.initializer[:]
    graph.initializer.extend(small)
    graph.input.extend(
        helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
        for tensor in large
        if tensor.name not in declared
    )
    return skeleton, large


def _sentence(model: ModelProto, name: str, reason: str) -> str:
    return (
        f"{name} has opset {opset_of(model)}, Attention needs {ATTENTION_OPSET}, and the opset cannot be"
        f" raised: {reason}; use --fuse contrib"
    )


def import_microsoft(model: ModelProto) -> None:
    """Declares the domain of ONNX Runtime's own operators."""
    if all(item.domain != "com.microsoft" for item in model.opset_import):
        model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
