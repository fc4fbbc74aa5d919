"""Rows of feed-forward blocks: spellings, kinds, what joins two linear layers, and neurons of mixtures."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tests.graphs import mixtures
from tests.graphs.net import Cut, Graph, Net
from tests.graphs.parts import context_of, merged
from tests.graphs.table import Found, Row, add, row
from tests.graphs.toys import BLOCK, packed
from tests.liveness.masks import Array

B, S, WIDTH, N = 2, 3, 8, 12
Make = Callable[..., Any]
HALF: list[Cut] = [{"ffn.0": [0]}, {"ffn.0": [3, 4, 9]}, {"ffn.0": range(N)}]


def neurons(kind: str = "", units: int = N, number: int = 0, **more: Any) -> Found:
    return Found(units, of="neurons", key=f"ffn.{number}", kind=kind, **more)


SHAPES: Mapping[str, Sequence[int]] = {
    **dict.fromkeys(("up", "gate"), (WIDTH, N)),
    "b": (N,),
    "down": (N, WIDTH),
    "up_conv": (N, WIDTH, 1),
    "down_conv": (WIDTH, N, 1),
    "wide": (N, WIDTH, 3),
    "depth": (N, 1, 3),
    "to_scale": (WIDTH, 2),
    "to_scales": (2, 3),
    **dict.fromkeys(("wq", "wk", "wv", "wo"), (WIDTH, WIDTH)),
}
LISTS = {"last": [-1], "narrow": [WIDTH], "broad": [N], "split": [0, 0, 2, 4], "joined": [0, 0, WIDTH]}


def text(
    net: Net,
    body: str,
    marks: Sequence[str] = (),
    ends: Sequence[str] = ("y",),
    axis: int = -1,
    **more: Sequence[int],
) -> Any:
    """Nodes as ONNX text over `x` and weights of these names; `marks` hold neurons."""
    net.input("x", (B, S, WIDTH), "---")
    net.tensors(**{**SHAPES, **more})
    net.lists(**LISTS)
    net.constant("two", np.float32(2))
    net.text(body)
    for number, name in enumerate(marks):
        net.mark(name, axis, N, f"ffn.{number}")
    return list(ends)


# Spellings


def _up(net: Net, x: Any, columns: int = N) -> Any:
    return net.op("Add", net.op("MatMul", x, net.weight("up", WIDTH, columns)), net.weight("b", columns))


def _down(net: Net, hidden: Any, site: str = "ffn.0") -> Any:
    return net.op("MatMul", net.mark(hidden, -1, N, site), net.weight("down", N, WIDTH))


def _float(net: Net, number: float) -> Any:
    return net.number(number, np.float32)


def _relu(net: Net, x: Any, site: str = "ffn.0") -> Any:
    return _down(net, net.op("Relu", _up(net, x)), site)


def _gelu(net: Net, x: Any) -> Any:
    made = _up(net, x)
    bent = net.op("Erf", net.op("Mul", made, _float(net, 0.7)))
    half = net.op("Mul", made, _float(net, 0.5))
    return _down(net, net.op("Mul", half, net.op("Add", bent, _float(net, 1))))


def _tanh_gelu(net: Net, x: Any) -> Any:
    """A value is added to a power of itself, which is no residual stream."""
    made = _up(net, x)
    cubed = net.op("Mul", net.op("Pow", made, _float(net, 3)), _float(net, 0.044715))
    bent = net.op("Tanh", net.op("Mul", net.op("Add", made, cubed), _float(net, 0.8)))
    return _down(net, net.op("Mul", made, net.op("Add", bent, _float(net, 1))))


def _gated(net: Net, x: Any) -> Any:
    gate = net.op("MatMul", x, net.weight("gate", WIDTH, N))
    return _down(net, net.op("Mul", net.op("Mul", gate, net.op("Sigmoid", gate)), _up(net, x)))


def _gated_in_one(net: Net, x: Any) -> Any:
    gate, made = net.op("Split", _up(net, x, 2 * N), net.ints(N, N), outputs=2, axis=-1)
    return _down(net, net.op("Mul", net.op("Sigmoid", gate), made))


def _with_a_convolution(net: Net, x: Any) -> Any:
    first = net.op("Transpose", _up(net, x), perm=[0, 2, 1])
    mixed = net.op("Conv", first, net.weight("kernel", N, 1, 3), group=N, pads=[1, 1], kernel_shape=[3])
    return _down(net, net.op("Relu", net.op("Transpose", mixed, perm=[0, 2, 1])))


def _of_convolutions(net: Net, x: Any) -> Any:
    first = net.op("Transpose", x, perm=[0, 2, 1])
    made = net.op("Relu", net.op("Conv", first, net.weight("up", N, WIDTH, 1), kernel_shape=[1]))
    back = net.op("Conv", net.mark(made, -2, N, "ffn.0"), net.weight("down", WIDTH, N, 1), kernel_shape=[1])
    return net.op("Transpose", back, perm=[0, 2, 1])


def _of_gemms(net: Net, x: Any) -> Any:
    flat = net.op("Reshape", x, net.ints(-1, WIDTH))
    made = net.op("Tanh", net.op("Gemm", flat, net.weight("up", N, WIDTH), net.weight("b", N), transB=1))
    net.mark(made, -1, N, "ffn.0")
    back = net.op("Gemm", made, net.weight("down", WIDTH, N), net.weight("c", WIDTH), transB=1)
    return net.op("Reshape", back, net.op("Shape", x))


def _of_pieces(net: Net, x: Any) -> Any:
    """Hidden units that come in two pieces, as parallel layers are joined."""
    pieces = [net.op("MatMul", x, net.weight("up", WIDTH, N // 2)) for _ in range(2)]
    return _down(net, net.op("Relu", net.op("Concat", *pieces, axis=-1)))


def _view_back(net: Net, x: Any) -> Any:
    """A normalisation of flat tokens takes its shape back from what it normalised: LeViT's `reshape_as`."""
    made = _relu(net, x)
    vectors = [net.weight(name, WIDTH) for name in ("scale", "shift", "mean")]
    flat = net.op("Reshape", made, net.ints(-1, WIDTH))
    normed = net.op("BatchNormalization", flat, *vectors, net.stored("variance", np.ones(WIDTH, np.float32)))
    return net.op("Reshape", normed, net.op("Shape", made))


