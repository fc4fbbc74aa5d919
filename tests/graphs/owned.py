"""Rows by what lies between cores and projections: what is a head's own goes with it, what is not keeps it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from onnx import TensorProto, numpy_helper

from tests.graphs.blueprint import PLAIN, STATIC
from tests.graphs.net import Net, each
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
    talk,
    turned,
    unprojected,
    weighed,
)
from tests.graphs.table import Found, row

Make = Callable[..., Any]


# What is added to a context, multiplied with it, or taken of it, in front of the projection


@dataclass
class Attending:
    """Attention as wide as its input, with the pieces that rows put between its context and a projection."""

    net: Net
    heads: int = H
    outputs: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        net, self.width = self.net, self.heads * D
        self.x = source(net, width=self.width)
        self.q, k, self.v = (self.linear(self.x, name, self.width) for name in "qkv")
        scores = net.op("MatMul", self.split(self.q, 0, 2, 1, 3), self.split(k, 0, 2, 3, 1))
        masked = net.op("Add", scores, net.input("mask", (B, 1, S, S), "b-ss"))
        self.weights = softmax(net, masked)
        context = net.op("MatMul", self.weights, self.split(self.v, 0, 2, 1, 3))
        back = net.op("Transpose", context, perm=[0, 2, 1, 3])
        self.merged = net.op("Reshape", back, net.ints(0, 0, self.width))

    def linear(self, data: Any, name: str, width: int) -> Any:
        return self.net.op("MatMul", data, self.net.weight(name, self.width, width))

    def split(self, data: Any, *order: int) -> Any:
        apart = self.net.op("Reshape", data, self.net.ints(0, 0, self.heads, D))
        return self.net.op("Transpose", apart, perm=list(order))

    def vector(self, name: str) -> Any:
        return self.net.weight(name, self.width)

    def op(self, op_type: str, *inputs: Any, **attributes: Any) -> Any:
        return self.net.op(op_type, *inputs, **attributes)


def _embedded(it: Attending) -> Any:
    ids = it.op("Cast", it.op("ReduceMax", it.x, it.net.ints(-1), keepdims=0), to=7)
    ids = it.op("Abs", ids)
    return it.op("Add", it.merged, it.op("Gather", it.net.weight("table", 9, it.width), ids))


def _read_again(it: Attending) -> Any:
    """The output of another linear layer is added, which has a second reader."""
    made = it.linear(it.x, "other", it.width)
    it.outputs.append(it.op("Relu", made))
    return it.op("Add", it.merged, made)


def _normed_stream(it: Attending) -> Any:
    added = it.op("Add", it.merged, it.x)
    return it.op("LayerNormalization", added, it.vector("gain"), it.vector("shift"), axis=-1)


def _zero(it: Attending) -> Any:
    return it.op("Constant", value_floats=[0.0])


FOREIGN: dict[str, Make] = {
    "residual": lambda it: it.op("Add", it.merged, it.x),
    "residual, normed": _normed_stream,
    "residual, gated": lambda it: it.op(
        "Mul", it.op("Add", it.merged, it.x), it.op("Sigmoid", it.linear(it.x, "gate", it.width))
    ),
    "residual first": lambda it: it.op("Sum", it.x, it.merged),
    "residual subtracted": lambda it: it.op("Sub", it.merged, it.x),
    "residual where masked": lambda it: it.op(
        "Where", it.op("Greater", it.x, it.net.weight("zero", 1)), it.merged, it.x
    ),
    "one number per token": lambda it: it.op(
        "Add", it.merged, it.op("ReduceMean", it.x, it.net.ints(-1), keepdims=1)
    ),
    "beside another layer": lambda it: it.op("Add", it.merged, it.linear(it.x, "other", it.width)),
    "embedded": _embedded,
    "projected and read again": _read_again,
}


def _between(net: Net, make: Make, heads: int, residual: bool) -> Any:
    it = Attending(net, heads)
    between = make(it)
    if not it.outputs and residual:
        net.mark(between, -1, each(heads, D))
    made = it.linear(between, "next", it.width)
    return [*it.outputs, it.op("Add", it.x, made) if residual else made]


OPSET18 = replace(PLAIN, target="zero", opset=21)
for (what, make), heads in itertools.product(FOREIGN.items(), (1, H)):
    row(
        f"{what} of {heads} heads",
        unprojected("", heads),
        plans=(STATIC, OPSET18)[heads == 1],
    )(lambda net, of=(make, heads): _between(net, *of, residual=False))


def _biased(it: Attending) -> Any:
    return it.op("Add", it.merged, it.vector("bias"))


def _normed_per_head(it: Attending) -> Any:
    apart = it.op("Reshape", it.merged, it.net.ints(0, 0, it.heads, D))
    normed = it.op(
        "LayerNormalization", apart, *(it.net.weight(name, D) for name in ("gain", "shift")), axis=-1
    )
    return it.op("Reshape", normed, it.net.ints(0, 0, it.width))


def _with_its_weights(it: Attending) -> Any:
    """Relative positions for values (VITS): the attention weights, masked like all of them, times a table."""
    apart = it.net.rows(it.net.weight("table", S + 1, D), 1, S + 1, 0)
    shifted = it.op("Transpose", it.op("MatMul", it.weights, apart), perm=[0, 2, 1, 3])
    return it.op("Add", it.merged, it.op("Reshape", shifted, it.net.ints(0, 0, it.width)))


OWN: dict[str, Make] = {
    "alone": lambda it: it.merged,
    "biased": _biased,
    "biased and gated": lambda it: it.op(
        "Mul", _biased(it), it.op("Sigmoid", it.linear(it.x, "gate", it.width))
    ),
    "gated by the stream": lambda it: it.op("Mul", it.x, it.merged),
    "divided": lambda it: it.op("Div", it.merged, it.op("Exp", it.linear(it.x, "scale", it.width))),
    "normed per head": _normed_per_head,
    "with its values": lambda it: it.op("Add", it.merged, it.op("Mul", it.v, it.vector("local"))),
    "with its queries": lambda it: it.op("Add", it.merged, it.q),
    "with its attention weights": _with_its_weights,
    "chosen": lambda it: it.op("Where", it.op("Greater", it.x, _zero(it)), it.merged, _zero(it)),
}
for number, (what, make) in enumerate(OWN.items()):
    row(
        f"own: {what}",
        Found(H),
        plans=(STATIC, OPSET18)[number % 2],
        gathers=int(what in ("gated by the stream", "chosen")),
    )(lambda net, make=make: _between(net, make, H, True))


@row("queries that are pooled are added to their own heads", Found(4), plans=STATIC)
def _(net: Net) -> Any:
    """MViT: a depthwise convolution with heads in its batch pools queries, which are added to the context of each."""
    x = source(net)
    pooled = net.op("Reshape", heads_of(net, x, "q"), net.ints(-1, S, D))
    pooled = net.op("Transpose", pooled, perm=[0, 2, 1])
    pooled = net.op("Conv", pooled, net.weight("pool", D, 1, 3), net.weight("bias", D), group=D, pads=[1, 1])
    q = net.op("Reshape", net.op("Transpose", pooled, perm=[0, 2, 1]), net.ints(B, H, S, D))
    context = weighed(net, q, split(net, x, "k", 0, 2, 3, 1), heads_of(net, x, "v"))
    return finished(net, net.op("Add", context, q))


# Gates and routers


def _gate_of_all(net: Net, _: Any, context: Any) -> Any:
    """A gate for each channel, of all channels: x-transformers' output gate."""
    return net.op("MatMul", context, net.weight("g", H * D, H * D))


