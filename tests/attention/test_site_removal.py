"""Removing all heads of a site, whatever follows its projection: equal to the masked reference, and no core is left."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto

import onnxheadprune as ohp
from onnxheadprune import RefusedError, plan_pruning
from tests.graph_text import model_of
from tests.graphs import toys
from tests.liveness.one_node import run


@pytest.mark.parametrize("also", [{}, {0: [1]}])
def test_sites_that_only_a_removed_one_reads_are_named(also: dict[int, list[int]]) -> None:
    """An encoder behind a cross-attention that goes, whether heads of it are named or not."""
    net, dims = toys.Stack(inner=24, biases=()), ["b", "s", toys.HIDDEN]
    for name, read, source in (
        ("enc", "source", "source"),
        ("cross", "x", "enc.mlp.stream"),
        ("dec", "cross.stream", "cross.stream"),
    ):
        stream = net.crossed(read, name, *(net.heads(source, f"{name}.{what}") for what in "kv"))
        if name == "enc":
            net.networked(stream, "enc.mlp")
    model = net.model([net.info("x", dims), net.info("source", dims)], [net.info(stream, dims)])
    notes = plan_pruning(model, heads={1: range(toys.HEADS), **also}).notes
    assert notes == tuple(
        f"{site} is removed, too: nothing reads its output any more"
        for site in ("attn.0 (enc)", "ffn.0 (enc.mlp)", "layer.0 (layer_0)")
    )
    assert not plan_pruning(model, heads={0: range(toys.HEADS)}).notes


COUPLED = """<ir_version: 9, opset_import: ["" : 17]>
attention (float[B, S, 8] x) => (float[B, S, 8] y)
<float[8, 8] wq, float[8, 8] wk, float[8, 8] wv, float[8, 8] wo, float[8, 8] tail, float[8] g, float[8] b,
 int64[4] split = {0, 0, 2, 4}, int64[3] merge = {0, 0, 8}> {
    q0 = MatMul(x, wq)
    k0 = MatMul(x, wk)
    v0 = MatMul(x, wv)
    q1 = Reshape(q0, split)
    k1 = Reshape(k0, split)
    v1 = Reshape(v0, split)
    q = Transpose <perm = [0, 2, 1, 3]>(q1)
    k = Transpose <perm = [0, 2, 3, 1]>(k1)
    v = Transpose <perm = [0, 2, 1, 3]>(v1)
    scores = MatMul(q, k)
    shares = Softmax <axis = -1>(scores)
    context = MatMul(shares, v)
    back = Transpose <perm = [0, 2, 1, 3]>(context)
    merged = Reshape(back, merge)
    normal = LayerNormalization(merged, g, b)
    out = MatMul(normal, wo)
    s = Add(x, out)
    y = MatMul(s, tail)
}"""


def test_what_mixes_heads_goes_with_all_of_them() -> None:
    """A normalisation over all heads keeps each of them; without any it computes nothing that depends on an input."""
    model = model_of(COUPLED)
    (site,) = ohp.inspect(model)
    assert not site.removable and site.removable_whole
    with pytest.raises(RefusedError, match="LayerNormalization mixes values across heads"):
        ohp.prune(model, heads={"0": [1]}, provider="cpu")
    made = ohp.prune(model, heads={"attn.0": "*"}, provider="cpu")
    assert made.validation is not None and made.validation.verdict == "passed"
    other = ModelProto()
    other.CopyFrom(model)
    toys.set_initializer(other, "wo", np.zeros((8, 8), np.float32))
    feed = {"x": np.random.default_rng(0).normal(size=(2, 5, 8)).astype(np.float32)}
    np.testing.assert_allclose(run(made.model, feed)["y"], run(other, feed)["y"], rtol=1e-5, atol=1e-6)
    assert not {node.op_type for node in made.model.graph.node} & {"Softmax", "LayerNormalization"}


def test_a_projection_that_reads_the_stream_is_not_removed_with_the_heads() -> None:
    """An attention without an output projection: the layer behind the next normalisation reads the stream, too."""
    text = COUPLED.replace(
        "normal = LayerNormalization(merged, g, b)",
        "more = Add(x, merged)\nnormal = LayerNormalization(more, g, b)",
    )
    sites = ohp.inspect(model_of(text))
    assert not any(site.removable_whole for site in sites)
    for site in sites:
        with pytest.raises(RefusedError):
            ohp.prune(model_of(text), heads={site.tag: "*"}, provider="cpu")
