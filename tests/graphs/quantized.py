"""Rows of quantized and packed weights, fused operators, projections that vanish, and layers that share values."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from onnx import TensorProto

from tests.graphs.blueprint import PLAIN
from tests.graphs.net import Graph, Net
from tests.graphs.parts import (
    HEADS,
    WIDTH,
    B,
    D,
    H,
    S,
    context_of,
    finished,
    heads_of,
    merged,
    projected,
    softmax,
    source,
    split,
    turned,
    unprojected,
    weighed,
)
from tests.graphs.table import Found, row
from tests.graphs.toys import BLOCK, packed

Make = Callable[..., Any]
AT18 = replace(PLAIN, opset=18)


# A silenced head adds nothing only where the reader's zero point is the quantizer's


def _ints(net: Net, *shape: int, high: int = 9, dtype: Any = np.int8) -> str:
    return net.stored("levels", net.rng.integers(-high, high, shape).astype(dtype))


def _scale(net: Net, value: float) -> str:
    return net.number(value, np.float32)


def _dynamic(net: Net, flat: Any, zero: Any, view: bool = False) -> Any:
    """DynamicQuantizeLinear, then MatMulInteger with its own or a stored zero point."""
    a, scale, own = net.op("DynamicQuantizeLinear", flat, outputs=3)
    if view:
        a = net.op("Reshape", a, net.ints(-1, H * D))
    taken = own if zero is None else net.number(zero, np.uint8)
    summed = net.op("MatMulInteger", a, _ints(net, H * D, WIDTH), taken)
    return net.op("Mul", net.op("Cast", summed, to=1), scale)


def _static(net: Net, flat: Any, zero: Any) -> Any:
    """QuantizeLinear, then QLinearMatMul; an equal number is the same zero point, wherever it is stored."""
    scale, own = _scale(net, 0.02), net.number(128, np.uint8)
    a = net.op("QuantizeLinear", flat, scale, own)
    taken = net.number(128 if zero is None else zero, np.uint8)
    weight = [_ints(net, H * D, WIDTH), _scale(net, 0.02), net.number(0, np.int8)]
    out = [_scale(net, 0.05), net.number(120, np.uint8)]
    return net.op("DequantizeLinear", net.op("QLinearMatMul", a, scale, taken, *weight, *out), *out)


def _pair(net: Net, flat: Any, zero: Any) -> Any:
    """QuantizeLinear and DequantizeLinear in front of a MatMul of floats."""
    scale, own = _scale(net, 0.02), net.number(128, np.uint8)
    a = net.op("QuantizeLinear", flat, scale, own)
    taken = own if zero is None else net.number(zero, np.uint8)
    return projected(net, net.op("DequantizeLinear", a, scale, taken))


TAILS: dict[str, Make] = {
    "dynamic": _dynamic,
    "dynamic, viewed": lambda net, flat, zero: _dynamic(net, flat, zero, view=True),
    "static": _static,
    "a pair": _pair,
}
for (what, tail), zero in itertools.product(TAILS.items(), (None, 7)):
    # Zero points in front of a projection are a reason of their own.
    found = HEADS if zero is None else Found(H, reason=("coupled", "zero point"))
    if zero is None and what == "dynamic, viewed":
        found = Found(H, reason=("coupled", "DynamicQuantizeLinear"))
    row(
        f"zero points, {what}, {'equal' if zero is None else 'others'}",
        found,
        cuts=[{"0": [1]}, {"0": [0, 2]}] if found is HEADS else None,
    )(lambda net, of=(tail, zero): of[0](net, merged(net, context_of(net, source(net))), of[1]))


@row("a context in integers", Found(H))
def _(net: Net) -> Any:
    """A silenced head is its zero point there, and not the number 0."""
    x = source(net)
    weights = softmax(net, net.op("MatMul", heads_of(net, x, "q"), split(net, x, "k", 0, 2, 3, 1)))
    of_weights = [_scale(net, 1 / 255), net.number(0, np.uint8)]
    of_values = [_scale(net, 0.02), net.number(128, np.uint8)]
    out = [_scale(net, 0.02), net.number(120, np.uint8)]
    p = net.op("QuantizeLinear", weights, *of_weights)
    values = net.mark(heads_of(net, x, "v"), -3, H)
    v = net.op("QuantizeLinear", values, *of_values)
    context = net.op("QLinearMatMul", p, *of_weights, v, *of_values, *out)
    back = net.op("Transpose", context, perm=[0, 2, 1, 3])
    flat = net.op("Reshape", back, net.ints(0, 0, H * D))
    weight = [_ints(net, H * D, WIDTH), _scale(net, 0.02), net.number(0, np.int8)]
    last = [_scale(net, 0.02), net.number(128, np.uint8)]
    return net.op("DequantizeLinear", net.op("QLinearMatMul", flat, *out, *weight, *last), *last)


@row("values that are quantized for a convolution of each head", HEADS, stays=True, gathers=2)
def _(net: Net) -> Any:
    """Nystrom attention adds one to the context: the scale is of all heads, and the rest of it of each."""
    x = source(net)
    v = heads_of(net, x, "v")
    keys = turned(net, heads_of(net, x, "k"))
    context = net.op("MatMul", softmax(net, net.op("MatMul", heads_of(net, x, "q"), keys)), v)
    a, scale, zero = net.op("DynamicQuantizeLinear", v, outputs=3)
    kernel = net.stored("kernel", net.rng.integers(-9, 9, (H, 1, 3, 1)).astype(np.int8))
    near = net.op("ConvInteger", a, kernel, zero, group=H, pads=[1, 0, 1, 0])
    near = net.op("Mul", net.op("Cast", near, to=1), net.op("Mul", scale, _scale(net, 0.1)))
    return projected(net, merged(net, net.mark(net.op("Add", context, near), -3, H)))


# Weights that are packed in blocks


def _packed(net: Net, heads: int, groups: int, size: int, zeros: bool = False, order: bool = False) -> Graph:
    width = BLOCK
    x = source(net, width=width)

    def shared(name: str, *perm: int) -> Any:
        count = heads if name == "q" else groups
        flat = net.op("MatMul", x, net.weight(name, width, count * size))
        apart = net.op("Reshape", flat, net.ints(0, 0, count, size))
        if count != heads:
            owners = np.repeat(np.arange(count), heads // count)
            apart = net.op("Gather", apart, net.stored("owners", owners), axis=2)
        return net.op("Transpose", apart, perm=list(perm))

    context = weighed(net, shared("q", 0, 2, 1, 3), shared("k", 0, 2, 3, 1), shared("v", 0, 2, 1, 3))
    flat = merged(net, context, heads, size)
    graph = net.drawn([net.op("MatMul", flat, net.weight("o", heads * size, width))])
    model = packed(graph.model, 1)
    node = [item for item in model.graph.node if item.op_type == "MatMulNBits"][-1]
    more = Net()
    if zeros:
        # Levels from 7 to 9, so that a wrong one shows.
        levels = np.random.default_rng(0).integers(7, 10, (width, heads)).astype(np.uint8)
        node.input.append(more.constant("zeros", (levels[:, 0::2] | levels[:, 1::2] << 4).reshape(-1)))
    if order:
        node.input.extend(["", more.constant("order", np.arange(heads * size, dtype=np.int32) // BLOCK)])
    model.graph.initializer.extend(more.initializers)
    return replace(graph, model=model)


PAIRS = ((0, 1), (2, 3), (4, 5))
row(
    "heads smaller than a block",
    Found(6, size=8, together=PAIRS),
    refused=[({"0": [1]}, "only go together"), ({"0": [0, 2, 4]}, "only go together")],
)(lambda net: _packed(net, 6, 6, 8))
row(
    "blocks within groups of queries",
    Found(8, 2, size=8, together=(*PAIRS, (6, 7))),
    cuts=[{"0": [0, 1, 4, 5]}, {"0": [0, 1, 2, 3]}, {"0": range(8)}],
    refused=[({"0": [0, 1]}, "different numbers of query heads"), ({"0": [0]}, "only go together")],
)(lambda net: _packed(net, 8, 2, 8))
row("a last block that is not full", Found(5, reason=("opaque-weights", "MatMul")))(
    lambda net: _packed(net, 5, 5, 8)
)
row(
    "zero points that share a byte",
    Found(4, size=BLOCK, together=PAIRS[:2]),
    refused=[({"0": [1]}, "only go together")],
)(lambda net: _packed(net, 4, 4, BLOCK, zeros=True))
row("inputs in another order", Found(4, reason=("opaque-weights", "")))(
    lambda net: _packed(net, 4, 4, BLOCK, order=True)
)


# What is left where all heads go, by what follows the projection


def _flat(net: Net, data: Any) -> Any:
    return net.op("Reshape", data, net.ints(-1, H * D))


def _channels(net: Net, data: Any) -> Any:
    return net.op("Transpose", data, perm=[0, 2, 1])


def _quantized(net: Net, data: Any) -> list[Any]:
    scale, zero = _scale(net, 0.03), net.number(128, np.uint8)
    return [net.op("QuantizeLinear", data, scale, zero), scale, zero]


def _post_norm(net: Net, data: Any) -> Any:
    """Gemma's: the branch is normalised before it joins the stream."""
    made = net.op("Add", projected(net, data), net.weight("bias", WIDTH))
    return net.op("Add", "x", net.op("LayerNormalization", made, net.weight("gain", WIDTH), axis=-1))


