"""What lies between the heads and their projection: layers that all heads share, and a sum or a mean over heads."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from onnx import ModelProto

from onnxheadprune import inspect
from tests.attention.cuts import check_cut
from tests.graph_text import model_of

H, D, WIDTH = 4, 2, 6
FEED = {"x": np.random.default_rng(3).uniform(-1, 1, (2, 5, WIDTH)).astype(np.float32)}
CUTS = ([1], [0, 2], [0, 1, 2, 3])

HEADS = """
  qf = MatMul(x, q)  q4 = Reshape(qf, apart)  qh = Transpose<perm = [0, 2, 1, 3]>(q4)
  kf = MatMul(x, k)  k4 = Reshape(kf, apart)  kh = Transpose<perm = [0, 2, 3, 1]>(k4)
  vf = MatMul(x, v)  v4 = Reshape(vf, apart)  vh = Transpose<perm = [0, 2, 1, 3]>(v4)
  scores = MatMul(qh, kh)  maps = Softmax<axis = -1>(scores)  c = MatMul(maps, vh)"""
GROUPED = """
  qf = MatMul(x, q)  q4 = Reshape(qf, apart)  qh = Transpose<perm = [0, 2, 1, 3]>(q4)
  kf = MatMul(x, k2)  k4 = Reshape(kf, two)  kt = Transpose<perm = [0, 2, 1, 3]>(k4)
  ku = Unsqueeze(kt, i2)  ke = Expand(ku, twice)  kr = Reshape(ke, grouped)  kh = Transpose<perm = [0, 1, 3, 2]>(kr)
  vf = MatMul(x, v2)  v4 = Reshape(vf, two)  vt = Transpose<perm = [0, 2, 1, 3]>(v4)
  vu = Unsqueeze(vt, i2)  ve = Expand(vu, twice)  vh = Reshape(ve, grouped)
  scores = MatMul(qh, kh)  maps = Softmax<axis = -1>(scores)  c = MatMul(maps, vh)"""
FUSED = """
  qf = MatMul(x, q)  kf = MatMul(x, k)  vf = MatMul(x, v)
  cf = com.microsoft.MultiHeadAttention<num_heads = 4>(qf, kf, vf)
  c4 = Reshape(cf, apart)  c = Transpose<perm = [0, 2, 1, 3]>(c4)"""
ONE_BY_ONE = "\n".join(
    f"  q{i} = MatMul(x, wq{i})  k{i} = MatMul(x, wk{i})  t{i} = Transpose<perm = [0, 2, 1]>(k{i})\n"
    f"  v{i} = MatMul(x, wv%s)  s{i} = MatMul(q{i}, t{i})  m{i} = Softmax<axis = -1>(s{i})\n"
    f"  o{i} = MatMul(m{i}, v{i})  c{i} = Unsqueeze(o{i}, i1)"
    for i in range(H)
)
STACKED = "\n  c = Concat<axis = 1>(c0, c1, c2, c3)"
OWN_VALUES = ONE_BY_ONE % tuple(range(H)) + STACKED
ONE_VALUE = ONE_BY_ONE % (0, 0, 0, 0) + STACKED
ONE_FOR_ALL = HEADS.replace("vf = MatMul(x, v)  v4 = Reshape(vf, apart)", "vf = MatMul(x, wv0)")
BROADCAST = ONE_FOR_ALL.replace("Transpose<perm = [0, 2, 1, 3]>(v4)", "Unsqueeze(vf, i1)")
EINSUM = ONE_FOR_ALL.replace("  vh = Transpose<perm = [0, 2, 1, 3]>(v4)", "").replace(
    "c = MatMul(maps, vh)", 'c = Einsum<equation = "bhst,btd->bhsd">(maps, vf)'
)
ONE_KEY = (
    BROADCAST.replace("kf = MatMul(x, k)  k4 = Reshape(kf, apart)", "kf = MatMul(x, wk0)")
    .replace(
        "Transpose<perm = [0, 2, 3, 1]>(k4)", 'Einsum<equation = "btd->bdt">(kf)  kh = Unsqueeze(ki, i1)'
    )
    .replace("kh = Einsum", "ki = Einsum")
)
MERGED = (
    "\n  ct = Transpose<perm = [0, 2, 1, 3]>(r)  cm = Reshape(ct, merged)  p = MatMul(cm, o)  y = Add(p, x)"
)

WEIGHTS = """float[6, 8] q, float[6, 8] k, float[6, 8] v, float[6, 4] k2, float[6, 4] v2, float[8, 6] o,
  float[2, 6] one, float[6] ob, float[2, 2] w, float[2, 2] w2, float[2] b, float[2] scale, float[4, 2, 2] own,
  float[2, 2, 1] conv, float[2, 2, 3] wide, float[2, 2, 1, 1] conv2, float[1] eps = {0.001}, float half = {0.25},
  float[6, 2] wq0, float[6, 2] wq1, float[6, 2] wq2, float[6, 2] wq3, float[6, 2] wk0, float[6, 2] wk1,
  float[6, 2] wk2, float[6, 2] wk3, float[6, 2] wv0, float[6, 2] wv1, float[6, 2] wv2, float[6, 2] wv3,
  int64[4] apart = {0, 0, 4, 2}, int64[4] two = {0, 0, 2, 2}, int64[4] grouped = {0, 4, -1, 2},
  int64[3] merged = {0, 0, 8}, int64[5] twice = {1, 1, 2, 1, 1}, int64[3] folded = {-1, 5, 2},
  int64[4] unfolded = {-1, 4, 5, 2}, int64[2] rows = {-1, 2}, int64[4] rowsback = {-1, 5, 4, 2}, int64[1] i1 = {1},
  int64[1] i2 = {2}, float[4, 2, 6] out4, int64 at0 = {0}, int64 at1 = {1}, int64 at2 = {2}, int64 at3 = {3},
  float[6, 6] lift6, float[2, 6] wo0, float[2, 6] wo1, float[2, 6] wo2, float[2, 6] wo3"""

FAR = ", ".join(str(row - column + 4) for row in range(5) for column in range(5))
OF_TOKENS = f"""float[5, 6] latents, float[5, 2, 5] positions, float[5, 5] mixing, float[5, 2] narrow,
  float[2, 5, 2] samples, float[9, 4] table, float[6, 6] lift,
  int64[5] five = {{0, 0, 2, 2, 2}}, int64[4] tall = {{0, 2, 10, 2}}, int64[4] apart4 = {{0, 4, 5, 2}},
  int64[5, 5] far = {{{FAR}}},
  float[10, 6] classes, float[40, 6] classes4, int64[1] i0 = {{0}}, int64[1] i5 = {{5}}, int64[3] apart3 = {{0, 4, 2}},
  int64[2] flat = {{0, 40}}, int64[3] eights = {{0, 8, 5}}"""

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
    "Einsum": 'r = Einsum<equation = "bhsd,de->bhse">(c, w)',
    "Gemm": "t = Transpose<perm = [0, 2, 1, 3]>(c)  f = Reshape(t, rows)  g = Gemm(f, w, b)  u = Reshape(g, rowsback)"
    "  r = Transpose<perm = [0, 2, 1, 3]>(u)",
    "Conv of kernel 1": "f = Reshape(c, folded)  t = Transpose<perm = [0, 2, 1]>(f)  m = Conv(t, conv, b)"
    "  n = Transpose<perm = [0, 2, 1]>(m)  r = Reshape(n, unfolded)",
    "Conv over tokens": "f = Reshape(c, folded)  t = Transpose<perm = [0, 2, 1]>(f)"
    "  m = Conv<pads = [1, 1]>(t, wide, b)  n = Transpose<perm = [0, 2, 1]>(m)  r = Reshape(n, unfolded)",
    "Conv over heads and tokens": "t = Transpose<perm = [0, 3, 1, 2]>(c)  m = Conv(t, conv2)"
    "  r = Transpose<perm = [0, 2, 3, 1]>(m)",
    "one of its own behind it": "m = MatMul(c, w)  n = Relu(m)  r = MatMul(n, own)",
}
MEANS = {
    "a mean": "r = ReduceMean<axes = [1], keepdims = 0>(c)",
    "a mean that keeps the axis": "n = ReduceMean<axes = [1], keepdims = 1>(c)  r = Squeeze(n, i1)",
    "a mean over the last axis": "t = Transpose<perm = [0, 2, 3, 1]>(c)  r = ReduceMean<axes = [-1], keepdims = 0>(t)",
    "a mean of layers": "m = MatMul(c, w)  n = Add(m, b)  r = ReduceMean<axes = [1], keepdims = 0>(n)",
    "a sum": "r = ReduceSum<keepdims = 0>(c, i1)",
    "a sum with a divisor": "n = ReduceSum<keepdims = 0>(c, i1)  r = Mul(n, half)",
}


class Kind(NamedTuple):
    """How heads are computed, and how many share keys and values."""

    nodes: str
    kv_num_heads: int


KINDS = {
    "heads": Kind(HEADS, H),
    "groups": Kind(GROUPED, 2),
    "a fused operator": Kind(FUSED, H),
    "one value for all": Kind(BROADCAST, 1),
    "one value for all, without an axis": Kind(EINSUM, 1),
    "one key and value for all": Kind(ONE_KEY, 1),
    "one by one": Kind(OWN_VALUES, H),
    "one by one, of one value": Kind(ONE_VALUE, 1),
}


def _model(*parts: str, opset: int = 17) -> ModelProto:
    """The model of these nodes, with its unused weights left out."""
    nodes = "\n".join(parts)
    declared = [item.strip() for item in _split(WEIGHTS)]
    used = [item for item in declared if _is_used(_name(item), nodes)]
    # What folds heads into rows writes the length down.
    size = "2, 5" if any("-1, 5" in item for item in used) else "b, s"
    return model_of(
        f'<ir_version: 9, opset_import: ["" : {opset}, "com.microsoft" : 1]>\n'
        f"g (float[{size}, 6] x) => (float[{size}, 6] y) <{', '.join(used)}> {{\n{nodes}\n}}"
    )


def _split(declared: str) -> list[str]:
    """Declarations one by one; brackets and braces hold commas, too."""
    found, depth = [""], 0
    for letter in declared:
        depth += (letter in "[{") - (letter in "]}")
        found = [*found, ""] if letter == "," and not depth else [*found[:-1], found[-1] + letter]
    return found


def _name(declared: str) -> str:
    return declared.split("=")[0].split()[-1]


def _is_used(name: str, nodes: str) -> bool:
    read = nodes.replace("(", " ").replace(")", " ").replace(",", " ").split()
    return name in read


def _exact(model: ModelProto, kv_num_heads: int) -> None:
    (site,) = (sites := inspect(model))
    assert (site.num_heads, site.kv_num_heads, site.removable) == (H, kv_num_heads, True), sites.near_misses
    assert not sites.near_misses and not sites.no_heads
    for gone in CUTS:
        if kv_num_heads != 2 or len(gone) > 1:
            check_cut(model, FEED, gone)


PICKED = "\n".join(f"  h{i} = Gather<axis = 1>(c, at{i})" for i in range(H))
OWN = {
    "lifted, one by one": (
        f"w4 = MatMul(c, own)\n{PICKED.replace('(c, ', '(w4, ')}\n"
        "  cm = Concat<axis = -1>(h0, h1, h2, h3)  p = MatMul(cm, o)  y = Add(p, x)"
    ),
    "projected apart, and added up in front of other layers": (
        "a = MatMul(c, out4)  p = ReduceSum<keepdims = 0>(a, i1)  z = Add(p, x)"
        "  fa = MatMul(z, wq0)  ga = Tanh(fa)  ha = MatMul(ga, one)  ia = Add(ha, z)"
        "  fb = MatMul(ia, wq1)  gb = Tanh(fb)  hb = MatMul(gb, one)  y = Add(hb, ia)"
    ),
}


@pytest.mark.each_choice
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("own", OWN)
def test_heads_with_weights_of_their_own_are_told_apart(own: str, kind: str) -> None:
    """Where one head is picked, its labels lie at one position, which says as much as several do."""
    model = _model(KINDS[kind].nodes, OWN[own])
    (site,) = (sites := inspect(model))
    assert (site.num_heads, site.kv_num_heads, site.removable) == (H, KINDS[kind].kv_num_heads, True)
    assert not sites.near_misses and not sites.no_heads and len({*site.projections}) == len(site.projections)
    for gone in CUTS:
        if KINDS[kind].kv_num_heads != 2 or len(gone) > 1:
            check_cut(model, FEED, gone)


def test_a_layer_whose_shape_is_read_makes_no_scores() -> None:
    """Queries of a group lie in a row, behind two linear layers; scores are divided by the root of their size."""
    nodes = """h = MatMul(x, lift)  qf = MatMul(h, q)  q5 = Reshape(qf, five)
      qt = Transpose<perm = [0, 2, 3, 1, 4]>(q5)
      qr = Reshape(qt, tall)  kf = MatMul(x, k2)  k4 = Reshape(kf, two)  kh = Transpose<perm = [0, 2, 3, 1]>(k4)
      vf = MatMul(x, v2)  v4 = Reshape(vf, two)  vh = Transpose<perm = [0, 2, 1, 3]>(v4)  dot = MatMul(qr, kh)
      size = Shape<start = 3>(qr)  sized = Cast<to = 1>(size)  root = Sqrt(sized)  scores = Div(dot, root)
      maps = Softmax<axis = -1>(scores)  c = MatMul(maps, vh)  r = Reshape(c, apart4)"""
    model = _of_tokens(f"{nodes} {MERGED}", "5, 6")
    (site,) = inspect(model)
    assert (site.num_heads, site.kv_num_heads, site.removable) == (H, 2, True)
    check_cut(model, FEED, [0, 2])


def test_tokens_of_one_head_are_no_heads() -> None:
    """Biases are looked up by computed positions, so that nothing says whether weights tell tokens apart."""
    looked_up = (
        "n = Shape<end = 1>(x)  none = Sub(n, n)  at = Add(far, none)  g = Gather<axis = 0>(table, at)"
        "  places = Transpose<perm = [2, 0, 1]>(g)  s = Add(scores, places)  maps = Softmax<axis = -1>(s)"
    )
    made = HEADS.replace("maps = Softmax<axis = -1>(scores)", looked_up)
    outs = "\n".join(f"  p{i} = MatMul(h{i}, wo{i})" for i in range(H))
    model = _of_tokens(f"{made}\n{PICKED}\n{outs}\n  p = Sum(p0, p1, p2, p3)  y = Add(p, x)", "5, 6")
    (site,) = (sites := inspect(model))
    assert (site.num_heads, site.removable, sites.near_misses) == (H, True, ())
    check_cut(model, FEED, [1])


FOLDED = ("Gemm", "Conv of kernel 1", "Conv over tokens")
"""They fold heads and samples into one axis, in which labels do not tell whose core made what."""


@pytest.mark.each_choice
@pytest.mark.parametrize(
    ("kind", "shared"),
    [(kind, shared) for kind in KINDS for shared in SHARED if "one by" not in kind or shared not in FOLDED],
)
def test_heads_are_found_behind_layers_that_they_share(shared: str, kind: str) -> None:
    _exact(_model(KINDS[kind].nodes, SHARED[shared], MERGED), KINDS[kind].kv_num_heads)


BLENDED = {
    "their maximum": (HEADS, "r = ReduceMax<axes = [1], keepdims = 0>(c)"),
    "the mean of their maps": (
        HEADS.replace("c = MatMul(maps, vh)", "map1 = ReduceMean<axes = [1], keepdims = 0>(maps)"),
        "v1 = MatMul(x, wv0)  r = MatMul(map1, v1)",
    ),
    "one added to the other": (
        ONE_BY_ONE % tuple(range(H)),
        "d1 = Add(o0, o1)  d2 = Add(d1, o2)  d3 = Add(d2, o3)  r = Mul(d3, half)",
    ),
    "a sum of all, of one value": (ONE_BY_ONE % (0, 0, 0, 0), "r = Sum(o0, o1, o2, o3)"),
    **{
        f"{mean} of {kind}": (made.nodes, nodes)
        for mean, nodes in MEANS.items()
        for kind, made in KINDS.items()
    },
}


@pytest.mark.parametrize("how", BLENDED)
def test_heads_that_are_summed_without_weights_are_one(how: str) -> None:
    """No weights tell them apart: they are one head, or none where no layer reads their sum alone."""
    nodes, blend = BLENDED[how]
    model = _model(nodes, blend, "p = MatMul(r, one)  y = Add(p, x)")
    sites = inspect(model)
    assert [(site.num_heads, site.removable) for site in sites] in ([(1, True)], [])
    assert bool(sites) is not bool(sites.near_misses or sites.no_heads)
    if sites:
        check_cut(model, FEED, [0])


@pytest.mark.parametrize("joined", ["m3 = Mul(o0, o1)", "m3 = Sub(o0, o1)"])
def test_contexts_that_gate_each_other_are_one_head(joined: str) -> None:
    """So are two maps whose contexts are subtracted (a differential head)."""
    nodes = "\n".join((ONE_BY_ONE % (0, 0, 0, 0)).splitlines()[:6])
    (site,) = inspect(_model(nodes, f"{joined}  p = MatMul(m3, one)  y = Add(p, x)"))
    assert site.num_heads == 1


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
}


MANY_HEADS = {
    "stored queries": "qf = MatMul(latents, q)  q3 = Reshape(qf, apart3)  qh = Transpose<perm = [1, 0, 2]>(q3)"
    "  scores = MatMul(qh, kh)",
    "relative positions": "qf = MatMul(x, q)  q4 = Reshape(qf, apart)  qh = Transpose<perm = [0, 2, 1, 3]>(q4)"
    '  a0 = MatMul(qh, kh)  a1 = Einsum<equation = "bhid,idj->bhij">(qh, positions)  scores = Add(a0, a1)',
}


def _of_tokens(nodes: str, sizes: str) -> ModelProto:
    """The model of these nodes, which has fixed tokens."""
    declared = [
        item for item in map(str.strip, _split(f"{WEIGHTS}, {OF_TOKENS}")) if _is_used(_name(item), nodes)
    ]
    batch = "2" if "samples" in nodes else "b"
    return model_of(
        '<ir_version: 9, opset_import: ["" : 17]>\n'
        f"g (float[{batch}, 5, 6] x) => (float[{batch}, {sizes}] y) <{', '.join(declared)}> {{\n{nodes}\n}}"
    )


@pytest.mark.each_choice
@pytest.mark.parametrize("behind", ["a mean", "a layer over tokens", "a classifier"])
@pytest.mark.parametrize("tokens", TOKENS)
def test_tokens_that_weights_tell_apart_are_no_heads(tokens: str, behind: str) -> None:
    """They lie along the maps, too, and the value has no axis for them either."""
    ends = {
        "a mean": "r = ReduceMean<axes = [1], keepdims = 0>(c)  y = MatMul(r, one)",
        "a layer over tokens": "t2 = Transpose<perm = [0, 2, 1]>(c)  y = MatMul(t2, mixing)",
        "a classifier": "f = Flatten(c)  y = MatMul(f, classes)",
    }
    nodes = "\n".join(
        (
            "kf = MatMul(x, wk0)  kt = Transpose<perm = [0, 2, 1]>(kf)  vf = MatMul(x, wv0)",
            TOKENS[tokens],
            f"m = Softmax<axis = -1>(a)  c = MatMul(m, vf)  {ends[behind]}",
        )
    )
    model = _of_tokens(nodes, "2, 5" if behind == "a layer over tokens" else "6")
    assert [site.num_heads for site in inspect(model)] in ([], [1])


@pytest.mark.parametrize("scores", MANY_HEADS)
def test_a_classifier_of_all_tokens_reads_heads(scores: str) -> None:
    """Tokens have weights of their own there, and stored queries or positions upstream; heads still are the heads."""
    made = HEADS.replace(
        "qf = MatMul(x, q)  q4 = Reshape(qf, apart)  qh = Transpose<perm = [0, 2, 1, 3]>(q4)", ""
    )
    made = made.replace("scores = MatMul(qh, kh)", MANY_HEADS[scores])
    behind = "ct = Transpose<perm = [0, 2, 1, 3]>(c)  cm = Reshape(ct, flat)  y = MatMul(cm, classes4)"
    model = _of_tokens(f"{made}  {behind}", "6")
    (site,) = inspect(model)
    assert (site.num_heads, site.kv_num_heads, site.v_head_size) == (H, H, D)
    for gone in CUTS:
        check_cut(model, FEED, gone)


@pytest.mark.parametrize("scores", MANY_HEADS)
def test_a_layer_over_tokens_is_no_projection_of_heads(scores: str) -> None:
    """It treats all of them alike, and nothing behind it sums them up."""
    made = HEADS.replace(
        "qf = MatMul(x, q)  q4 = Reshape(qf, apart)  qh = Transpose<perm = [0, 2, 1, 3]>(q4)", ""
    )
    made = made.replace("scores = MatMul(qh, kh)", MANY_HEADS[scores])
    behind = "t3 = Transpose<perm = [0, 1, 3, 2]>(c)  m3 = MatMul(t3, mixing)  y = Reshape(m3, eights)"
    sites = inspect(_of_tokens(f"{made}  {behind}", "8, 5"))
    assert not len(sites)
    assert len(sites.near_misses) == 1


def test_stored_queries_that_attend_to_each_other_have_heads() -> None:
    """DETR's first decoder layer reads nothing of the input but its batch."""
    made = HEADS.replace("MatMul(x,", "MatMul(told,")
    repeated = (
        "l = Shape<end = 1>(x)  o2 = Shape(latents)  l3 = Concat<axis = 0>(l, o2)  told = Expand(latents, l3)"
    )
    behind = (
        "ct = Transpose<perm = [0, 2, 1, 3]>(c)  cm = Reshape(ct, merged)  p = MatMul(cm, o)  y = Add(p, x)"
    )
    (site,) = inspect(_of_tokens(f"{repeated}  {made}  {behind}", "5, 6"))
    assert (site.num_heads, site.removable) == (H, True)


