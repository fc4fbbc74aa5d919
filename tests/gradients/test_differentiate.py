"""What a gradient of a whole graph promises beyond its operators."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, numpy_helper

from onnxheadprune import RefusedError, UsageError
from onnxheadprune.choosing.gradients.differentiate import Gradient, differentiate
from onnxheadprune.runtime import CPU, Provider, Session
from tests.graph_text import model_of

CPU_HERE = Provider(CPU, "for tests")
MLP = """
<ir_version: 10, opset_import: ["" : 17]>
g (float[batch, sequence, 4] x) => (float loss)
<float[4, 6] w, float[6] b, float[6, 3] v, int64[2] axes = {0, 1}> {
   h = MatMul (x, w)
   hb = Add (h, b)
   a = Tanh (hb)
   y = MatMul (a, v)
   unused = Exp (y)
   loss = ReduceMean <keepdims = 0> (y)
}
"""


def stored(model: ModelProto) -> dict[str, np.ndarray[Any, Any]]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def run(grads: Gradient, feed: Mapping[str, Any]) -> dict[str, np.ndarray[Any, Any]]:
    values = Session(grads.model, CPU_HERE).run(feed)
    return {name: values[output] for name, output in grads.outputs.items()} | {"loss": values[grads.loss]}


def test_one_gradient_as_written_by_hand() -> None:
    model = model_of(MLP)
    w, b, v = (stored(model)[name] for name in "wbv")
    x = np.random.default_rng(1).normal(size=(2, 3, 4)).astype(np.float32)
    found = run(differentiate(model, "loss", ["w", "b", "v"]), {"x": x, "w": w, "b": b, "v": v})
    a = np.tanh(x @ w + b)
    dy = np.full((2, 3, 3), 1 / 18)
    dh = (dy @ v.T) * (1 - a**2)
    np.testing.assert_allclose(found["v"], np.einsum("bsi,bsj->ij", a, dy), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found["b"], dh.sum((0, 1)), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found["w"], np.einsum("bsi,bsj->ij", x, dh), rtol=1e-4, atol=1e-6)


HELD = """
<ir_version: 10, opset_import: ["" : 17]>
g (float[2, 3] x, bool again) => (float loss)
<float[3] a, float[3] b, float[3] c, float[3] d, float[3] lonely, int8[3] whole, int64 times = {2}> {
   ya = Mul (x, a)
   yb = Mul (x, b)
   looped = Loop <body = body (int64 i, bool go) => (bool on, float[2, 3] out) {
      on = Identity (go)
      out = Neg (yb)
   }> (times, again)
   last = ReduceMax <axes = [0], keepdims = 0> (looped)
   rounded = Round (c)
   yc = Mul (x, rounded)
   integers = Cast <to = 7> (d)
   back = Cast <to = 1> (integers)
   yd = Add (yc, back)
   wide = Cast <to = 1> (whole)
   ye = Add (yd, wide)
   joined = Add (ya, last)
   sum = Add (joined, ye)
   loss = ReduceSum <keepdims = 0> (sum)
}
"""


def test_what_is_held_constant_is_named() -> None:
    grads = differentiate(model_of(HELD), "loss", ["a", "b", "c", "d", "lonely", "whole"])
    assert list(grads.outputs) == ["a"]
    assert "Loop" in grads.constant["b"]
    assert "Round" in grads.constant["c"]
    assert "Cast" in grads.constant["d"]
    assert "does not depend" in grads.constant["lonely"]
    assert "no real numbers" in grads.constant["whole"]
    assert "whole" not in {info.name for info in grads.model.graph.input}
    feed = {"x": np.ones((2, 3), np.float32), "again": np.array(True), **stored(model_of(HELD))}
    np.testing.assert_allclose(run(grads, feed)["a"], 2.0)


def test_attention_whose_scores_are_read_stays_whole() -> None:
    """Scores that leave the operator have no gradient, and would take part of that of the queries with them."""
    model = model_of(
        """
        <ir_version: 10, opset_import: ["" : 23]>
        g (float[1, 2, 3, 4] x) => (float loss)
        <float[4, 4] w> {
           q = MatMul (x, w)
           y, k, v, scores = Attention (q, x, x)
           both = MatMul (scores, y)
           loss = ReduceMean <keepdims = 0> (both)
        }
        """
    )
    grads = differentiate(model, "loss", ["w"])
    assert not grads.outputs and "Attention" in grads.constant["w"]


def test_parameters_that_are_added_have_gradients_of_their_own() -> None:
    model = model_of("""
    <ir_version: 10, opset_import: ["" : 17]>
    g (float[2, 3] x) => (float loss) <float[2, 3] a, float[2, 3] b> {
       t = Add (a, b)
       u = Add (t, x)
       loss = ReduceSum <keepdims = 0> (u)
    }
    """)
    grads = differentiate(model, "loss", ["a", "b"])
    assert len(set(grads.outputs.values())) == 2
    got = run(grads, {"x": np.ones((2, 3), np.float32), **stored(model)})
    np.testing.assert_allclose([got["a"], got["b"]], 1.0)


def test_integer_products_are_held_and_named() -> None:
    grads = differentiate(
        model_of("""
        <ir_version: 10, opset_import: ["" : 17]>
        g (float[2, 4] x) => (float loss) <float[4, 4] w, int8[4, 3] q, float s> {
           h = MatMul (x, w)
           hq, hs, hz = DynamicQuantizeLinear (h)
           y = MatMulInteger (hq, q, hz)
           z = Cast <to = 1> (y)
           r = Mul (z, hs)
           u = Mul (r, s)
           loss = ReduceSum <keepdims = 0> (u)
        }
        """),
        "loss",
        ["w", "s"],
    )
    assert list(grads.outputs) == ["s"]
    assert "DynamicQuantizeLinear" in grads.constant["w"]


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_half_precision_trains_in_float32(kind: str) -> None:
    text = """
    <ir_version: 10, opset_import: ["" : 17]>
    g (HALF[batch, 4] x) => (HALF loss) <HALF[4, 4] w, HALF[4] kept> {
       h = MatMul (x, w)
       m = Mul (h, kept)
       a = Tanh (m)
       f = Cast <to = KIND> (a)
       loss = ReduceSum <keepdims = 0> (f)
    }
    """
    number = {"float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}[kind]
    half = model_of(text.replace("HALF", kind).replace("KIND", str(number)))
    wide = model_of(text.replace("HALF", "float").replace("KIND", "1"))
    weights = {name: array.astype(np.float32) for name, array in stored(half).items()}
    for tensor in wide.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(weights[tensor.name], tensor.name))
    x = np.ones((2, 4), np.float32)
    grads = differentiate(half, "loss", ["w"])
    narrow = x.astype(stored(half)["w"].dtype)
    got = run(grads, {"x": narrow, "w": weights["w"]})["w"]
    want = run(differentiate(wide, "loss", ["w"]), {"x": x, "w": weights["w"]})["w"]
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_wrong_questions_are_refused() -> None:
    model = model_of(MLP)
    with pytest.raises(UsageError, match="no initializer 'nothing'"):
        differentiate(model, "loss", ["nothing"])
    with pytest.raises(UsageError, match="makes 'nowhere'"):
        differentiate(model, "nowhere", ["w"])
    with pytest.raises(RefusedError, match="no single real number"):
        differentiate(model, "y", ["w"])