SPELLINGS: dict[str, Make] = {
    make.__name__.strip("_").replace("_", " "): make
    for make in (
        _relu, _gelu, _tanh_gelu, _gated, _gated_in_one, _with_a_convolution, _of_convolutions, _of_gemms,
        _of_pieces, _view_back,
    )
}  # fmt: skip
for what, make in SPELLINGS.items():
    row(f"block, {what}", neurons(), cuts=HALF)(
        lambda net, make=make: net.op("Add", make(net, net.input("x", (B, S, WIDTH), "bs-")), "x")
    )


@row(
    "a layer between two blocks",
    neurons(),
    neurons(number=1),
    cuts=[{"ffn.0": [1, 4], "ffn.1": [0, 7, 8]}, {"ffn.0": [2]}],
)
def _(net: Net) -> Any:
    """Three layers in a row, as heads of classifiers have them: the middle one loses rows and columns."""
    first = net.mark(net.op("Relu", _up(net, net.input("x", (B, S, WIDTH), "bs-"))), -1, N, "ffn.0")
    second = net.op("Relu", net.op("MatMul", first, net.weight("middle", N, N)))
    return _down(net, second, "ffn.1")


@row(
    "one layer sums up heads and neurons",
    Found(2, size=4),
    neurons(),
    cuts=[{"0": [1], "ffn.0": [2, 3]}, {"0": [0, 1]}, {"0": [0, 1], "ffn.0": range(N)}],
)
def _(net: Net) -> Any:
    """Parallel blocks with one projection: what both lose goes from it, all of it, too."""
    x = net.input("x", (B, S, WIDTH), "bs-")
    context = merged(net, context_of(net, x, 4, 2, width=WIDTH), 2, 4)
    hidden = net.mark(net.op("Relu", _up(net, x)), -1, N, "ffn.0")
    joined = net.op("Concat", context, hidden, axis=-1)
    return net.op("MatMul", joined, net.weight("down", WIDTH + N, WIDTH))


@row(
    "neurons of a packed layer",
    neurons(units=3 * BLOCK),
    cuts=[{"ffn.0": range(BLOCK, 2 * BLOCK)}],
    refused=[({"ffn.0": [1]}, "only go together")],
)
def _(net: Net) -> Any:
    x = net.input("x", (B, S, BLOCK), "bs-")
    hidden = net.mark(
        net.op("Relu", net.op("MatMul", x, net.weight("up", BLOCK, 3 * BLOCK))), -1, 3 * BLOCK, "ffn.0"
    )
    made = net.drawn([net.op("MatMul", hidden, net.weight("down", 3 * BLOCK, BLOCK))])
    return replace(made, model=packed(made.model, 0))


