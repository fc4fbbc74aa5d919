"""Constant nodes: tensors that a graph stores as nodes."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

STORED = "value"
"""The attribute of a Constant that holds a tensor."""
_PLAIN = {
    "value_int": np.int64,
    "value_ints": np.int64,
    "value_float": np.float32,
    "value_floats": np.float32,
}
"""Those that hold bare numbers, and the types of these."""


class _Operation(Protocol):
    @property
    def op_type(self) -> str: ...
    @property
    def domain(self) -> str: ...


def is_constant(node: _Operation) -> bool:
    """Return whether a node is a Constant of the standard: it reads nothing, and gives what is stored in it."""
    return node.op_type == "Constant" and node.domain in ("", "ai.onnx")


def stored_tensor(node: NodeProto) -> TensorProto | None:
    """The tensor that a Constant holds, None where it holds bare numbers, or for any other node."""
    return (
        next((item.t for item in node.attribute if item.name == STORED), None) if is_constant(node) else None
    )


def constant_tensor(node: NodeProto) -> TensorProto | None:
    """The tensor that a Constant outputs, whichever attribute holds it; None for text and sparse tensors."""
    for item in node.attribute:
        if item.name == STORED:
            tensor: TensorProto = item.t
            return tensor
        if item.name in _PLAIN:
            numbers = np.array(helper.get_attribute_value(item), _PLAIN[item.name])
            return numpy_helper.from_array(numbers)
    return None
