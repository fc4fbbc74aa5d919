"""Fused attention and rotary embeddings: heads are cut from inputs, weights, caches and attributes alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from onnxheadprune.edit.edits import Edit, SetAttribute
from onnxheadprune.liveness.answers import Answer
from onnxheadprune.liveness.layouts import (
    FusedLayout,
    HeadAxis,
    Heads,
    given,
    layout_of,
    per_head,
)
from onnxheadprune.liveness.live import FULL, Live, unite
from onnxheadprune.liveness.refusals import Reason, Refusal, inexpressible, refuse, unknown_shape
from onnxheadprune.model.graph import dims
from onnxheadprune.model.graph.dims import Dim, Shape, known_size, symbol
from onnxheadprune.model.graph.operator import STANDS_FOR_PATTERN, Roles, Shapes
from onnxheadprune.model.graph.view import Node, Value, named
from onnxheadprune.model.tensors import Array
from onnxheadprune.operators.record import operator


def _attention_shape(node: Node) -> Shapes:
    """The context, and the scores, which onnx infers wrong where it does not know a shape; it tells keys and values."""
    query, value = node.shape(0), node.shape(2)
    scores = _scores_shape(node, query, node.shape(1))
    if query is None or value is None:
        return [None, None, None, scores]
    if len(query) == 4:
        return [(*query[:3], value[3]), None, None, scores]
    heads, kv = node.attribute("q_num_heads", 0), node.attribute("kv_num_heads", 0)
    size = dims.divide(value[2], kv) if kv else None
    width = named(None if size is None else dims.multiply(size, heads), node, 2)
    return [(query[0], query[1], width), None, None, scores]


def _scores_shape(node: Node, query: Shape | None, key: Shape | None) -> Shape | None:
    """Of the last output, `[B, H, S, past + S]`."""
    output = node.outputs[-1]
    if output is None or output.output_index != 3:
        return None
    total = None if key is None else with_past(node, 4, 2, key[-2])
    heads = node.attribute("q_num_heads") if query is None or len(query) == 3 else query[1]
    known = (None, heads, None, total) if query is None else (query[0], heads, query[-2], total)
    return tuple(symbol(f"{output.name}.{axis}") if dim is None else dim for axis, dim in enumerate(known))


def with_past(node: Node, index: int, axis: int, own: Dim) -> Dim | None:
    """A number of keys and those of a past, which lie on an axis of one input; None if these are not known."""
    if node.input(index) is None:
        return own
    past = node.shape(index)
    return None if past is None or axis >= len(past) else dims.add(past[axis], own)


def _standard_layout(node: Node) -> FusedLayout | None:
    """`ai.onnx` Attention: 3-D inputs with head counts as attributes, or 4-D inputs that show them."""
    query, key, value = node.shape(0), node.shape(1), node.shape(2)
    if query is None or key is None or value is None:
        return None
    four = len(query) == 4
    heads = known_size(query, 1) if four else node.attribute("q_num_heads")
    kv = known_size(key, 1) if four else node.attribute("kv_num_heads")
    # The last axis has one head, or all of them side by side.
    last = 3 if four else 2
    head_size, v_size = known_size(query, last), known_size(value, last)
    if not heads or not kv or heads % kv or v_size is None:
        return None
    if not four:
        if head_size is None:
            return None
        head_size, v_size = head_size // heads, v_size // kv
    axis = 1 if four else 2
    unit, v_unit = (1, 1) if four else (head_size or 0, v_size)
    inputs = {
        0: HeadAxis.queries(axis, unit),
        1: HeadAxis.key_values(axis, unit),
        2: HeadAxis.key_values(axis, v_unit),
    }
    inputs |= per_head(node, 3, -3, heads)
    inputs |= {index: HeadAxis.key_values(1, 1) for index in (4, 5) if node.input(index) is not None}
    return FusedLayout(
        num_heads=heads,
        kv_num_heads=kv,
        head_size=head_size,
        v_head_size=v_size,
        out_axes=(1, 3) if four else (2,),
        inputs=inputs,
        caches=given(node, (1, 2), 1),
        attributes={} if four else {"q_num_heads": Heads.QUERY, "kv_num_heads": Heads.KEY_VALUE},
        memory=(1, 2, 4, 5),
        maps=given(node, (3,), 1),
    )


def _flexible_layout(node: Node) -> FusedLayout | None:
    """`ai.onnx.preview` FlexAttention, unless a subgraph of its own sees the maps of all heads at once."""
    return None if node.bodies or len(node.shape(0) or ()) != 4 else _standard_layout(node)


def fused_attention(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """Live heads of the context are live queries; a KV head lives as long as one of its queries."""
    layout = layout_of(node)
    if layout is None:
        return unknown_shape(node)
    heads = _head_array(layout, lives[0])
    if heads is None:
        return inexpressible(node)
    grouped = heads.reshape(layout.kv_num_heads, layout.group)
    shape = Live.over((0, 1), grouped != 0).dense_shape()
    if shape is None:
        return inexpressible(node)
    arrays = {Heads.QUERY: heads, Heads.KEY_VALUE: unite(grouped, 1)}
    kept = _outputs(node, layout, lives, arrays)
    if isinstance(kept, Refusal):
        return kept
    inputs = {
        index: _live_heads(axis, arrays)
        for index, axis in layout.inputs.items()
        if node.input(index) is not None
    }
    counts = {heads: int(np.count_nonzero(array)) for heads, array in arrays.items()}
    return Answer(inputs, lambda _: _new_counts(node, layout, counts), kept=kept)


def _live_heads(axis: HeadAxis, arrays: Mapping[Heads, Array]) -> Live:
    """The live set along an axis that carries heads, if `arrays` has an entry for every head."""
    return Live.over(
        (axis.axis,), np.concatenate([np.repeat(arrays[run.heads], run.width) for run in axis.runs])
    )


def _outputs(
    node: Node, layout: FusedLayout, lives: Sequence[Live], arrays: Mapping[Heads, Array]
) -> tuple[Live, ...] | Refusal:
    """The kept part of each output: caches and maps lose heads with the context; a refusal if a reader needs more."""
    kept: list[Live] = [lives[0], *(FULL for _ in node.outputs[1:])]
    carried = {index: HeadAxis.key_values(axis, 1) for index, axis in layout.caches.items()}
    carried |= {index: HeadAxis.queries(axis, 1) for index, axis in layout.maps.items()}
    for index, output in enumerate(node.outputs[1:], start=1):
        if output is None or not output.is_read:
            continue
        if index not in carried:
            sentence = f"the heads of its output {output.name} are not known"
            return refuse(node, Reason.INEXPRESSIBLE, f"{node.op_type} cannot lose heads: {sentence}")
        kept[index] = _live_heads(carried[index], arrays)
        if not kept[index].covers(lives[index]):
            return _needed_whole(node, output)
    return tuple(kept)


def _new_counts(node: Node, layout: FusedLayout, counts: Mapping[Heads, int]) -> Sequence[Edit]:
    """Attributes that count heads, and the one that lists widths."""
    edits: list[Edit] = [
        SetAttribute(node.ref, name, counts[heads])
        for name, heads in layout.attributes.items()
        if node.attribute(name) != counts[heads]
    ]
    if layout.widths is not None:
        sizes = [width // layout.num_heads for width in node.attribute(layout.widths)]
        widths = tuple(size * counts[Heads.QUERY] for size in sizes)
        edits.append(SetAttribute(node.ref, layout.widths, widths))
    return edits


def _needed_whole(node: Node, output: Value) -> Refusal:
    """The refusal of a node whose cache or attention maps somebody needs for all heads."""
    who = "leaves the model whole" if output.is_graph_output else "is needed for all heads elsewhere"
    sentence = f"{node.op_type} cannot lose heads while its output {output.name}, one per head, {who}"
    return refuse(node, Reason.INEXPRESSIBLE, sentence)


def _flexible(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """Attention of 4-D inputs; subgraphs of its own may mix what they see of all heads."""
    if node.bodies:
        sentence = (
            f"a subgraph of {node.op_type} ({', '.join(node.bodies)}) sees all heads at once and may mix them"
        )
        return refuse(node, Reason.COUPLED, sentence)
    return fused_attention(node, lives)


def _head_array(layout: FusedLayout, live: Live) -> Array | None:
    """One entry per query head, None if the live set cuts through heads."""
    if len(layout.out_axes) == 2:
        if set(live.axes) - {layout.out_axes[0]}:
            return None
        return np.asarray(live.aligned([layout.out_axes[0]], [layout.num_heads]))
    if set(live.axes) - set(layout.out_axes):
        return None
    flat = live.aligned(list(layout.out_axes), [layout.num_heads * layout.v_head_size])
    array = flat.reshape(layout.num_heads, layout.v_head_size)
    return None if np.any((array != 0) != (array[:, :1] != 0)) else unite(array, 1)


def buffered(node: Node, past_index: int, output_index: int) -> Shape | None:
    """The shape of a present that has the heads and sizes of its past, of whatever length."""
    past, present = node.shape(past_index), node.outputs[output_index : output_index + 1]
    if past is None or len(past) != 4 or not present or present[0] is None:
        return None
    return past[0], past[1], dims.symbol(f"{present[0].name}.2"), past[3]


_PACKED_PAST = {"Attention": 4, "QAttention": 8}
"""Past keys and values in one tensor `[2, batch, heads, past, head_size]`, where weights are packed, too."""


_TOTAL_LENGTH = 6
"""Input of GroupQueryAttention with the number of valid keys: its past may be a buffer that is longer."""


def _size(node: Node, index: int, axis: int) -> int | None:
    return known_size(node.shape(index), axis)


def _core(node: Node, batch: int, queries: int, keys: Dim | None) -> int | None:
    """Scores and context: 2 x batch x heads x queries x keys x (head size + head size of the values)."""
    layout = layout_of(node)
    if layout is None or layout.head_size is None or not isinstance(keys, int):
        return None
    return 2 * batch * layout.num_heads * queries * keys * (layout.head_size + layout.v_head_size)


def cost_with_weights(node: Node) -> int | None:
    """Projection of Q, K and V, then the core."""
    batch, length, width = (_size(node, 0, axis) for axis in range(3))
    columns = _size(node, 1, 1)
    if batch is None or length is None or width is None or columns is None:
        return None
    core = _core(node, batch, length, with_past(node, _PACKED_PAST[node.op_type], 3, length))
    return None if core is None else 2 * batch * length * width * columns + core


def cost_of_projected(node: Node) -> int | None:
    """The core of operators that get Q, K and V projected."""
    query, key = node.shape(0), node.shape(1)
    batch = _size(node, 0, 0)
    length = _size(node, 0, 2 if query is not None and _heads_first(node) else 1)
    # [batch, heads, keys, size], else [batch, keys, ...]; without keys, Q, K and V are packed.
    own = length if key is None else _size(node, 1, 2 if len(key) == 4 else 1)
    if batch is None or length is None or own is None or (key is None and node.input(1) is not None):
        return None
    return _core(node, batch, length, _keys(node, own))


def _heads_first(node: Node) -> bool:
    """Return whether queries are `[batch, heads, length, size]` (`ai.onnx` Attention only)."""
    query = node.shape(0)
    return node.domain == "" and query is not None and len(query) == 4


def _keys(node: Node, own: int) -> Dim | None:
    if node.op_type == "GroupQueryAttention":
        total = node.literal(_TOTAL_LENGTH)
        if total is not None and total.size == 1:
            return int(total.reshape(-1)[0])
    past = node.roles.past_keys
    return own if past is None else with_past(node, past, 2, own)


def unknown_cost(node: Node) -> int | None:
    """Operators whose cost depends on what they read."""
    return None


def _rotary_shape(node: Node) -> Shapes:
    return [node.shape(0)]


def _rotary(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """Rotate within heads; cos, sin and positions are shared by all of them."""
    live, shape = lives[0], node.shape(0)
    if shape is None:
        return unknown_shape(node)
    if len(shape) == 4:
        return Answer({0: live}) if live.axes in ((1,), ()) else inexpressible(node)
    width, stated = known_size(shape, 2), node.attribute("num_heads", 0)
    if width is None:
        return unknown_shape(node)
    # ONNX Runtime's may leave out num_heads: then the head size is twice the width of the cosine table.
    half = known_size(node.shape(2), -1) if node.domain else None
    heads = stated or (width // (2 * half) if half else 0)
    if live.axes != (2,) or not heads or width % heads:
        return inexpressible(node)
    array = live.array.reshape(heads, width // heads)
    if np.any((array != 0) != (array[:, :1] != 0)):
        return inexpressible(node)
    count = int(np.count_nonzero(unite(array, 1)))
    changed: list[Edit] = [] if count == heads or not stated else [SetAttribute(node.ref, "num_heads", count)]
    return Answer({0: live}, lambda _: changed)


operator(
    "Attention",
    kinds=(STANDS_FOR_PATTERN,),
    roles=Roles(masks=(3,), past_keys=4, past_values=5),
    shape=_attention_shape,
    cost=cost_of_projected,
    rule=fused_attention,
    layout=_standard_layout,
)
operator(
    "ai.onnx.preview.FlexAttention",
    roles=Roles(alike=(0,)),
    shape=_attention_shape,
    rule=_flexible,
    layout=_flexible_layout,
)
operator("RotaryEmbedding", kinds=(STANDS_FOR_PATTERN,), shape=_rotary_shape, rule=_rotary)
operator(
    "com.microsoft.RotaryEmbedding",
    "com.microsoft.MRotaryEmbedding",
    roles=Roles(alike=(0,)),
    shape=_rotary_shape,
    rule=_rotary,
)
