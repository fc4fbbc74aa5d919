"""Rows of plain attention: ways in which exporters write its shapes, and in which models change its steps."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import numpy_helper

from tests.graphs.blueprint import STATIC
from tests.graphs.net import Net
from tests.graphs.parts import (
    HEADS,
    WIDTH,
    B,
    Block,
    D,
    H,
    S,
    context_of,
    coupled,
    finished,
    heads_of,
    projected,
    softmax,
    source,
    split,
    talk,
    turned,
    unprojected,
)
from tests.graphs.table import BOTH, Found, row


@row("a batch of heads is the larger of two batches", HEADS)
def _(net: Net) -> Any:
    """tf2onnx writes an einsum as `[b * H, s, d]` products and takes the result's shape from both operands."""
    x = source(net, "b--")

    def heads(name: str, *order: int) -> Any:
        flat = net.op("MatMul", x, net.weight(name, WIDTH, H * D))
        return net.op("Transpose", net.op("Reshape", flat, net.ints(-1, S, H, D)), perm=list(order))

    def folded(data: Any) -> tuple[Any, Any]:
        shape = net.op("Shape", data)
        batch, tail = net.op("Gather", shape, net.ints(0, 1)), net.op("Gather", shape, net.ints(3))
        target = net.op("Concat", net.op("ReduceProd", batch), net.ints(-1), tail, axis=0)
        return net.op("Reshape", data, target), batch

    (q, one), (k, other) = folded(heads("q", 0, 2, 1, 3)), folded(heads("k", 0, 2, 3, 1))
    back = net.op("Concat", net.op("Max", one, other), net.ints(S, S), axis=0)
    weights = softmax(net, net.op("Reshape", net.op("MatMul", q, k), back))
    context = net.mark(net.op("MatMul", weights, heads("v", 0, 2, 1, 3)), -3, H)
    flat = net.op("Reshape", net.op("Transpose", context, perm=[0, 2, 1, 3]), net.ints(-1, S, H * D))
    rows = net.op("Reshape", flat, net.ints(-1, H * D))
    return net.op("Gemm", rows, net.weight("o", H * D, WIDTH), beta=0.0)


@row("heads in the batch keep their shape", HEADS)
def _(net: Net) -> Any:
    """YOSO weighs values by arc cosines: what onnx alone knows the shape of is `4*batch` by name, not by number."""
    x = source(net)
    batch = net.length(x, 0)
    folded = net.op("Concat", net.op("Mul", batch, net.ints(H)), net.ints(-1, D), axis=0)
    q, k, v = (
        net.op("LpNormalization", net.op("Reshape", heads_of(net, x, name), folded), axis=-1)
        for name in "qkv"
    )
    scores = net.op("MatMul", q, net.op("Transpose", k, perm=[0, 2, 1]))
    context = net.op("MatMul", net.op("Acos", net.op("Mul", scores, net.weight("near", 1))), v)
    return finished(net, net.op("Reshape", context, net.op("Concat", batch, net.ints(H, -1, D), axis=0)))


# Shapes around attention


def _sink(net: Net, scores: Any) -> Any:
    """A sink that is cut off again: the Slice asks for a part of the keys, of which Softmax needs all."""
    padded = net.op("Pad", scores, net.ints(0, 0, 0, 0, 0, 0, 0, 1))
    return net.rows(softmax(net, padded), 0, -1, 3)


def _largest(net: Net, scores: Any) -> Any:
    """Only scores as large as the second largest stay."""
    largest, _ = net.op("TopK", scores, net.ints(2), outputs=2, axis=-1)
    low = net.op("Less", scores, net.rows(largest, -1, 2**31 - 1, -1))
    return softmax(net, net.op("Where", low, net.op("Sub", scores, net.weight("low", 1)), scores))