def _squeezed(net: Net, _: Any, context: Any) -> Any:
    """Squeeze and excite: a gate of what all tokens are on average, through a bottleneck."""
    narrow = net.op("ReduceMean", context, net.ints(1), keepdims=1)
    narrow = net.op("Relu", net.op("MatMul", narrow, net.weight("squeeze", H * D, 4)))
    return net.op("MatMul", narrow, net.weight("excite", 4, H * D))


def _gate_of_stream(net: Net, x: Any, _: Any) -> Any:
    """A gate of what the heads read themselves."""
    return net.op("MatMul", x, net.weight("g", WIDTH, H * D))


AT18 = replace(PLAIN, opset=18)
for what, gate in (
    ("all contexts", _gate_of_all),
    ("pooled contexts", _squeezed),
    ("the stream", _gate_of_stream),
):

    @row(f"a gate of {what}", HEADS, plans=AT18)
    def _(net: Net, gate: Make = gate) -> Any:
        x = source(net)
        context = merged(net, context_of(net, x))
        gated = net.op("Mul", context, net.op("Sigmoid", gate(net, x, context)))
        return net.op("Add", x, projected(net, gated))


@row(
    "a context of which one head is read elsewhere",
    HEADS,
    cuts=[{"0": [0, 2]}],
    refused=[
        ({"0": [3]}, "needs|needed"),
        ({"0": [1, 3]}, "needs|needed"),
        ({"0": range(H)}, "needs|needed"),
    ],
)
def _(net: Net) -> Any:
    """The trial that is made of the first head meets no reader; the cut of the last one does."""
    context = context_of(net, source(net))
    last = net.op("Relu", net.op("Gather", context, net.ints(H - 1), axis=1))
    return [finished(net, context), last]


