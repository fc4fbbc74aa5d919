"""`com.microsoft` GroupQueryAttention and SparseAttention: several queries share a key."""

from __future__ import annotations

from onnxheadprune.liveness.fused import FusedLayout, Part, given, layout_reader, number, per_head
from onnxheadprune.model.graph import dims
from onnxheadprune.model.graph.tables import (
    ROLES,
    Roles,
    Shapes,
    shape_function,
)
from onnxheadprune.model.graph.view import Node

ROLES.add(
    ("GroupQueryAttention", "SparseAttention"), "com.microsoft", Roles(alike=(0,), past_keys=3, past_values=4)
)


@shape_function("GroupQueryAttention", "SparseAttention", domain="com.microsoft")
def _shape(node: Node) -> Shapes:
    query = node.shape(0)
    if query is None:
        return [None]
    if node.input(1) is not None:
        return [query]
    heads, kv = node.attribute("num_heads", 0), node.attribute("kv_num_heads", 0)
    size = dims.divide(query[2], heads + 2 * kv)
    return [None if size is None else (query[0], query[1], dims.multiply(size, heads))]


@layout_reader("GroupQueryAttention", "SparseAttention", domain="com.microsoft")
def _layout(node: Node) -> FusedLayout | None:
    """`com.microsoft` GroupQueryAttention and SparseAttention; without a key input Q, K and V are packed."""
    heads, kv = node.attribute("num_heads", 0), node.attribute("kv_num_heads", 0)
    width = number(node.shape(0), 2)
    if not heads or not kv or width is None:
        return None
    packed = node.input(1) is None
    if heads % kv or "PER_CHANNEL" in (node.attribute("k_quant_type"), node.attribute("v_quant_type")):
        return None
    size = width // (heads + 2 * kv) if packed else width // heads
    inputs: dict[int, tuple[int, tuple[Part, ...]]] = {}
    inputs[0] = (2, (("q", size), ("kv", size), ("kv", size)) if packed else (("q", size),))
    if not packed:
        inputs |= {1: (2, (("kv", size),)), 2: (2, (("kv", size),))}
    inputs |= {index: (1, (("kv", 1),)) for index in (3, 4) if node.input(index) is not None}
    if node.op_type == "GroupQueryAttention":
        inputs |= per_head(node, 10, 1, heads)
        inputs |= per_head(node, 11, 0, heads)
    maps = given(node, (3,), 1) if node.op_type == "GroupQueryAttention" else {}
    counts = {"num_heads": "q", "kv_num_heads": "kv"}
    caches, memory = given(node, (1, 2), 1), (1, 2, 3, 4)
    return FusedLayout(heads, kv, size, size, (2,), inputs, caches, counts, memory=memory, maps=maps)
