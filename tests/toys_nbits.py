"""Hand-made models with weights packed in blocks of 4 bits, as onnxruntime-genai writes int4 decoders."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

BLOCK = 16
MIDDLE = 8
"""The level that stands for zero."""


def packed(model: ModelProto, accuracy_level: int) -> ModelProto:
    """A copy whose products with weights are `MatMulNBits` of that accuracy level."""
    copy = ModelProto()
    copy.CopyFrom(model)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in copy.graph.node:
        if node.op_type == "MatMul" and node.input[1] in weights:
            tensor = weights.pop(node.input[1])
            matrix = numpy_helper.to_array(tensor)
            node.CopyFrom(_node(node, matrix.shape, accuracy_level))
            copy.graph.initializer.remove(tensor)
            copy.graph.initializer.extend(_blocks(node.input[1], node.input[2], matrix))
    if all(item.domain != "com.microsoft" for item in copy.opset_import):
        copy.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return copy


def _node(node: NodeProto, shape: tuple[int, ...], accuracy_level: int) -> NodeProto:
    source, weight = node.input
    inputs = [source, f"{weight}_q", f"{weight}_scales"]
    attributes = {"K": shape[0], "N": shape[1], "bits": 4, "block_size": BLOCK}
    return helper.make_node(
        "MatMulNBits",
        inputs,
        list(node.output),
        node.name,
        domain="com.microsoft",
        accuracy_level=accuracy_level,
        **attributes,
    )


def _blocks(name: str, scales_name: str, matrix: Any) -> tuple[TensorProto, TensorProto]:
    """`[N, K / block, block / 2]` bytes and a scale per block."""
    inner, columns = matrix.shape
    filled = np.zeros((-(-inner // BLOCK) * BLOCK, columns), np.float32)
    filled[:inner] = matrix
    rows = filled.T.reshape(columns, -1, BLOCK)
    scales = np.abs(rows).max(axis=2, keepdims=True) / 7
    levels = (np.round(rows / scales) + MIDDLE).astype(np.uint8)
    data = levels[..., 0::2] | levels[..., 1::2] << 4
    return (
        numpy_helper.from_array(data, name),
        numpy_helper.from_array(scales.astype(np.float32).reshape(-1), scales_name),
    )