def _divided(net: Net, logits: Any) -> Any:
    """A normalisation that is written out (mixture of heads, behind its choice of the best)."""
    weights = net.op("Sigmoid", logits)
    return net.op("Div", weights, net.op("ReduceSum", weights, net.ints(2), keepdims=1))


for router, of in itertools.product((softmax, _divided), ("stream", "contexts")):

    @row(
        f"a router on the {of}, {router.__name__}",
        HEADS,
        gathers=1,
    )
    def _(net: Net, router: Make = router, of: str = of) -> Any:
        """The shares of the heads that are left are what they were."""
        x = source(net)
        context = net.op("Transpose", net.mark(context_of(net, x), -3, H), perm=[0, 2, 1, 3])
        read = x if of == "stream" else net.op("Reshape", context, net.ints(0, 0, H * D))
        logits = net.op("MatMul", read, net.weight("router", WIDTH if of == "stream" else H * D, H))
        weighed_ = net.op("Mul", context, net.op("Unsqueeze", router(net, logits), net.ints(3)))
        return projected(net, net.op("Reshape", weighed_, net.ints(0, 0, H * D)))


for of in ("stream", "queries"):

    @row(
        f"a quantized gate on the {of}",
        HEADS,
        gathers=1 + (of == "queries"),
        stays=of == "queries",
    )
    def _(net: Net, of: str = of) -> Any:
        """Scores are scaled by a quantized product of what is seen as heads (WavLM after int8)."""
        width = H * D
        x = source(net, width=width)
        flat = {name: net.op("MatMul", x, net.weight(name, width, width)) for name in "qkv"}

        def heads(data: Any, *order: int) -> Any:
            return net.op("Transpose", net.op("Reshape", data, net.ints(0, 0, H, D)), perm=list(order))

        seen = heads(x if of == "stream" else flat["q"], 0, 2, 1, 3)
        quantized, scale, zero = net.op("DynamicQuantizeLinear", seen, outputs=3)
        weight = net.stored("gate", net.rng.integers(-100, 100, (D, 1)).astype(np.int8))
        product = net.op("Cast", net.op("MatMulInteger", quantized, weight, zero), to=1)
        gate = net.op("Sigmoid", net.op("Mul", product, net.op("Mul", scale, net.weight("step", 1))))
        scores = net.op("MatMul", heads(flat["q"], 0, 2, 1, 3), heads(flat["k"], 0, 2, 3, 1))
        weights = softmax(net, net.op("Mul", scores, gate))
        return finished(net, net.op("MatMul", weights, heads(flat["v"], 0, 2, 1, 3)))


# Positions that are mixed, picked or cut between core and projection

SIDE = 4


