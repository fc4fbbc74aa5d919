"""Inputs and attributes of the fused operators."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from onnx import TensorProto

from onnxheadprune.edit.edits import Attribute
from onnxheadprune.fusion.emit import Emitter, Tensor
from onnxheadprune.fusion.layout import Axis, size_of
from onnxheadprune.fusion.operands import Tap

Attributes = tuple[tuple[str, Attribute], ...]
HEAD_SIZE_UNIT = 8


@dataclass(frozen=True)
class Given:
    """The inputs of a fused operator.

    Attributes:
        query, key, value: the operands.
        bias: what is added to the scores, "" for nothing.
        heads: query heads.
        kv_heads: key/value heads.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    bias: str
    heads: int
    kv_heads: int

    @property
    def operands(self) -> tuple[str, str, str]:
        """Their names."""
        return self.query.name, self.key.name, self.value.name


Signature: TypeAlias = Callable[[Emitter, Given], tuple[tuple[str, ...], Attributes]]
"""Inputs and attributes of an operator, without the scale; the emitter makes what an input needs."""


def multi_head(_: Emitter, given: Given) -> tuple[tuple[str, ...], Attributes]:
    """Packed operands, and the bias as sixth input."""
    return _trimmed((*given.operands, "", "", given.bias)), (("num_heads", given.heads),)


def group_query(emitter: Emitter, given: Given) -> tuple[tuple[str, ...], Attributes]:
    """The lengths of the sequences are inputs; the bias is the eleventh."""
    lengths = _lengths(emitter, given.query)
    counts = (("num_heads", given.heads), ("kv_num_heads", given.kv_heads), ("causal", 0))
    return _trimmed((*given.operands, "", "", *lengths, "", "", "", given.bias)), counts


def standard(_: Emitter, given: Given) -> tuple[tuple[str, ...], Attributes]:
    """Operands of four axes show how many heads there are."""
    counts = (("q_num_heads", given.heads), ("kv_num_heads", given.kv_heads))
    return _trimmed((*given.operands, given.bias)), () if len(given.query.layout) == 4 else counts


def _trimmed(inputs: tuple[str, ...]) -> tuple[str, ...]:
    while inputs and not inputs[-1]:
        inputs = inputs[:-1]
    return inputs


def group_query_obstacle(axes: tuple[Axis, ...], taps: tuple[Tap, Tap], biased: bool) -> str | None:
    """Return why GroupQueryAttention does not apply, None if it does.

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
        shape = emitter.shape(query.name)
        total = emitter.entry(shape, emitter.integers(1, scalar=True), "length")
        batch = emitter.entry(shape, emitter.integers(0), "batch")
        last = emitter.subtracted(total, emitter.integers(1, scalar=True), "last")
        spread = emitter.expanded(last, batch, "lengths")
        shared[key] = Tensor(emitter.cast(spread, int(TensorProto.INT32), "lengths"), ())
        shared[*key, "total"] = Tensor(emitter.cast(total, int(TensorProto.INT32), "total"), ())
    return shared[key].name, shared[*key, "total"].name
