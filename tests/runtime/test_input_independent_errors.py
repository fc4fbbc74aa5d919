"""Where no input can help, nobody is told to give other inputs."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper, parser

from onnxheadprune import apply_plan, plan_pruning, validate
from onnxheadprune.data.calibration import random_data
from onnxheadprune.errors import MissingKernelError
from onnxheadprune.operators import view_of
from onnxheadprune.runtime.providers import resolve_provider
from tests.graphs import toys


def test_a_weight_that_holds_nan_is_named() -> None:
    model = toys.attention()
    weight = toys.get_initializer(model, "attn.q.weight").copy()
    weight[0, :] = np.nan
    toys.set_initializer(model, "attn.q.weight", weight)
    result = validate(model, apply_plan(plan_pruning(model, heads="0:1"), model))
    assert result.verdict == "inconclusive"
    assert "attn.q.weight holds NaN itself" in result.reason
    assert "--data" not in result.reason


# Operators of ONNX Runtime that its CPU kernels implement in part

HEADER = '<ir_version: 8, opset_import: ["": 17, "com.microsoft": 1]>'
WITHOUT_KERNEL = {
    "packed queries, keys and values": """
        (float[batch, sequence, 8] x) => (float[batch, sequence, 8] y) {
            packed = MatMul(x, w)
            five = Reshape(packed, to_five)
            context = com.microsoft.MultiHeadAttention<num_heads = 2>(five)
            y = MatMul(context, out)
        }""",
    "packed keys and values": """
        (float[batch, sequence, 8] x) => (float[batch, sequence, 8] y) {
            q = MatMul(x, wq)
            packed = MatMul(x, wkv)
            five = Reshape(packed, to_four)
            context = com.microsoft.MultiHeadAttention<num_heads = 2>(q, five)
            y = MatMul(context, out)
        }""",
    "a mask of four axes": """
        (float[batch, sequence, 8] x, int32[batch, 1, 16, 16] mask) => (float[batch, sequence, 8] y) {
            context = com.microsoft.Attention<num_heads = 2>(x, w, b, mask)
            y = MatMul(context, out)
        }""",
    "rotary positions": """
        (float[batch, sequence, 8] x) => (float[batch, sequence, 8] y) {
            context = com.microsoft.Attention<num_heads = 2, do_rotary = 1>(x, w, b)
            y = MatMul(context, out)
        }""",
}


def of_text(text: str) -> ModelProto:
    model = parser.parse_model(f"{HEADER} g {text}")
    generator = np.random.default_rng(0)
    shapes = {"w": (8, 24), "wq": (8, 8), "wkv": (8, 16), "b": (24,), "out": (8, 8)}
    stored = {name: generator.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    numbers = {"to_five": np.array([0, 0, 2, 3, 4]), "to_four": np.array([0, 0, 2, 2, 4])}
    read = {name for node in model.graph.node for name in node.input}
    for name, array in (stored | numbers).items():
        if name in read:
            model.graph.initializer.append(numpy_helper.from_array(array, name))
    return model


@pytest.mark.parametrize("text", WITHOUT_KERNEL.values(), ids=WITHOUT_KERNEL)
def test_a_kernel_that_is_missing_is_no_matter_of_inputs(text: str) -> None:
    model = of_text(text)
    smaller = apply_plan(plan_pruning(model, heads="0:1"), model)
    with pytest.raises(MissingKernelError, match=r"not (implemented|supported)") as raised:
        validate(model, smaller, provider="cpu")
    assert "--data" not in str(raised.value)
    with pytest.raises(MissingKernelError, match=r"not (implemented|supported)"):
        random_data(view_of(model), resolve_provider("cpu"))
    data = [{item.name: np.ones((1, 16, 8), np.float32) for item in model.graph.input}]
    data[0] |= {"mask": np.ones((1, 1, 16, 16), np.int32)} if "mask" in text else {}
    with pytest.raises(MissingKernelError, match=r"not (implemented|supported)"):
        validate(model, smaller, provider="cpu", data=data)
