"""Heads as the slower part of an axis of unknown length: all samples of one head, then those of the next one.

The cases are all ways into such an axis times all ways out of it, with one thing or another in between.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from onnx import ModelProto

from onnxheadprune.attention.masking import masked_reference
from onnxheadprune.attention.planning import analyse
from onnxheadprune.attention.sites.find import inspect
from onnxheadprune.edit.apply import apply_plan
from onnxheadprune.validation.core_masks import silenced_cores
from tests.graph_text import model_of
from tests.liveness.one_node import run

WAYS_IN = {
    "concat": "{n}1, {n}2, {n}3, {n}4 = Split <axis = 2, num_outputs = 4> ({n}l)"
    " {n}h = Concat <axis = 0> ({n}1, {n}2, {n}3, {n}4)",
    "reshape": "{n}1 = Reshape ({n}l, split) {n}2 = Transpose <perm = [2, 0, 1, 3]> ({n}1)"
    " {n}h = Reshape ({n}2, rows)",
}
SAME = "qq = Identity (qh)", "s = Identity (raw)"
BETWEEN = {
    "nothing": SAME,
    "norm": ("qq = LayerNormalization (qh, scale)", SAME[1]),
    "halves": (
        "a = Slice (qh, zero, two, last) b = Slice (qh, two, four, last) qq = Concat <axis = -1> (b, a)",
        SAME[1],
    ),
    "mask of tokens": (SAME[0], "s = Add (raw, m)"),
    "mask per sample": (SAME[0], "wide = Expand (m, spread) of = Reshape (wide, mrows) s = Add (raw, of)"),
}
PIECES = "p1, p2, p3, p4"
WAYS_OUT = {
    "reshape": "c4 = Reshape (c, apart) ct = Transpose <perm = [1, 2, 0, 3]> (c4) y = Reshape (ct, flat)",
    "split": f"sizes = Concat <axis = 0> (batch, batch, batch, batch) {PIECES} = Split <axis = 0> (c, sizes)"
    f" y = Concat <axis = 2> ({PIECES})",
    "equal split": f"{PIECES} = Split <axis = 0, num_outputs = 4> (c) y = Concat <axis = 2> ({PIECES})",
    "slices": "b2 = Mul (batch, two) b3 = Mul (batch, three) p1 = Slice (c, zero, batch, zero)"
    " p2 = Slice (c, batch, b2, zero) p3 = Slice (c, b2, b3, zero) p4 = Slice (c, b3, end, zero)"
    f" y = Concat <axis = 2> ({PIECES})",
    "slices by int32": "nb = Cast <to = 6> (batch) n0 = Cast <to = 6> (zero) n2 = Cast <to = 6> (two)"
    " n3 = Cast <to = 6> (three) ne = Constant <value_ints = [2147483647]> () ni = Cast <to = 6> (ne)"
    " b2 = Mul (nb, n2) b3 = Mul (nb, n3) p1 = Slice (c, n0, nb, n0) p2 = Slice (c, nb, b2, n0)"
    f" p3 = Slice (c, b2, b3, n0) p4 = Slice (c, b3, ni, n0) y = Concat <axis = 2> ({PIECES})",
    "sequence": "bs = Squeeze (batch) seq = SplitToSequence <axis = 0> (c, bs)"
    " p1 = SequenceAt (seq, i0) p2 = SequenceAt (seq, i1) p3 = SequenceAt (seq, i2) p4 = SequenceAt (seq, i3)"
    f" y = Concat <axis = 2> ({PIECES})",
}
TEXT = """
<ir_version: 8, opset_import: ["" : 18]>
heads_in_runs (float[batch, tokens, 6] x) => (float[batch, tokens, 5] out)
<float[6, 16] wq, float[6, 16] wk, float[6, 16] wv, float[16, 5] wo, float[4] scale, float[1, 1] m,
 int64[4] split = {{0, 0, 4, 4}}, int64[3] flat = {{0, 0, -1}}, int64[1] zero = {{0}}, int64[1] one = {{1}},
 int64[1] two = {{2}}, int64[1] three = {{3}}, int64[1] four = {{4}}, int64[1] last = {{-1}},
 int64[1] end = {{9223372036854775807}}, int64 i0 = {{0}}, int64 i1 = {{1}}, int64 i2 = {{2}}, int64 i3 = {{3}}>
{{
  batch = Shape <start = 0, end = 1> (x)
  t = Shape <start = 1, end = 2> (x)
  bh = Mul (batch, four)
  rows = Concat <axis = 0> (bh, t, four)
  apart = Concat <axis = 0> (four, batch, t, four)
  spread = Concat <axis = 0> (four, batch, one, t)
  mrows = Concat <axis = 0> (bh, one, t)
  ql = MatMul (x, wq)
  kl = MatMul (x, wk)
  vl = MatMul (x, wv)
  {into}
  kt = Transpose <perm = [0, 2, 1]> (kh)
  raw = MatMul (qq, kt)
  {between}
  w = Softmax <axis = -1> (s)
  c = MatMul (w, vh)
  {out}
  out = MatMul (y, wo)
}}
"""


def _model(into: str, between: tuple[str, str], out: str) -> ModelProto:
    ways = " ".join(into.format(n=name) for name in "qkv")
    return model_of(TEXT.format(into=f"{ways} {between[0]}", between=between[1], out=out))


@pytest.mark.first_case
@pytest.mark.parametrize(
    ("into", "between", "out"),
    [
        pytest.param(WAYS_IN[into], BETWEEN[between], WAYS_OUT[out], id=f"{into} {between} {out}")
        for between, (into, out) in zip(
            itertools.cycle(BETWEEN), itertools.product(WAYS_IN, WAYS_OUT), strict=False
        )
    ],
)
def test_all_samples_of_a_head_stand_in_a_row(into: str, between: tuple[str, str], out: str) -> None:
    model = _model(into, between, out)
    (site,) = inspect(model)
    assert (site.num_heads, site.kv_num_heads, site.removable) == (4, 4, True)
    for gone in ([0], [1, 3]):
        planning = analyse(model, {0: gone}, "the model")
        assert not planning.plan.edge_gathers
        pruned = apply_plan(planning.plan, model)
        silenced = masked_reference(planning.view, planning.sites, planning.heads)
        at_cores = silenced_cores(planning)
        assert not at_cores.skipped
        for batch in (2, 3):
            feed = {"x": np.random.default_rng(batch).normal(size=(batch, 5, 6)).astype(np.float32)}
            for other in (silenced, at_cores.model):
                np.testing.assert_allclose(run(pruned, feed)["out"], run(other, feed)["out"], atol=1e-5)


STREAMS = """
<ir_version: 8, opset_import: ["" : 18]>
streams (float[batch, tokens, 6] x) => (float[batch, tokens, 5] out)
<float[6, 16] wq, float[6, 16] wk, float[6, 16] wv, float[6, 16] wk2, float[6, 16] wv2, float[16, 5] wo,
 float[16, 5] wo2, int64[4] split = {0, 0, 4, 4}, int64[3] flat = {0, 0, -1}, int64[1] zero = {0},
 int64[1] one = {1}, int64[1] two = {2}, int64[1] end = {9223372036854775807}>
{
  t = Shape <start = 1, end = 2> (x)
  n = Neg (x)
  both = Concat <axis = 1> (x, n)
  ql = MatMul (both, wq)
  q4 = Reshape (ql, split)
  q1 = Slice (q4, zero, t, one)
  q2 = Slice (q4, t, end, one)
  kl1 = MatMul (x, wk) vl1 = MatMul (x, wv) kl2 = MatMul (n, wk2) vl2 = MatMul (n, wv2)
  kr1 = Reshape (kl1, split) vr1 = Reshape (vl1, split) kr2 = Reshape (kl2, split) vr2 = Reshape (vl2, split)
  qt1 = Transpose <perm = [0, 2, 1, 3]> (q1) qt2 = Transpose <perm = [0, 2, 1, 3]> (q2)
  kt1 = Transpose <perm = [0, 2, 3, 1]> (kr1) kt2 = Transpose <perm = [0, 2, 3, 1]> (kr2)
  vt1 = Transpose <perm = [0, 2, 1, 3]> (vr1) vt2 = Transpose <perm = [0, 2, 1, 3]> (vr2)
  s1 = MatMul (qt1, kt1) s2 = MatMul (qt2, kt2)
  w1 = Softmax <axis = -1> (s1) w2 = Softmax <axis = -1> (s2)
  c1 = MatMul (w1, vt1) c2 = MatMul (w2, vt2)
  ct1 = Transpose <perm = [0, 2, 1, 3]> (c1) ct2 = Transpose <perm = [0, 2, 1, 3]> (c2)
  y1 = Reshape (ct1, flat) y2 = Reshape (ct2, flat)
  o1 = MatMul (y1, wo) o2 = MatMul (y2, wo2)
  out = Add (o1, o2)
}
"""
"""Two streams of tokens, one after the other, share a layer of queries, as in ProphetNet's decoder."""


@pytest.mark.parametrize("gone", [{0: [1]}, {0: [0], 1: [2, 3]}, {0: [0, 1, 2]}, {0: [1], 1: [1]}])
def test_streams_that_share_queries_lose_heads_of_their_own(gone: dict[int, list[int]]) -> None:
    model = model_of(STREAMS)
    assert [(site.num_heads, site.kv_num_heads, site.removable) for site in inspect(model)] == [
        (4, 4, True)
    ] * 2
    planning = analyse(model, gone, "the model")
    pruned = apply_plan(planning.plan, model)
    silenced = masked_reference(planning.view, planning.sites, planning.heads)
    for batch in (2, 3):
        feed = {"x": np.random.default_rng(batch).normal(size=(batch, 5, 6)).astype(np.float32)}
        np.testing.assert_allclose(run(pruned, feed)["out"], run(silenced, feed)["out"], atol=1e-5)