# Kinds

UP = "u = MatMul (x, up) a = Add (u, b)"
KINDS: dict[str, tuple[str, str, Sequence[str], int]] = {
    "a residual branch": (f"{UP} h = Relu (a) d = MatMul (h, down) y = Add (d, x)", "feed-forward", "h", -1),
    "after a normalisation, and scaled": (
        ("s = ReduceMean <axes = [-1]> (x) n = Sub (x, s) u = MatMul (n, up) h = Relu (u) d = MatMul (h, down)"
        " t = Mul (d, two) y = Add (t, x)"),
        "feed-forward", "h", -1,
    ),
    "views whose shapes come from one Shape": (
        ("z = Shape <end = 2> (x) i = Concat <axis = 0> (z, narrow) v = Reshape (x, i) u = MatMul (v, up)"
        " j = Concat <axis = 0> (z, broad) a = Reshape (u, j) c = Mul (a, a) g = Add (a, c) h = Tanh (g)"
        " d = MatMul (h, down) y = Add (d, x)"),
        "feed-forward", "h", -1,
    ),
    "a gate": (
        "u = MatMul (x, up) g = MatMul (x, gate) h = Mul (u, g) d = MatMul (h, down) y = Add (x, d)",
        "feed-forward", "h", -1,
    ),
    "beside another branch": (
        (f"{UP} h = Relu (a) d = MatMul (h, down) g = MatMul (x, gate) k = Tanh (g) e = MatMul (k, down)"
        " f = Add (d, e) y = Add (f, x)"),
        "feed-forward", "hk", -1,
    ),
    "behind another branch that reads the same": (
        (f"g = MatMul (x, gate) k = Tanh (g) e = MatMul (k, down) f = Add (x, e) {UP} h = Relu (a)"
        " d = MatMul (h, down) y = Add (f, d)"),
        "feed-forward", "kh", -1,
    ),
    "no residual": (f"{UP} h = Tanh (a) y = MatMul (h, down)", "mlp", "h", -1),
    "no activation": ("u = MatMul (x, up) d = MatMul (u, down) y = Add (d, x)", "low-rank", "u", -1),
    "added to a linear layer": (
        "w = MatMul (x, gate) u = MatMul (x, up) d = MatMul (u, down) v = MatMul (w, down) y = Add (v, d)",
        "low-rank", "uw", -1,
    ),
    "positions apart": (
        ("t = Transpose <perm = [0, 2, 1]> (x) u = Conv (t, up_conv) h = Relu (u) d = Conv (h, down_conv)"
        " y = Add (d, t)"),
        "feed-forward", "h", -2,
    ),
    "a window": (
        ("t = Transpose <perm = [0, 2, 1]> (x) u = Conv <pads = [1, 1]> (t, wide) h = Relu (u)"
        " d = Conv (h, down_conv) y = Add (d, t)"),
        "convolution", "h", -2,
    ),
    "a window between": (
        ("t = Transpose <perm = [0, 2, 1]> (x) u = Conv (t, up_conv) w = Conv <pads = [1, 1], group = 12> (u, depth)"
        " h = Relu (w) d = Conv (h, down_conv) y = Add (d, t)"),
        "convolution", "h", -2,
    ),
    "a stem": (
        "t = Transpose <perm = [0, 2, 1]> (x) u = Conv (t, wide) h = Relu (u) y = Conv (h, down_conv)",
        "convolution", "h", -2,
    ),
}  # fmt: skip
for what, (body, kind, marks, axis) in KINDS.items():
    row(
        f"kind: {what}",
        *(neurons(kind, number=number) for number in range(len(marks))),
        cuts=[{f"ffn.{number}": [3, 4, 9]} for number in range(len(marks))],
    )(lambda net, of=(body, marks), axis=axis: text(net, *of, axis=axis))

