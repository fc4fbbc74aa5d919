"""Rows by what lies between heads and their projection: layers that all heads share, and sums or means over heads."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from tests.graphs.net import Net, each
from tests.graphs.table import Found, row

B, S, H, D, WIDTH = 2, 5, 4, 2, 6
QUERIES = "qf = MatMul(x, q)  q4 = Reshape(qf, apart)  qh = Transpose<perm = [0, 2, 1, 3]>(q4)"
KEYS = "kf = MatMul(x, k)  k4 = Reshape(kf, apart)  kh = Transpose<perm = [0, 2, 3, 1]>(k4)"
VALUES = "vf = MatMul(x, v)  v4 = Reshape(vf, apart)  vh = Transpose<perm = [0, 2, 1, 3]>(v4)"
SCORES, WEIGHED = "scores = MatMul(qh, kh)", "maps = Softmax<axis = -1>(scores)  c = MatMul(maps, vh)"
HEADS = f"{QUERIES}  {KEYS}  {VALUES}  {SCORES}  {WEIGHED}"
GROUPED = f"""{QUERIES}
  kf = MatMul(x, kk)  k4 = Reshape(kf, two)  kt = Transpose<perm = [0, 2, 1, 3]>(k4)
  ku = Unsqueeze(kt, i2)  ke = Expand(ku, twice)  kr = Reshape(ke, grouped)  kh = Transpose<perm = [0, 1, 3, 2]>(kr)
  vf = MatMul(x, vv)  v4 = Reshape(vf, two)  vt = Transpose<perm = [0, 2, 1, 3]>(v4)
  vu = Unsqueeze(vt, i2)  ve = Expand(vu, twice)  vh = Reshape(ve, grouped)  {SCORES}  {WEIGHED}"""
ONE_BY_ONE = "\n".join(
    f"  q{i} = MatMul(x, wq{i})  k{i} = MatMul(x, wk{i})  t{i} = Transpose<perm = [0, 2, 1]>(k{i})\n"
    f"  v{i} = MatMul(x, wv%s)  s{i} = MatMul(q{i}, t{i})  m{i} = Softmax<axis = -1>(s{i})\n"
    f"  o{i} = MatMul(m{i}, v{i})  c{i} = Unsqueeze(o{i}, i1)"
    for i in range(H)
)
STACKED = "\n  c = Concat<axis = 1>(c0, c1, c2, c3)"
KINDS = {
    "heads": (HEADS, H),
    "groups": (GROUPED, 2),
    "a fused operator": (
        ("qf = MatMul(x, q)  kf = MatMul(x, k)  vf = MatMul(x, v)"
        "  cf = com.microsoft.MultiHeadAttention<num_heads = 4>(qf, kf, vf)"
        "  c4 = Reshape(cf, apart)  c = Transpose<perm = [0, 2, 1, 3]>(c4)"),
        H,
    ),
    "one value for all": (
        f"{QUERIES}  {KEYS}  vf = MatMul(x, wv0)  vh = Unsqueeze(vf, i1)  {SCORES}  {WEIGHED}", 1,
    ),
    "one value for all, without an axis": (
        (f"{QUERIES}  {KEYS}  vf = MatMul(x, wv0)  {SCORES}  maps = Softmax<axis = -1>(scores)"
        '  c = Einsum<equation = "bhst,btd->bhsd">(maps, vf)'),
        1,
    ),
    "one key and value for all": (
        (f"{QUERIES}  kf = MatMul(x, wk0)  ki = Transpose<perm = [0, 2, 1]>(kf)  kh = Unsqueeze(ki, i1)"
        f"  vf = MatMul(x, wv0)  vh = Unsqueeze(vf, i1)  {SCORES}  {WEIGHED}"),
        1,
    ),
    "one by one": (ONE_BY_ONE % tuple(range(H)) + STACKED, H),
    "one by one, of one value": (ONE_BY_ONE % (0, 0, 0, 0) + STACKED, 1),
}  # fmt: skip
"""Ways to compute heads, and the numbers of those that share keys and values."""
SHAPES: dict[str, Sequence[int]] = {
    **dict.fromkeys("qkv", (WIDTH, H * D)),
    **dict.fromkeys(("kk", "vv"), (WIDTH, 2 * D)),
    **{f"w{name}{head}": (WIDTH, D) for name in "qkv" for head in range(H)},
    **{f"wo{head}": (D, WIDTH) for head in range(H)},
    **dict.fromkeys(("w", "w2"), (D, D)), **dict.fromkeys(("b", "scale"), (D,)),
    "o": (H * D, WIDTH), "one": (D, WIDTH), "own": (H, D, D), "out4": (H, D, WIDTH),
    "conv": (D, D, 1), "wide": (D, D, 3), "conv2": (D, D, 1, 1), "lift": (WIDTH, WIDTH),
    "latents": (S, WIDTH), "positions": (S, D, S), "mixing": (S, S), "narrow": (S, D), "samples": (B, S, D),
    "table": (9, H), "classes": (S * D, WIDTH), "classes4": (S * H * D, WIDTH),
}  # fmt: skip
LISTS: dict[str, Sequence[int]] = {
    "apart": [0, 0, H, D], "two": [0, 0, 2, D], "grouped": [0, H, -1, D], "together": [0, 0, H * D],
    "twice": [1, 1, 2, 1, 1], "folded": [-1, S, D], "unfolded": [-1, H, S, D], "rows": [-1, D],
    "rowsback": [-1, S, H, D], "i0": [0], "i1": [1], "i2": [2], "i5": [S], "five": [0, 0, 2, 2, D],
    "tall": [0, 2, 2 * S, D], "apart4": [0, H, S, D], "apart3": [0, H, D], "flat": [0, S * H * D],
    "eights": [0, H * D, S],
}  # fmt: skip
MERGED = (
    "ct = Transpose<perm = [0, 2, 1, 3]>(r)  cm = Reshape(ct, together)  p = MatMul(cm, o)  y = Add(p, x)"
)


def _text(net: Net, *parts: str, fixed: bool = False) -> Any:
    """Nodes over `x` [B, S, WIDTH], and the output `y`."""
    body = "  ".join(parts)
    batch = "-" if "samples" in body else "b"
    net.input(
        "x", (B, S, WIDTH), f"{batch}--" if fixed or "folded" in body or "rows" in body else f"{batch}s-"
    )
    net.tensors(**SHAPES)
    net.lists(**LISTS)
    for number in range(H):
        net.constant(f"at{number}", np.int64(number))
    net.constant("half", np.float32(0.25))
    net.constant("eps", np.full(1, 0.001, np.float32))
    net.constant("far", np.arange(S)[:, None] - np.arange(S) + S - 1)
    net.text(body)
    return "y"


def _found(kind: str) -> Found:
    return Found(H, KINDS[kind][1], size=None)


SHARED = {
    "a matrix": "r = MatMul(c, w)",
    "a bias": "m = MatMul(c, w)  r = Add(m, b)",
    "another axis of heads": "t = Transpose<perm = [0, 2, 1, 3]>(c)  m = MatMul(t, w)  n = Add(m, b)"
    "  r = Transpose<perm = [0, 2, 1, 3]>(n)",
    "two layers": "m = MatMul(c, w)  n = Add(m, b)  a = Relu(n)  r = MatMul(a, w2)",
    "a norm": "m = MatMul(c, w)  r = LayerNormalization<axis = -1>(m, scale, b)",
    "a norm written out": "m = MatMul(c, w)  sq = Mul(m, m)  mean = ReduceMean<axes = [3], keepdims = 1>(sq)"
    "  e = Add(mean, eps)  d = Sqrt(e)  r = Div(m, d)",
    "a residual branch": "m = MatMul(c, w)  a = Tanh(m)  n = MatMul(a, w2)  r = Add(c, n)",
    "a gate": "m = MatMul(c, w)  a = Sigmoid(m)  r = Mul(c, a)",
    "Gemm": "t = Transpose<perm = [0, 2, 1, 3]>(c)  f = Reshape(t, rows)  g = Gemm(f, w, b)  u = Reshape(g, rowsback)"
    "  r = Transpose<perm = [0, 2, 1, 3]>(u)",
    "Conv over tokens": "f = Reshape(c, folded)  t = Transpose<perm = [0, 2, 1]>(f)"
    "  m = Conv<pads = [1, 1]>(t, wide, b)  n = Transpose<perm = [0, 2, 1]>(m)  r = Reshape(n, unfolded)",
    "Conv of kernel 1": "f = Reshape(c, folded)  t = Transpose<perm = [0, 2, 1]>(f)  m = Conv(t, conv, b)"
    "  n = Transpose<perm = [0, 2, 1]>(m)  r = Reshape(n, unfolded)",
    "Conv over heads and tokens": "t = Transpose<perm = [0, 3, 1, 2]>(c)  m = Conv(t, conv2)"
    "  r = Transpose<perm = [0, 2, 3, 1]>(m)",
    "Einsum": 'r = Einsum<equation = "bhsd,de->bhse">(c, w)',
    "one of its own behind it": "m = MatMul(c, w)  n = Relu(m)  r = MatMul(n, own)",
}  # fmt: skip
for (what, layer), kind in zip(SHARED.items(), itertools.cycle(KINDS), strict=False):

    @row(f"{kind} behind a shared layer, {what}", _found(kind))
    def _(net: Net, kind: str = kind, layer: str = layer) -> Any:
        made = _text(net, KINDS[kind][0], layer, MERGED)
        net.mark("r", -3, H)
        return made


PICKED = "  ".join(f"h{i} = Gather<axis = 1>(%s, at{i})" for i in range(H))
OWN = {
    "one by one": (
        f"w4 = MatMul(c, own)  {PICKED % (('w4',) * H)}"
        "  cm = Concat<axis = -1>(h0, h1, h2, h3)  p = MatMul(cm, o)  y = Add(p, x)"
    ),
    "added up in front of other layers": (
        "a = MatMul(c, out4)  p = ReduceSum<keepdims = 0>(a, i1)  z = Add(p, x)"
        "  fa = MatMul(z, wq0)  ga = Tanh(fa)  ha = MatMul(ga, one)  ia = Add(ha, z)"
        "  fb = MatMul(ia, wq1)  gb = Tanh(fb)  hb = MatMul(gb, one)  y = Add(hb, ia)"
    ),
}
for (kind, (made, _kv)), own in zip(KINDS.items(), itertools.cycle(OWN), strict=False):

    @row(f"{kind} with weights of their own, {own}", _found(kind))
    def _(net: Net, made: str = made, own: str = own) -> Any:
        """Where one head is picked, its labels lie at one position, which says as much as several do."""
        _text(net, made, OWN[own])
        net.mark("c", -3, H)
        return "y"


# Without weights that tell them apart, heads are one

MEANS = {
    "a mean": "r = ReduceMean<axes = [1], keepdims = 0>(c)",
    "a mean that keeps the axis": "n = ReduceMean<axes = [1], keepdims = 1>(c)  r = Squeeze(n, i1)",
    "a mean over the last axis": "t = Transpose<perm = [0, 2, 3, 1]>(c)  r = ReduceMean<axes = [-1], keepdims = 0>(t)",
    "a sum": "r = ReduceSum<keepdims = 0>(c, i1)",
    "a sum with a divisor": "n = ReduceSum<keepdims = 0>(c, i1)  r = Mul(n, half)",
}
ONE_OF_ONE = "\n".join((ONE_BY_ONE % (0, 0, 0, 0)).splitlines()[:6])
BLENDED = {
    "their maximum": (HEADS, "r = ReduceMax<axes = [1], keepdims = 0>(c)"),
    "the mean of their maps": (
        f"{QUERIES}  {KEYS}  {SCORES}  maps = Softmax<axis = -1>(scores)",
        "map1 = ReduceMean<axes = [1], keepdims = 0>(maps)  v1 = MatMul(x, wv0)  r = MatMul(map1, v1)",
    ),
    "one added to the other": (
        ONE_BY_ONE % tuple(range(H)),
        "d1 = Add(o0, o1)  d2 = Add(d1, o2)  d3 = Add(d2, o3)  r = Mul(d3, half)",
    ),
    "a sum of all, of one value": (ONE_BY_ONE % (0, 0, 0, 0), "r = Sum(o0, o1, o2, o3)"),
    "one times the other": (ONE_OF_ONE, "r = Mul(o0, o1)"),
    "one less the other": (ONE_OF_ONE, "r = Sub(o0, o1)"),
    **{
        f"{mean} of {kind}": (KINDS[kind][0], MEANS[mean])
        for kind, mean in zip(KINDS, itertools.cycle(MEANS), strict=False)
    },
}
for what, (made, blend) in BLENDED.items():

    @row(f"heads are one: {what}", Found(1))
    def _(net: Net, made: str = made, blend: str = blend) -> Any:
        """Contexts that gate each other are one head, too, and two maps whose contexts are subtracted."""
        _text(net, made, blend, "p = MatMul(r, one)  y = Add(p, x)")
        net.mark("r", -1, each(1, D))
        return "y"


for kind, lists in {
    "groups": {"missed": [("no-projection", "MatMul -> c")]},
    "a fused operator": {"missed": [("no-projection", "MultiHeadAttention")]},
    "one by one": {"no_heads": H},
}.items():
    row(f"a mean of layers of {kind}", **lists)(
        lambda net, kind=kind: _text(
            net, KINDS[kind][0], "m = MatMul(c, w)  n = Add(m, b)  r = ReduceMean<axes = [1], keepdims = 0>(n)",
            "p = MatMul(r, one)  y = Add(p, x)",
        )
    )  # fmt: skip


# Tokens that weights tell apart lie along the maps, too, and the value has no axis for them either

TOKENS = {
    "tokens": "q1 = MatMul(x, wq0)  a = MatMul(q1, kt)",
    "stored queries, computed once per model": "q1 = MatMul(latents, wq0)  a = MatMul(q1, kt)",
    "stored queries, repeated for a batch": "q1 = MatMul(latents, wq0)  l = Shape<end = 1>(x)  o2 = Shape(q1)"
    "  l3 = Concat<axis = 0>(l, o2)  q2 = Expand(q1, l3)  a = MatMul(q2, kt)",
    "stored queries, projected in a batch": "l = Shape<end = 1>(x)  o2 = Shape(latents)  l3 = Concat<axis = 0>(l, o2)"
    "  q2 = Expand(latents, l3)  q1 = MatMul(q2, wq0)  a = MatMul(q1, kt)",
    "relative positions": "q1 = MatMul(x, wq0)  a0 = MatMul(q1, kt)  t = Transpose<perm = [1, 0, 2]>(q1)"
    "  r0 = MatMul(t, positions)  r1 = Transpose<perm = [1, 0, 2]>(r0)  a = Add(a0, r1)",
    "stored queries, met by keys with a bias": "kb = Add(kf, b)  ke = Transpose<perm = [0, 2, 1]>(kb)"
    "  a = MatMul(narrow, ke)",
    "stored queries of a fixed batch": "a = MatMul(samples, kt)",
    "two texts": "x0 = Slice(x, i0, i1, i1)  x1 = Slice(x, i1, i5, i1)  q0 = MatMul(x0, wq0)  q1 = MatMul(x1, wq1)"
    "  q2 = Concat<axis = 1>(q0, q1)  a = MatMul(q2, kt)",
}  # fmt: skip
BEHIND = {
    "a mean": "r = ReduceMean<axes = [1], keepdims = 0>(c)  y = MatMul(r, one)",
    "a layer over tokens": "t2 = Transpose<perm = [0, 2, 1]>(c)  y = MatMul(t2, mixing)",
    "a classifier": "f = Flatten(c)  y = MatMul(f, classes)",
}
ONE_VALUE = "kf = MatMul(x, wk0)  kt = Transpose<perm = [0, 2, 1]>(kf)  vf = MatMul(x, wv0)"
for (what, queries), behind in zip(TOKENS.items(), itertools.cycle(BEHIND), strict=False):

    @row(f"{what} are no heads in front of {behind}", Found(1))
    def _(net: Net, queries: str = queries, behind: str = BEHIND[behind]) -> Any:
        _text(net, ONE_VALUE, queries, f"m = Softmax<axis = -1>(a)  c = MatMul(m, vf)  {behind}", fixed=True)
        net.mark("c", -1, each(1, D))
        return "y"


MANY_HEADS = {
    "stored queries": "qf = MatMul(latents, q)  q3 = Reshape(qf, apart3)  qh = Transpose<perm = [1, 0, 2]>(q3)"
    f"  {SCORES}",
    "relative positions": f"{QUERIES}  a0 = MatMul(qh, kh)"
    '  a1 = Einsum<equation = "bhid,idj->bhij">(qh, positions)  scores = Add(a0, a1)',
}
for what, scores in MANY_HEADS.items():

    @row(f"a classifier of all tokens reads heads, {what}", Found(H, size=D))
    def _(net: Net, scores: str = scores) -> Any:
        """Tokens have weights of their own there; heads still are the heads."""
        behind = "ct = Transpose<perm = [0, 2, 1, 3]>(c)  cm = Reshape(ct, flat)  y = MatMul(cm, classes4)"
        _text(net, KEYS, VALUES, scores, WEIGHED, behind, fixed=True)
        net.mark("c", -3, H)
        return "y"

    @row(f"a layer over tokens is no projection of heads, {what}", missed=[("no-projection", "")])
    def _(net: Net, scores: str = scores) -> Any:
        """It treats all of them alike, and nothing behind it sums them up."""
        behind = "t3 = Transpose<perm = [0, 1, 3, 2]>(c)  m3 = MatMul(t3, mixing)  y = Reshape(m3, eights)"
        return _text(net, KEYS, VALUES, scores, WEIGHED, behind, fixed=True)


@row("stored queries that attend to each other have heads", Found(H, size=D))
def _(net: Net) -> Any:
    """DETR's first decoder layer reads nothing of the input but its batch."""
    repeated = (
        "l = Shape<end = 1>(x)  o2 = Shape(latents)  l3 = Concat<axis = 0>(l, o2)  told = Expand(latents, l3)"
    )
    made = _text(
        net, repeated, HEADS.replace("MatMul(x,", "MatMul(told,"), "r = Identity(c)", MERGED, fixed=True
    )
    net.mark("r", -3, H)
    return made
