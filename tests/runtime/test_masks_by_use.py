"""Masks are found by what a graph does with them: no name of an input may matter."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto

from onnxheadprune import InferenceError
from onnxheadprune.operators import view_of
from onnxheadprune.runtime import CPU, Provider, Session
from onnxheadprune.runtime.feeds.generate import FeedMaker
from onnxheadprune.runtime.feeds.inputs import Role, graph_inputs
from tests.conftest import SAMPLES, Command
from tests.feeding import renamed
from tests.graph_text import model_of
from tests.graphs import models

SAVED = sorted(SAMPLES.glob("**/*.onnx"))
MODELS: dict[str, Callable[[], ModelProto]] = {
    **models.MODELS,
    **{path.name: lambda path=path: onnx.load(path) for path in SAVED},  # type: ignore[misc]
}

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
    "added, the other way round": {
        "inputs": f"int32{ROWS} a",
        "bias": "u = Unsqueeze(a, middle) f = Cast<to = 1>(u) g = Sub(f, unit) n = Neg(far) h = Mul(n, g)"
        " biased = Add(h, scores)",
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
    "a choice by truths, three axes": {
        "inputs": "bool[batch, length, length] a",
        "bias": "b = Unsqueeze(a, heads) biased = Where(b, scores, lowest)",
    },
    "a choice by what hides": {
        "inputs": f"bool{ROWS} a",
        "bias": "b = Unsqueeze(a, middle) biased = Where(b, far, scores)",
    },
    "compared": {
        "inputs": f"int64{ROWS} a",
        "bias": "e = Equal(a, zero) b = Unsqueeze(e, middle) biased = Where(b, far, scores)",
    },
    "combined with another": {
        "inputs": f"int64{ROWS} a",
        "bias": "t = Cast<to = 9>(a) u = Unsqueeze(t, middle) b = And(u, always) c = Not(b)"
        " biased = Where(c, lowest, scores)",
    },
    "each token with each": {
        "inputs": f"int64{ROWS} a",
        "bias": "f = Cast<to = 1>(a) r = Unsqueeze(f, heads) c = Unsqueeze(f, row) p = Mul(r, c)"
        " s = Unsqueeze(p, heads) g = Sub(unit, s) h = Mul(g, far) biased = Add(scores, h)",
    },
    "through an Einsum": {
        "inputs": f"int64{ROWS} a",
        "bias": 't = Transpose<perm = [1, 0]>(a) f = Cast<to = 1>(t) e = Einsum<equation = "ji->ij">(f)'
        " g = Sub(unit, e) h = Mul(g, far) b = Unsqueeze(h, middle) biased = Add(scores, b)",
    },
    "positions": {
        "inputs": f"int64{ROWS} a",
        "embed": "n = CumSum(a, one) p = Mul(n, a) z = Sub(p, one) r = Add(z, two) placed = Gather(places, r)"
        " stream = Add(embedded, placed)",
    },
    "a product with scores": {
        "inputs": "float[batch, length, length] a",
        "weigh": "u = Unsqueeze(a, heads) weighed = Mul(weights, u)",
    },
    "a mean of tokens": {
        "inputs": f"int64{ROWS} a",
        "pool": "f = Cast<to = 1>(a) u = Unsqueeze(f, last) s = Mul(sum, u) t = ReduceSum<keepdims = 1>(s, heads)"
        " n = ReduceSum<keepdims = 1>(u, heads) y = Div(t, n)",
    },
    "features of tokens, from floats": {
        "inputs": f"float{ROWS} a",
        "pool": "u = Unsqueeze(a, last) y = Mul(sum, u)",
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
NO_MASKS: dict[str, dict[str, str]] = {
    "token types": {
        "inputs": f"int64{ROWS} a",
        "embed": "typed = Gather(kinds, a) stream = Add(embedded, typed)",
    },
    "positions by number": {
        "inputs": f"int64{ROWS} a",
        "embed": "placed = Gather(places, a) stream = Add(embedded, placed)",
    },
    "tokens of which some are special": {
        "inputs": f"int64{ROWS} a",
        "embed": "e = Equal(a, one) u = Unsqueeze(e, last) s = Where(u, nothing, embedded) t = Gather(words, a)"
        " stream = Add(s, t)",
    },
    "features": {
        "inputs": "float[batch, length, 8] a",
        "embed": "stream = Add(embedded, a)",
    },
    "sound of which silence is cut": {
        "inputs": f"float{ROWS} a",
        "embed": "f = Exp(a) g = Greater(a, nothing) h = Where(g, f, nothing) u = Unsqueeze(h, last)"
        " stream = Add(embedded, u)",
    },
    "a bias of each head": {
        "inputs": "float[1, 2, length, length] a",
        "bias": "biased = Add(scores, a)",
    },
    "a scale of features": {
        "inputs": "float[batch, length, 8] a",
        "embed": "stream = Mul(embedded, a)",
    },
}


def spelled(spelling: dict[str, str]) -> ModelProto:
    parts = {**PLAIN, **spelling}
    return model_of(ATTENTION % {"core": CORE % parts, **parts})


@pytest.mark.parametrize("name", MODELS)
def test_no_name_makes_a_mask(name: str) -> None:
    model = MODELS[name]()
    before, after = (view_of(item) for item in (model, renamed(model)))
    for named, unnamed in zip(graph_inputs(before), graph_inputs(after), strict=True):
        if before.main.values[named.name].consumers:
            assert (named.role is Role.MASK) == (unnamed.role is Role.MASK), named.name


@pytest.mark.parametrize("name", SPELLINGS)
def test_every_spelling_of_a_mask_is_found(name: str) -> None:
    view = view_of(spelled(SPELLINGS[name]))
    assert [item.role for item in graph_inputs(view)] == [Role.IDS, Role.MASK]
    maker, session = FeedMaker(view), Session(view.model, Provider(CPU, "test"))
    found = maker.first_that_runs(maker.cases[0], session.run)
    assert not isinstance(found, InferenceError) and not maker.readings
    assert np.isfinite(found[1]["y"]).all() and len(np.unique(found[0]["a"])) == 1


@pytest.mark.parametrize("name", NO_MASKS)
def test_what_is_no_mask(name: str) -> None:
    assert graph_inputs(view_of(spelled(NO_MASKS[name])))[1].role is not Role.MASK


@pytest.mark.first_case
@pytest.mark.parametrize("name", SPELLINGS)
def test_a_cut_is_proven_whatever_the_mask_is_called(name: str, tmp_path: Path, command: Command) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(spelled(SPELLINGS[name]), path)
    answer = command("prune", str(path), "--heads", "0:1", "-o", str(tmp_path / "cut.onnx"), "--json")
    assert answer.exit_code == 0, answer.stderr
    assert answer.document["validation"]["verdict"] == "passed"
