"""Shape functions of ONNX Runtime's own operators (domain `com.microsoft`), which onnx knows nothing about."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from onnxheadprune.model.graph import dims
from onnxheadprune.model.graph.dims import Dim, Shape
from onnxheadprune.model.graph.shapes import arithmetic
from onnxheadprune.model.graph.shapes.common import broadcast
from onnxheadprune.model.graph.view import Node

Shapes = Sequence[Shape | None]


def _first(node: Node) -> Shapes:
    return [node.shape(0)]


def _skip_normalization(node: Node) -> Shapes:
    return [node.shape(0), None, None, node.shape(0)][: len(node.outputs)]


def _matmul(right_index: int) -> Callable[[Node], Shapes]:
    def shapes(node: Node) -> Shapes:
        left, right = node.shape(0), node.shape(right_index)
        if left is None or right is None or len(left) < 2 or len(right) < 2:
            return [None]
        if node.attribute("transBatchA", 0) or node.attribute("transBatchB", 0):
            left = (*left[1:-1], left[0], left[-1]) if node.attribute("transBatchA", 0) else left
            right = (*right[1:-1], right[0], right[-1]) if node.attribute("transBatchB", 0) else right
        if node.attribute("transA", 0):
            left = (*left[:-2], left[-1], left[-2])
        if node.attribute("transB", 0):
            right = (*right[:-2], right[-1], right[-2])
        batch = broadcast([left[:-2], right[:-2]])
        return [None if batch is None else (*batch, left[-2], right[-1])]

    return shapes


def _gemm(node: Node) -> Shapes:
    left, right = node.shape(0), node.shape(1 if node.op_type != "QGemm" else 3)
    if left is None or right is None or len(left) != 2 or len(right) != 2:
        return [None]
    rows = left[1] if node.attribute("transA", 0) else left[0]
    return [(rows, right[0] if node.attribute("transB", 0) else right[1])]


def _n_bits(node: Node) -> Shapes:
    shape = node.shape(0)
    return [None if shape is None else (*shape[:-1], node.attribute("N"))]


def _binary(node: Node) -> Shapes:
    return [broadcast([node.shape(0), node.shape(3)])]


def _concat(node: Node) -> Shapes:
    shapes = [node.shape(index) for index in range(2, len(node.inputs), 3)]
    known = [shape for shape in shapes if shape is not None]
    if len(known) != len(shapes) or not known:
        return [None]
    axis = node.attribute("axis", 0) % len(known[0])
    total: Dim = 0
    for shape in known:
        total = dims.add(total, shape[axis])
    return [(*known[0][:axis], total, *known[0][axis + 1 :])]


def _packed_attention(node: Node) -> Shapes:
    data, weight = node.shape(0), node.shape(1)
    if data is None or weight is None or not isinstance(weight[1], int):
        return [None]
    widths = node.attribute("qkv_hidden_sizes") or [weight[1] // 3] * 3
    out = (*data[:-1], widths[2])
    heads = node.attribute("num_heads", 0)
    if (
        node.op_type != "Attention"
        or len(data) != 3
        or not heads
        or node.attribute("past_present_share_buffer", 0)
    ):
        return [out]
    past = node.shape(4)
    if past is not None and len(past) != 5:
        return [out]
    length = data[1] if past is None else dims.add(past[3], data[1])
    return [out, (2, data[0], heads, length, widths[0] // heads)]


def _multi_head(node: Node) -> Shapes:
    query, value = node.shape(0), node.shape(2)
    if query is None:
        return [None]
    if len(query) == 5:
        return [(query[0], query[1], dims.multiply(query[2], query[4]))]
    if value is None:
        return [query if node.input(2) is None and node.input(1) is None else None]
    if len(value) == 4:
        return [(query[0], query[1], dims.multiply(value[1], value[3]))]
    return [(query[0], query[1], value[2])]


def _group_query(node: Node) -> Shapes:
    query = node.shape(0)
    if query is None:
        return [None]
    if node.input(1) is not None:
        return [query]
    heads, kv = node.attribute("num_heads", 0), node.attribute("kv_num_heads", 0)
    size = dims.divide(query[2], heads + 2 * kv)
    return [None if size is None else (query[0], query[1], dims.multiply(size, heads))]


def _embedding(node: Node) -> Shapes:
    """The normalised embedding, the length of each sequence, and the sum before the normalisation."""
    ids, table = node.shape(0), node.shape(2)
    if ids is None or table is None:
        return [None] * len(node.outputs)
    embedded = (*ids, table[1])
    # Other kinds of masks list more than the lengths.
    lengths = ids[:1] if node.attribute("mask_index_type", 1) == 1 else None
    return [embedded, lengths, embedded][: len(node.outputs)]


def _quantized_embedding(node: Node) -> Shapes:
    return _embedding(node)[:2]


def _packed_multi_head(node: Node) -> Shapes:
    """Tokens of all sequences in one axis; packed Q, K and V are `[T, H, 3, D]`."""
    query, value = node.shape(0), node.shape(2)
    if query is None:
        return [None]
    if len(query) == 4:
        return [(query[0], dims.multiply(query[1], query[3]))]
    return [None if value is None else (query[0], value[1])]


MICROSOFT_SHAPES: dict[str, Callable[[Node], Shapes]] = {
    **dict.fromkeys(
        [
            "Gelu",
            "QuickGelu",
            "FastGelu",
            "BiasGelu",
            "RotaryEmbedding",
            "QuantizeLinear",
            "DequantizeLinear",
            "QLinearSigmoid",
            "QLinearLeakyRelu",
            "QLinearSoftmax",
            "BiasSoftmax",
            "SimplifiedLayerNormalization",
            "BiasAdd",
        ],
        _first,
    ),
    **dict.fromkeys(
        ("SkipLayerNormalization", "SkipSimplifiedLayerNormalization", "QSkipLayerNormalization"),
        _skip_normalization,
    ),
    **dict.fromkeys(
        (
            "FusedMatMul",
            "TransposeMatMul",
            "FusedMatMulActivation",
            "DynamicQuantizeMatMul",
            "MatMulIntegerToFloat",
        ),
        _matmul(1),
    ),
    **dict.fromkeys(("FusedGemm", "QGemm"), _gemm),
    **dict.fromkeys(("QLinearAdd", "QLinearMul"), _binary),
    **dict.fromkeys(("Attention", "QAttention", "PackedAttention"), _packed_attention),
    **dict.fromkeys(("MultiHeadAttention", "DecoderMaskedMultiHeadAttention"), _multi_head),
    **dict.fromkeys(("GroupQueryAttention", "SparseAttention"), _group_query),
    "FusedConv": arithmetic.conv,
    "MatMulNBits": _n_bits,
    "QLinearConcat": _concat,
    "PackedMultiHeadAttention": _packed_multi_head,
    "LinearAttention": arithmetic.linear_attention,
    "EmbedLayerNormalization": _embedding,
    "QEmbedLayerNormalization": _quantized_embedding,
}
