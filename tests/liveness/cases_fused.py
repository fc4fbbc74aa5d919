"""Strategies of fused attention operators and rotary embeddings."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from tests.liveness.masks import Array, Draw
from tests.liveness.one_node import Case
from tests.liveness.strategies import FLOAT, floats, integers, strategy

MICROSOFT = "com.microsoft"


@dataclass(frozen=True)
class Sizes:
    """Batch, sequence, past, query heads, KV heads, head size."""

    B: int
    S: int
    P: int
    H: int
    K: int
    D: int


def _sizes(draw: Draw, group: int = 1, size: int = 2) -> Sizes:
    kv = draw(st.integers(2, 4))
    batch, sequence = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    return Sizes(
        batch, sequence, draw(st.integers(1, 3)), kv * group, kv, draw(st.sampled_from((size, 2 * size)))
    )


@strategy("Attention")
def standard(draw: Draw, op_type: str) -> Case:
    n = _sizes(draw, draw(st.integers(1, 3)))
    v_size = draw(st.sampled_from((n.D, n.D + 1)))
    four = draw(st.booleans())
    attributes: dict[str, object] = {} if four else {"q_num_heads": n.H, "kv_num_heads": n.K}
    cached = draw(st.booleans())
    total = n.S + (n.P if cached else 0)
    inputs: tuple[Array | None, ...] = tuple(
        floats(draw, (n.B, heads, n.S, size) if four else (n.B, n.S, heads * size))
        for heads, size in ((n.H, n.D), (n.K, n.D), (n.K, v_size))
    )
    mask = draw(st.sampled_from((None, (n.S, total), (n.B, n.H, n.S, total), (n.B, 1, n.S, total))))
    inputs += (None if mask is None else floats(draw, mask),)
    if cached:
        inputs += (floats(draw, (n.B, n.K, n.P, n.D)), floats(draw, (n.B, n.K, n.P, v_size)))
    elif mask is None:
        inputs = inputs[:3]
    attributes |= {"is_causal": draw(st.integers(0, 1))}
    mapped = cached and draw(st.booleans())
    attributes |= {"qk_matmul_output_mode": draw(st.integers(0, 3))} if mapped else {}
    types = (FLOAT,) * (4 if mapped else 3 if cached else 1)
    blocks = {1: 1, 3: v_size} if four else {2: v_size}
    bare = frozenset(range(1, len(types)))
    return Case(op_type, inputs, attributes, types=types, bare=bare, blocks=blocks, opset=23)


@strategy("MultiHeadAttention", "DecoderMaskedMultiHeadAttention", domain=MICROSOFT)
def multi_head(draw: Draw, op_type: str) -> Case:
    n = _sizes(draw)
    inputs: list[Array | None] = [floats(draw, (n.B, n.S, n.H * n.D)) for _ in range(3)]
    bare: frozenset[int] = frozenset()
    if op_type == "MultiHeadAttention":
        # Packed QKV of shape [B, S, H, 3, D] has a kernel on CUDA only.
        form = draw(st.sampled_from(("separate", "heads")))
        if form == "heads":
            inputs[1:] = [floats(draw, (n.B, n.H, n.S, n.D)) for _ in range(2)]
        biased = form == "separate" and draw(st.booleans())
        padded = form == "separate" and draw(st.booleans())
        lengths = integers(draw, (n.B,), 1, n.S + 1, np.int32) if padded else None
        inputs += [floats(draw, (3 * n.H * n.D,)) if biased else None, lengths]
        if form == "separate" and draw(st.booleans()):
            inputs += [floats(draw, (n.B, draw(st.sampled_from((1, n.H))), n.S, n.S))]
        elif form == "separate" and not padded and draw(st.booleans()):
            inputs += [None, *(floats(draw, (n.B, n.H, n.P, n.D)) for _ in range(2))]
            bare = frozenset({1, 2})
    else:
        inputs = [floats(draw, (n.B, 1, n.H * n.D)), *(floats(draw, (n.B, n.H, n.S, n.D)) for _ in range(2))]
        if draw(st.booleans()):
            inputs += [*[None] * 7, floats(draw, (3 * n.H * n.D,))]
    types = (FLOAT,) * (1 + len(bare))
    attributes = {"num_heads": n.H}
    if op_type == "MultiHeadAttention":
        attributes["unidirectional"] = draw(st.integers(0, 1))
    return Case(op_type, tuple(inputs), attributes, types=types, bare=bare, blocks={2: n.D}, domain=MICROSOFT)


@strategy("Attention", domain=MICROSOFT)
def packed(draw: Draw, op_type: str) -> Case:
    n = _sizes(draw)
    v_size = draw(st.sampled_from((n.D, n.D, 2 * n.D)))
    cached = v_size == n.D and draw(st.booleans())
    width = n.H * (2 * n.D + v_size)
    attributes: dict[str, object] = {"num_heads": n.H}
    attributes |= {"qkv_hidden_sizes": [n.H * n.D, n.H * n.D, n.H * v_size]} if v_size != n.D else {}
    attributes |= {"unidirectional": draw(st.integers(0, 1))}
    inputs: tuple[Array | None, ...] = (
        floats(draw, (n.B, n.S, 5)),
        floats(draw, (5, width)),
        floats(draw, (width,)),
    )
    if cached:
        inputs += (None, floats(draw, (2, n.B, n.H, n.P, n.D)))
    elif draw(st.booleans()):
        inputs += (None, None, floats(draw, (n.B, draw(st.sampled_from((1, n.H))), n.S, n.S)))
    elif draw(st.booleans()):
        inputs += (integers(draw, (n.B,), 1, n.S + 1, np.int32),)
    types, bare = ((FLOAT, FLOAT), frozenset({1})) if cached else ((FLOAT,), frozenset())
    return Case(
        op_type, inputs, attributes, frozenset({1, 2}), types, bare=bare, blocks={2: v_size}, domain=MICROSOFT
    )


@strategy("QAttention", domain=MICROSOFT)
def quantized(draw: Draw, op_type: str) -> Case:
    n = _sizes(draw)
    width = 3 * n.H * n.D
    scales = (width,) if draw(st.booleans()) else (1,)
    inputs = (
        integers(draw, (n.B, n.S, 5), 0, 256, np.uint8),
        integers(draw, (5, width), -100, 100, np.int8),
        floats(draw, (width,)),
        np.array([0.01], np.float32),
        floats(draw, scales, 0.01, 0.02),
        integers(draw, (n.B,), 1, n.S + 1, np.int32) if draw(st.booleans()) else None,
        np.array([120], np.uint8),
        integers(draw, scales, 0, 1, np.int8),
    )
    fixed = frozenset({1, 2, 3, 4, 6, 7})
    attributes = {"num_heads": n.H, "unidirectional": draw(st.integers(0, 1))}
    return Case(op_type, inputs, attributes, fixed, (FLOAT,), blocks={2: n.D}, domain=MICROSOFT)


@strategy("GroupQueryAttention", domain=MICROSOFT)
def group_query(draw: Draw, op_type: str) -> Case:
    n = _sizes(draw, draw(st.integers(1, 3)), 8)
    attributes = {"num_heads": n.H, "kv_num_heads": n.K}
    if draw(st.booleans()):
        inputs: tuple[Array | None, ...] = (floats(draw, (n.B, n.S, (n.H + 2 * n.K) * n.D)), None, None)
    else:
        widths = (n.H * n.D, n.K * n.D, n.K * n.D)
        inputs = tuple(floats(draw, (n.B, n.S, width)) for width in widths)
    lengths = np.full((n.B,), n.S - 1, np.int32)
    inputs += (None, None, lengths, np.array(n.S, np.int32))
    attributes |= {"local_window_size": draw(st.sampled_from((-1, 2)))}
    if n.D == 16 and draw(st.booleans()):
        attributes |= {"do_rotary": 1, "rotary_interleaved": draw(st.integers(0, 1))}
        inputs += (floats(draw, (6, n.D // 2)), floats(draw, (6, n.D // 2)))
    bare = frozenset({1, 2})
    fixed = frozenset({5, 6})
    return Case(
        op_type, inputs, attributes, fixed, (FLOAT,) * 3, bare=bare, blocks={2: n.D}, domain=MICROSOFT
    )


@strategy("LinearAttention", domain=MICROSOFT)
def recurrent(draw: Draw, op_type: str) -> Case:
    n = _sizes(draw, draw(st.integers(1, 2)))
    v_size = draw(st.sampled_from((n.D, 2 * n.D)))
    rule = draw(st.sampled_from(("linear", "gated", "delta", "gated_delta")))
    attributes = {"q_num_heads": n.H, "kv_num_heads": n.K, "update_rule": rule, "scale": 0.5}
    inputs: tuple[Array | None, ...] = (
        floats(draw, (n.B, n.S, n.H * n.D)),
        floats(draw, (n.B, n.S, n.K * n.D)),
        floats(draw, (n.B, n.S, n.K * v_size)),
        floats(draw, (n.B, n.K, n.D, v_size)) if draw(st.booleans()) else None,
    )
    decay = floats(draw, (n.B, n.S, n.K * draw(st.sampled_from((1, n.D)))), -1, 0)
    rate = floats(draw, (n.B, n.S, draw(st.sampled_from((1, n.K)))), 0, 1)
    inputs += (decay if rule.startswith("gated") else None, rate if rule.endswith("delta") else None)
    bare, types = frozenset({1}), (FLOAT, FLOAT)
    return Case(op_type, inputs, attributes, types=types, bare=bare, blocks={2: v_size}, domain=MICROSOFT)


@strategy("RotaryEmbedding")
def rotary(draw: Draw, op_type: str) -> Case:
    n = _sizes(draw)
    four = draw(st.booleans())
    data = floats(draw, (n.B, n.H, n.S, n.D) if four else (n.B, n.S, n.H * n.D))
    part = draw(st.sampled_from((0, 2))) if n.D > 2 else 0
    placed = draw(st.booleans())
    shape = (*((6,) if placed else (n.B, n.S)), (part or n.D) // 2)
    inputs: tuple[Array, ...] = (data, floats(draw, shape), floats(draw, shape))
    inputs += (integers(draw, (n.B, n.S), 0, 6),) if placed else ()
    attributes = {"interleaved": draw(st.integers(0, 1)), "rotary_embedding_dim": part}
    attributes |= {} if four else {"num_heads": n.H}
    blocks = {1: 1} if four else {2: n.D}
    return Case(op_type, inputs, attributes, blocks=blocks, opset=23)


@strategy("RotaryEmbedding", domain=MICROSOFT)
def microsoft_rotary(draw: Draw, op_type: str) -> Case:
    n = _sizes(draw, 1, 16)
    four = draw(st.booleans())
    data = floats(draw, (n.B, n.H, n.S, n.D) if four else (n.B, n.S, n.H * n.D))
    positions = integers(draw, (n.B, n.S), 0, 6)
    part = draw(st.sampled_from((0, 8)))
    tables = (floats(draw, (6, (part or n.D) // 2)), floats(draw, (6, (part or n.D) // 2)))
    attributes = {"interleaved": draw(st.integers(0, 1))}
    # A part of each head is only told with the number of heads.
    attributes |= {"num_heads": n.H, "rotary_embedding_dim": part} if part or draw(st.booleans()) else {}
    blocks = {1: 1} if four else {2: n.D}
    return Case(op_type, (data, positions, *tables), attributes, blocks=blocks, domain=MICROSOFT)


@strategy("MRotaryEmbedding", domain=MICROSOFT)
def rotary_in_directions(draw: Draw, op_type: str) -> Case:
    n = _sizes(draw, 1, 8)
    four = draw(st.booleans())
    data = floats(draw, (n.B, n.H, n.S, n.D) if four else (n.B, n.S, n.H * n.D))
    positions = integers(draw, (3, n.B, n.S), 0, 6)
    part = draw(st.sampled_from((0, 8)))
    half = (part or n.D) // 2
    attributes: dict[str, object] = {"mrope_section": [1, 1, half - 2], "rotary_embedding_dim": part}
    attributes |= {name: draw(st.integers(0, 1)) for name in ("interleaved", "mrope_layout")}
    # Side by side, heads are told by the attribute alone; so is a part of each.
    attributes |= {"num_heads": n.H} if part or not four or draw(st.booleans()) else {}
    blocks = {1: 1} if four else {2: n.D}
    inputs = (data, positions, floats(draw, (6, half)), floats(draw, (6, half)))
    return Case(op_type, inputs, attributes, blocks=blocks, domain=MICROSOFT)


@strategy("LinearAttentionGate", domain=MICROSOFT)
def linear_gates(draw: Draw, op_type: str) -> Case:
    n = _sizes(draw)
    inputs: tuple[Array | None, ...] = (floats(draw, (n.B, n.S, n.H)), *(floats(draw, (n.H,)) for _ in "ab"))
    both = draw(st.booleans())
    inputs += (floats(draw, (n.B, n.S, n.H)),) if both else ()
    return Case(op_type, inputs, types=(FLOAT,) * (2 if both else 1), domain=MICROSOFT)


@strategy("CausalConvWithState", domain=MICROSOFT)
def causal(draw: Draw, op_type: str) -> Case:
    n = _sizes(draw)
    size, dilation = draw(st.integers(2, 3)), draw(st.integers(1, 2))
    behind = draw(st.sampled_from((None, (n.H,), (n.K, 2))))
    channels = int(np.prod(behind or (n.H,)))

    def shape(length: int) -> tuple[int, ...]:
        return (n.B, length, *behind) if behind else (n.B, channels, length)

    inputs: tuple[Array | None, ...] = (
        floats(draw, shape(n.S)),
        floats(draw, (channels, 1, size)),
        floats(draw, (channels,)) if draw(st.booleans()) else None,
        floats(draw, shape((size - 1) * dilation)) if draw(st.booleans()) else None,
    )
    attributes = {"channels_last": int(bool(behind)), "dilation": dilation}
    handed = frozenset({1} if draw(st.booleans()) else ())
    return Case(op_type, inputs, attributes, types=(FLOAT, FLOAT), bare=handed, domain=MICROSOFT)


@strategy("QMoE", domain=MICROSOFT)
def mixture(draw: Draw, op_type: str) -> Case:
    tokens, experts, hidden, width = (
        draw(st.integers(2, 5)),
        draw(st.integers(2, 3)),
        4,
        draw(st.integers(1, 3)),
    )
    flat = draw(st.booleans())
    front = (tokens,) if flat else (2, tokens)
    inputs: tuple[Array | None, ...] = (
        floats(draw, (*front, hidden)),
        floats(draw, (tokens if flat else 2 * tokens, experts)),
    )
    for shape in ((experts, width, hidden), (experts, hidden, width)):
        levels = integers(draw, shape, 0, 256, np.uint8)
        inputs += (levels, floats(draw, shape[:2], 0.01, 0.02), floats(draw, shape[:2]))
    attributes = {"k": draw(st.integers(1, 2)), "activation_type": "silu", "expert_weight_bits": 8}
    return Case(op_type, inputs, attributes, frozenset(range(2, len(inputs))), domain=MICROSOFT)
