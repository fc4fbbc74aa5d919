"""Where no input can help, nobody is told to give other inputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, helper, numpy_helper, parser

from onnxheadprune import InferenceError, apply_plan, plan_pruning, validate
from onnxheadprune.data.calibration import random_data
from onnxheadprune.errors import MissingKernelError
from onnxheadprune.operators import view_of
from onnxheadprune.runtime import Session
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


# What kernels do say of wrong inputs

ONES: dict[str, Any] = {"a": np.ones((3, 2), np.float32), "b": np.ones((4, 5), np.float32)}
NUMBERS = {"n": np.array([7, 5])}
WRONG = {
    "Add": ("Add(a, b)", {}),
    "MatMul": ("MatMul(a, b)", {}),
    "Concat": ("Concat<axis = 0>(a, b)", {}),
    "Gather": ("Gather(a, n)", {}),
    "Reshape": ("Reshape(a, n)", {}),
    "Expand": ("Expand(a, n)", {}),
    "Where": ("Where(c, a, b)", {"c": np.ones((3, 5), bool)}),
    "Conv": ("Conv(i, k)", {"i": np.ones((1, 2, 5), np.float32), "k": np.ones((4, 3, 2), np.float32)}),
    "MultiHeadAttention": (
        "com.microsoft.MultiHeadAttention<num_heads = 2>(q, q, q, , m)",
        {"q": np.ones((1, 3, 8), np.float32), "m": np.ones((1, 9), np.int32)},
    ),
}


@pytest.mark.parametrize(("call", "more"), WRONG.values(), ids=WRONG)
def test_inputs_that_do_not_fit_are_no_missing_kernel(call: str, more: dict[str, Any]) -> None:
    feed = {name: array for name, array in (ONES | NUMBERS | more).items() if name in call.partition("(")[2]}
    model = parser.parse_model(f"{HEADER} g () => (float y) {{ y = {call} }}")
    for name, array in feed.items():
        elem_type = helper.np_dtype_to_tensor_dtype(array.dtype)
        model.graph.input.append(helper.make_tensor_value_info(name, elem_type, [None] * array.ndim))
    with pytest.raises(InferenceError) as raised:
        Session(model, resolve_provider("cpu")).run(feed)
    assert not isinstance(raised.value, MissingKernelError), raised.value
