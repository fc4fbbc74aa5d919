"""Fused attention and rotary embeddings: heads are cut from inputs, weights, caches and attributes alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from onnxheadprune.edit.edits import Edit, SetAttribute
from onnxheadprune.liveness.fused import FusedLayout, layout_of
from onnxheadprune.liveness.live import FULL, Array, Live, unite
from onnxheadprune.liveness.refusal import Reason, Refusal
from onnxheadprune.liveness.registry import Answer, inexpressible, refuse, rule, unknown_shape
from onnxheadprune.model.graph.view import Node

MICROSOFT = (
    "Attention QAttention PackedAttention MultiHeadAttention DecoderMaskedMultiHeadAttention"
    " PackedMultiHeadAttention GroupQueryAttention SparseAttention LinearAttention"
).split()


@rule("Attention", "LinearAttention")
def attention(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """Live heads of the context are live queries; a KV head lives as long as one of its queries."""
    layout = layout_of(node)
    if layout is None:
        return unknown_shape(node)
    heads = head_array(layout, lives[0])
    if heads is None:
        return inexpressible(node)
    grouped = heads.reshape(layout.kv_num_heads, layout.group)
    shape = Live.over((0, 1), grouped != 0).dense_shape()
    if shape is None:
        return inexpressible(node)
    arrays = {"q": heads, "kv": unite(grouped, 1)}
    kept: list[Live] = [lives[0], *(FULL for _ in node.outputs[1:])]
    carried = {i: ("kv", axis) for i, axis in layout.caches.items()}
    carried |= {i: ("q", axis) for i, axis in layout.maps.items()}
    for index, output in enumerate(node.outputs[1:], start=1):
        if output is None or not (output.consumers or output.is_graph_output):
            continue
        if index not in carried:
            sentence = f"the heads of its output {output.name} are not known"
            return refuse(node, Reason.INEXPRESSIBLE, f"{node.op_type} cannot lose heads: {sentence}")
        kind, axis = carried[index]
        kept[index] = Live.over((axis,), arrays[kind])
        if not kept[index].covers(lives[index]):
            return _needed_whole(node, index)
    inputs = {
        index: Live.over((axis,), np.concatenate([np.repeat(arrays[kind], unit) for kind, unit in parts]))
        for index, (axis, parts) in layout.inputs.items()
        if node.input(index) is not None
    }
    counts = {kind: int(np.count_nonzero(array)) for kind, array in arrays.items()}

    def rewrite(_: Mapping[int, Live]) -> Sequence[Edit]:
        edits: list[Edit] = [
            SetAttribute(node.ref, name, counts[kind])
            for name, kind in layout.attributes.items()
            if node.attribute(name) != counts[kind]
        ]
        if layout.widths is not None:
            widths = tuple(width // layout.num_heads * counts["q"] for width in node.attribute(layout.widths))
            edits.append(SetAttribute(node.ref, layout.widths, widths))
        return edits

    return Answer(inputs, rewrite, kept=tuple(kept))


def _needed_whole(node: Node, index: int) -> Refusal:
    """The refusal of a node whose cache or attention maps somebody needs for all heads."""
    output = node.outputs[index]
    assert output is not None
    who = "leaves the model whole" if output.is_graph_output else "is needed for all heads elsewhere"
    sentence = f"{node.op_type} cannot lose heads while its output {output.name}, one per head, {who}"
    return refuse(node, Reason.INEXPRESSIBLE, sentence)


@rule(*MICROSOFT, domain="com.microsoft")
def microsoft_attention(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """ONNX Runtime's fused operators."""
    return attention(node, lives)


@rule("FlexAttention", domain="ai.onnx.preview")
def flexible(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """Attention of 4-D inputs; subgraphs of its own may mix what they see of all heads."""
    if node.bodies:
        sentence = (
            f"a subgraph of {node.op_type} ({', '.join(node.bodies)}) sees all heads at once and may mix them"
        )
        return refuse(node, Reason.COUPLED, sentence)
    return attention(node, lives)


def head_array(layout: FusedLayout, live: Live) -> Array | None:
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


@rule("RotaryEmbedding")
def rotary(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """Rotates within heads; cos, sin and positions are shared by all of them."""
    live, shape = lives[0], node.shape(0)
    if shape is None:
        return unknown_shape(node)
    heads = node.attribute("num_heads", 0)
    if len(shape) == 4:
        return Answer({0: live}) if live.axes in ((1,), ()) else inexpressible(node)
    width = shape[2]
    if live.axes != (2,) or not isinstance(width, int) or not heads or width % heads:
        return inexpressible(node)
    array = live.array.reshape(heads, width // heads)
    if np.any((array != 0) != (array[:, :1] != 0)):
        return inexpressible(node)
    count = int(np.count_nonzero(unite(array, 1)))
    return Answer({0: live}, lambda _: [SetAttribute(node.ref, "num_heads", count)] if count != heads else [])


@rule("RotaryEmbedding", domain="com.microsoft")
def microsoft_rotary(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """ONNX Runtime's spelling."""
    if node.attribute("num_heads", 0) or len(node.shape(0) or ()) == 4:
        return rotary(node, lives)
    size = node.shape(2)
    shape = node.shape(0)
    if size is None or shape is None or not isinstance(size[-1], int) or lives[0].axes != (2,):
        return inexpressible(node)
    # Without num_heads the head size is twice the width of the cosine table.
    array = lives[0].array.reshape(-1, 2 * size[-1])
    whole = not np.any((array != 0) != (array[:, :1] != 0))
    return Answer({0: lives[0]}) if whole else inexpressible(node)
