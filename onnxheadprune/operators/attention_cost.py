"""Operations of fused attention operators."""

from __future__ import annotations

from onnxheadprune.liveness.fused import layout_of
from onnxheadprune.model.graph.dims import known_size
from onnxheadprune.model.graph.tables import cost_function, roles_of
from onnxheadprune.model.graph.view import Node

_PACKED_PAST = {"Attention": 4, "QAttention": 8}
"""Past keys and values in one tensor `[2, batch, heads, past, head_size]`, where weights are packed, too."""


_TOTAL_LENGTH = 6
"""Input of GroupQueryAttention with the number of valid keys: its past may be a buffer that is longer."""


def _size(node: Node, index: int, axis: int) -> int | None:
    return known_size(node.shape(index), axis)


def _core(node: Node, batch: int, queries: int, keys: int) -> int | None:
    """Scores and context: 2 x batch x heads x queries x keys x (head size + head size of the values)."""
    layout = layout_of(node)
    if layout is None or layout.head_size is None:
        return None
    return 2 * batch * layout.num_heads * queries * keys * (layout.head_size + layout.v_head_size)


@cost_function("Attention", "QAttention", domain="com.microsoft")
def _packed_weights(node: Node) -> int | None:
    """Projection of Q, K and V, then the core."""
    batch, length, width = (_size(node, 0, axis) for axis in range(3))
    columns = _size(node, 1, 1)
    if batch is None or length is None or width is None or columns is None:
        return None
    core = _core(node, batch, length, length + (_size(node, _PACKED_PAST[node.op_type], 3) or 0))
    return None if core is None else 2 * batch * length * width * columns + core


@cost_function(
    "MultiHeadAttention", "DecoderMaskedMultiHeadAttention", "GroupQueryAttention", domain="com.microsoft"
)
@cost_function("Attention")
def _projected(node: Node) -> int | None:
    """The core of operators that get Q, K and V projected."""
    query, key = node.shape(0), node.shape(1)
    batch = _size(node, 0, 0)
    length = _size(node, 0, 2 if query is not None and _heads_first(node) else 1)
    # [batch, heads, keys, size], else [batch, keys, ...]; without keys, Q, K and V are packed.
    own = length if key is None else _size(node, 1, 2 if len(key) == 4 else 1)
    if batch is None or length is None or own is None:
        return None
    return _core(node, batch, length, _keys(node, own))


def _heads_first(node: Node) -> bool:
    """Return whether queries are `[batch, heads, length, size]` (`ai.onnx` Attention only)."""
    query = node.shape(0)
    return node.domain == "" and query is not None and len(query) == 4


def _keys(node: Node, own: int) -> int:
    if node.op_type == "GroupQueryAttention":
        total = node.literal(_TOTAL_LENGTH)
        if total is not None and total.size == 1:
            return int(total.reshape(-1)[0])
    past = roles_of(node).past_keys
    return own + (0 if past is None else _size(node, past, 2) or 0)


@cost_function("PackedAttention", "SparseAttention", domain="com.microsoft")
def _unknown(node: Node) -> int | None:
    """Operators whose cost depends on what they read."""
    return None
