"""Attention that projects Q, K and V itself: `com.microsoft` Attention, QAttention, PackedAttention."""

from __future__ import annotations

from onnx import TensorProto

from onnxheadprune.edit.gradients import Constant, Step, UnknownShapeError, decomposition
from onnxheadprune.edit.terms import Term
from onnxheadprune.liveness.fused import FusedLayout, Heads, given, layout_reader, number, per_head, queries
from onnxheadprune.model.graph import dims
from onnxheadprune.model.graph.facts import ROUNDS_ACTIVATIONS
from onnxheadprune.model.graph.tables import ROLES, Roles, Shapes, shape_function
from onnxheadprune.model.graph.view import Node
from onnxheadprune.operators.attention_multi_head import padding_bias
from onnxheadprune.operators.attention_parts import (
    Scores,
    attended,
    heads_apart,
    heads_joined,
    hidden_unless,
    positions,
    window,
    with_past,
)

ROLES.add(("Attention",), "com.microsoft", Roles(masks=(3, 5), alike=(0,), learned=(1, 2)))
ROLES.add(("PackedAttention",), "com.microsoft", Roles(masks=(5,), alike=(0,), learned=(1, 2)))
ROLES.add(
    ("QAttention",), "com.microsoft", Roles(masks=(5,), zero_points={0: 6}, weight_zero=7, integer_weight=1)
)
ROUNDS_ACTIVATIONS.add(
    "QAttention", "QOrderedAttention", "QOrderedLongformerAttention", domain="com.microsoft"
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
    total = number(node.shape(1), 1)
    if not heads or total is None:
        return None
    widths = node.attribute("qkv_hidden_sizes") or [total // 3] * 3
    if sum(widths) != total or any(width % heads for width in widths):
        return None
    sizes = [width // heads for width in widths]
    inputs = {1: queries(1, *sizes), 2: queries(0, *sizes)}
    if node.op_type == "QAttention":
        inputs |= {index: queries(0, *sizes) for index in (4, 7) if (number(node.shape(index), 0) or 1) > 1}
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


@decomposition("Attention", domain="com.microsoft")
def packed_parts(step: Step) -> list[Term | None] | Constant:
    """One projection, cut into queries, keys and values."""
    node, heads, weight = step.node, int(step.node.attribute("num_heads", 0)), step.shape(1)
    if step.given(6) is not None or any(
        node.attribute(name, 0) for name in ("do_rotary", "past_present_share_buffer")
    ):
        return Constant("rotates by itself, or keeps its cache in a buffer")
    if not isinstance(weight[1], int):
        raise UnknownShapeError("the width of its weight is not known")
    widths = node.attribute("qkv_hidden_sizes") or [weight[1] // 3] * 3
    projected = step.input(0) @ step.input(1)
    bias = step.given(2)
    projected = projected if bias is None else projected + bias
    starts = [sum(widths[:index]) for index in range(4)]
    query, key, value = (heads_apart(projected.slice(starts[i], starts[i + 1], 2), heads) for i in range(3))
    past = step.given(4)
    if past is not None:
        pasts = [past.slice(i, i + 1, 0).squeeze([0]) for i in range(2)]
        key, value = (with_past(pasts[0], key), with_past(pasts[1], value))
    biases = [] if step.given(5) is None else [step.input(5)]
    lengths = step.node.shape(3) is not None and step.shape(3) == (step.shape(0)[0],)
    padding = _length_bias(step, key) if lengths else padding_bias(step, 3, key.elem_type)
    if isinstance(padding, Constant):
        return padding
    biases += [] if padding is None else [padding]
    if node.attribute("unidirectional", 0):
        earlier = None if past is None else pasts[0]
        biases.append(hidden_unless(window(query, key, earlier), key.elem_type))
    context = attended(query, key, value, Scores(node.attribute("scale"), 0.0, tuple(biases)))
    stacked = step.writer.joined([key.unsqueeze([0]), value.unsqueeze([0])], axis=0)
    return [heads_joined(context), stacked]


def _length_bias(step: Step, key: Term) -> Term:
    """A mask that lists how many tokens of each sequence count, [B]."""
    lengths = step.input(3).cast(TensorProto.INT64).unsqueeze([1, 2, 3])
    seen = positions(key.dim(2)).test("Less", lengths)
    filtered = float(step.node.attribute("mask_filter_value", -10000.0))
    return seen.where(step.writer.number(0.0, key.elem_type), filtered)