def _gemm(net: Net, data: Any) -> Any:
    """[b*s, WIDTH], a model output: its size is a product of input sizes."""
    return net.op(
        "Gemm", _flat(net, data), net.weight("o", WIDTH, H * D), net.weight("bias", WIDTH), transB=1
    )


def _convolution(net: Net, data: Any) -> Any:
    """[b, channels, s], then a BatchNormalization."""
    made = net.op("Conv", _channels(net, data), net.weight("o", WIDTH, H * D, 1), net.weight("bias", WIDTH))
    vectors = [net.stored("vector", np.abs(net.random(WIDTH))) for _ in range(4)]
    return net.op("Relu", net.op("BatchNormalization", made, *vectors))


def _qlinear_conv(net: Net, data: Any) -> Any:
    weight = [
        _ints(net, WIDTH, H * D, 1),
        net.stored("scales", np.full(WIDTH, 0.02, np.float32)),
        net.stored("zeros", np.zeros(WIDTH, np.int8)),
    ]
    out = [_scale(net, 0.05), net.number(120, np.uint8)]
    bias = _ints(net, WIDTH, high=900, dtype=np.int32)
    made = net.op("QLinearConv", *_quantized(net, _channels(net, data)), *weight, *out, bias)
    return net.op("DequantizeLinear", made, *out)