def _padding_turned(net: Net, scores: Any) -> Any:
    """torch pads the last axis first: TorchScript makes pairs, reverses and transposes them (VITS, LongT5)."""
    length = net.length(scores, 2)
    pairs = net.op("Concat", net.ints(0), length, *(net.ints(0) for _ in range(6)), axis=0)
    pairs = net.op("Reshape", pairs, net.ints(-1, 2))
    back = net.op("Slice", pairs, net.ints(-1), net.ints(-(2**63) + 1), net.ints(0), net.ints(-1))
    pads = net.op("Reshape", net.op("Transpose", back, perm=[1, 0]), net.ints(-1))
    padded = net.op("Pad", scores, net.op("Cast", pads, to=7))
    return net.rows(softmax(net, padded), 0, length, 3)


def _whole_blocks(spelled: str) -> Any:
    """LongT5 pads by `-length % block`; what cannot be followed (a way through floats) hides only its own axis."""

    def weigh(net: Net, scores: Any) -> Any:
        length = net.length(scores, 2)
        missing = net.op("Mod", net.op("Neg", length), net.ints(4))
        if spelled == "Ceil":
            missing = net.op("Cast", net.op("Ceil", net.op("Cast", length, to=1)), to=7)
        padded = net.op("Pad", scores, net.op("Concat", net.ints(0, 0, 0, 0, 0, 0, 0), missing, axis=0))
        return net.rows(softmax(net, padded), 0, length, 3)

    return weigh


def _shifted(net: Net, scores: Any) -> Any:
    """The relative shift pads and cuts positions of known number, next to the heads."""
    padded = net.op("Pad", scores, net.ints(0, 0, 0, 1, 0, 0, 0, 0))
    return softmax(net, net.rows(padded, 0, S, 3))


WEIGHED = {
    "a sink": _sink,
    "the largest scores": _largest,
    "padding that is turned around": _padding_turned,
    "padding by Mod": _whole_blocks("Mod"),
    "padding by Ceil": _whole_blocks("Ceil"),
}
for what, weigh in WEIGHED.items():
    row(what, HEADS, plans=BOTH)(lambda net, w=weigh: finished(net, context_of(net, source(net), weigh=w)))
row("a relative shift", HEADS, plans=STATIC)(
    lambda net: finished(net, context_of(net, source(net), weigh=_shifted))
)


@row("relative values that all heads read", HEADS)
def _(net: Net) -> Any:
    """Shaw: the context is a sum of two products, one of them with a table without heads."""
    x = source(net, "b--")
    weights = softmax(net, net.op("MatMul", heads_of(net, x, "q"), split(net, x, "k", 0, 2, 3, 1)))
    # The size of the table depends on the batch, as VITS pads its own by the length: no constant.
    once = net.op("Div", net.length(x, 0), net.length(x, 0))
    table = net.op("Tile", net.weight("relative", S, D), net.op("Concat", once, net.ints(1), axis=0))
    own = net.op("MatMul", weights, heads_of(net, x, "v"))
    return finished(net, net.op("Add", own, net.op("MatMul", weights, table)))


@row("two products with one map", Found(H, size=None), plans=BOTH)
def _(net: Net) -> Any:
    """Differential Llama: two maps a head, and its values in two pieces that both maps read, tiled."""
    x = source(net)
    q, k, v = (
        split(net, x, name, *order, heads=2 * H)
        for name, order in (("q", (0, 2, 1, 3)), ("k", (0, 2, 3, 1)), ("v", (0, 2, 1, 3)))
    )
    maps = softmax(net, net.op("MatMul", q, k))
    pieces = net.op("Split", v, net.ints(H, H), outputs=2, axis=1)
    contexts = [net.op("MatMul", maps, net.op("Tile", piece, net.ints(1, 2, 1, 1))) for piece in pieces]
    joined = net.op("Transpose", net.op("Concat", *contexts, axis=-1), perm=[0, 2, 1, 3])
    first, second = net.op("Split", joined, net.ints(H, H), outputs=2, axis=2)
    left = net.mark(net.op("Sub", first, second), -2, H)
    return projected(net, net.op("Reshape", left, net.ints(0, 0, H * 2 * D)), H * 2 * D)