def _image(net: Net, context: Any) -> Any:
    """[B, H, S, D] -> [B, H * D, SIDE, SIDE]"""
    return net.op("Reshape", turned(net, net.mark(context, -3, H)), net.ints(B, H * D, SIDE, SIDE))


def _average(net: Net, data: Any) -> Any:
    return net.op("AveragePool", data, kernel_shape=[2, 2], strides=[2, 2])


def _enlarged(net: Net, data: Any) -> Any:
    empty = net.weight("empty", 0)
    return net.op("Resize", data, empty, empty, net.ints(B, H * D, 6, 7), mode="linear")


def _by_channel(net: Net, data: Any) -> Any:
    return net.op("Conv", data, net.weight("kernel", H * D, 1, 3, 3), group=H * D, pads=[1, 1, 1, 1])


def _averaged_and_normed(net: Net, data: Any) -> Any:
    """BoTNet: a batch normalisation and a ReLU follow."""
    vectors = [net.weight(name, H * D) for name in ("gain", "shift", "mean")]
    variance = net.op("Abs", net.weight("variance", H * D))
    normed = net.op("BatchNormalization", _average(net, data), *vectors, variance)
    # A head is nothing to the projection; a norm of zeros is not.
    return net.mark(net.op("Relu", normed), -3, each(H, D))


MIXERS: dict[str, Make] = {
    "average": _average,
    "average of all": lambda net, data: net.op("GlobalAveragePool", data),
    "mean over tokens": lambda net, data: net.op("ReduceMean", data, net.ints(2, 3), keepdims=1),
    "enlarged": _enlarged,
    "convolved by channel": _by_channel,
    "averaged and normed": _averaged_and_normed,
}
for what, mixer in MIXERS.items():

    @row(f"positions are mixed, {what}", HEADS, plans=STATIC)
    def _(net: Net, mixer: Make = mixer) -> Any:
        data = mixer(net, _image(net, context_of(net, source(net, "---", length=SIDE * SIDE))))
        return net.op("Conv", data, net.weight("o", WIDTH, H * D, 1, 1))


@row("nothing is joined to the tokens", HEADS, plans=STATIC)
def _(net: Net) -> Any:
    """Emformer: a slice of a slice that is empty, joined to the context."""
    flat = merged(net, context_of(net, source(net, "---", length=6)))
    none = net.rows(net.rows(flat, 0, 0), 0, 0)
    return projected(net, net.op("Concat", none, flat, axis=1))


TALKS = {"": (), "before": ("before",), "after": ("after",), "before and after": ("before", "after")}
for (what, where), stored in itertools.product(TALKS.items(), (True, False)):

    @row(
        f"a {'stored' if stored else 'computed'} class token, heads talk {what}",
        Found(H),
        plans=STATIC,
        stays=bool(where) and not stored,
    )
    def _(net: Net, where: Any = where, stored: bool = stored) -> Any:
        """CaiT: a class token asks the patches; maps may be mixed before and after the softmax."""
        x = source(net, "---", batch=1, length=9)
        token = net.weight("token", 1, 1, WIDTH) if stored else net.input("token", (1, 1, WIDTH), "---")
        scores = net.op("MatMul", heads_of(net, token, "q"), split(net, x, "k", 0, 2, 3, 1))
        scores = talk(net, scores) if "before" in where else scores
        weights = softmax(net, scores)
        weights = talk(net, weights) if "after" in where else weights
        return finished(net, net.op("MatMul", weights, heads_of(net, x, "v")))


@row("a regression over attention maps", plans=STATIC)
def _(net: Net) -> Any:
    """ESM's contact head reads the maps of all heads as features."""
    x = source(net, "---", batch=1, length=6)
    maps = softmax(net, net.op("MatMul", heads_of(net, x, "q"), split(net, x, "k", 0, 2, 3, 1)))
    inner = net.op("Slice", maps, net.ints(1, 1), net.ints(5, 5), net.ints(2, 3))
    both = net.op("Add", inner, turned(net, inner))
    features = net.op("Transpose", both, perm=[0, 2, 3, 1])
    return net.op("Sigmoid", net.op("MatMul", features, net.weight("regression", H, 1)))


