"""LinearAttention: a state in place of a cache; and its gates, and the convolution before it."""

from __future__ import annotations

from collections.abc import Sequence

from onnxheadprune.liveness.answers import Answer
from onnxheadprune.liveness.index_notation import spelled
from onnxheadprune.liveness.layouts import FusedLayout, HeadAxis, Heads, given
from onnxheadprune.liveness.live import Live, together
from onnxheadprune.liveness.refusals import Refusal, inexpressible, unknown_shape
from onnxheadprune.model.graph import dims
from onnxheadprune.model.graph.dims import known_size
from onnxheadprune.model.graph.operator import Roles, Shapes
from onnxheadprune.model.graph.view import Node
from onnxheadprune.operators.attention import fused_attention
from onnxheadprune.operators.record import operator


def _shape(node: Node) -> Shapes:
    """Contexts, and the state of each KV head."""
    query, value = node.shape(0), node.shape(2)
    heads, kv = node.attribute("q_num_heads", 0), node.attribute("kv_num_heads", 0)
    if query is None or value is None or not heads or not kv:
        return [None]
    size, v_size = dims.divide(query[2], heads), dims.divide(value[2], kv)
    if size is None or v_size is None:
        return [None]
    state = (*(node.shape(3) or (query[0], kv, size, v_size)),)
    return [(query[0], query[1], dims.multiply(v_size, max(heads, kv))), state][: len(node.outputs)]


def _layout(node: Node) -> FusedLayout | None:
    """LinearAttention: a state per KV head, decayed and updated by gates of its own."""
    heads, kv = node.attribute("q_num_heads", 0), node.attribute("kv_num_heads", 0)
    widths = [known_size(node.shape(index), 2) for index in range(3)]
    query, _, value = widths
    if not heads or not kv or heads % kv or query is None or value is None or None in widths:
        return None
    size, v_size = query // heads, value // kv
    inputs = {
        0: HeadAxis.queries(2, size),
        1: HeadAxis.key_values(2, size),
        2: HeadAxis.key_values(2, v_size),
    }
    state_axis = 2 if node.attribute("state_window", 0) else 1
    if node.input(3) is not None:
        inputs[3] = HeadAxis.key_values(state_axis, 1)
    for index, units in ((4, (1, size)), (5, (1,))):
        if node.input(index) is None:
            continue
        width = known_size(node.shape(index), 2)
        if width is None or width not in (1, *(kv * unit for unit in units)):
            return None
        if width > 1:
            inputs[index] = HeadAxis.key_values(2, width // kv)
    return FusedLayout(
        num_heads=heads,
        kv_num_heads=kv,
        head_size=size,
        v_head_size=v_size,
        out_axes=(2,),
        inputs=inputs,
        caches=given(node, (1,), state_axis),
        attributes={"q_num_heads": Heads.QUERY, "kv_num_heads": Heads.KEY_VALUE},
        memory=(1, 2, 3),
    )


def _alike(node: Node) -> Shapes:
    """As large as the tokens, and as what comes with them: the heads' rates, the state before."""
    return [node.shape(0), node.shape(3)][: len(node.outputs)]


def _causal_convolution(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """A kernel of its own for every channel, which lie along all last axes with `channels_last`; so do states."""
    shape = node.shape(0)
    if shape is None:
        return unknown_shape(node)
    last = node.attribute("channels_last", 0)
    channels = range(2, len(shape)) if last else range(1, 2)
    sizes = [size for axis in channels if isinstance(size := shape[axis], int)]
    # A window of states lies before the batch.
    front = 1 if node.attribute("state_window", 0) else 0
    places = {axis: axis + front for axis in channels}
    back = {place: axis for axis, place in places.items()}
    carried = {axis for state in lives[1:] for axis in state.axes}
    if len(sizes) < len(channels) or not {*lives[0].axes} <= {*places} or not carried <= {*back}:
        return inexpressible(node)
    live = together([lives[0], *(state.renumbered(back) for state in lives[1:])])
    kernels = Live.over((0,), live.aligned(channels, sizes).reshape(-1))
    state = live.renumbered(places)
    return Answer({0: live, 1: kernels, 2: kernels, 3: state}, kept=(live, state)[: len(lives)])


operator(
    "LinearAttention",
    "com.microsoft.LinearAttention",
    roles=Roles(alike=(0,), alike_by_output={1: (3, 0)}),
    shape=_shape,
    rule=fused_attention,
    layout=_layout,
)
# Decay and rate of each head, from a number each; the vectors have one for each head, too.
operator(
    "com.microsoft.LinearAttentionGate",
    roles=Roles(alike=(0,)),
    axes=spelled("...h,h,h,...h->...h", alike=True),
    shape=_alike,
)
operator(
    "CausalConvWithState",
    "com.microsoft.CausalConvWithState",
    roles=Roles(alike=(0,)),
    shape=_alike,
    rule=_causal_convolution,
)