def _absorbed(net: Net, einsum: bool) -> Any:
    """Absorbed latent attention: all heads read one latent, each lifts its context by weights of its own."""
    rank, x = 5, source(net)
    latent = net.op("MatMul", x, net.weight("latent", WIDTH, rank))
    q = net.op("Reshape", net.op("MatMul", x, net.weight("q", WIDTH, H * D)), net.ints(0, 0, H, D))
    absorb, lift = net.weight("absorb", H, D, rank), net.weight("lift", H, rank, D)
    if einsum:
        q = net.op("Einsum", q, absorb, equation="bshd,hdr->bshr")
        weights = softmax(net, net.op("Einsum", q, latent, equation="bshr,btr->bsht"))
        context = net.op("Einsum", weights, latent, equation="bsht,btr->bshr")
        lifted = net.op("Einsum", context, lift, equation="bshr,hrd->bshd")
    else:
        q = net.op("MatMul", net.op("Transpose", q, perm=[0, 2, 1, 3]), absorb)
        shared = net.op("Unsqueeze", latent, net.ints(1))
        weights = softmax(net, net.op("MatMul", q, turned(net, shared)))
        context = net.op("MatMul", net.op("MatMul", weights, shared), lift)
        lifted = net.op("Transpose", context, perm=[0, 2, 1, 3])
    flat = net.op("Reshape", net.mark(lifted, -2, H), net.ints(0, 0, H * D))
    return net.op("Add", projected(net, flat), x)


for how in ("matmul", "einsum"):
    row(f"weights within heads, {how}", Found(H, 1, size=5, v_size=D), plans=BOTH)(
        lambda net, how=how: _absorbed(net, how == "einsum")
    )


@row("transposed convolutions", HEADS, plans=BOTH)
def _(net: Net) -> Any:
    """With kernel 1 they are linear layers whose weight is stored the other way round."""
    x = source(net)
    first = net.op("Transpose", x, perm=[0, 2, 1])
    packed = net.op("ConvTranspose", first, net.weight("qkv", WIDTH, 3 * H * D, 1))
    q, k, v = net.op(
        "Split", net.op("Reshape", packed, net.ints(0, 3 * H, D, -1)), net.ints(H, H, H), outputs=3, axis=1
    )
    weights = softmax(net, net.op("MatMul", turned(net, q), k))
    context = net.mark(net.op("MatMul", v, turned(net, weights)), -3, H)
    flat = net.op("Reshape", context, net.ints(0, H * D, -1))
    summed = net.op("ConvTranspose", flat, net.weight("o", H * D, WIDTH, 1), net.weight("bias", WIDTH))
    return net.op("Add", x, net.op("Transpose", summed, perm=[0, 2, 1]))


@row("positions that are counted", Found(H, kind="unknown"), plans=BOTH, gathers=1)
def _(net: Net) -> Any:
    """TorchScript counts by NonZero of ones, and reads strided windows (Longformer's) from one flat list."""
    x = source(net)
    length, batch = net.length(x, 1), net.op("Mul", net.length(x, 0), net.ints(H))

    def folded(name: str, *order: int) -> Any:
        rows = [net.ints(D), length] if order[3] == 1 else [length, net.ints(D)]
        return net.op("Reshape", split(net, x, name, *order), net.op("Concat", batch, *rows, axis=0))

    def counted(size: Any, step: Any, *place: int) -> Any:
        ones = net.op("ConstantOfShape", size, value=numpy_helper.from_array(np.array([1])))
        column = net.op("Transpose", net.op("NonZero", ones), perm=[1, 0])
        return net.op(
            "Mul", net.op("Reshape", net.op("Squeeze", column, net.ints(1)), net.ints(*place)), step
        )

    head = net.op("Mul", length, net.ints(D))
    rows = net.op("Add", counted(batch, head, -1, 1, 1), counted(length, net.ints(D), 1, -1, 1))
    places = net.op("Add", rows, counted(net.ints(D), net.ints(1), 1, 1, -1))
    values = net.op("Gather", net.op("Reshape", folded("v", 0, 2, 1, 3), net.ints(-1)), places)
    weights = softmax(net, net.op("MatMul", folded("q", 0, 2, 1, 3), folded("k", 0, 2, 3, 1)))
    target = net.op("Concat", net.ints(-1, H), length, net.ints(D), axis=0)
    return finished(net, net.op("Reshape", net.op("MatMul", weights, values), target))


