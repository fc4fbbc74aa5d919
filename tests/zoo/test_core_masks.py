"""Heads silenced where they are made, and where the site says that they are projected: one model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import ModelProto

from onnxheadprune import validate
from onnxheadprune.attention.masking import masked_reference
from onnxheadprune.attention.planning import analyse
from onnxheadprune.edit.apply import apply_plan
from tests.graph_builder import GraphBuilder
from tests.graphs.toys import HEAD_SIZE, HEADS, HIDDEN
from tests.liveness.one_node import run
from tests.zoo.core_masks import silenced_cores

WIDTH = HEADS * HEAD_SIZE


class Block(GraphBuilder):
    """Self-attention whose way from the contexts to the projection is up to the test."""

    def heads(self, stream: str, name: str, count: int = HEADS) -> str:
        """[batch, heads, sequence, size] of a projection."""
        size = WIDTH // count
        flat = self.node("MatMul", [stream, self.weight(f"{name}.weight", HIDDEN, WIDTH)], f"{name}_flat")
        target = self.constant(f"{name}_target", np.array([0, 0, count, size]))
        self.node("Reshape", [flat, target], f"{name}_split")
        return self.node("Transpose", [f"{name}_split"], f"{name}_heads", perm=[0, 2, 1, 3])

    def context(self, count: int = HEADS) -> str:
        """[batch, heads, sequence, size]."""
        for name in "qkv":
            self.heads("x", name, count)
        self.node("Transpose", ["k_heads"], "k_turned", perm=[0, 1, 3, 2])
        self.node("MatMul", ["q_heads", "k_turned"], "scores")
        self.node("Softmax", ["scores"], "probabilities", axis=-1)
        return self.node("MatMul", ["probabilities", "v_heads"], "context")

    def merged(self, value: str, width: int = WIDTH) -> str:
        self.node("Transpose", [value], f"{value}_back", perm=[0, 2, 1, 3])
        target = self.constant(f"{value}_target", np.array([0, 0, width]))
        return self.node("Reshape", [f"{value}_back", target], f"{value}_merged")

    def built(self, context: str, width: int = WIDTH) -> ModelProto:
        self.node("MatMul", [context, self.weight("o.weight", width, HIDDEN)], "projected")
        self.node("Add", ["projected", "x"], "y")
        shape = ["batch", "sequence", HIDDEN]
        return self.model([self.info("x", shape)], [self.info("y", shape)])


def plain() -> ModelProto:
    block = Block()
    return block.built(block.merged(block.context()))


def value_bias_behind_the_core() -> ModelProto:
    """The weights of a softmax sum to one, so a bias of the values may be added to the context as well."""
    block = Block()
    return block.built(
        block.node("Add", [block.merged(block.context()), block.weight("v.bias", WIDTH)], "biased")
    )


def gate() -> ModelProto:
    block = Block()
    flat = block.node("MatMul", ["x", block.weight("gate.weight", HIDDEN, WIDTH)], "gate_flat")
    opened = block.node("Sigmoid", [flat], "gate_open")
    return block.built(block.node("Mul", [block.merged(block.context()), opened], "gated"))


def convolution_of_the_values() -> ModelProto:
    """CSWin's local enhancement: a convolution over the tokens of the values is added to the context."""
    block = Block()
    merged = block.merged(block.context())
    values = block.merged("v_heads")
    turned = block.node("Transpose", [values], "v_turned", perm=[0, 2, 1])
    weight, bias = block.weight("conv.weight", WIDTH, 1, 3), block.weight("conv.bias", WIDTH)
    local = block.node("Conv", [turned, weight, bias], "local", group=WIDTH, pads=[1, 1])
    back = block.node("Transpose", [local], "local_back", perm=[0, 2, 1])
    return block.built(block.node("Add", [merged, back], "enhanced"))


