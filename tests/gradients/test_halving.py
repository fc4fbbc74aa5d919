"""Products in float16: which ones, with which numbers, and what is said about those that are none."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, parser

from onnxheadprune.choosing.gradients.differentiate import Gradient, differentiate
from onnxheadprune.choosing.gradients.halving import halved
from onnxheadprune.runtime import CPU, Provider, Session
from onnxheadprune.training.precision import Candidate
from tests.training.rounding import rounded

PROVIDER = Provider(CPU, "test")
TEXT = """
<ir_version: 9, opset_import: ["" : 17]>
graph (float[batch, 4] x, float[4, 1] ones) => (float loss)
<float[4, 4] w = {1, 2, 0, 1, 3, 1, 1, 0, 2, 1, 1, 1, 0, 0, 1, 2}, float[4] b = {1, 2, 3, 4},
 float[4, 4] u = {1, 0, 0, 2, 0, 1, 1, 0, 0, 1, 3, 1, 1, 0, 0, 1}>
{
    first = MatMul(x, w)
    more = Add(first, b)
    second = Gemm<transB=1>(more, u, b)
    square = Mul(second, second)
    summed = MatMul(square, ones)
    loss = ReduceSum<keepdims=0>(summed)
}
"""
X = np.arange(12, dtype=np.float32).reshape(3, 4) % 3
FEED = {"x": X, "ones": np.ones((4, 1), np.float32)}


@pytest.fixture(scope="module")
def gradient() -> Gradient:
    return differentiate(parser.parse_model(TEXT), "loss", ["w", "b", "u"])


def weights(model: ModelProto) -> dict[str, Any]:
    stored = {
        item.name: onnx.numpy_helper.to_array(item) for item in parser.parse_model(TEXT).graph.initializer
    }
    return {info.name: stored[info.name] for info in model.graph.input if info.name in stored}


def half(gradient: Gradient, scale: float, **more: Any) -> dict[str, Any]:
    made = halved(gradient, ["ones"])
    candidate = rounded(Candidate("float16", made.model))
    feed = {**FEED, **weights(made.model), made.scale: np.array(scale, np.float32), **more}
    found = Session(candidate.model, PROVIDER).run(feed)
    return {"sound": found.pop(made.sound), **found}


def test_types_fit_and_only_products_are_narrow(gradient: Gradient) -> None:
    made = halved(gradient, ["ones"])
    onnx.checker.check_model(made.model)
    inferred = onnx.shape_inference.infer_shapes(made.model, strict_mode=True)
    types = {info.name: info.type.tensor_type.elem_type for info in inferred.graph.value_info}
    products = [node for node in inferred.graph.node if node.op_type in ("MatMul", "Gemm")]
    narrow = [node for node in products if types[node.output[0]] == TensorProto.FLOAT16]
    # Those of the graph, two ways back of each (but none to x), and not the two of the sum that is written as one.
    assert len(narrow) == 5 and len(products) == 7
    others = {name for node in inferred.graph.node if node not in products for name in node.output}
    casts = {node.output[0] for node in inferred.graph.node if node.op_type == "Cast"}
    assert all(types.get(name) != TensorProto.FLOAT16 for name in others - casts)
    assert {info.type.tensor_type.elem_type for info in inferred.graph.output} == {TensorProto.FLOAT}


@pytest.mark.parametrize("scale", [1.0, 4.0, 0.25])
def test_numbers_that_float16_holds_give_the_same_gradients(gradient: Gradient, scale: float) -> None:
    exact = Session(gradient.model, PROVIDER).run({**FEED, **weights(gradient.model)})
    found = half(gradient, scale)
    assert found["sound"] == 0 and found["loss"] == exact["loss"] > 0
    for name in gradient.outputs.values():
        assert np.array_equal(found[name], exact[name]) and np.any(exact[name])


def test_other_numbers_are_rounded(gradient: Gradient) -> None:
    feed = {"x": X + np.float32(1 / 3)}
    exact = Session(gradient.model, PROVIDER).run({**FEED, **weights(gradient.model), **feed})
    found = half(gradient, 1.0, **feed)
    for name in gradient.outputs.values():
        apart = np.abs(found[name] - exact[name]).max() / np.abs(exact[name]).max()
        assert 1e-5 < apart < 3e-3


def test_what_is_too_large_is_told(gradient: Gradient) -> None:
    found = half(gradient, 2.0**16)
    assert np.isnan(found["sound"]) and np.isfinite(found["loss"])


def test_nothing_else_reads_the_seed(gradient: Gradient) -> None:
    (seed,) = [tensor for tensor in gradient.model.graph.initializer if tensor.name == gradient.seed]
    assert onnx.numpy_helper.to_array(seed) == 1
    assert sum(gradient.seed in node.input for node in gradient.model.graph.node) == 1