def _qgemm(net: Net, data: Any) -> Any:
    weight = [_ints(net, H * D, WIDTH), _scale(net, 0.02), net.number(0, np.int8)]
    bias = _ints(net, WIDTH, high=900, dtype=np.int32)
    out = [_scale(net, 0.05), net.number(120, np.uint8)]
    made = net.op(
        "QGemm", *_quantized(net, _flat(net, data)), *weight, bias, *out, domain="com.microsoft", alpha=1.0
    )
    return net.op("DequantizeLinear", made, *out)


def _two_biases(net: Net, data: Any) -> Any:
    once = net.op("Add", projected(net, data), net.weight("bias", WIDTH))
    return net.op("Add", net.op("Add", once, net.weight("more", 1, WIDTH)), "x")


def _scaled_bias(net: Net, data: Any) -> Any:
    once = net.op("Add", projected(net, data), net.weight("bias", 1, 1, WIDTH))
    return net.op("Add", net.op("Cast", net.op("Mul", once, net.weight("scale", WIDTH)), to=1), "x")


def _cut_off(net: Net, data: Any) -> Any:
    once = net.op("Add", projected(net, data), net.weight("bias", WIDTH))
    return net.op("Add", net.rows(once, 0, 99), "x")


def _beside(net: Net, data: Any) -> Any:
    """One projection for the context and a feed-forward block: without heads, it still sums the other part."""
    inner = net.op("Relu", net.op("MatMul", "x", net.weight("up", WIDTH, 5)))
    both = net.op("Concat", data, inner, axis=-1)
    return net.op("Add", "x", projected(net, both, H * D + 5))


