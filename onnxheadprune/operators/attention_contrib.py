"""Shapes and layouts of the attention operators in `com.microsoft`.

MultiHeadAttention and its relatives have projected Q, K and V as inputs, in GroupQueryAttention several queries share a
key, and Attention, QAttention and PackedAttention project Q, K and V themselves.
"""

from __future__ import annotations

from onnxheadprune.liveness.layouts import FusedLayout, HeadAxis, Heads, Run, given, per_head
from onnxheadprune.model.graph import dims
from onnxheadprune.model.graph.dims import Shape, known_size
from onnxheadprune.model.graph.operator import ROUNDS_ACTIVATIONS, Roles, Shapes
from onnxheadprune.model.graph.view import Node
from onnxheadprune.operators.attention import (
    buffered,
    cost_of_projected,
    cost_with_weights,
    fused_attention,
    unknown_cost,
    with_past,
)
from onnxheadprune.operators.record import operator

_EXTRAS: dict[str, tuple[int, int, tuple[int, ...]]] = {
    "MultiHeadAttention": (3, 5, (6, 7)),
    "DecoderMaskedMultiHeadAttention": (10, 4, (5, 6)),
    "PackedMultiHeadAttention": (3, 6, ()),
}
"""Input indices of the bias of the projections, of what is added to the scores, and of past keys and values."""
LENGTH_OF_PAST = 8
"""The input that says how much of a past in a larger buffer is used."""


def _shape(node: Node) -> Shapes:
    """The context, and keys and values with those of the past."""
    past = node.roles
    assert past.past_keys is not None and past.past_values is not None
    return [*_context_shape(node), _present(node, 1, past.past_keys), _present(node, 2, past.past_values)]


def _present(node: Node, index: int, past_index: int) -> Shape | None:
    new, heads = node.shape(index), node.attribute("num_heads", 0)
    if node.op_type != "MultiHeadAttention" or node.input(LENGTH_OF_PAST) is not None:
        return buffered(node, past_index, index)
    if new is None or len(new) not in (3, 4) or not heads:
        return None
    size = new[3] if len(new) == 4 else dims.divide(new[2], heads)
    length = with_past(node, past_index, 2, new[-2])
    return None if size is None or length is None else (new[0], heads, length, size)


def _context_shape(node: Node) -> Shapes:
    query, key, value = node.shape(0), node.shape(1), node.shape(2)
    if query is None:
        return [None]
    packed = next((shape for shape in (query, key) if shape is not None and len(shape) == 5), None)
    if packed is not None:
        return [(query[0], query[1], dims.multiply(packed[2], packed[4]))]
    if value is None:
        return [query if node.input(2) is None and node.input(1) is None else None]
    if len(value) == 4:
        return [(query[0], query[1], dims.multiply(value[1], value[3]))]
    return [(query[0], query[1], value[2])]


def _packed_shape(node: Node) -> Shapes:
    """Tokens of all sequences in one axis; packed Q, K and V are `[T, H, 3, D]`."""
    query, value = node.shape(0), node.shape(2)
    if query is None:
        return [None]
    if len(query) == 4:
        return [(query[0], dims.multiply(query[1], query[3]))]
    return [None if value is None else (query[0], value[1])]


