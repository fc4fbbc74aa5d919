"""Products of integers, in every spelling, are the maps of floats that ONNX Runtime makes of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxheadprune.choosing.activations.linear import Linear
from onnxheadprune.choosing.activations.moments import Moments
from onnxheadprune.choosing.compensation.fit import fit
from onnxheadprune.operators import view_of
from tests.graph_text import model_of

RANDOM = np.random.default_rng(7)
K, N = 32, 6
# Two products of these with whole numbers of eight bits have a sum of 16 bits: no processor saturates it.
WEIGHT = RANDOM.integers(-60, 60, (K, N)).astype(np.int8)
STORED: dict[str, Any] = {
    "w": WEIGHT,
    "scale": RANDOM.uniform(0.01, 0.03, N).astype(np.float32),
    "zero": np.zeros(N, np.int8),
    "one": np.float32(0.02),
    "none": np.int8(0),
    "bias": RANDOM.standard_normal(N).astype(np.float32),
    "whole": RANDOM.integers(-500, 500, N).astype(np.int32),
    "xs": np.float32(0.03),
    "xz": np.uint8(128),
    "ys": np.float32(0.3),
    "yz": np.uint8(128),
    "blocks": RANDOM.integers(0, 255, (N, 2, 8)).astype(np.uint8),
    "steps": RANDOM.uniform(0.01, 0.03, 2 * N).astype(np.float32),
    "zeros": RANDOM.integers(0, 255, N).astype(np.uint8),
}
MICROSOFT = "com.microsoft"
ROUNDED = ("DynamicQuantizeLinear", ["x"], ["q", "qs", "qz"], "")
GIVEN = ("QuantizeLinear", ["x", "xs", "xz"], ["q"], "")
FORMS: dict[str, list[Any]] = {
    "MatMulInteger": [
        ROUNDED,
        ("MatMulInteger", ["q", "w", "qz", "zero"], ["sum"], ""),
        ("Cast", ["sum"], ["real"], ""),
        ("Mul", ["qs", "scale"], ["both"], ""),
        ("Mul", ["real", "both"], ["scaled"], ""),
        ("Add", ["scaled", "bias"], ["y"], ""),
    ],
    "DynamicQuantizeMatMul": [
        ("DynamicQuantizeMatMul", ["x", "w", "scale", "zero", "bias"], ["y"], MICROSOFT)
    ],
    "MatMulIntegerToFloat": [
        GIVEN,
        ("MatMulIntegerToFloat", ["q", "w", "xs", "scale", "xz", "zero", "bias"], ["y"], MICROSOFT),
    ],
    "QLinearMatMul": [
        GIVEN,
        ("QLinearMatMul", ["q", "xs", "xz", "w", "scale", "zero", "ys", "yz"], ["r"], ""),
        ("DequantizeLinear", ["r", "ys", "yz"], ["y"], ""),
    ],
    "QGemm": [GIVEN, ("QGemm", ["q", "xs", "xz", "w", "one", "none", "whole"], ["y"], MICROSOFT)],
    "MatMul": [
        GIVEN,
        ("DequantizeLinear", ["q", "xs", "xz"], ["rounded"], ""),
        ("DequantizeLinear", ["w", "scale", "zero"], ["wide"], ""),
        ("MatMul", ["rounded", "wide"], ["sum"], ""),
        ("QuantizeLinear", ["sum", "ys", "yz"], ["sq"], ""),
        ("DequantizeLinear", ["sq", "ys", "yz"], ["sd"], ""),
        ("Add", ["sd", "bias"], ["y"], ""),
    ],
    "MatMulNBits": [("MatMulNBits", ["x", "blocks", "steps", "", "", "bias"], ["y"], MICROSOFT)],
    "MatMulNBits with zero points": [
        ("MatMulNBits", ["x", "blocks", "steps", "zeros", "", "bias"], ["y"], MICROSOFT)
    ],
}


def made(form: str) -> Any:
    nodes = []
    for op_type, inputs, outputs, domain in FORMS[form]:
        more: dict[str, Any] = {"to": TensorProto.FLOAT} if op_type == "Cast" else {}
        more |= {"K": K, "N": N, "bits": 4, "block_size": 16} if op_type == "MatMulNBits" else {}
        nodes.append(helper.make_node(op_type, inputs, outputs, outputs[0], domain=domain, **more))
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [40, K])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [40, N])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in STORED.items() if name in used],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(MICROSOFT, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


@pytest.mark.parametrize("form", FORMS)
def test_a_map_is_what_it_computes(form: str) -> None:
    model = made(form)
    found = [item for node in view_of(model).main.nodes if (item := Linear.at(node)) is not None]
    assert len(found) == 1, [node.op_type for node in model.graph.node]
    (linear,) = found
    x = RANDOM.standard_normal((40, K)).astype(np.float32)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"x": x})
    bias = linear.read_bias()
    expected = x @ linear.matrix.read() + (0 if bias is None else bias)
    assert linear.matrix.is_quantized and linear.out.name == "y"
    # The activation is rounded to a hundredth or so, and two forms round what they give to thirds.
    apart = np.abs(y - expected).max()
    assert apart < min(0.5, 0.1 * np.abs(expected).max()), apart
    np.testing.assert_array_equal(linear.matrix.written(linear.matrix.read()), linear.matrix.stored.numbers())


@pytest.mark.parametrize("form", ["MatMulInteger", "MatMulNBits with zero points"])
def test_what_is_written_reads_as_the_nearest_levels(form: str) -> None:
    linear = next(item for node in view_of(made(form)).main.nodes if (item := Linear.at(node)) is not None)
    before, grid = linear.matrix.read(), linear.matrix.grid()
    assert grid is not None
    wanted = before + RANDOM.standard_normal(before.shape) * 0.02
    after = linear.matrix.read(linear.matrix.written(wanted))
    np.testing.assert_allclose(after, grid.nearest(wanted), rtol=1e-6)
    assert (np.abs(after - wanted) <= np.abs(before - wanted) + 1e-9).all()


def moments(rows: int, weight: Any, noise: float) -> Moments:
    mixing = RANDOM.standard_normal((len(weight), 6))
    x = RANDOM.standard_normal((rows, 6)) @ mixing.T + 0.1 * RANDOM.standard_normal((rows, len(weight)))
    found = Moments(len(weight), weight.shape[1])
    found.add(x, x @ weight + noise * RANDOM.standard_normal((rows, weight.shape[1])))
    return found


def test_what_does_not_pay_in_levels_stays() -> None:
    """Steps so wide that every move is worse than none."""
    text = """<ir_version: 10, opset_import: ["": 21]> g (float[b, 8] x) => (float[b, 3] y)
        <int8[8, 3] levels, float step = {1}> { w = DequantizeLinear(levels, step)  y = MatMul(x, w) }"""
    model = model_of(text, given={"levels": np.ones((8, 3), np.int8)})
    (linear,) = (item for node in view_of(model).main.nodes if (item := Linear.at(node)) is not None)
    old, grid = linear.matrix.read(), linear.matrix.grid()
    assert grid is not None
    better = old + 0.05 * RANDOM.standard_normal(old.shape)
    x = RANDOM.standard_normal((600, 8))
    parts = [Moments(8, 3), Moments(8, 3)]
    for part, rows in zip(parts, (x[:400], x[400:]), strict=True):
        part.add(rows, rows @ better)
    free, stored = fit(*parts, old, None), fit(*parts, old, None, grid=grid)
    assert free.after < 0.1 * free.before and free.lost == 0
    assert stored.lost == 3 and stored.strength is None and stored.after == pytest.approx(stored.before)
    np.testing.assert_array_equal(stored.weight, old)