# Products that are spelled as a multiplication and a sum


def _wide(net: Net, x: Any, name: str, axis: int) -> Any:
    flat = net.op("MatMul", x, net.weight(name, WIDTH, H * D))
    return net.op("Unsqueeze", net.op("Reshape", flat, net.ints(0, 0, H, D)), net.ints(axis))


def _summed(net: Net, data: Any, axis: int) -> Any:
    return net.op("ReduceSum", data, net.ints(axis), keepdims=0)


@row("values are sampled", Found(H))
def _(net: Net) -> Any:
    """Deformable attention (RT-DETR): heads on the batch axis, offsets and weights from the query alone."""
    x, points = source(net, "b--"), 2

    def folded(name: str, width: int, *tail: int) -> Any:
        moved = split(net, x, name, 0, 2, 1, 3, size=width)
        return net.op("Reshape", moved, net.ints(-1, S, *tail))

    image = net.op("Reshape", net.op("Transpose", folded("v", D, D), perm=[0, 2, 1]), net.ints(0, D, S, 1))
    places = net.op("Tanh", folded("offsets", points * 2, points, 2))
    sampled = net.op("GridSample", image, places, align_corners=1)
    weights = net.op("Unsqueeze", softmax(net, folded("weights", points, points)), net.ints(1))
    context = net.op("Reshape", _summed(net, net.op("Mul", sampled, weights), -1), net.ints(-1, H * D, S))
    net.mark(context, -2, [[head] for head in range(H) for _ in range(D)])
    return net.op("Add", x, projected(net, net.op("Transpose", context, perm=[0, 2, 1])))


@row("a query sees its neighbours", HEADS, plans=BOTH)
def _(net: Net) -> Any:
    """Windows are cut out of what was padded: their length has a name of its own, and is the sequence's."""
    x = source(net)
    length = net.op("Cast", net.rows(net.op("Shape", x), 1, 2, 0), to=1)
    length = net.op("Cast", net.op("Ceil", length), to=7)

    def heads(name: str) -> Any:
        return net.op("Reshape", net.op("MatMul", x, net.weight(name, WIDTH, H * D)), net.ints(0, 0, H, D))

    def windows(name: str) -> Any:
        padded = net.op("Pad", heads(name), net.ints(0, 1, 0, 0, 0, 1, 0, 0))
        pieces = [net.rows(padded, start, net.op("Add", length, net.ints(start))) for start in range(3)]
        return net.op("Concat", *(net.op("Unsqueeze", piece, net.ints(3)) for piece in pieces), axis=3)

    queries = net.op("Unsqueeze", heads("q"), net.ints(3))
    scores = _summed(net, net.op("Mul", queries, windows("k")), -1)
    weights = net.op("Unsqueeze", softmax(net, scores), net.ints(-1))
    context = net.mark(_summed(net, net.op("Mul", weights, windows("v")), 3), -2, H)
    return projected(net, net.op("Reshape", context, net.ints(0, 0, H * D)))


@row("a query reads the state so far", HEADS, plans=BOTH)
def _(net: Net) -> Any:
    """Causal linear attention: outer products of keys and values, summed up to each position, times its query."""
    x = source(net)
    state = net.op("CumSum", net.op("Mul", _wide(net, x, "k", 4), _wide(net, x, "v", 3)), net.ints(1))
    context = net.mark(_summed(net, net.op("Mul", _wide(net, x, "q", 4), state), 3), -2, H)
    return projected(net, net.op("Reshape", context, net.ints(0, 0, H * D)))


