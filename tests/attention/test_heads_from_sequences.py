"""Heads that a SplitToSequence hands out one by one, with their axis and without it, are cut exactly."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper, parser

from onnxheadprune import inspect, prune

HEADS, SIZE = 4, 3
WIDTH = HEADS * SIZE


def heads_one_by_one(keepdims: int) -> ModelProto:
    """Attention in which each head is an element of three sequences."""
    perm = "0, 1, 3, 2" if keepdims else "0, 2, 1"
    back = [f"c{i} = {f'Squeeze (w{i}, one)' if keepdims else f'Identity (w{i})'}" for i in range(HEADS)]
    heads = "\n".join(
        f"""q{i} = SequenceAt (q, n{i}) k{i} = SequenceAt (k, n{i}) v{i} = SequenceAt (v, n{i})
        t{i} = Transpose <perm = [{perm}]> (k{i}) s{i} = MatMul (q{i}, t{i}) p{i} = Softmax <axis = -1> (s{i})
        w{i} = MatMul (p{i}, v{i}) {back[i]}"""
        for i in range(HEADS)
    )
    split = f"SplitToSequence <axis = 1, keepdims = {keepdims}>"
    made = "\n".join(
        f"""{name}_flat = MatMul (x, w_{name}) {name}_rows = Reshape ({name}_flat, shape)
        {name}_heads = Transpose <perm = [0, 2, 1, 3]> ({name}_rows) {name} = {split} ({name}_heads)"""
        for name in "qkv"
    )
    numbers = ", ".join(f"int64 n{i} = {{{i}}}" for i in range(HEADS))
    model = parser.parse_model(f"""<ir_version: 8, opset_import: ["": 17]>
        g (float[batch, seq, {WIDTH}] x) => (float[batch, seq, {WIDTH}] y)
        <int64[4] shape = {{0, 0, {HEADS}, {SIZE}}}, int64[1] one = {{1}}, {numbers}>
        {{ {made} {heads}
           joined = Concat <axis = -1> ({", ".join(f"c{i}" for i in range(HEADS))}) y = MatMul (joined, w_o) }}""")
    generator = np.random.default_rng(0)
    for name in ("w_q", "w_k", "w_v", "w_o"):
        weight = generator.standard_normal((WIDTH, WIDTH)).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(weight, name))
    return model


@pytest.mark.parametrize("keepdims", [0, 1])
def test_heads_without_their_axis_are_cut(keepdims: int) -> None:
    model = heads_one_by_one(keepdims)
    (site,) = inspect(model).sites
    assert site.num_heads == HEADS and site.reason is None
    found = prune(model, heads="0:1", provider="cpu").validation
    assert found is not None and found.exact == "yes", found.reason