SCALED = {"scaled": "w = Mul (e, beta)", "multiplied": "w = MatMul (beta, e)"}
MIXED = {
    "summed": "apart = Unsqueeze (h, second) p = Mul (apart, mix) r = ReduceSum <keepdims = 0> (p, third)",
    "multiplied": "c = MatMul (x, to_mix) maps = Reshape (c, four) k = Softmax (maps) r = MatMul (k, h)",
}
for scaled, mixed in itertools.product(SCALED, MIXED):

    @row(f"hyper-connections, {scaled}, {mixed}", neurons("feed-forward"), missed=None, cuts=HALF[:2])
    def _(net: Net, scaled: str = scaled, mixed: str = mixed) -> Any:
        """A network that is added to each of four mixed streams, each time scaled: no gate, but a residual branch."""
        net.lists(second=[2], third=[3], four=[0, 0, 4, 4])
        body = f"""one = Unsqueeze (x, second) h = Mul (one, alpha) n = ReduceSum <keepdims = 0> (h, second)
            u = MatMul (n, up) a = Relu (u) d = MatMul (a, down) e = Unsqueeze (d, second) {SCALED[scaled]}
            {MIXED[mixed]} s = Add (w, r) y = ReduceSum <keepdims = 0> (s, second)"""
        shapes = {"alpha": (4, 1), "beta": (4, 1), "mix": (4, 4, 1), "to_mix": (8, 16)}
        return text(net, body, "a", **shapes)


NORMS = {
    "root mean square": (
        "q = Mul (h, h) m = ReduceMean <axes = [-1]> (q) e = Sqrt (m) n = Div (h, e)", "ReduceMean",
    ),
    "mean and variance": (
        ("m = ReduceMean <axes = [-1]> (h) c = Sub (h, m) q = Mul (c, c) v = ReduceMean <axes = [-1]> (q)"
        " e = Sqrt (v) n = Div (c, e)"),
        "ReduceMean",
    ),
    "length": ("l = ReduceL2 <axes = [-1]> (h) n = Div (h, l)", "ReduceL2"),
    "centre": ("m = ReduceMean <axes = [-1]> (h) n = Sub (h, m)", "ReduceMean"),
    "levels of the largest": (
        "i = Abs (h) m = ReduceMax <axes = [-1]> (i) l = Div (h, m) r = Round (l) n = Mul (r, m)", "ReduceMax",
    ),
    "one operator": ("n = LayerNormalization <axis = -1> (h, b, b)", "LayerNormalization"),
}  # fmt: skip
MADE = (f"{UP} h = Relu (a)", "u = MatMul (x, up) g = MatMul (x, gate) h = Mul (u, g)")
for (what, (norm, operator)), made in zip(NORMS.items(), itertools.cycle(MADE), strict=False):
    body = f"{made} {norm} d = MatMul (n, down) y = Add (d, x)"
    reason = "coupled" if operator == "LayerNormalization" else "no-projection"
    row(f"neurons are normalised, {what}", neurons("feed-forward", reason=(reason, operator)))(
        lambda net, body=body: text(net, body)
    )

