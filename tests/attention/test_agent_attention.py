"""Two products in a row: agents gather tokens, and queries read what the agents hold."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto

from onnxheadprune import inspect
from onnxheadprune.attention.planning import analyse
from onnxheadprune.errors import RefusedError
from tests.attention.cuts import check_cut, check_exact
from tests.graph_text import model_of

FEED = {
    name: np.random.default_rng(9).uniform(-1, 1, (2, length, 6)).astype(np.float32)
    for name, length in (("x", 5), ("t", 3))
}
REGROUPED = """u1 = Transpose<perm = [0, 2, 1, 3]>(c1)  u2 = Reshape(u1, half)
  held = Transpose<perm = [0, 2, 1, 3]>(u2)"""
"""Four heads of two channels are two of four."""


def _model(projected: bool, regrouped: bool = False, returned: bool = False) -> ModelProto:
    """Agents of four heads, and queries of four or two, whose values they are.

    Args:
        projected: whether the agents have a projection of their own.
        regrouped: whether the queries have half as many heads.
        returned: whether the model hands out what the agents hold as it is.
    """
    queries = "half" if regrouped else "apart"
    both = (
        "  t1 = Transpose<perm = [0, 2, 1, 3]>(c1)  f1 = Reshape(t1, merged)  z = MatMul(f1, o1)"
        if projected
        else ""
    )
    outputs = "".join(
        [", float[b, n, 6] z" if projected else "", ", float[b, h, n, d] c1" if returned else ""]
    )
    return model_of(
        f"""<ir_version: 9, opset_import: ["" : 17]>
    g (float[b, s, 6] x, float[b, n, 6] t) => (float[b, s, 6] y{outputs})
    <float[6, 8] q, float[6, 8] k, float[6, 8] v, float[6, 8] a, float[6, 8] a2, float[8, 6] o1, float[8, 6] o2,
     int64[4] apart = {{0, 0, 4, 2}}, int64[4] half = {{0, 0, 2, 4}}, int64[3] merged = {{0, 0, 8}}> {{
      af = MatMul(t, a)  a4 = Reshape(af, apart)  ah = Transpose<perm = [0, 2, 1, 3]>(a4)
      kf = MatMul(x, k)  k4 = Reshape(kf, apart)  kh = Transpose<perm = [0, 2, 3, 1]>(k4)
      vf = MatMul(x, v)  v4 = Reshape(vf, apart)  vh = Transpose<perm = [0, 2, 1, 3]>(v4)
      s1 = MatMul(ah, kh)  m1 = Softmax<axis = -1>(s1)  c1 = MatMul(m1, vh)
      {REGROUPED if regrouped else "held = Identity(c1)"}
      qf = MatMul(x, q)  q4 = Reshape(qf, {queries})  qh = Transpose<perm = [0, 2, 1, 3]>(q4)
      bf = MatMul(t, a2)  b4 = Reshape(bf, {queries})  bh = Transpose<perm = [0, 2, 3, 1]>(b4)
      s2 = MatMul(qh, bh)  m2 = Softmax<axis = -1>(s2)  c2 = MatMul(m2, held)
      t2 = Transpose<perm = [0, 2, 1, 3]>(c2)  f2 = Reshape(t2, merged)  y = MatMul(f2, o2)
      {both if projected else ""}
    }}"""
    )


@pytest.mark.parametrize("projected", [False, True], ids=["one projection", "two projections"])
def test_heads_that_are_aligned_across_both_products_are_one_site(projected: bool) -> None:
    model = _model(projected)
    (site,) = (sites := inspect(model))
    assert (site.num_heads, site.kv_num_heads, site.removable) == (4, 4, True)
    assert site.projection_names == (("y", "z") if projected else ("y",))
    assert not sites.near_misses and not sites.no_heads
    for gone in ([1], [0, 3], [0, 1, 2, 3]):
        check_cut(model, FEED, gone)


@pytest.mark.parametrize("spec", ["0:0,1 1:0", "0:3 1:1", "0:0-3 1:0-1", "attn.0:* attn.1:*", "1:0"])
def test_a_context_goes_with_its_only_other_reader(spec: str) -> None:
    model = _model(True, regrouped=True)
    agents, queries = inspect(model)
    assert (agents.num_heads, agents.removable, queries.num_heads, queries.removable) == (4, False, 2, True)
    planning = analyse(model, spec, "m")
    check_exact(planning, model, FEED)


@pytest.mark.parametrize("spec", ["0:0", "0:0-3", "0:0 1:1", "0:0,2 1:0", "0:0-3 1:0"])
def test_a_context_stays_that_somebody_else_still_reads(spec: str) -> None:
    with pytest.raises(
        RefusedError, match="the context also reaches Transpose -> u1 without passing an output"
    ):
        analyse(_model(True, regrouped=True), spec, "m")


@pytest.mark.parametrize("spec", ["0:0,1 1:0", "0:0-3 1:0-1"])
def test_a_context_that_the_model_hands_out_stays(spec: str) -> None:
    with pytest.raises(RefusedError, match="the context c1 is also an output of the model"):
        analyse(_model(True, regrouped=True, returned=True), spec, "m")