def _moved(net: Net, data: Any) -> Any:
    """Zeros under other axes, repeated and picked from, are zeros."""
    turned = net.op("Unsqueeze", _channels(net, projected(net, data)), net.ints(0))
    twice = net.op("Tile", turned, net.ints(2, 1, 1, 1))
    return net.op("Add", _channels(net, net.op("Gather", twice, net.number(1, np.int64), axis=0)), "x")


def _flat_shape(net: Net, data: Any) -> Any:
    """Somebody looks at the shape of what nobody needs any more."""
    made = _post_norm(net, data)
    return [made, net.info(net.op("Shape", net.marks[-1].value), None, TensorProto.INT64)]


ENDS: dict[str, Make] = {
    make.__name__.strip("_").replace("_", " "): make
    for make in (
        _post_norm, _gemm, _convolution, _qlinear_conv, _qgemm, _two_biases, _scaled_bias, _cut_off, _beside,
        _moved, _flat_shape,
    )
}  # fmt: skip
for what, end in ENDS.items():
    row(f"all heads go, {what}", HEADS, plans=AT18)(
        lambda net, end=end: end(net, merged(net, context_of(net, source(net))))
    )


# Fused operators of the standard

AT23 = replace(PLAIN, opset=23)
FUSED = {"static": replace(AT23, symbolic=False), "dynamic": AT23}


@row("a scale as large as what is normalized", HEADS, plans=FUSED)
def _(net: Net) -> Any:
    """A RMSNorm without weights gets ones of the input's shape: they have a head axis too."""
    x = source(net)
    context = net.op("Attention", *(heads_of(net, x, name) for name in "qkv"))
    apart = net.op("Transpose", net.mark(context, -3, H), perm=[0, 2, 1, 3])
    ones = net.op("Expand", net.weight("one", 1), net.op("Shape", apart))
    normed = net.op("RMSNormalization", apart, ones, axis=-1)
    return projected(net, net.op("Reshape", normed, net.ints(0, 0, H * D)))


@row(
    "two fused products with one map",
    Found(H, H // 2, size=D, v_size=2 * D),
    plans=FUSED,
    cuts=[{"0": [0, 1]}, {"0": [1, 2]}, {"0": range(H)}],
)
def _(net: Net) -> Any:
    """Differential Llama: a head is two maps, each of which two nodes make again, for one half of the values each."""
    x, groups = source(net), H // 2
    q, k = heads_of(net, x, "q", 2 * H), heads_of(net, x, "k", groups)

    def repeated(kv: Any, times: int) -> Any:
        spread = net.op("Expand", net.op("Unsqueeze", kv, net.ints(2)), net.ints(1, 1, times, 1, 1))
        return net.op("Reshape", spread, net.ints(0, times * groups, -1, D))

    keys = repeated(k, 4)
    halves = [heads_of(net, x, "v", groups) for _ in range(2)]
    # Maps h and h + H are those of head h: values of its group lie behind both.
    values = [net.op("Concat", repeated(half, 2), repeated(half, 2), axis=1) for half in halves]
    contexts = [net.op("Attention", q, keys, value, scale=0.5) for value in values]
    joined = net.op("Transpose", net.op("Concat", *contexts, axis=-1), perm=[0, 2, 1, 3])
    first, second = net.op("Split", joined, outputs=2, axis=2, num_outputs=2)
    left = net.mark(net.op("Sub", first, second), -2, H)
    return projected(net, net.op("Reshape", left, net.ints(0, 0, H * 2 * D)), H * 2 * D)


@row("a mean over heads whose scores are sums", missed=[("no-projection", "MatMul")])
def _(net: Net) -> Any:
    """The last layer of a graph attention network: no weights sum up its heads, a mean does."""
    v = heads_of(net, source(net), "v")
    left, right = (
        net.op("ReduceSum", net.op("Mul", v, net.weight(name, H, 1, D)), net.ints(-1), keepdims=1)
        for name in ("left", "right")
    )
    scores = net.op("LeakyRelu", net.op("Add", left, turned(net, right)))
    context = net.mark(net.op("MatMul", softmax(net, scores), v), -3, H)
    made = net.op("Elu", net.op("ReduceMean", context, axes=[1], keepdims=0))
    return net.op("Concat", made, made, axis=-1)


# Values that layers share although they lose different heads

SETS = [{"0": [1], "1": [2]}, {"0": [0, 2]}, {"0": [3], "1": [0, 1]}, {"1": [0, 1, 2]}]


def _layers(net: Net, weights: Make, bias: Make) -> Any:
    """Two layers with heads in the batch axis; both add what `bias` makes of the input."""
    x = source(net)
    shared, length = bias(net, x), net.length(x, 1)
    for number in range(2):
        folded = []
        for name, order in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])):
            flat = net.op("MatMul", x, weights(net, name, WIDTH, H * D))
            apart = net.op("Transpose", net.op("Reshape", flat, net.ints(0, 0, H, D)), perm=order)
            rows = [net.ints(D), length] if order[3] == 1 else [length, net.ints(D)]
            folded.append(net.op("Reshape", apart, net.op("Concat", net.ints(-1), *rows, axis=0)))
        scores = net.op("MatMul", folded[0], folded[1])
        scores = scores if shared is None else net.op("Add", scores, shared)
        context = net.op("MatMul", softmax(net, scores), folded[2])
        target = net.op("Concat", net.ints(-1, H), length, net.ints(D), axis=0)
        flat = merged(net, net.op("Reshape", context, target), site=str(number))
        x = net.op("Add", x, net.op("MatMul", flat, weights(net, "o", H * D, WIDTH)))
    return x


