"""Attention that projects Q, K and V itself: `com.microsoft` Attention, QAttention, PackedAttention."""

from __future__ import annotations

from onnxheadprune.liveness.fused import FusedLayout, Heads, given, layout_reader, per_head, queries
from onnxheadprune.model.graph import dims
from onnxheadprune.model.graph.dims import known_size
from onnxheadprune.model.graph.facts import ROUNDS_ACTIVATIONS
from onnxheadprune.model.graph.tables import Roles, Shapes, declare, shape_function
from onnxheadprune.model.graph.view import Node

declare("Attention", domain="com.microsoft", roles=Roles(masks=(3, 5), alike=(0,), learned=(1, 2)))
declare("PackedAttention", domain="com.microsoft", roles=Roles(masks=(5,), alike=(0,), learned=(1, 2)))
declare(
    "QAttention",
    domain="com.microsoft",
    kinds=(ROUNDS_ACTIVATIONS,),
    roles=Roles(masks=(5,), zero_points={0: 6}, weight_zero=7, integer_weight=1),
)
declare(
    "QOrderedAttention", "QOrderedLongformerAttention", domain="com.microsoft", kinds=(ROUNDS_ACTIVATIONS,)
)


@shape_function("Attention", "QAttention", "PackedAttention", domain="com.microsoft")
def _shape(node: Node) -> Shapes:
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


@layout_reader("Attention", "QAttention", "PackedAttention", domain="com.microsoft")
def _layout(node: Node) -> FusedLayout | None:
    """`com.microsoft` Attention, QAttention, PackedAttention: one weight holds Q, K and V side by side."""
    heads = node.attribute("num_heads", 0)
    total = known_size(node.shape(1), 1)
    if not heads or total is None:
        return None
    widths = node.attribute("qkv_hidden_sizes") or [total // 3] * 3
    if sum(widths) != total or any(width % heads for width in widths):
        return None
    sizes = [width // heads for width in widths]
    inputs = {1: queries(1, *sizes), 2: queries(0, *sizes)}
    if node.op_type == "QAttention":
        inputs |= {
            index: queries(0, *sizes) for index in (4, 7) if (known_size(node.shape(index), 0) or 1) > 1
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
