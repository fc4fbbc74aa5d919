"""Softmax and its relatives: exact where the live axis is not among those they mix."""

from __future__ import annotations

from onnxheadprune.liveness.index_notation import Notation, same_axes
from onnxheadprune.model.graph.operator import WEIGHS, Roles
from onnxheadprune.model.graph.view import Node
from onnxheadprune.operators.record import operator


def _softmax(node: Node) -> Notation | None:
    """One axis since opset 13, every axis from `axis` on before."""
    axis = node.attribute("axis", -1 if node.opset >= 13 else 1)
    return same_axes(node, lambda rank: [axis] if node.opset >= 13 else range(axis % rank, rank))


operator("Softmax", "LogSoftmax", "Hardmax", kinds=(WEIGHS,), axes=_softmax)
operator(
    "com.microsoft.BiasSoftmax",
    kinds=(WEIGHS,),
    roles=Roles(alike=(0, 1)),
    shape=lambda node: [node.shape(0)],
)