def _own(net: Net, name: str, rows: int, columns: int) -> Any:
    return net.weight(name, rows, columns)


def _nothing(net: Net, x: Any) -> None:
    return None


def _slopes(net: Net, x: Any) -> Any:
    """BLOOM's positions times a slope per head, `[b*H, 1, s]`."""
    positions = net.op("Unsqueeze", net.op("ReduceMax", x, axes=[2], keepdims=0), net.ints(1))
    slopes = net.op("Mul", net.weight("slopes", H, 1), positions)
    batch = net.op("Mul", net.length(x, 0), net.ints(H))
    return net.op("Reshape", slopes, net.op("Concat", batch, net.ints(1), net.length(x, 1), axis=0))


def _spread(how: str) -> Make:
    """Heads are only repetitions: each layer repeats as often as it has heads (T5's zeros, DeBERTa's indices)."""

    def bias(net: Net, x: Any) -> Any:
        batch, length = net.op("Mul", net.length(x, 0), net.ints(H)), net.length(x, 1)
        target = net.op("Concat", batch, length, length, axis=0)
        if how == "ConstantOfShape":
            return net.op("ConstantOfShape", target)
        rows = net.op("ReduceMax", x, axes=[0, 2], keepdims=0)
        return net.op("Expand", net.op("Unsqueeze", rows, net.ints(0)), target)

    return bias


def _looked_up(net: Net, x: Any) -> Any:
    """T5's buckets: one lookup for all layers."""
    length = net.length(x, 1)
    places = net.op("Range", net.number(0), net.op("Squeeze", length, net.ints(0)), net.number(1))
    places = [net.op("Unsqueeze", places, net.ints(axis)) for axis in (1, 0)]
    apart = net.op("Abs", net.op("Sub", *places))
    table = net.op("Transpose", net.op("Gather", net.weight("table", S + 1, H), apart), perm=[2, 0, 1])
    batch = net.op("Expand", table, net.op("Concat", net.length(x, 0), *map(net.ints, (1, 1, 1)), axis=0))
    return net.op("Reshape", batch, net.op("Concat", net.ints(-1), length, length, axis=0))


def _behind_a_cast(net: Net) -> Any:
    """ALBERT in bfloat16: one cast of all weights, from which each layer picks."""
    cast: dict[str, Any] = {}

    def weights(net: Net, name: str, rows: int, columns: int) -> Any:
        if name not in cast:
            half = net.stored(name, net.random(rows, columns).astype(np.float16))
            cast[name] = net.op("Cast", half, to=1)
        return cast[name]

    return _layers(net, weights, _nothing)


row("shared weights behind a cast", HEADS, HEADS, cuts=SETS, gathers=[8, 4, 8, 4])(_behind_a_cast)
for what, bias in (
    ("slopes", _slopes),
    ("one bias, Expand", _spread("Expand")),
    ("one bias, ConstantOfShape", _spread("ConstantOfShape")),
    ("a bias that is looked up", _looked_up),
):
    row(f"layers share {what}", HEADS, HEADS, cuts=SETS, gathers=[2, 1, 2, 1])(
        lambda net, bias=bias: _layers(net, _own, bias)
    )