T = 9
"""Tokens of rows of which some are read."""
READS: dict[str, Make] = {
    "cut": lambda net, flat, w: net.rows(flat, 0, 6),
    "every second": lambda net, flat, w: net.rows(flat, 0, T, 1, 2),
    "picked": lambda net, flat, w: net.op("Gather", flat, net.ints(0, 4, 5), axis=1),
    "one token": lambda net, flat, w: net.op("Gather", flat, net.ints(3), axis=1),
    "split off": lambda net, flat, w: net.op("Split", flat, net.ints(4, 5), outputs=2, axis=1)[1],
    "cut and padded": lambda net, flat, w: net.op("Pad", net.rows(flat, 0, 6), net.ints(0, 0, 0, 0, 3, 0)),
    "padded and cut": lambda net, flat, w: net.rows(net.op("Pad", flat, net.ints(0, 1, 0, 0, 2, 0)), 1, 5),
    "in windows": lambda net, flat, w: net.op(
        "Gather", net.op("Reshape", flat, net.ints(0, 3, 3, w)), net.ints(0, 2), axis=1
    ),
    "averaged": lambda net, flat, w: net.op("ReduceMean", flat, net.ints(1), keepdims=1),
}
for (what, read), size in zip(READS.items(), itertools.cycle((D, 1)), strict=False):

    @row(f"some tokens are read, {what}", Found(H, size=size), plans=STATIC)
    def _(net: Net, read: Make = read, size: int = size) -> Any:
        flat = merged(net, context_of(net, source(net, "---", 1, T), size), size=size)
        return projected(net, read(net, flat, H * size), H * size)


for overlap, letters in itertools.product((0, 2), ("---", "b--", "bs-")):

    @row(f"two projections read tokens apart, {overlap} of both, {letters}", HEADS, plans=OPSET18)
    def _(net: Net, overlap: int = overlap, letters: str = letters) -> Any:
        """Joint attention (SD3, Flux): text and image attend together and are projected by weights of their own."""
        x = source(net, letters, length=T)
        flat = merged(net, context_of(net, x))
        bounds = ((0, 4 + overlap), (4, T))
        return [net.op("Add", net.rows(x, *part), projected(net, net.rows(flat, *part))) for part in bounds]


@row("one of two images is read", HEADS, plans=STATIC)
def _(net: Net) -> Any:
    """The batch of a fixed export is no head axis, either."""
    x = source(net, "b--", length=T)
    made = projected(net, net.rows(merged(net, context_of(net, x)), 0, 1, 0))
    return net.op("Add", net.rows(x, 0, 1, 0), made)


for spelled in ("Flatten", "Reshape", "Gemm"):

    @row(f"all tokens are summed over, {spelled}", HEADS, plans=STATIC)
    def _(net: Net, spelled: str = spelled) -> Any:
        """A projection of all tokens at once: every token has channels of its own, heads still are the heads."""
        flat = merged(net, context_of(net, source(net, "b--", length=T)))
        shaped = net.ints(0, T * H * D)
        joined = net.op("Reshape", flat, shaped) if spelled == "Reshape" else net.op("Flatten", flat)
        weight = net.weight("o", T * H * D, WIDTH)
        return net.op("Gemm" if spelled == "Gemm" else "MatMul", joined, weight)


for size in (D, 1):

    @row(f"some tokens are summed over, {size} channels", Found(H, size=size), plans=STATIC)
    def _(net: Net, size: int = size) -> Any:
        flat = merged(net, context_of(net, source(net, "b--", length=T), size), size=size)
        joined = net.op("Flatten", net.rows(flat, 2, 7), axis=1)
        return net.op("MatMul", joined, net.weight("o", 5 * H * size, WIDTH))


