"""Keys and values of a head leave a cache together, or neither does and the report says who needs them."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto

from onnxheadprune import inspect
from onnxheadprune.attention.planning import analyse
from onnxheadprune.edit.apply import apply_plan
from tests.attention.cuts import check_cut
from tests.graph_text import model_of

B, PAST, NEW = 2, 3, 2
READS = {
    # Doge makes a mask for each KV head of the values of all.
    "values": ("vt = Transpose<perm = [0, 2, 1, 3]>(pv)", "vt"),
    "keys": ("vt = Transpose<perm = [0, 2, 1, 3]>(pk)", "vt"),
    "nobody": ("", ""),
}


def _model(read: str) -> ModelProto:
    """Two KV heads of two query heads each, with a past; a layer may read all keys, or all values."""
    turned, all_heads = READS[read]
    gate = f"""
      {turned}  vf = Reshape({all_heads}, flat)  dt = MatMul(vf, dtw)  de = Exp(dt)
      d3 = Transpose<perm = [0, 2, 1]>(de)  d4 = Unsqueeze(d3, i2)  d5 = Unsqueeze(d4, i2)
      dx = Expand(d5, twice)  dm = Reshape(dx, maps)  s = Add(raw, dm)"""
    return model_of(
        f"""<ir_version: 9, opset_import: ["" : 17]>
    g (float[b, n, 6] x, float[b, 2, p, 2] past_key, float[b, 2, p, 2] past_value)
      => (float[b, n, 6] y, float[b, 2, t, 2] pk, float[b, 2, t, 2] pv)
    <float[6, 8] q, float[6, 4] k, float[6, 4] v, float[8, 6] o, float[4, 2] dtw, int64[4] four = {{0, 0, 4, 2}},
     int64[4] two = {{0, 0, 2, 2}}, int64[3] merged = {{0, 0, 8}}, int64[3] flat = {{0, 0, 4}}, int64[1] i2 = {{2}},
     int64[5] twice = {{1, 1, 2, 1, 1}}, int64[4] grouped = {{0, 4, -1, 2}}, int64[4] maps = {{0, 4, 1, -1}}> {{
      qf = MatMul(x, q)  q4 = Reshape(qf, four)  qh = Transpose<perm = [0, 2, 1, 3]>(q4)
      kf = MatMul(x, k)  k4 = Reshape(kf, two)  kn = Transpose<perm = [0, 2, 1, 3]>(k4)
      vfl = MatMul(x, v)  v4 = Reshape(vfl, two)  vn = Transpose<perm = [0, 2, 1, 3]>(v4)
      pk = Concat<axis = 2>(past_key, kn)  pv = Concat<axis = 2>(past_value, vn)
      ku = Unsqueeze(pk, i2)  ke = Expand(ku, twice)  kr = Reshape(ke, grouped)
      kh = Transpose<perm = [0, 1, 3, 2]>(kr)
      vu = Unsqueeze(pv, i2)  ve = Expand(vu, twice)  vh = Reshape(ve, grouped)
      raw = MatMul(qh, kh)  {gate if turned else "s = Identity(raw)"}
      m = Softmax<axis = -1>(s)  c = MatMul(m, vh)  ct = Transpose<perm = [0, 2, 1, 3]>(c)
      cm = Reshape(ct, merged)  p = MatMul(cm, o)  y = Add(p, x)
    }}"""
    )


def _heads(model: ModelProto) -> dict[str, int]:
    infos = (*model.graph.input, *model.graph.output)
    return {info.name: info.type.tensor_type.shape.dim[1].dim_value for info in infos if len(info.name) > 1}


@pytest.mark.parametrize("read", READS)
def test_keys_and_values_leave_together(read: str) -> None:
    model = _model(read)
    (site,) = inspect(model)
    assert (site.num_heads, site.kv_num_heads, site.removable) == (4, 2, True)
    planning = analyse(model, {0: [0, 1]}, "m")
    pruned = apply_plan(planning.plan, model)
    left = 1 if read == "nobody" else 2
    assert _heads(pruned) == dict.fromkeys(("past_key", "past_value", "pk", "pv"), left)
    notes = [note for note in planning.plan.notes if "keeps all its heads" in note]
    assert [("MatMul -> dt reads" in note) for note in notes] == ([] if read == "nobody" else [True])
    feed = {
        name: np.random.default_rng(5).uniform(-1, 1, shape).astype(np.float32)
        for name, shape in (
            ("x", (B, NEW, 6)),
            ("past_key", (B, 2, PAST, 2)),
            ("past_value", (B, 2, PAST, 2)),
        )
    }
    if read == "nobody":
        assert site.held is None
    else:
        check_cut(model, feed, [0, 1], gathers=len(planning.plan.edge_gathers))
