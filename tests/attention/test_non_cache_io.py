"""Inputs and outputs of the model that carry heads and are no cache keep their shape, unless the caller consents."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, helper

from onnxheadprune.attention.io_changes import Contract
from onnxheadprune.attention.masking import masked_reference
from onnxheadprune.attention.planning import analyse
from onnxheadprune.edit.apply import apply_plan
from tests.attention.toy_parts import HIDDEN, D, H, attended, projected, softmax
from tests.graph_builder import GraphBuilder
from tests.liveness.one_node import run

B, S = 2, 5
X = np.random.default_rng(1).standard_normal((B, S, HIDDEN)).astype(np.float32)
BIAS = np.random.default_rng(2).standard_normal((1, H, S, S)).astype(np.float32)


def biased() -> ModelProto:
    """A fused attention whose bias per head is an input of the model."""
    toy = GraphBuilder()
    flat = [toy.node("MatMul", ["x", toy.weight(n, HIDDEN, H * D)], f"{n}_flat") for n in "qkv"]
    toy.node("MultiHeadAttention", [*flat, "", "", "bias"], "context", domain="com.microsoft", num_heads=H)
    toy.node("MatMul", ["context", toy.weight("o", H * D, HIDDEN)], "y")
    made = toy.model([toy.info("x", [B, S, HIDDEN]), toy.info("bias", [1, H, S, S])], [toy.info("y", None)])
    made.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return made


def features() -> ModelProto:
    """The values as their projection leaves them are an output of the model."""
    toy = GraphBuilder()
    projected(toy, attended(toy, softmax))
    return toy.model([toy.info("x", [B, S, HIDDEN])], [toy.info("y", None), toy.info("v_flat", None)])


@pytest.mark.parametrize(("build", "name"), [(biased, "bias"), (features, "v_flat")])
def test_what_is_no_cache_keeps_its_shape(build: Any, name: str) -> None:
    model = build()
    feed = {"x": X, "bias": BIAS} if build is biased else {"x": X}
    planning = analyse(model, {0: (1,)}, "whole")
    assert planning.io.is_as_before
    want = run(masked_reference(planning.view, planning.sites, planning.heads), feed)
    for output, array in run(apply_plan(planning.plan, model), feed).items():
        np.testing.assert_allclose(array, want[output], atol=1e-5)
    assert set(analyse(model, {0: (1,)}, "narrowed", Contract(allow_io_change=True)).io.live) == {name}