@row("one of several streams is read", plans=STATIC)
def _(net: Net) -> Any:
    """Hyper-connections (FT-Transformer): streams are mixed by what they hold, and no attention weighs them."""
    streams = net.input("x", (1, T, H, WIDTH), "----")
    gate = net.op("Tanh", net.op("MatMul", streams, net.weight("gate", WIDTH, H + 1)))
    mixed = net.op("Einsum", gate, streams, equation="bsij,bsiw->bsjw")
    first = net.op("Gather", net.op("Gather", mixed, net.ints(0), axis=2), net.ints(0), axis=1)
    return projected(net, first, WIDTH)


@row("streams that are mixed twice", plans=STATIC)
def _(net: Net) -> Any:
    """The streams come from a product themselves, and the views of a mix have an axis of size 1."""
    streams = net.input("x", (1, T, H, WIDTH), "----")
    for _ in range(2):
        for layer in (True, False):
            gate = net.op("Tanh", net.op("MatMul", streams, net.weight("gate", WIDTH, H)))
            apart = net.op("Unsqueeze", gate, net.ints(3))
            mixed = net.op("Einsum", apart, streams, equation="bsicj,bsiw->bscjw")
            mixed = net.op("MatMul", mixed, net.weight("layer", WIDTH, WIDTH)) if layer else mixed
            streams = net.op("Squeeze", mixed, net.ints(2))
    total = net.op("ReduceSum", streams, net.ints(2), keepdims=0)
    return projected(net, net.op("Gather", total, net.ints(0), axis=1), WIDTH)


@row("codes of positions")
def _(net: Net) -> Any:
    """RT-DETR multiplies positions by frequencies, both counted from shapes, and joins their sines and cosines."""
    net.input("x", (B, 4, 16), "bs-")
    net.tensors(w=(16, 3))
    net.lists(first=[0], last=[1])
    for name, number in (("i0", 0), ("i1", 1), ("i2", 2), ("i4", 4)):
        net.constant(name, np.int64(number))
    net.text(
        """sizes = Shape(x) s = Gather(sizes, i1) places = Range(i0, s, i1) p = Cast<to = 1>(places)
        p2 = Unsqueeze(p, last) width = Gather(sizes, i2) count = Div(width, i4)
        rates = Range(i0, count, i1) r = Cast<to = 1>(rates) r2 = Unsqueeze(r, first)
        angles = MatMul(p2, r2) sine = Sin(angles) cosine = Cos(angles) half = Div(p2, p2)
        angles2 = MatMul(half, r2) sine2 = Sin(angles2) cosine2 = Cos(angles2)
        code = Concat<axis = 1>(sine, cosine, sine2, cosine2) sum = Add(x, code) y = MatMul(sum, w)"""
    )
    return "y"


# As many heads as there are


def _of_channels(net: Net, x: Any, heads: int, right: bool) -> Any:
    """Channels attend to channels (XCiT, Restormer): the map owns the channels of the context."""
    k, q = split(net, x, "k", 0, 2, 3, 1, heads=heads), heads_of(net, x, "q", heads)
    if right:
        weights = net.op("Softmax", net.op("MatMul", k, q), axis=-2)
        context = net.op("MatMul", heads_of(net, x, "v", heads), weights)
        return finished(net, context, heads)
    values = net.op("Sigmoid", split(net, x, "v", 0, 2, 3, 1, heads=heads))
    context = net.mark(net.op("MatMul", softmax(net, net.op("MatMul", k, q)), values), -3, heads)
    back = net.op("Transpose", context, perm=[0, 3, 1, 2])
    return projected(net, net.op("Reshape", back, net.ints(0, 0, heads * D)), heads * D)


def _linear(net: Net, x: Any, heads: int) -> Any:
    """Queries read a summary of all keys and values."""
    k = softmax(net, split(net, x, "k", 0, 2, 3, 1, heads=heads))
    summary = net.op("MatMul", k, heads_of(net, x, "v", heads))
    return finished(net, net.op("MatMul", softmax(net, heads_of(net, x, "q", heads)), summary), heads)


