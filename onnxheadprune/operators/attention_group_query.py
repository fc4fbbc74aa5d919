"""`com.microsoft` GroupQueryAttention and SparseAttention: several queries share a key."""

from __future__ import annotations

from onnxheadprune.liveness.fused import (
    FusedLayout,
    HeadAxis,
    Heads,
    Run,
    given,
    key_values,
    layout_reader,
    per_head,
    queries,
)
from onnxheadprune.model.graph import dims
from onnxheadprune.model.graph.dims import Shape, known_size
from onnxheadprune.model.graph.tables import Roles, Shapes, declare, shape_function
from onnxheadprune.model.graph.view import Node
from onnxheadprune.operators.attention import buffered

declare(
    "GroupQueryAttention",
    domain="com.microsoft",
    roles=Roles(masks=(10,), alike=(0,), past_keys=3, past_values=4),
)
declare("SparseAttention", domain="com.microsoft", roles=Roles(alike=(0,), past_keys=3, past_values=4))


@shape_function("GroupQueryAttention", "SparseAttention", domain="com.microsoft")
def _shape(node: Node) -> Shapes:
    """The context, and caches of any length: they may be buffers."""
    return [_context_shape(node), buffered(node, 3, 1), buffered(node, 4, 2)]


def _context_shape(node: Node) -> Shape | None:
    query = node.shape(0)
    if query is None or node.input(1) is not None:
        return query
    heads, kv = node.attribute("num_heads", 0), node.attribute("kv_num_heads", 0)
    size = dims.divide(query[2], heads + 2 * kv)
    return None if size is None else (query[0], query[1], dims.multiply(size, heads))


@layout_reader("GroupQueryAttention", "SparseAttention", domain="com.microsoft")
def _layout(node: Node) -> FusedLayout | None:
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
        inputs = {0: queries(2, size), 1: key_values(2, size), 2: key_values(2, size)}
    inputs |= {index: key_values(1, 1) for index in (3, 4) if node.input(index) is not None}
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
