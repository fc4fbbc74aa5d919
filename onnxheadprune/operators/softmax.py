"""Softmax and its relatives: exact where the live axis is not among those they mix."""

from __future__ import annotations

from collections.abc import Sequence

from onnxheadprune.liveness.live import Live
from onnxheadprune.liveness.refusals import Refusal, unknown_shape
from onnxheadprune.liveness.registry import Answer, mixing, rank_of, rule
from onnxheadprune.model.graph.facts import SOFTMAXES, WEIGHS
from onnxheadprune.model.graph.tables import Roles, Shapes, declare, shape_function
from onnxheadprune.model.graph.view import Node

declare("Softmax", kinds=(SOFTMAXES, WEIGHS))
declare("LogSoftmax", "Hardmax", kinds=(WEIGHS,))
declare("BiasSoftmax", domain="com.microsoft", kinds=(WEIGHS,), roles=Roles(alike=(0, 1)))


@shape_function("Softmax", "LogSoftmax", "Hardmax")
@shape_function("BiasSoftmax", domain="com.microsoft")
def _softmax_shape(node: Node) -> Shapes:
    return [node.shape(0)]


@rule("Softmax", "LogSoftmax", "Hardmax", ragged=True, runs=True)
def _softmax(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """One axis since opset 13, every axis from `axis` on before."""
    rank = rank_of(node)
    if rank is None:
        return unknown_shape(node)
    axis = node.attribute("axis", -1 if node.opset >= 13 else 1) % rank
    mixed = {axis} if node.opset >= 13 else set(range(axis, rank))
    return mixing(node, lives[0], mixed)
