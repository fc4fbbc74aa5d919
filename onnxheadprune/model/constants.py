"""Constant nodes: tensors that a graph stores as nodes."""

from __future__ import annotations

from typing import Protocol

from onnx import NodeProto, TensorProto

STORED = "value"
"""The attribute of a Constant that holds a tensor."""


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