def test_one_head_has_its_projection() -> None:
    """A single head, and a classifier of all tokens behind it: no axis of the context tells heads apart."""
    nodes = (
        "qf = MatMul(x, wq0)  kf = MatMul(x, wk0)  kt = Transpose<perm = [0, 2, 1]>(kf)  vf = MatMul(x, wv0)"
        "  s = MatMul(qf, kt)  m = Softmax<axis = -1>(s)  c = MatMul(m, vf)  p = MatMul(c, one)  y = Add(p, x)"
    )
    (site,) = inspect(_model(nodes))
    assert (site.num_heads, site.projection_names) == (1, ("p",))


def test_tokens_beside_registers_are_no_heads() -> None:
    """Hyper-connections mix the streams of each token, of which a layer computes some and no others."""
    model = model_of(
        """<ir_version: 9, opset_import: ["" : 17]> g (float[1, 4, 6] x) => (float[1, 8, 8] y)
    <float[6, 8] embedding, float[1, 4, 8] registers, float[8, 2] g, float[8, 10] up, float[10, 8] down,
     int64[1] i2 = {2}> {
      patches = MatMul(x, embedding)  tokens = Concat<axis = 1>(patches, registers)  stream = Unsqueeze(tokens, i2)
      streams = Concat<axis = 2>(stream, stream)  scores = MatMul(tokens, g)  gates = Tanh(scores)
      gate = Unsqueeze(gates, i2)  mixed = MatMul(gate, streams)  read = Squeeze(mixed, i2)
      wide = MatMul(read, up)  active = Relu(wide)  y = MatMul(active, down)
    }"""
    )
    (block,) = inspect(model).neurons
    assert (block.num_units, block.removable) == (10, True)