# A stored tensor with a part for each layer

LAYERS = 3
PICKS: dict[str, Make] = {
    "slice": lambda net, table, layer: net.rows(table(LAYERS * H), layer * H, (layer + 1) * H, 0),
    "slice from the end": lambda net, table, layer: net.rows(
        table(LAYERS * H), (layer - LAYERS) * H, (layer + 1 - LAYERS) * H or 2**63 - 1, 0
    ),
    "gather": lambda net, table, layer: net.op(
        "Gather", table(LAYERS * H), net.ints(*range(layer * H, (layer + 1) * H))
    ),
    "row": lambda net, table, layer: net.op("Gather", table(LAYERS, H), net.number(layer), axis=0),
    "column": lambda net, table, layer: net.op(
        "Squeeze", net.rows(table(H, LAYERS), layer, layer + 1), net.ints(1)
    ),
    "transposed": lambda net, table, layer: net.op(
        "Gather", net.op("Transpose", table(H, LAYERS), perm=[1, 0]), net.number(layer), axis=0
    ),
    "split": lambda net, table, layer: net.op(
        "Split", table(LAYERS * H), net.ints(*[H] * LAYERS), outputs=LAYERS, axis=0
    )[layer],
    "reshaped": lambda net, table, layer: net.op(
        "Gather", net.op("Reshape", table(LAYERS * H), net.ints(LAYERS, H)), net.number(layer), axis=0
    ),
}
for what, pick in PICKS.items():

    @row(
        f"a table of all layers, {what}",
        *[HEADS] * LAYERS,
        cuts=[{"0": [0]}, {"1": [1, 2]}, {"0": [1], "2": [0, 3]}, {"0": [0], "1": [0], "2": [0]}],
        gathers=[1, 1, 2, 0] if what in ("transposed", "reshaped") else 0,
    )
    def _(net: Net, pick: Make = pick) -> Any:
        """A cut in one layer moves the reads of the others."""
        x, known = source(net), dict[str, str]()

        def table(*shape: int) -> str:
            if not known:
                known["table"] = net.constant("table", net.random(*shape))
            return "table"

        for layer in range(LAYERS):
            context = context_of(net, x)
            share = net.op("Reshape", pick(net, table, layer), net.ints(1, -1, 1, 1))
            x = net.op("Add", x, finished(net, net.op("Mul", context, share), site=str(layer)))
        return x


# Two products in a row


def _agents(net: Net, projected_: bool, regrouped: bool, returned: bool) -> Any:
    """Agents gather tokens, and queries read what the agents hold."""
    x, tokens = source(net), net.input("t", (B, 4, WIDTH), "bp-")
    context = weighed(net, heads_of(net, tokens, "a"), split(net, x, "k", 0, 2, 3, 1), heads_of(net, x, "v"))
    held, heads, size = context, H, D
    if regrouped:
        heads, size = H // 2, 2 * D
        back = net.op("Transpose", context, perm=[0, 2, 1, 3])
        held = net.op("Transpose", net.op("Reshape", back, net.ints(0, 0, heads, size)), perm=[0, 2, 1, 3])
    keys = split(net, tokens, "b", 0, 2, 3, 1, heads=heads, size=size)
    scores = net.op("MatMul", heads_of(net, x, "q", heads, size), keys)
    made = net.mark(net.op("MatMul", softmax(net, scores), held), -3, heads, "1" if projected_ else "0")
    back = net.op("Transpose", made, perm=[0, 2, 1, 3])
    outputs = [projected(net, net.op("Reshape", back, net.ints(0, 0, H * D)))]
    if projected_:
        flat = net.op("Reshape", net.op("Transpose", context, perm=[0, 2, 1, 3]), net.ints(0, 0, H * D))
        outputs.append(projected(net, flat))
    return [*outputs, *([context] if returned else [])]


row("agents", HEADS)(lambda net: _agents(net, False, False, False))
row("agents that are an output", unprojected(), Found(H // 2), gathers=1)(
    lambda net: _agents(net, True, True, True)
)
