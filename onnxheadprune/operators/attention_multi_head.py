"""MultiHeadAttention and its relatives in `com.microsoft`: projected Q, K, V come in."""

from __future__ import annotations

from onnxheadprune.liveness.fused import (
    FusedLayout,
    HeadAxis,
    Heads,
    given,
    layout_reader,
    per_head,
    queries,
)
from onnxheadprune.model.graph import dims
from onnxheadprune.model.graph.dims import Shape, known_size
from onnxheadprune.model.graph.tables import ROLES, Roles, Shapes, declare, shape_function
from onnxheadprune.model.graph.view import Node
from onnxheadprune.operators.attention import buffered

_EXTRAS: dict[str, tuple[int, int, tuple[int, ...]]] = {
    "MultiHeadAttention": (3, 5, (6, 7)),
    "DecoderMaskedMultiHeadAttention": (10, 4, (5, 6)),
    "PackedMultiHeadAttention": (3, 6, ()),
}
"""Input indices of the bias of the projections, of what is added to the scores, and of past keys and values."""
LENGTH_OF_PAST = 8
"""The input that says how much of a past in a larger buffer is used."""

declare(
    "MultiHeadAttention",
    domain="com.microsoft",
    roles=Roles(masks=(4, 5), alike=(0,), past_keys=6, past_values=7, learned=(3,)),
)
declare(
    "DecoderMaskedMultiHeadAttention",
    domain="com.microsoft",
    roles=Roles(masks=(3, 4), alike=(0,), past_keys=5, past_values=6, learned=(10,)),
)
declare("PackedMultiHeadAttention", domain="com.microsoft", roles=Roles(masks=(6,), alike=(0,), learned=(3,)))


@shape_function("MultiHeadAttention", "DecoderMaskedMultiHeadAttention", domain="com.microsoft")
def _shape(node: Node) -> Shapes:
    """The context, and keys and values with those of the past."""
    past = ROLES[node.domain, node.op_type]
    assert past.past_keys is not None and past.past_values is not None
    return [*_context_shape(node), _present(node, 1, past.past_keys), _present(node, 2, past.past_values)]


def _present(node: Node, index: int, past_index: int) -> Shape | None:
    new, past, heads = node.shape(index), node.shape(past_index), node.attribute("num_heads", 0)
    if node.op_type != "MultiHeadAttention" or node.input(LENGTH_OF_PAST) is not None:
        return buffered(node, past_index, index)
    if new is None or len(new) not in (3, 4) or not heads or (past is not None and len(past) != 4):
        return None
    size = new[3] if len(new) == 4 else dims.divide(new[2], heads)
    length = new[len(new) - 2]
    return (
        None if size is None else (new[0], heads, length if past is None else dims.add(past[2], length), size)
    )


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


@shape_function("PackedMultiHeadAttention", domain="com.microsoft")
def _packed_shape(node: Node) -> Shapes:
    """Tokens of all sequences in one axis; packed Q, K and V are `[T, H, 3, D]`."""
    query, value = node.shape(0), node.shape(2)
    if query is None:
        return [None]
    if len(query) == 4:
        return [(query[0], dims.multiply(query[1], query[3]))]
    return [None if value is None else (query[0], value[1])]


@layout_reader(
    "MultiHeadAttention",
    "DecoderMaskedMultiHeadAttention",
    "PackedMultiHeadAttention",
    domain="com.microsoft",
)
def _layout(node: Node) -> FusedLayout | None:
    """MultiHeadAttention and its relatives in `com.microsoft`: projected Q, K, V come in."""
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
            inputs[index] = queries(out_axis, sizes[index])
        else:
            # [B, S, H, 3, D] packs, [B, H, S, D] is a cache.
            inputs[index] = queries(1 if flat or len(shape) == 4 else 2, 1)
            sizes[index] = known_size(shape, len(shape) - 1) or 0
    v_size = sizes.get(2) or sizes.get(1) or sizes[0]
    if out_width is not None:
        v_size = out_width // heads
    if node.input(1) is None and len(query) == out_axis + 1:
        # Queries, keys and values side by side: the output has the width of the values alone.
        q_size, rest = divmod(heads * sizes[0] - heads * v_size, 2 * heads)
        if out_width is None or rest or q_size <= 0:
            return None
        sizes[0], inputs[0] = q_size, queries(out_axis, q_size, q_size, v_size)
    bias = known_size(node.shape(biases), 0)
    if bias is not None:
        inputs[biases] = queries(0, sizes[0], sizes[0], v_size)
        if bias != heads * (2 * sizes[0] + v_size):
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