def _state(net: Net, first: bool, skip: bool) -> Any:
    """A decoder adds an outer product to what is left of a state; a state space model also adds its inputs after it."""
    x = net.input("x", (B, WIDTH), "b-")
    past = net.op("Reshape", net.op("MatMul", x, net.weight("past", WIDTH, H * D * D)), net.ints(0, H, D, D))

    def heads(name: str, axis: int) -> Any:
        flat = net.op("MatMul", x, net.weight(name, WIDTH, H * D))
        return net.op("Unsqueeze", net.op("Reshape", flat, net.ints(0, H, D)), net.ints(axis))

    parts = [
        net.op("Mul", past, net.op("Sigmoid", heads("g", 3))),
        net.op("Mul", heads("k", 3), heads("v", 2)),
    ]
    state = net.op("Add", *(parts if first else parts[::-1]))
    context = net.mark(_summed(net, net.op("Mul", heads("q", 3), state), 2), -2, H)
    if skip:
        inputs = net.op("Reshape", net.op("MatMul", x, net.weight("i", WIDTH, H * D)), net.ints(0, H, D))
        context = net.op("Add", context, net.op("Mul", inputs, net.weight("d", H, 1)))
    return projected(net, net.op("Reshape", context, net.ints(0, H * D)))


row("a state, past first", HEADS)(lambda net: _state(net, True, False))
row("a state space model", missed=[("no-projection", "Mul")])(lambda net: _state(net, True, True))


# Heads that are mixed


def _layer_norm(net: Net, data: Any) -> Any:
    return net.op("LayerNormalization", data, net.weight("gain", H * D), axis=-1)


def _rms_norm(net: Net, data: Any) -> Any:
    mean = net.op("ReduceMean", net.op("Mul", data, data), axes=[-1], keepdims=1)
    root = net.op("Sqrt", net.op("Add", mean, net.number(1e-6, np.float32)))
    return net.op("Mul", net.op("Div", data, root), net.weight("gain", H * D))


def _unknown(net: Net, data: Any) -> Any:
    """An operator without a rule, on [b, s, H * D]."""
    return net.op("ReverseSequence", data, net.ints(*[S] * B), batch_axis=0, time_axis=1)


MIXED = {
    "layer norm over all query heads": (Block(query=_layer_norm), 1),
    "rms norm over all query heads": (Block(query=_rms_norm), 1),
    "layer norm over all value heads": (Block(value=_layer_norm), 1),
    "softmax over heads": (Block(softmax_axis=1), 1),
    "talking heads before the softmax": (Block(scores=talk), 0),
    "talking heads after the softmax": (Block(weights=talk), 0),
    "talking heads before and after the softmax": (Block(scores=talk, weights=talk), 0),
    "talking heads, all queries normalised": (Block(query=_layer_norm, scores=talk), 0),
}
for what, (block, gathers) in MIXED.items():
    found = Found(H, kind="unknown", size=D) if "value" in what else HEADS
    row(what, found, stays=True, gathers=gathers)(block)
row("layer norm over the context", coupled("LayerNormalization"))(Block(context=_layer_norm))
row("rms norm over the context", unprojected("ReduceMean"))(Block(context=_rms_norm))
for where in ("query", "value"):
    kind = "unknown" if where == "value" else "mha"
    row(f"an unknown operator at the {where}", Found(H, kind=kind), gathers=1)(
        Block(letters="---", **{where: _unknown})
    )
row("an unknown operator before the projection", missed=[("no-rule", "")])(
    Block(letters="---", context=_unknown)
)


@row("linear attention of three operands in one einsum", HEADS)
def _(net: Net) -> Any:
    """A softmax over features looks like a router; the operand that normalises has no axis of them."""
    x = source(net)
    q, k, v = softmax(net, heads_of(net, x, "q")), net.op("Exp", heads_of(net, x, "k")), heads_of(net, x, "v")
    total = net.op("Einsum", q, net.op("ReduceSum", k, net.ints(2), keepdims=0), equation="bhnd,bhd->bhn")
    state = net.op("Einsum", k, v, equation="bhnd,bhne->bhde")
    equation = "bhde,bhnd,bhn->bhne"
    context = net.op("Einsum", state, q, net.op("Reciprocal", total), equation=equation)
    return net.op("Add", x, finished(net, context))
