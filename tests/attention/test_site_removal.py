"""Removing all heads of a site, whatever follows its projection: equal to the masked reference, and no core is left."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper

import onnxheadprune as ohp
from onnxheadprune import RefusedError, apply_plan, plan_pruning
from onnxheadprune.attention.masking import masked_reference
from onnxheadprune.attention.planning import analyse
from tests.graph_builder import GraphBuilder
from tests.graph_text import model_of
from tests.graphs import toys
from tests.liveness.one_node import check_equal, run

B, S, H, D, HIDDEN = 2, 3, 2, 4, 6
WIDTH = H * D
Tail = Callable[[GraphBuilder], str]


def post_norm(toy: GraphBuilder) -> str:
    """Gemma's: the branch is normalised before it joins the stream."""
    projected = toy.node("MatMul", ["context", toy.weight("o", WIDTH, HIDDEN)], "projected")
    biased = toy.node("Add", [projected, toy.weight("o.bias", HIDDEN)], "biased")
    normed = toy.node("LayerNormalization", [biased, toy.weight("gain", HIDDEN)], "normed", axis=-1)
    return toy.node("Add", ["x", normed], "y")


def model(tail: Tail, packed: bool = False) -> ModelProto:
    toy = GraphBuilder()
    if packed:
        qkv = toy.node("MatMul", ["x", toy.weight("qkv.weight", HIDDEN, 3 * WIDTH)], "qkv")
        sizes = toy.constant("sizes", np.array([WIDTH] * 3))
        toy.nodes.append(helper.make_node("Split", [qkv, sizes], ["q_flat", "k_flat", "v_flat"], axis=2))
    split = toy.constant("split", np.array([0, 0, H, D]))
    for name in "qkv":
        flat = f"{name}_flat"
        if not packed:
            toy.node("MatMul", ["x", toy.weight(f"{name}.weight", HIDDEN, WIDTH)], flat)
        toy.node("Transpose", [toy.node("Reshape", [flat, split], f"{name}_split")], name, perm=[0, 2, 1, 3])
    scores = toy.node("MatMul", ["q", toy.node("Transpose", ["k"], "kt", perm=[0, 1, 3, 2])], "scores")
    product = toy.node("MatMul", [toy.node("Softmax", [scores], "p", axis=-1), "v"], "product")
    back = toy.node("Transpose", [product], "back", perm=[0, 2, 1, 3])
    toy.node("Reshape", [back, toy.constant("merge", np.array([0, 0, WIDTH]))], "context")
    tail(toy)
    made = toy.model(
        [toy.info("x", ["batch", "sequence", HIDDEN])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    made.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return made


def test_a_size_that_nothing_tells_is_refused() -> None:
    def tail(toy: GraphBuilder) -> str:
        """The context of the rows that are not zero: nobody knows how many."""
        mask = toy.node(
            "Cast", [toy.node("ReduceSum", ["x"], "sums", keepdims=0)], "flag", to=TensorProto.BOOL
        )
        vector = toy.node(
            "Expand",
            [
                mask,
                toy.node(
                    "Slice",
                    [toy.node("Shape", ["x"], "xs"), *(toy.constant(f"c{i}", np.array([i])) for i in (0, 1))],
                    "batch_only",
                ),
            ],
            "flags",
        )
        chosen = toy.node("Compress", ["context", vector], "chosen", axis=0)
        return toy.node("MatMul", [chosen, toy.weight("o", WIDTH, HIDDEN)], "y")

    with pytest.raises(RefusedError):
        analyse(model(tail), {0: [0, 1]}, "unknown size")


@pytest.mark.each_choice
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("observed", ["scores", "context", "q_split", "v_flat"])
def test_a_shape_that_somebody_looks_at_stays_right(observed: str, packed: bool) -> None:
    """The model also returns the shape of a value that nobody needs any more, and the keys (a cache)."""
    original = model(post_norm, packed)
    original.graph.node.append(helper.make_node("Shape", [observed], ["size"]))
    original.graph.output.append(helper.make_tensor_value_info("size", TensorProto.INT64, None))
    original.graph.output.append(helper.make_tensor_value_info("k_flat", TensorProto.FLOAT, None))
    planning = analyse(original, {0: [0, 1]}, "observed")
    pruned = apply_plan(planning.plan, original)
    feed = {"x": np.random.default_rng(0).standard_normal((B, S, HIDDEN)).astype(np.float32)}
    want = run(masked_reference(planning.view, planning.sites, planning.heads), feed)
    got = run(pruned, feed)
    check_equal(got, want, 1e-6)


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