def norm_without_mixing_heads() -> ModelProto:
    """Every head is normalised by itself before the merge, with a scale and a bias."""
    block = Block()
    block.context()
    scale, bias = block.weight("norm.scale", HEAD_SIZE), block.weight("norm.bias", HEAD_SIZE)
    block.node("LayerNormalization", ["context", scale, bias], "context_normed", axis=-1)
    return block.built(block.merged("context_normed"))


def gate_behind_a_norm() -> ModelProto:
    """RetNet: every head is normalised by itself, and a gate of its own lets through the bias of the norm."""
    block = Block()
    block.context()
    scale, bias = block.weight("norm.scale", HEAD_SIZE), block.weight("norm.bias", HEAD_SIZE)
    block.node("LayerNormalization", ["context", scale, bias], "context_normed", axis=-1)
    flat = block.node("MatMul", ["x", block.weight("gate.weight", HIDDEN, WIDTH)], "gate_flat")
    opened = block.node("Sigmoid", [flat], "gate_open")
    return block.built(block.node("Mul", [block.merged("context_normed"), opened], "gated"))


def folded() -> ModelProto:
    """Heads lie on one symbolic axis with the batch, as nn.MultiheadAttention folds them."""
    block = Block()
    for name in "qkv":
        flat = block.node("MatMul", ["x", block.weight(f"{name}.weight", HIDDEN, WIDTH)], f"{name}_flat")
        apart = block.constant(f"{name}_apart", np.array([0, 0, HEADS, HEAD_SIZE]))
        block.node("Reshape", [flat, apart], f"{name}_split")
        block.node("Transpose", [f"{name}_split"], f"{name}_heads", perm=[0, 2, 1, 3])
        block.node("Shape", ["x"], f"{name}_shape")
        one, end = block.constant(f"{name}_one", np.array([1])), block.constant(f"{name}_end", np.array([2]))
        length = block.node("Slice", [f"{name}_shape", one, end], f"{name}_length")
        rest, size = (
            block.constant(f"{name}_rest", np.array([-1])),
            block.constant(f"{name}_size", np.array([4])),
        )
        block.node("Concat", [rest, length, size], f"{name}_target", axis=0)
        block.node("Reshape", [f"{name}_heads", f"{name}_target"], f"{name}_folded")
    block.node("Transpose", ["k_folded"], "k_turned", perm=[0, 2, 1])
    block.node("MatMul", ["q_folded", "k_turned"], "scores")
    block.node("Softmax", ["scores"], "probabilities", axis=-1)
    block.node("MatMul", ["probabilities", "v_folded"], "core")
    heads = block.constant("unfold_heads", np.array([HEADS]))
    block.node("Concat", ["q_rest", heads, "q_length", "q_size"], "unfold", axis=0)
    block.node("Reshape", ["core", "unfold"], "context")
    return block.built(block.merged("context"))


@pytest.mark.each_choice
@pytest.mark.parametrize("gone", [[1], [0, 2], [0, 1, 2, 3]])
@pytest.mark.parametrize(
    "build",
    [
        plain,
        value_bias_behind_the_core,
        gate,
        convolution_of_the_values,
        norm_without_mixing_heads,
        gate_behind_a_norm,
        folded,
    ],
)
def test_what_is_the_heads_own_passes(build: Any, gone: list[int]) -> None:
    model = build()
    planning = analyse(model, {0: gone}, "the model")
    assert planning.sites[0].num_heads == HEADS
    silenced = silenced_cores(planning)
    assert silenced.any and not silenced.skipped and len(silenced.taps) == 1
    feed = {"x": np.random.default_rng(0).standard_normal((2, 7, HIDDEN)).astype(np.float32)}
    outputs = run(silenced.model, feed)
    if build in (plain, gate, folded):
        assert not silenced.taps[0].rest(outputs)[0].any()
        masked = masked_reference(planning.view, planning.sites, planning.heads)
        np.testing.assert_allclose(outputs["y"], run(masked, feed)["y"], atol=1e-5)
    found = validate(model, apply_plan(planning.plan, model), provider="cpu")
    assert found.exact == "yes", found.reason
