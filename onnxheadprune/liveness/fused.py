"""Fused attention operators: which axis of which input carries which heads.

A decomposed graph shows its heads in shapes; a fused operator states them in attributes. One layout per
operator says where queries, keys and values lie, and liveness and site detection both read that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from onnxheadprune.graph.dims import Dim, Shape
from onnxheadprune.graph.view import Node

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
    caches = {1: 2} if len(node.outputs) > 1 and node.outputs[1] is not None else {}
    out_axis = 1 if node.op_type == "PackedAttention" else 2
    listed = "qkv_hidden_sizes" if node.attribute("qkv_hidden_sizes") else None
    return FusedLayout(
        heads,
        heads,
        widths[0] // heads,
        widths[2] // heads,
        (out_axis,),
        inputs,
        caches,
        {"num_heads": "q"},
        listed,
    )


def _multi_head(node: Node) -> FusedLayout | None:
    """`com.microsoft` MultiHeadAttention and DecoderMaskedMultiHeadAttention: projected Q, K, V come in."""
    heads = node.attribute("num_heads", 0)
    query, out_width = node.shape(0), _number(node.out.shape, 2)
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
        if len(shape) == 3:
            width = _number(shape, 2)
            if width is None or width % heads:
                return None
            sizes[index] = width // heads
            inputs[index] = (2, (("q", sizes[index]),))
        else:
            inputs[index] = (1 if len(shape) == 4 else 2, (("q", 1),))
            sizes[index] = _number(shape, len(shape) - 1) or 0
    v_size = sizes.get(2) or sizes.get(1) or sizes[0]
    if out_width is not None:
        v_size = out_width // heads
    bias = _number(node.shape(3), 0)
    if bias is not None:
        inputs[3] = (0, (("q", sizes[0]), ("q", sizes[0]), ("q", v_size)))
        if bias != heads * (2 * sizes[0] + v_size):
            return None
    inputs |= _per_head(node, 5, 1, heads)
    for index in (6, 7):
        inputs |= _per_head(node, index, 1, heads)
    caches = {index: 1 for index in (1, 2) if index < len(node.outputs) and node.outputs[index] is not None}
    return FusedLayout(heads, heads, sizes[0], v_size, (2,), inputs, caches, {"num_heads": "q"})


def _group_query(node: Node) -> FusedLayout | None:
    """`com.microsoft` GroupQueryAttention and SparseAttention; without a key input Q, K and V are packed."""
    heads, kv = node.attribute("num_heads", 0), node.attribute("kv_num_heads", 0)
    width = _number(node.shape(0), 2)
    if not heads or not kv or width is None:
        return None
    packed = node.input(1) is None
    size = width // (heads + 2 * kv) if packed else width // heads
    inputs: dict[int, tuple[int, tuple[Part, ...]]] = {}
    inputs[0] = (2, (("q", size), ("kv", size), ("kv", size)) if packed else (("q", size),))
    if not packed:
        inputs |= {1: (2, (("kv", size),)), 2: (2, (("kv", size),))}
    inputs |= {index: (1, (("kv", 1),)) for index in (3, 4) if node.input(index) is not None}
    if node.op_type == "GroupQueryAttention":
        inputs |= _per_head(node, 10, 1, heads)
        inputs |= _per_head(node, 11, 0, heads)
    caches = {index: 1 for index in (1, 2) if index < len(node.outputs) and node.outputs[index] is not None}
    counts = {"num_heads": "q", "kv_num_heads": "kv"}
    return FusedLayout(heads, kv, size, size, (2,), inputs, caches, counts)


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
    caches = {index: 1 for index in (1, 2) if index < len(node.outputs) and node.outputs[index] is not None}
    counts = {} if four else {"q_num_heads": "q", "kv_num_heads": "kv"}
    return FusedLayout(heads, kv, head_size, v_size, (1, 3) if four else (2,), inputs, caches, counts)


_READERS: dict[tuple[str, str], Callable[[Node], FusedLayout | None]] = {
    ("com.microsoft", "Attention"): _packed_weights,
    ("com.microsoft", "QAttention"): _packed_weights,
    ("com.microsoft", "PackedAttention"): _packed_weights,
    ("com.microsoft", "MultiHeadAttention"): _multi_head,
    ("com.microsoft", "DecoderMaskedMultiHeadAttention"): _multi_head,
    ("com.microsoft", "GroupQueryAttention"): _group_query,
    ("com.microsoft", "SparseAttention"): _group_query,
    ("", "Attention"): _standard,
}