def _layout(node: Node) -> FusedLayout | None:
    heads, query = node.attribute("num_heads", 0), node.shape(0)
    flat = node.op_type == "PackedMultiHeadAttention"
    out_axis = 1 if flat else 2
    out_width = known_size(node.out.shape, out_axis)
    biases, scores, past = _EXTRAS[node.op_type]
    if not heads or query is None:
        return None
    inputs: dict[int, HeadAxis] = {}
    sizes: dict[int, int] = {}
    for index in range(3):
        shape = node.shape(index)
        if node.input(index) is None:
            continue
        if shape is None:
            return None
        if len(shape) == out_axis + 1:
            width = known_size(shape, out_axis)
            if width is None or width % heads:
                return None
            sizes[index] = width // heads
            inputs[index] = HeadAxis.queries(out_axis, sizes[index])
        else:
            # [B, S, H, 3, D] packs, [B, H, S, D] is a cache.
            inputs[index] = HeadAxis.queries(1 if flat or len(shape) == 4 else 2, 1)
            sizes[index] = known_size(shape, len(shape) - 1) or 0
    v_size = sizes.get(2) or sizes.get(1) or sizes[0]
    if out_width is not None:
        v_size = out_width // heads
    if node.input(1) is None and len(query) == out_axis + 1:
        # Queries, keys and values side by side: the output has the width of the values alone.
        q_size, rest = divmod(heads * sizes[0] - heads * v_size, 2 * heads)
        if out_width is None or rest or q_size <= 0:
            return None
        sizes[0], inputs[0] = q_size, HeadAxis.queries(out_axis, q_size, q_size, v_size)
    if node.input(biases) is not None:
        inputs[biases] = HeadAxis.queries(0, sizes[0], sizes[0], v_size)
        if known_size(node.shape(biases), 0) not in (None, heads * (2 * sizes[0] + v_size)):
            return None
    inputs |= per_head(node, scores, 1, heads)
    for index in past:
        inputs |= per_head(node, index, 1, heads)
    return FusedLayout(
        num_heads=heads,
        kv_num_heads=heads,
        head_size=sizes[0],
        v_head_size=v_size,
        out_axes=(out_axis,),
        inputs=inputs,
        caches={} if flat else given(node, (1, 2), 1),
        attributes={"num_heads": Heads.QUERY},
        memory=(1, 2, *past),
        maps={} if flat else given(node, (3,), 1),
    )


def _group_query_shape(node: Node) -> Shapes:
    """The context, and caches of any length: they may be buffers."""
    return [_unpacked_shape(node), buffered(node, 3, 1), buffered(node, 4, 2)]


def _unpacked_shape(node: Node) -> Shape | None:
    query = node.shape(0)
    if query is None or node.input(1) is not None:
        return query
    heads, kv = node.attribute("num_heads", 0), node.attribute("kv_num_heads", 0)
    size = dims.divide(query[2], heads + 2 * kv)
    return None if size is None else (query[0], query[1], dims.multiply(size, heads))


def _group_query_layout(node: Node) -> FusedLayout | None:
    """`com.microsoft` GroupQueryAttention and SparseAttention; without a key input Q, K and V are packed."""
    heads, kv = node.attribute("num_heads", 0), node.attribute("kv_num_heads", 0)
    width = known_size(node.shape(0), 2)
    if not heads or not kv or width is None:
        return None
    packed = node.input(1) is None
    if heads % kv or "PER_CHANNEL" in (node.attribute("k_quant_type"), node.attribute("v_quant_type")):
        return None
    size = width // (heads + 2 * kv) if packed else width // heads
    if packed:
        own = Run(Heads.KEY_VALUE, size)
        inputs = {0: HeadAxis(2, (Run(Heads.QUERY, size), own, own))}
    else:
        inputs = {
            0: HeadAxis.queries(2, size),
            1: HeadAxis.key_values(2, size),
            2: HeadAxis.key_values(2, size),
        }
    inputs |= {index: HeadAxis.key_values(1, 1) for index in (3, 4) if node.input(index) is not None}
    if node.op_type == "GroupQueryAttention":
        inputs |= per_head(node, 10, 1, heads)
        inputs |= per_head(node, 11, 0, heads)
    return FusedLayout(
        num_heads=heads,
        kv_num_heads=kv,
        head_size=size,
        v_head_size=size,
        out_axes=(2,),
        inputs=inputs,
        caches=given(node, (1, 2), 1),
        attributes={"num_heads": Heads.QUERY, "kv_num_heads": Heads.KEY_VALUE},
        memory=(1, 2, 3, 4),
        maps=given(node, (3,), 1) if node.op_type == "GroupQueryAttention" else {},
    )


