"""Inputs and attributes of the fused operators."""

from __future__ import annotations

from onnx import TensorProto

from onnxheadprune.edit.edits import Attribute
from onnxheadprune.fusion.emit import Emitter, Tensor
from onnxheadprune.fusion.layout import Axis, size_of
from onnxheadprune.fusion.operands import Tap

Attributes = tuple[tuple[str, Attribute], ...]
HEAD_SIZE_UNIT = 8


def signature(
    emitter: Emitter,
    op_type: str,
    operands: tuple[Tensor, Tensor, Tensor],
    bias: str,
    heads: tuple[int, int],
) -> tuple[tuple[str, ...], Attributes]:
    """Inputs and attributes, without the scale.

    Args:
        emitter: for the nodes that an input needs.
        op_type: the operator.
        operands: queries, keys and values.
        bias: what is added to the scores, "" for nothing.
        heads: query heads and key/value heads.
    """
    names = tuple(operand.name for operand in operands)
    if op_type == "MultiHeadAttention":
        return _trimmed((*names, "", "", bias)), (("num_heads", heads[0]),)
    if op_type == "GroupQueryAttention":
        lengths = _lengths(emitter, operands[0])
        counts = (("num_heads", heads[0]), ("kv_num_heads", heads[1]), ("causal", 0))
        return _trimmed((*names, "", "", *lengths, "", "", "", bias)), counts
    spread = len(operands[0].layout) == 4
    return _trimmed((*names, bias)), () if spread else (("q_num_heads", heads[0]), ("kv_num_heads", heads[1]))


def _trimmed(inputs: tuple[str, ...]) -> tuple[str, ...]:
    while inputs and not inputs[-1]:
        inputs = inputs[:-1]
    return inputs


def group_query_obstacle(axes: tuple[Axis, ...], taps: tuple[Tap, Tap], biased: bool) -> str | None:
    """Why GroupQueryAttention does not apply, None if it does.

    Without a cache of its own it wants as many keys as queries; its CPU kernel wants head sizes in units of 8.
    Its CUDA kernel rejects a bias, or since July 2026 leaves its fused kernels for it (ONNX Runtime, pull
    request 29525), which MultiHeadAttention does not.
    """
    if biased:
        return "GroupQueryAttention takes a bias in unfused CUDA kernels only"
    _, heads, queries, keys, width, _ = axes
    if size_of(queries) != size_of(keys):
        return "GroupQueryAttention wants as many keys as queries where the cache is not its own"
    size = size_of(width)
    if not isinstance(size, int) or size % HEAD_SIZE_UNIT:
        return f"GroupQueryAttention wants head sizes that are multiples of {HEAD_SIZE_UNIT}"
    if size_of(taps[1].heads) == size_of(heads):
        return "its heads share no keys"
    return None


def _lengths(emitter: Emitter, query: Tensor) -> tuple[str, str]:
    """`seqlens_k` (every sequence's last position) and `total_sequence_length`; the same for all layers."""
    key = ("lengths", emitter.before.scope.ref, *(str(size_of(axis)) for axis in query.layout[:2]))
    shared = emitter.names.shared
    if key not in shared:
        shape = emitter.node("Shape", (query.name,), "shape")
        total = emitter.node("Gather", (shape, emitter.integers(1, scalar=True)), "length", (("axis", 0),))
        batch = emitter.node("Gather", (shape, emitter.integers(0)), "batch", (("axis", 0),))
        last = emitter.node("Sub", (total, emitter.integers(1, scalar=True)), "last")
        spread = emitter.node("Expand", (last, batch), "lengths")
        narrow = (("to", int(TensorProto.INT32)),)
        shared[key] = Tensor(emitter.node("Cast", (spread,), "lengths", narrow), ())
        shared[*key, "total"] = Tensor(emitter.node("Cast", (total,), "total", narrow), ())
    return shared[key].name, shared[*key, "total"].name