ATTENDS: dict[str, Make] = {
    "channels": lambda net, x, n: _of_channels(net, x, n, False),
    "channels, on the right": lambda net, x, n: _of_channels(net, x, n, True),
    "tokens": lambda net, x, n: finished(net, context_of(net, x, heads=n), n),
    "linear": _linear,
}
for number, ((what, attend), heads) in enumerate(itertools.product(ATTENDS.items(), (1, 2))):
    alone = what == "linear" and heads == 1
    row(
        f"{heads} heads of {what}",
        *([] if alone else [Found(heads, size=D)]),
        plans=(PLAIN, replace(PLAIN, symbolic=False, opset=21))[number % 2],
        no_heads=2 if alone else 0,
    )(lambda net, of=(attend, heads): net.op("Add", of[0](net, source(net, length=5), of[1]), "x"))


@row("maps that weights mix", Found(2, size=D), stays=True)
def _(net: Net) -> Any:
    """Re-attention (DeepViT): behind the mix nothing tells what the scores of a head sum over."""
    x = source(net)
    weights = softmax(
        net, net.op("MatMul", heads_of(net, x, "q", 2), split(net, x, "k", 0, 2, 3, 1, heads=2))
    )
    mixed = net.op("Einsum", weights, net.weight("mix", 2, 2), equation="bhij,hg->bgij")
    return finished(net, net.op("MatMul", mixed, heads_of(net, x, "v", 2)), 2)


for queries, packed in itertools.product((5, 1), (False, True)):

    @row(
        f"{queries} stored queries of one head{', packed' if packed else ''}",
        *([Found(1)] if queries > 1 else []),
        no_heads=int(queries == 1),
    )
    def _(net: Net, queries: int = queries, packed: bool = packed) -> Any:
        """A Perceiver's latents are stored: one query for all tokens pools. Their products with keys have neurons."""
        x = source(net)
        if packed:
            both = net.op("MatMul", x, net.weight("kv", WIDTH, 8))
            k, v = net.op("Split", both, net.ints(4, 4), outputs=2, axis=2)
        else:
            k, v = (net.op("MatMul", x, net.weight(name, WIDTH, 4)) for name in "kv")
        scores = net.op("MatMul", net.weight("q", queries, 4), net.op("Transpose", k, perm=[0, 2, 1]))
        return projected(net, net.mark(net.op("MatMul", softmax(net, scores), v), -1, each(1, 4)), 4)


# Maps and values that are stored


for spelled in ("MatMul", "Softmax", "Einsum"):

    @row(f"a stored map per head, {spelled}", Found(H, size=D), plans=STATIC)
    def _(net: Net, spelled: str = spelled) -> Any:
        """A random synthesizer: the values of every head are mixed by a map of its own, whatever the tokens are."""
        v, maps = heads_of(net, source(net, "b--"), "v"), net.weight("maps", H, S, S)
        if spelled == "Einsum":
            return finished(net, net.op("Einsum", maps, v, equation="hij,bhjd->bhid"))
        return finished(net, net.op("MatMul", softmax(net, maps) if spelled == "Softmax" else maps, v))


for spelled in ("MatMul", "Einsum"):

    @row(f"stored values per head, {spelled}", Found(H, size=D), plans=STATIC)
    def _(net: Net, spelled: str = spelled) -> Any:
        """Tokens of the model's own (PegasusX's global ones): a fixed batch makes their keys and values weights."""
        x = source(net, "b--")
        q, k = heads_of(net, x, "q"), split(net, x, "k", 0, 2, 3, 1)
        keys, values = net.weight("keys", B, H, D, 2), net.weight("values", B, H, 2, D)
        scores = net.op("Concat", net.op("MatMul", q, keys), net.op("MatMul", q, k), axis=-1)
        weights = softmax(net, net.op("Add", scores, net.input("mask", (B, 1, 1, 2 + S), "b---")))
        equation = {"equation": "bhij,bhjd->bhid"} if spelled == "Einsum" else {}
        first = net.op(spelled, net.rows(weights, 0, 2, 3), values, **equation)
        second = net.op(spelled, net.rows(weights, 2, 2 + S, 3), heads_of(net, x, "v"), **equation)
        return finished(net, net.op("Add", first, second))


