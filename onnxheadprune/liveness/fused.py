"""Fused attention operators: which axis of which input carries which heads.

A decomposed graph shows its heads in shapes; a fused operator states them in attributes. One layout per
operator says where queries, keys and values lie, and liveness and site detection both read that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from onnxheadprune.model.graph.dims import Dim, Shape
from onnxheadprune.model.graph.view import Node

Part = tuple[str, int]
"""A run of heads along an axis: "q" or "kv", and how many positions one head takes."""


@dataclass(frozen=True)
class FusedLayout:
    """Where the heads of a fused attention node are.

    Attributes:
        num_heads, kv_num_heads: query and key/value heads.
        head_size: width of a query or key head, None if the shapes do not tell.
        v_head_size: width of a context head.
        out_axes: the axis or the two axes (heads, head size) of the output.
        inputs: per input index the axis that carries heads, and what lies along it.
        caches: output indices of present keys and values, with their head axis.
        attributes: attributes that hold counts: name -> "q" or "kv".
        widths: name of the attribute that lists the widths of Q, K and V, if it is set.
        memory: input indices of keys, values and their past.
        maps: output indices of attention maps, one per query head, with their head axis.
    """

    num_heads: int
    kv_num_heads: int
    head_size: int | None
    v_head_size: int
    out_axes: tuple[int, ...]
    inputs: dict[int, tuple[int, tuple[Part, ...]]]
    caches: dict[int, int]
    attributes: dict[str, str]
    widths: str | None = None
    memory: tuple[int, ...] = ()
    maps: dict[int, int] = field(default_factory=dict)

    @property
    def group(self) -> int:
        """Query heads per KV head; neighbours share."""
        return self.num_heads // self.kv_num_heads


def layout_of(node: Node) -> FusedLayout | None:
    """The layout of a fused attention node; None for any other node, or where shapes are missing."""
    reader = _READERS.get((node.domain, node.op_type))
    return None if reader is None else reader(node)


def is_fused(node: Node) -> bool:
    """Whether the operator is a fused attention that this module knows."""
    return (node.domain, node.op_type) in _READERS


def _number(shape: Shape | None, axis: int) -> int | None:
    dim: Dim | None = None if shape is None or axis >= len(shape) else shape[axis]
    return dim if isinstance(dim, int) else None


def _given(node: Node, indices: Iterable[int], axis: int) -> dict[int, int]:
    """Those of some outputs that the node has, with their head axis."""
    return {i: axis for i in indices if i < len(node.outputs) and node.outputs[i] is not None}


def _per_head(
    node: Node, index: int, axis: int, heads: int, kind: str = "q"
) -> dict[int, tuple[int, tuple[Part, ...]]]:
    """A bias or mask that has a head axis of its own, or a broadcast one (then nothing)."""
    return {index: (axis, ((kind, 1),))} if heads > 1 and _number(node.shape(index), axis) == heads else {}


def _packed_weights(node: Node) -> FusedLayout | None:
    """`com.microsoft` Attention, QAttention, PackedAttention: one weight holds Q, K and V side by side."""
    heads = node.attribute("num_heads", 0)
    total = _number(node.shape(1), 1)
    if not heads or total is None:
        return None
    widths = node.attribute("qkv_hidden_sizes") or [total // 3] * 3
    if sum(widths) != total or any(width % heads for width in widths):
        return None
    parts = tuple(("q", width // heads) for width in widths)
    inputs: dict[int, tuple[int, tuple[Part, ...]]] = {1: (1, parts), 2: (0, parts)}
    if node.op_type == "QAttention":
        inputs |= {index: (0, parts) for index in (4, 7) if (_number(node.shape(index), 0) or 1) > 1}
        inputs |= _per_head(node, 8, 2, heads)
    elif node.op_type == "Attention":
        inputs |= _per_head(node, 4, 2, heads)
        inputs |= _per_head(node, 5, 1, heads)
    else:
        inputs |= _per_head(node, 5, 1, heads)
    # QKV of the past in one tensor; the packed variants have none.
    past = {"Attention": 4, "QAttention": 8}.get(node.op_type)
    out_axis = 1 if node.op_type == "PackedAttention" else 2
    listed = "qkv_hidden_sizes" if node.attribute("qkv_hidden_sizes") else None
    return FusedLayout(
        heads,
        heads,
        widths[0] // heads,
        widths[2] // heads,
        (out_axis,),
        inputs,
        _given(node, (1,), 2),
        {"num_heads": "q"},
        listed,
        () if past is None else (past,),
    )


def _multi_head(node: Node) -> FusedLayout | None:
    """MultiHeadAttention and its relatives in `com.microsoft`: projected Q, K, V come in."""
    heads, query = node.attribute("num_heads", 0), node.shape(0)
    flat = node.op_type == "PackedMultiHeadAttention"
    out_axis = 1 if flat else 2
    out_width = _number(node.out.shape, out_axis)
    biases, scores, past = _EXTRAS[node.op_type]
    if not heads or query is None:
        return None
    inputs: dict[int, tuple[int, tuple[Part, ...]]] = {}
    sizes: dict[int, int] = {}
    for index in range(3):
        shape = node.shape(index)
        if node.input(index) is None:
            continue
        if shape is None:
            return None
        if len(shape) == out_axis + 1:
            width = _number(shape, out_axis)
            if width is None or width % heads:
                return None
            sizes[index] = width // heads
            inputs[index] = (out_axis, (("q", sizes[index]),))
        else:
            # [B, S, H, 3, D] packs, [B, H, S, D] is a cache.
            inputs[index] = (1 if flat or len(shape) == 4 else 2, (("q", 1),))
            sizes[index] = _number(shape, len(shape) - 1) or 0
    v_size = sizes.get(2) or sizes.get(1) or sizes[0]
    if out_width is not None:
        v_size = out_width // heads
    if node.input(1) is None and len(query) == out_axis + 1:
        # Queries, keys and values side by side: the output has the width of the values alone.
        q_size, rest = divmod(heads * sizes[0] - heads * v_size, 2 * heads)
        if out_width is None or rest or q_size <= 0:
            return None
        sizes[0], inputs[0] = q_size, (out_axis, (("q", q_size), ("q", q_size), ("q", v_size)))
    bias = _number(node.shape(biases), 0)
    if bias is not None:
        inputs[biases] = (0, (("q", sizes[0]), ("q", sizes[0]), ("q", v_size)))
        if bias != heads * (2 * sizes[0] + v_size):
            return None
    inputs |= _per_head(node, scores, 1, heads)
    for index in past:
        inputs |= _per_head(node, index, 1, heads)
    caches = {} if flat else _given(node, (1, 2), 1)
    maps = {} if flat else _given(node, (3,), 1)
    return FusedLayout(
        heads,
        heads,
        sizes[0],
        v_size,
        (out_axis,),
        inputs,
        caches,
        {"num_heads": "q"},
        memory=(1, 2, *past),
        maps=maps,
    )


_EXTRAS: dict[str, tuple[int, int, tuple[int, ...]]] = {
    "MultiHeadAttention": (3, 5, (6, 7)),
    "DecoderMaskedMultiHeadAttention": (10, 4, (5, 6)),
    "PackedMultiHeadAttention": (3, 6, ()),
}
"""Input indices of the bias of the projections, of what is added to the scores, and of past keys and values."""


def _group_query(node: Node) -> FusedLayout | None:
    """`com.microsoft` GroupQueryAttention and SparseAttention; without a key input Q, K and V are packed."""
    heads, kv = node.attribute("num_heads", 0), node.attribute("kv_num_heads", 0)
    width = _number(node.shape(0), 2)
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
        inputs |= _per_head(node, 10, 1, heads)
        inputs |= _per_head(node, 11, 0, heads)
    maps = _given(node, (3,), 1) if node.op_type == "GroupQueryAttention" else {}
    counts = {"num_heads": "q", "kv_num_heads": "kv"}
    caches, memory = _given(node, (1, 2), 1), (1, 2, 3, 4)
    return FusedLayout(heads, kv, size, size, (2,), inputs, caches, counts, memory=memory, maps=maps)


def _standard(node: Node) -> FusedLayout | None:
    """`ai.onnx` Attention: 3-D inputs with head counts as attributes, or 4-D inputs that show them."""
    query, key, value = node.shape(0), node.shape(1), node.shape(2)
    if query is None or key is None or value is None:
        return None
    four = len(query) == 4
    heads = _number(query, 1) if four else node.attribute("q_num_heads")
    kv = _number(key, 1) if four else node.attribute("kv_num_heads")
    widths = [_number(shape, 3 if four else 2) for shape in (query, value)]
    if not heads or not kv or heads % kv or widths[1] is None:
        return None
    v_size = widths[1] if four else widths[1] // kv
    head_size = None if widths[0] is None else widths[0] if four else widths[0] // heads
    if not four and head_size is None:
        return None
    axis = 1 if four else 2
    unit, v_unit = (1, 1) if four else (head_size or 0, v_size)
    inputs: dict[int, tuple[int, tuple[Part, ...]]] = {
        0: (axis, (("q", unit),)),
        1: (axis, (("kv", unit),)),
        2: (axis, (("kv", v_unit),)),
    }
    mask = node.shape(3)
    if mask is not None and len(mask) >= 3:
        inputs |= _per_head(node, 3, len(mask) - 3, heads)
    inputs |= {index: (1, (("kv", 1),)) for index in (4, 5) if node.input(index) is not None}
    counts = {} if four else {"q_num_heads": "q", "kv_num_heads": "kv"}
    return FusedLayout(
        heads,
        kv,
        head_size,
        v_size,
        (1, 3) if four else (2,),
        inputs,
        _given(node, (1, 2), 1),
        counts,
        memory=(1, 2, 4, 5),
        maps=_given(node, (3,), 1),
    )


def _flexible(node: Node) -> FusedLayout | None:
    """`ai.onnx.preview` FlexAttention, unless a subgraph of its own sees the maps of all heads at once."""
    return None if node.bodies or len(node.shape(0) or ()) != 4 else _standard(node)


def _recurrent(node: Node) -> FusedLayout | None:
    """LinearAttention: a state per KV head, decayed and updated by gates of its own."""
    heads, kv = node.attribute("q_num_heads", 0), node.attribute("kv_num_heads", 0)
    widths = [_number(node.shape(index), 2) for index in range(3)]
    query, _, value = widths
    if not heads or not kv or heads % kv or query is None or value is None or None in widths:
        return None
    size, v_size = query // heads, value // kv
    inputs: dict[int, tuple[int, tuple[Part, ...]]] = {
        0: (2, (("q", size),)),
        1: (2, (("kv", size),)),
        2: (2, (("kv", v_size),)),
    }
    state_axis = 2 if node.attribute("state_window", 0) else 1
    if node.input(3) is not None:
        inputs[3] = (state_axis, (("kv", 1),))
    for index, units in ((4, (1, size)), (5, (1,))):
        if node.input(index) is None:
            continue
        width = _number(node.shape(index), 2)
        if width is None or width not in (1, *(kv * unit for unit in units)):
            return None
        if width > 1:
            inputs[index] = (2, (("kv", width // kv),))
    counts = {"q_num_heads": "q", "kv_num_heads": "kv"}
    caches = _given(node, (1,), state_axis)
    return FusedLayout(heads, kv, size, v_size, (2,), inputs, caches, counts, memory=(1, 2, 3))


_READERS: dict[tuple[str, str], Callable[[Node], FusedLayout | None]] = {
    ("com.microsoft", "Attention"): _packed_weights,
    ("com.microsoft", "QAttention"): _packed_weights,
    ("com.microsoft", "PackedAttention"): _packed_weights,
    ("com.microsoft", "MultiHeadAttention"): _multi_head,
    ("com.microsoft", "DecoderMaskedMultiHeadAttention"): _multi_head,
    ("com.microsoft", "GroupQueryAttention"): _group_query,
    ("com.microsoft", "SparseAttention"): _group_query,
    ("com.microsoft", "PackedMultiHeadAttention"): _multi_head,
    ("com.microsoft", "LinearAttention"): _recurrent,
    ("", "LinearAttention"): _recurrent,
    ("", "Attention"): _standard,
    ("ai.onnx.preview", "FlexAttention"): _flexible,
}