def _projecting_shape(node: Node) -> Shapes:
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
    length = with_past(node, 4, 3, data[1])
    return [out, None if length is None else (2, data[0], heads, length, widths[0] // heads)]


def _projecting_layout(node: Node) -> FusedLayout | None:
    """`com.microsoft` Attention, QAttention, PackedAttention: one weight holds Q, K and V side by side."""
    heads = node.attribute("num_heads", 0)
    total = known_size(node.shape(1), 1)
    if not heads or total is None:
        return None
    widths = node.attribute("qkv_hidden_sizes") or [total // 3] * 3
    if sum(widths) != total or any(width % heads for width in widths):
        return None
    sizes = [width // heads for width in widths]
    inputs = {1: HeadAxis.queries(1, *sizes), 2: HeadAxis.queries(0, *sizes)}
    if node.op_type == "QAttention":
        inputs |= {
            index: HeadAxis.queries(0, *sizes)
            for index in (4, 7)
            if node.input(index) is not None and node.shape(index) not in ((), (1,))
        }
        inputs |= per_head(node, 8, 2, heads)
    elif node.op_type == "Attention":
        inputs |= per_head(node, 4, 2, heads)
        inputs |= per_head(node, 5, 1, heads)
    else:
        inputs |= per_head(node, 5, 1, heads)
    # QKV of the past in one tensor; the packed variants have none.
    past = {"Attention": 4, "QAttention": 8}.get(node.op_type)
    out_axis = 1 if node.op_type == "PackedAttention" else 2
    listed = "qkv_hidden_sizes" if node.attribute("qkv_hidden_sizes") else None
    return FusedLayout(
        num_heads=heads,
        kv_num_heads=heads,
        head_size=sizes[0],
        v_head_size=sizes[2],
        out_axes=(out_axis,),
        inputs=inputs,
        caches=given(node, (1,), 2),
        attributes={"num_heads": Heads.QUERY},
        widths=listed,
        memory=() if past is None else (past,),
    )


operator(
    "com.microsoft.Attention",
    roles=Roles(masks=(3, 5), alike=(0,), learned=(1, 2)),
    shape=_projecting_shape,
    cost=cost_with_weights,
    rule=fused_attention,
    layout=_projecting_layout,
)
operator(
    "com.microsoft.QAttention",
    kinds=(ROUNDS_ACTIVATIONS,),
    roles=Roles(masks=(5,), alike=(2, 3, 4), zero_points={0: 6}, weight_zero=7, integer_weight=1),
    shape=_projecting_shape,
    cost=cost_with_weights,
    rule=fused_attention,
    layout=_projecting_layout,
)
operator(
    "com.microsoft.PackedAttention",
    roles=Roles(masks=(5,), alike=(0,), learned=(1, 2)),
    shape=_projecting_shape,
    cost=unknown_cost,
    rule=fused_attention,
    layout=_projecting_layout,
)
operator(
    "com.microsoft.MultiHeadAttention",
    roles=Roles(masks=(4, 5), alike=(0,), past_keys=6, past_values=7, learned=(3,)),
    shape=_shape,
    cost=cost_of_projected,
    rule=fused_attention,
    layout=_layout,
)
operator(
    "com.microsoft.DecoderMaskedMultiHeadAttention",
    roles=Roles(masks=(3, 4), alike=(0,), past_keys=5, past_values=6, learned=(10,)),
    shape=_shape,
    cost=cost_of_projected,
    rule=fused_attention,
    layout=_layout,
)
operator(
    "com.microsoft.PackedMultiHeadAttention",
    roles=Roles(masks=(6,), alike=(0,), learned=(3,)),
    shape=_packed_shape,
    rule=fused_attention,
    layout=_layout,
)
operator(
    "com.microsoft.GroupQueryAttention",
    roles=Roles(
        masks=(10,), alike=(0,), alike_by_output={1: (3, 1, 0), 2: (4, 2, 0)}, past_keys=3, past_values=4
    ),
    shape=_group_query_shape,
    cost=cost_of_projected,
    rule=fused_attention,
    layout=_group_query_layout,
)
operator(
    "com.microsoft.SparseAttention",
    roles=Roles(alike=(0,), past_keys=3, past_values=4),
    shape=_group_query_shape,
    cost=unknown_cost,
    rule=fused_attention,
    layout=_group_query_layout,
)
operator(
    "com.microsoft.QOrderedAttention",
    "com.microsoft.QOrderedLongformerAttention",
    kinds=(ROUNDS_ACTIVATIONS,),
)
