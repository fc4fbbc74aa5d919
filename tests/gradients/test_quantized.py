"""Straight through: rounding counts as the identity within the range, and quantized weights have masters."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import numpy_helper

from onnxheadprune.choosing.gradients.differentiate import differentiate
from onnxheadprune.runtime import CPU, Provider, Session
from tests.graph_text import model_of

CPU_HERE = Provider(CPU, "for tests")
QDQ = """
<ir_version: 10, opset_import: ["" : 17]>
g (float[3, 4] x) => (float loss)
<float[4] w, float s, uint8 z, float[3, 4] weight> {
   h = Mul (x, w)
   q = QuantizeLinear (h, s, z)
   t = Transpose <perm = [1, 0]> (q)
   y = DequantizeLinear (t, s, z)
   u = Transpose <perm = [1, 0]> (y)
   v = Mul (u, weight)
   loss = ReduceSum <keepdims = 0> (v)
}
"""


def test_rounding_is_the_identity_within_the_range() -> None:
    scale, zero = np.float32(0.1), np.uint8(100)
    given = {"s": scale, "z": zero, "w": np.ones(4, np.float32)}
    model = model_of(QDQ, given=given)
    weight = next(numpy_helper.to_array(t) for t in model.graph.initializer if t.name == "weight")
    grads = differentiate(model, "loss", ["w"])
    x = np.linspace(-12, 18, 12, dtype=np.float32).reshape(3, 4)
    inside = (x / scale + 100 >= -0.5) & (x / scale + 100 <= 255.5)
    assert 0 < inside.sum() < 12
    got = Session(grads.model, CPU_HERE).run({"x": x, "w": given["w"]})[grads.outputs["w"]]
    np.testing.assert_allclose(got, (weight * x * inside).sum(0), rtol=1e-5)


@pytest.mark.parametrize("axis", [None, 0, 1])
def test_a_stored_weight_trains_as_its_master(axis: int | None) -> None:
    rng = np.random.default_rng(0)
    count = () if axis is None else ((4,), (3,))[axis]
    scale = rng.uniform(0.01, 0.03, count).astype(np.float32)
    quantized = rng.integers(-100, 100, (4, 3)).astype(np.int8)
    attribute = "" if axis is None else f"<axis = {axis}>"
    model = model_of(
        f"""
        <ir_version: 10, opset_import: ["" : 17]>
        g (float[2, 4] x) => (float loss) <int8[4, 3] q, float s, float b> {{
           w = DequantizeLinear {attribute} (q, s)
           y = MatMul (x, w)
           loss = ReduceSum <keepdims = 0> (y)
        }}
        """,
        given={"q": quantized, "s": scale},
    )
    grads = differentiate(model, "loss", ["q"])
    sizes = scale if axis is None else np.expand_dims(scale, 1 - axis)
    master = (quantized * sizes).astype(np.float32)
    x = rng.normal(size=(2, 4)).astype(np.float32)
    values = Session(grads.model, CPU_HERE).run({"x": x, "q": master})
    np.testing.assert_allclose(values["loss"], (x @ master).sum(), rtol=1e-5)
    got = values[grads.outputs["q"]]
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, np.repeat(x.sum(0)[:, None], 3, 1), rtol=1e-4)
