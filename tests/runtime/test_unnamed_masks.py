"""Masks that no name tells: any numbers prove a cut, and a warning says that padding is counted."""

from __future__ import annotations

import pytest
from onnx import ModelProto

from onnxheadprune.operators import view_of
from onnxheadprune.runtime.feeds.inputs import graph_inputs, padding_warning
from tests.graph_text import model_of

ATTENTION = """
<ir_version: 10, opset_import: ["" : %(opset)s, "com.microsoft" : 1]>
toy (int64[batch, length] ids, %(inputs)s) => (float[batch, m, 8] y)
<float[23, 8] words, float[40, 8] places, float[2, 8] kinds, float[8, 8] w_q, float[8, 8] w_k, float[8, 8] w_v,
 float[8, 8] w_o, int64[4] apart = {0, 0, 2, 4}, int64[3] joined = {0, 0, 8}, int64[2] middle = {1, 2},
 int64[1] heads = {1}, int64[1] row = {2}, int64[1] last = {-1}, int64[1] first = {0},
 int64 one = {1}, int64 zero = {0}, int64 two = {2}, float unit = {1.0}, float nothing = {0.0}, float least = {1e-6},
 float far = {-10000.0}, float lowest = {-3.4e38}, bool[1] always = {1}>
{
    embedded = Gather(words, ids)
    %(embed)s
    q0 = MatMul(stream, w_q) k0 = MatMul(stream, w_k) v0 = MatMul(stream, w_v)
    %(core)s
    o = MatMul(c2, w_o)
    sum = Add(stream, o)
    %(pool)s
}
"""
CORE = """
    q1 = Reshape(q0, apart) q = Transpose<perm = [0, 2, 1, 3]>(q1)
    k1 = Reshape(k0, apart) k = Transpose<perm = [0, 2, 3, 1]>(k1)
    v1 = Reshape(v0, apart) v = Transpose<perm = [0, 2, 1, 3]>(v1)
    scores = MatMul(q, k)
    %(bias)s
    weights = Softmax<axis = -1>(biased)
    %(weigh)s
    context = MatMul(weighed, v)
    c1 = Transpose<perm = [0, 2, 1, 3]>(context) c2 = Reshape(c1, joined)
"""
PLAIN = {
    "opset": "17",
    "embed": "stream = Identity(embedded)",
    "bias": "biased = Identity(scores)",
    "weigh": "weighed = Identity(weights)",
    "pool": "y = Identity(sum)",
}
ROWS = "[batch, length]"
SPELLINGS: dict[str, dict[str, str]] = {
    "added, from integers": {
        "inputs": f"int64{ROWS} a",
        "bias": "f = Cast<to = 1>(a) g = Sub(unit, f) h = Mul(g, far) b = Unsqueeze(h, middle) biased = Add(scores, b)",
    },
    "subtracted, from floats": {
        "inputs": f"float{ROWS} a",
        "bias": "g = Sub(unit, a) n = Neg(far) h = Mul(g, n) b = Unsqueeze(h, middle) biased = Sub(scores, b)",
    },
    "of floats, four axes, added as it is": {
        "inputs": "float[batch, 1, length, length] a",
        "bias": "biased = Add(scores, a)",
    },
    "a choice by truths": {
        "inputs": f"bool{ROWS} a",
        "bias": "b = Unsqueeze(a, middle) biased = Where(b, scores, lowest)",
    },
    "compared": {
        "inputs": f"int64{ROWS} a",
        "bias": "e = Equal(a, zero) b = Unsqueeze(e, middle) biased = Where(b, far, scores)",
    },
    "positions": {
        "inputs": f"int64{ROWS} a",
        "embed": "n = CumSum(a, one) p = Mul(n, a) z = Sub(p, one) r = Add(z, two) placed = Gather(places, r)"
        " stream = Add(embedded, placed)",
    },
    "a mean of tokens": {
        "inputs": f"int64{ROWS} a",
        "pool": "f = Cast<to = 1>(a) u = Unsqueeze(f, last) s = Mul(sum, u) t = ReduceSum<keepdims = 1>(s, heads)"
        " n = ReduceSum<keepdims = 1>(u, heads) y = Div(t, n)",
    },
    "of a fused attention of ONNX Runtime": {
        "inputs": f"int32{ROWS} a",
        "core": "c2 = com.microsoft.MultiHeadAttention<num_heads = 2>(q0, k0, v0, , a)",
    },
    "of a fused attention": {
        "opset": "23",
        "inputs": "bool[length, length] a",
        "core": "c2 = Attention<q_num_heads = 2, kv_num_heads = 2>(q0, k0, v0, a)",
    },
}


def spelled(spelling: dict[str, str], name: str = "a") -> ModelProto:
    parts = {**PLAIN, **spelling}
    model = model_of(ATTENTION % {"core": CORE % parts, **parts})
    for node in model.graph.node:
        node.input[:] = [name if item == "a" else item for item in node.input]
    model.graph.input[1].name = name
    return model


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_warning_names_integers_that_may_be_a_mask(spelling: str) -> None:
    parts = SPELLINGS[spelling]
    warning = padding_warning(graph_inputs(view_of(spelled(parts))))
    # Sums of a mask pick rows of a table of positions, as tokens do.
    assert (warning is not None) == ("int" in parts["inputs"] and spelling != "positions")
    assert warning is None or "the role of a (int" in warning
    assert padding_warning(graph_inputs(view_of(spelled(parts, "attention_mask")))) is None