@row("one stored map", plans=STATIC)
def _(net: Net) -> Any:
    """A mixer's map of tokens, the same for all channels, tells no heads apart."""
    return finished(net, net.op("MatMul", net.weight("map", S, S), heads_of(net, source(net, "b--"), "v")))


# Projections and biases of their own


for turned_ in (False, True):

    @row(f"each position has a projection of its own, {turned_}", HEADS, plans=AT18)
    def _(net: Net, is_turned: bool = turned_) -> Any:
        """The depth decoder of Moshi: weights are picked from a stack, one matrix for each codebook."""
        x = source(net)
        count = net.op("Squeeze", net.length(x, 1))
        rows = net.op("Range", net.number(0), count, net.number(1))
        if is_turned:
            weight = net.op("Gather", net.weight("stack", 5, WIDTH, H * D), rows, axis=0)
            weight = net.op("Transpose", weight, perm=[0, 2, 1])
        else:
            weight = net.op("Gather", net.weight("stack", 5, H * D, WIDTH), rows, axis=0)
        one = net.op("Unsqueeze", merged(net, context_of(net, x)), net.ints(2))
        made = net.op("MatMul", one, net.op("Unsqueeze", weight, net.ints(0)))
        return net.op("Add", net.op("Squeeze", made, net.ints(2)), x)


@row("a bias of heads times batch", HEADS, gathers=1, plans=AT18)
def _(net: Net) -> Any:
    """Uni-Mol: the bias of pairs is an input [heads * batch, tokens, tokens]."""
    x = source(net, "-s-")
    length, batch = net.length(x, 1), net.length(x, 0)
    folded = net.op("Mul", batch, net.ints(H))
    q, k, v = (
        net.op("Reshape", data, net.op("Concat", folded, *tail, axis=0))
        for data, tail in (
            (heads_of(net, x, "q"), (length, net.ints(D))),
            (split(net, x, "k", 0, 2, 3, 1), (net.ints(D), length)),
            (heads_of(net, x, "v"), (length, net.ints(D))),
        )
    )
    scores = net.op("Add", net.op("MatMul", q, k), net.input("bias", (B * H, S, S), "pss"))
    context = net.op("MatMul", softmax(net, scores), v)
    back = net.op("Concat", batch, net.ints(H), length, net.ints(D), axis=0)
    return finished(net, net.op("Reshape", context, back))


# Values of branches

IN_BRANCHES: dict[str, Make] = {
    "scaled": lambda net, data: net.op("Mul", data, net.weight("scale", H * D)),
    "unknown": lambda net, data: net.op(
        "ReverseSequence", data, net.ints(*[S] * B), batch_axis=0, time_axis=1
    ),
    "stored": lambda net, data: net.op("Constant", value=numpy_helper.from_array(net.random(B, S, H * D))),
}
for what, condition in itertools.product(IN_BRANCHES, (True, False)):

    @row(
        f"values of two branches, {what}, {condition}",
        HEADS,
        gathers=2 * (what == "unknown"),
    )
    def _(net: Net, what: str = what, condition: bool = condition) -> Any:
        """Where heads are removed from the output of an `If`, both branches output fewer."""
        x = source(net, "---")
        q, k, v = (net.op("MatMul", x, net.weight(name, WIDTH, H * D)) for name in "qkv")
        bodies = [
            net.body(lambda how=how: [net.info(IN_BRANCHES[how](net, v), (B, S, H * D))])
            for how in ("scaled", what)
        ]
        net.inputs.append(net.info("flag", [], TensorProto.BOOL))
        net.feed["flag"] = np.array(condition)
        v = net.op("If", "flag", then_branch=bodies[0], else_branch=bodies[1])
        q, k, v = (
            net.op("Transpose", net.op("Reshape", f, net.ints(0, 0, H, D)), perm=[0, 2, 1, 3])
            for f in (q, k, v)
        )
        return finished(net, weighed(net, q, turned(net, k), v))
