"""Contractions: a live batch letter narrows both operands, a free letter the operand that has it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from onnxheadprune.edit.edits import Edit, SetAttribute
from onnxheadprune.liveness.axes import broadcast_back
from onnxheadprune.liveness.blocks import cut_columns
from onnxheadprune.liveness.contraction import Contraction, Letters, contraction_of
from onnxheadprune.liveness.live import FULL, Live
from onnxheadprune.liveness.refusal import Refusal
from onnxheadprune.liveness.registry import Answer, inexpressible, rule, unknown_shape
from onnxheadprune.liveness.rules.normalization import coupled
from onnxheadprune.model.graph.view import Node


@rule("MatMul", "MatMulInteger", "QLinearMatMul", "Gemm", "Einsum", ragged=True)
def contraction(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """The summed letter never appears in the output, so it stays whole in both operands."""
    found = contraction_of(node)
    if found is None:
        return unknown_shape(node)
    if not lives[0].is_product and not _follows(lives[0], found):
        return inexpressible(node)
    inputs = {index: _operand(lives[0], found, axes) for index, axes in found.terms}
    inputs |= _columns(node, lives[0], found)
    if node.op_type in ("Gemm", "FusedGemm"):
        bias = _gemm_bias(node, lives[0])
        if bias is None:
            return inexpressible(node)
        inputs[2] = bias
    return Answer(inputs)


@rule(
    "FusedMatMul",
    "TransposeMatMul",
    "FusedGemm",
    "QGemm",
    "FusedMatMulActivation",
    "DynamicQuantizeMatMul",
    "MatMulIntegerToFloat",
    domain="com.microsoft",
    ragged=True,
)
def fused_contraction(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """ONNX Runtime's variants with transposes, a scale or quantization folded in."""
    answer = contraction(node, lives)
    if node.op_type == "DynamicQuantizeMatMul" and isinstance(answer, Answer) and answer.inputs[0].axes:
        # The range of the activation is taken over all its rows together.
        return coupled(node)
    return answer


@rule("MatMulNBits", domain="com.microsoft")
def packed(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """Columns of a blockwise quantized weight are independent of each other."""
    found, last = contraction_of(node), len(node.shape(0) or ()) - 1
    if found is None:
        return unknown_shape(node)
    columns = lives[0].only([last])
    columns = columns.renumbered(dict.fromkeys(columns.axes, 0))
    rows = lives[0].only([axis for axis in lives[0].axes if axis != last])
    count = columns.extent(0)[0] if columns.axes else node.attribute("N")

    def rewrite(_: Mapping[int, Live]) -> Sequence[Edit]:
        return [SetAttribute(node.ref, "N", count)] if count != node.attribute("N") else []

    return Answer({0: rows, **cut_columns(node, columns)}, rewrite)


def _follows(live: Live, found: Contraction) -> bool:
    """Whether operands can follow a mask that is no product: each has its first axes, in their order.

    Shared keys `[B, K, 1, T, D]` are one per group, whichever of its queries are left.
    """
    if live.array.dtype.kind != "b":
        return True
    letters = [found.out_axes[axis] for axis in live.axes]
    for _, axes in found.terms:
        mine = [letter for letter in axes if letter in letters]
        if mine != letters[: len(mine)]:
            return False
    return not found.columns


def _operand(live: Live, found: Contraction, axes: Letters) -> Live:
    letter_at = dict(enumerate(found.out_axes))
    carried = {axis: axes.index(letter_at[axis]) for axis in live.axes if letter_at[axis] in axes}
    projected = live.only(carried)
    return projected.renumbered({axis: carried[axis] for axis in projected.axes})


def _columns(node: Node, live: Live, found: Contraction) -> dict[int, Live]:
    """Scales, zero points and biases with one entry per column of the last operand."""
    answers: dict[int, Live] = {}
    last = found.indices[-1]
    columns = [axis for axis in live.axes if found.owners(found.out_axes[axis]) == (last,)]
    for index in found.columns:
        shape = node.shape(index)
        if shape and shape[-1] != 1 and len(columns) == 1:
            projected = live.only(columns)
            answers[index] = projected.renumbered({axis: len(shape) - 1 for axis in projected.axes})
    return answers


def _gemm_bias(node: Node, live: Live) -> Live | None:
    shape, out_shape = node.shape(2), node.out.shape
    if node.input(2) is None:
        return FULL
    if shape is None or out_shape is None:
        return None
    return broadcast_back(live, shape, out_shape)
