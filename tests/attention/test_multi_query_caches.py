"""The keys and values that all heads share are a cache, in every form in which exporters write one."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto

from onnxheadprune import inspect
from onnxheadprune.attention.io_changes import Contract
from onnxheadprune.attention.planning import analyse
from tests.attention.cuts import check_cut
from tests.graph_text import model_of

ONE = "ku = Unsqueeze(k, i1) {k}  vu = Unsqueeze(v, i1) {v}  kh = Identity(k1)  vh = Identity(v1)"
FLAT = "{k}  {v}  kh = Unsqueeze(k1, i1)  vh = Unsqueeze(v1, i1)"
EXPANDED = "ku = Unsqueeze(k, i1) {k}  vu = Unsqueeze(v, i1) {v}  kh = Expand(k1, all)  vh = Expand(v1, all)"
PACKED = (
    "kv = Concat<axis = 2>(k, v) {kv} k2, v2 = Split<axis = 2>(kv1, parts)"
    " kh = Unsqueeze(k2, i1) vh = Unsqueeze(v2, i1)"
)
FORMS = {
    "one head": (ONE, {"k": "b, 1, {}, 2", "v": "b, 1, {}, 2"}, {"k": "ku", "v": "vu"}),
    "no axis of heads": (FLAT, {"k": "b, {}, 2", "v": "b, {}, 2"}, {}),
    "repeated for every head": (EXPANDED, {"k": "b, 1, {}, 2", "v": "b, 1, {}, 2"}, {"k": "ku", "v": "vu"}),
    "keys and values in one": (PACKED, {"kv": "b, {}, 4"}, {}),
}


def _model(form: str, *, past: bool) -> ModelProto:
    text, shapes, names = FORMS[form]
    made = {}
    for what, shape in shapes.items():
        axis = shape.split(", ").index("{}")
        source = names.get(what, what)
        made[what] = (
            f"{what}1 = Concat<axis = {axis}>(past_{what}, {source})  present_{what} = Identity({what}1)"
            if past
            else f"{what}1 = Identity({source})  present_{what} = Identity({what}1)"
        )
    inputs = [f"float[{shape.format('p')}] past_{what}" for what, shape in shapes.items()] if past else []
    outputs = [f"float[{shape.format('t')}] present_{what}" for what, shape in shapes.items()]
    return model_of(
        f"""<ir_version: 9, opset_import: ["" : 17]>
    g ({", ".join(["float[b, n, 6] x", *inputs])}) => ({", ".join(["float[b, n, 6] y", *outputs])})
    <float[6, 8] wq, float[6, 2] wk, float[6, 2] wv, float[8, 6] wo, int64[4] four = {{0, 0, 4, 2}},
     int64[3] merged = {{0, 0, 8}}, int64[1] i1 = {{1}}, int64[4] all = {{1, 4, 1, 1}}, int64[2] parts = {{2, 2}}> {{
      qf = MatMul(x, wq)  q4 = Reshape(qf, four)  q = Transpose<perm = [0, 2, 1, 3]>(q4)
      k = MatMul(x, wk)  v = MatMul(x, wv)  {text.format(**made)}
      kt = Transpose<perm = [0, 1, 3, 2]>(kh)  s = MatMul(q, kt)  m = Softmax<axis = -1>(s)
      c = MatMul(m, vh)  ct = Transpose<perm = [0, 2, 1, 3]>(c)  cm = Reshape(ct, merged)
      o = MatMul(cm, wo)  y = Add(o, x)
    }}"""
    )


@pytest.mark.parametrize("past", [True, False])
@pytest.mark.parametrize("form", FORMS)
def test_what_all_heads_share_is_a_cache(form: str, past: bool) -> None:
    model = _model(form, past=past)
    (site,) = inspect(model)
    tenses = ("past", "present") if past else ("present",)
    assert {value.name for value in site.free} == {
        f"{tense}_{what}" for tense in tenses for what in FORMS[form][1]
    }
    sizes = {"b": 2, "n": 3, "p": 4}
    random = np.random.default_rng(0)
    feed = {
        info.name: random.standard_normal(
            [sizes.get(dim.dim_param, dim.dim_value) for dim in info.type.tensor_type.shape.dim]
        ).astype(np.float32)
        for info in model.graph.input
    }
    check_cut(model, feed, [1])
    check_cut(model, feed, [0, 1, 2, 3])
    plan = analyse(model, {0: [0, 1, 2, 3]}, "m", Contract(cache="renumber")).plan
    assert {change.name for change in plan.renamed} == {value.name for value in site.free}


def test_an_input_that_all_heads_read_is_no_cache() -> None:
    """States of an encoder that are keys and values as they are, without an output of them."""
    model = model_of(
        """<ir_version: 9, opset_import: ["" : 17]>
    g (float[b, n, 6] x, float[b, m, 2] states) => (float[b, n, 6] y)
    <float[6, 8] wq, float[8, 6] wo, int64[4] four = {0, 0, 4, 2}, int64[3] merged = {0, 0, 8}, int64[1] i1 = {1}> {
      qf = MatMul(x, wq)  q4 = Reshape(qf, four)  q = Transpose<perm = [0, 2, 1, 3]>(q4)
      h = Unsqueeze(states, i1)  kt = Transpose<perm = [0, 1, 3, 2]>(h)  s = MatMul(q, kt)
      p = Softmax<axis = -1>(s)  c = MatMul(p, h)  ct = Transpose<perm = [0, 2, 1, 3]>(c)
      cm = Reshape(ct, merged)  o = MatMul(cm, wo)  y = Add(o, x)
    }"""
    )
    (site,) = inspect(model)
    assert not site.free