MYSTERY = f"{UP} h = mine.Mystery (a) d = MatMul (h, down) y = Add (d, x)"
NEAR = {
    "an operator of unknown shape": (MYSTERY, ("unknown-shape", "-> d"), ("y",)),
    "groups of channels": (
        "t = Transpose <perm = [0, 2, 1]> (x) u = Conv (t, up_conv) h = Relu (u) y = Conv <group = 2> (h, groups)",
        ("inexpressible", "Conv"), ("y",),
    ),
    "a maximum reads the neurons": (
        f"{UP} h = Relu (a) y = MatMul (h, down) z = ReduceMax (h)", ("no-projection", ""), ("y", "z"),
    ),
    "the neurons are an output": (f"{UP} h = Relu (a) y = MatMul (h, down)", ("no-projection", ""), ("y", "h")),
}  # fmt: skip
for what, (body, miss, ends) in NEAR.items():
    row(f"near a block: {what}", hidden=[miss])(
        lambda net, body=body, ends=ends: text(net, body, ends=ends, groups=(WIDTH, N // 2, 1))
    )


# What an attention owns is no block

CONTEXT = (
    "c = MatMul (p, v) t = Transpose <perm = [0, 2, 1, 3]> (c) j = Reshape (t, joined) o = MatMul (j, wo)"
)
VALUES = "vl = MatMul (x, wv) vs = Reshape (vl, split) v = Transpose <perm = [0, 2, 1, 3]> (vs)"
KEYS = "kl = MatMul (x, wk) ks = Reshape (kl, split) k = Transpose <perm = [0, 2, 3, 1]> (ks)"
QUERIES = "ql = MatMul (x, wq) qs = Reshape (ql, split) q = Transpose <perm = [0, 2, 1, 3]> (qs)"
TALK = "st = Transpose <perm = [0, 2, 3, 1]> (s) sm = MatMul (st, before) sb = Transpose <perm = [0, 3, 1, 2]> (sm)"
BACK = "wt = Transpose <perm = [0, 2, 3, 1]> (w) wm = MatMul (wt, after) p = Transpose <perm = [0, 3, 1, 2]> (wm)"
OWN: dict[str, tuple[Mapping[str, Sequence[int]], str, Found | None]] = {
    "stored queries": (
        {"q": (2, 5, 4)}, f"{KEYS} {VALUES} s = MatMul (q, k) p = Softmax (s) {CONTEXT}", Found(2),
    ),
    "stored keys and values": (
        {"k": (2, 4, 6), "v": (2, 6, 4)}, f"{QUERIES} s = MatMul (q, k) p = Softmax (s) {CONTEXT}", None,
    ),
    "maps that are mixed": (
        {"before": (2, 2), "after": (2, 2)},
        f"{QUERIES} {KEYS} {VALUES} s = MatMul (q, k) {TALK} w = Softmax (sb) {BACK} {CONTEXT}",
        Found(2),
    ),
    "features of queries and keys": (
        {"features": (4, 6)},
        (f"{QUERIES} {KEYS} {VALUES} qf = MatMul (q, features) qe = Exp (qf) kt = Transpose <perm = [0, 1, 3, 2]> (k)"
        " kf = MatMul (kt, features) ke = Exp (kf) kb = Transpose <perm = [0, 1, 3, 2]> (ke) kv = MatMul (kb, v)"
        " c = MatMul (qe, kv) t = Transpose <perm = [0, 2, 1, 3]> (c) j = Reshape (t, joined) o = MatMul (j, wo)"),
        Found(2),
    ),
    "a layer that all heads share": (
        {"same": (4, 4)},
        (f"{QUERIES} {KEYS} {VALUES} s = MatMul (q, k) p = Softmax (s) c = MatMul (p, v)"
        " t = Transpose <perm = [0, 2, 1, 3]> (c) l = MatMul (t, same) j = Reshape (l, joined) o = MatMul (j, wo)"),
        Found(2),
    ),
}  # fmt: skip
for what, (shapes, body, site) in OWN.items():

    @row(
        f"attention's own: {what}",
        *([site] if site else []),
        hidden=(),
        only=("mlp", "low-rank"),
        stays="mixed" in what,
    )
    def _(net: Net, shapes: Any = shapes, body: str = body) -> Any:
        ends = text(net, f"{body} u = MatMul (o, up) h = Relu (u) y = MatMul (h, down)", **shapes)
        net.mark("t", -2, 2)
        return ends


# Neurons of experts in one operator: equally many of each


def _some(toy: mixtures.Mixture) -> list[int]:
    """Half of every expert's neurons, others in each expert; whole bytes and blocks of them."""
    size = 8 // toy.bits * (1 if toy.op == "QMoE" else 0) or 1
    size = toy.block * (2 if toy.zeros else 1) or size
    order = [np.random.default_rng(expert).permutation(toy.width // size) for expert in range(3)]
    count = max(1, toy.width // size // 2)
    chosen = [
        expert * toy.width + at * size + more
        for expert, places in enumerate(order)
        for at in places[:count]
        for more in range(size)
    ]
    return sorted(chosen)


for name, toy in mixtures.RUNNABLE.items():

    def write(net: Net, toy: mixtures.Mixture = toy) -> Graph:
        def expected(feed: Mapping[str, Array], cut: Cut) -> dict[str, Array]:
            made = toy.expected(feed["x"], toy.tensors(), cut.get("ffn.0", ()), cut.get("moe.0", ()))
            return {"y": made.astype(np.float32)}

        return Graph(toy.model(), {"x": mixtures.tokens()}, expected=expected)

    add(
        Row(
            f"operator, {name}",
            write,
            found=[neurons(units=3 * toy.width), Found(3, key="moe.0", of="experts")],
            cuts=[{"ffn.0": _some(toy)}, {"moe.0": [1]}],
            refused=[
                ({"ffn.0": range(toy.width)}, "with different numbers of neurons, or with none"),
                ({"moe.0": [1], "ffn.0": [0, toy.width, 2 * toy.width]}, "."),
            ],
        )
    )
