"""A silenced head adds nothing only where the reader's zero point is the quantizer's; else the site is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, helper

from onnxheadprune import inspect
from onnxheadprune.attention.masking import masked_reference
from onnxheadprune.attention.planning import analyse
from onnxheadprune.edit.apply import apply_plan
from tests.attention.toy_parts import HIDDEN, D, H, context
from tests.graph_builder import GraphBuilder
from tests.liveness.one_node import run


def dynamic(toy: GraphBuilder, zero: Any) -> None:
    """DynamicQuantizeLinear, then MatMulInteger with its own or a stored zero point."""
    toy.nodes.append(
        helper.make_node("DynamicQuantizeLinear", ["merged"], ["a", "a_scale", "a_zero"], name="quantize")
    )
    taken = "a_zero" if zero is None else toy.constant("other_zero", np.uint8(zero))
    summed = toy.node("MatMulInteger", ["a", weight(toy), taken], "summed")
    toy.node("Mul", [toy.node("Cast", [summed], "float", to=1), "a_scale"], "y")


def dynamic_view(toy: GraphBuilder, zero: Any) -> None:
    """The same with a view between the two."""
    toy.nodes.append(
        helper.make_node("DynamicQuantizeLinear", ["merged"], ["a", "a_scale", "a_zero"], name="quantize")
    )
    taken = "a_zero" if zero is None else toy.constant("other_zero", np.uint8(zero))
    flat = toy.node("Reshape", ["a", toy.constant("flat", np.array([-1, H * D]))], "flat_a")
    summed = toy.node("MatMulInteger", [flat, weight(toy), taken], "summed")
    toy.node("Mul", [toy.node("Cast", [summed], "float", to=1), "a_scale"], "y")


def static(toy: GraphBuilder, zero: Any) -> None:
    """QuantizeLinear, then QLinearMatMul."""
    scale, own = toy.constant("a_scale", np.float32(0.02)), toy.constant("a_zero", np.uint8(128))
    toy.node("QuantizeLinear", ["merged", scale, own], "a")
    # An equal number is the same zero point, wherever it is stored.
    taken = toy.constant("other_zero", np.uint8(128 if zero is None else zero))
    one = [toy.constant("w_scale", np.float32(0.02)), toy.constant("w_zero", np.int8(0))]
    out = [toy.constant("y_scale", np.float32(0.05)), toy.constant("y_zero", np.uint8(120))]
    made = toy.node("QLinearMatMul", ["a", scale, taken, weight(toy), *one, *out], "made")
    toy.node("DequantizeLinear", [made, *out], "y")


def pair(toy: GraphBuilder, zero: Any) -> None:
    """QuantizeLinear and DequantizeLinear in front of a MatMul of floats."""
    scale, own = toy.constant("a_scale", np.float32(0.02)), toy.constant("a_zero", np.uint8(128))
    toy.node("QuantizeLinear", ["merged", scale, own], "a")
    taken = own if zero is None else toy.constant("other_zero", np.uint8(zero))
    toy.node(
        "MatMul",
        [toy.node("DequantizeLinear", ["a", scale, taken], "back"), toy.weight("o", H * D, HIDDEN)],
        "y",
    )


def weight(toy: GraphBuilder) -> str:
    return toy.constant("o", toy.rng.integers(-9, 9, (H * D, HIDDEN)).astype(np.int8))


def build(tail: Any, zero: Any, silent: tuple[int, ...] = ()) -> ModelProto:
    toy = GraphBuilder()
    turned = toy.node("Transpose", [context(toy, silent)], "turned", perm=[0, 2, 1, 3])
    toy.node("Reshape", [turned, toy.constant("merge", np.array([0, 0, H * D]))], "merged")
    tail(toy, zero)
    return toy.model([toy.info("x", ["batch", "sequence", HIDDEN])], [toy.info("y", None)])


@pytest.mark.parametrize("tail", [dynamic, dynamic_view, static, pair])
def test_a_zero_point_of_its_own_is_refused(tail: Any) -> None:
    (site,) = inspect(build(tail, 7))
    assert site.reason is not None and "zero point" in site.reason.sentence


@pytest.mark.parametrize("tail", [dynamic, static, pair])
def test_the_quantizers_zero_point_is_exact(tail: Any) -> None:
    feed = {"x": np.random.default_rng(1).standard_normal((2, 5, HIDDEN)).astype(np.float32)}
    model = build(tail, None)
    planning = analyse(model, {0: (1,)}, "quantized")
    got = run(apply_plan(planning.plan, model), feed)["y"]
    np.testing.assert_allclose(got, run(build(tail, None, (1,)), feed)["y"], atol=1e-5)
    masked = masked_reference(planning.view, planning.sites, planning.heads)
    np.testing.assert_allclose(got, run(masked, feed)["y"], atol=1e-5)
