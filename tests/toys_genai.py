"""One decoder block as onnxruntime-genai's model builder writes it: fused attention, fused residual norms."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, TensorProto, helper

from tests.graph_builder import GraphBuilder

HEADS, KV_HEADS, HEAD_SIZE, HIDDEN = 4, 2, 16, 24
MICROSOFT = "com.microsoft"


def decoder(*, repeated: bool = False, bias: bool = False) -> ModelProto:
    """`x [batch, sequence, hidden]`, a past and a mask to `y` and presents, with the head size named `kv_cache_dim`.

    Args:
        repeated: MultiHeadAttention on key and value heads that are copied for their query heads, in place of
            GroupQueryAttention.
        bias: with a bias in the output projection's SkipSimplifiedLayerNormalization.
    """
    toy = GraphBuilder()
    cache = ["batch", KV_HEADS, "past_sequence_length", "kv_cache_dim"]
    present = ["batch", KV_HEADS, "total_sequence_length", "kv_cache_dim"]
    inputs = [
        toy.info("x", ["batch", "sequence", HIDDEN]),
        toy.info("attention_mask", ["batch", "total_sequence_length"], TensorProto.INT64),
        toy.info("past_key_values.0.key", cache),
        toy.info("past_key_values.0.value", cache),
    ]
    width, kv_width = HEADS * HEAD_SIZE, KV_HEADS * HEAD_SIZE
    for name, columns in (("q", width), ("k", kv_width), ("v", kv_width)):
        toy.node("MatMul", ["x", toy.weight(f"{name}.weight", HIDDEN, columns)], name)
    _repeated(toy) if repeated else _grouped(toy)
    toy.node("MatMul", ["context", toy.weight("o.weight", width, HIDDEN)], "projected")
    norm = ["x", "projected", toy.weight("gain", HIDDEN), *([toy.weight("o.bias", HIDDEN)] if bias else [])]
    node = helper.make_node(
        "SkipSimplifiedLayerNormalization", norm, ["normed", "", "", "stream"], domain=MICROSOFT, epsilon=1e-5
    )
    toy.nodes.append(node)
    toy.node("MatMul", ["normed", toy.weight("mlp", HIDDEN, HIDDEN)], "mlp_out")
    toy.node("Add", ["stream", "mlp_out"], "y")
    outputs = [toy.info("y", ["batch", "sequence", HIDDEN])]
    outputs += [toy.info(f"present.0.{what}", present) for what in ("key", "value")]
    model = toy.model(inputs, outputs)
    model.opset_import.append(helper.make_opsetid(MICROSOFT, 1))
    return model


def _grouped(toy: GraphBuilder) -> None:
    one = toy.constant("one", np.array([1], dtype=np.int64))
    toy.node("ReduceSum", ["attention_mask", one], "counts", keepdims=1)
    toy.node("Sub", ["counts", one], "lengths")
    toy.node("Cast", ["lengths"], "seqlens_k", to=TensorProto.INT32)
    toy.node("Shape", ["attention_mask"], "mask_shape")
    toy.node("Gather", ["mask_shape", toy.constant("axis", np.array(1, dtype=np.int64))], "total64")
    toy.node("Cast", ["total64"], "total", to=TensorProto.INT32)
    pasts = ["past_key_values.0.key", "past_key_values.0.value"]
    node = helper.make_node(
        "GroupQueryAttention",
        ["q", "k", "v", *pasts, "seqlens_k", "total"],
        ["context", "present.0.key", "present.0.value"],
        domain=MICROSOFT,
        num_heads=HEADS,
        kv_num_heads=KV_HEADS,
    )
    toy.nodes.append(node)


def _repeated(toy: GraphBuilder) -> None:
    split = toy.constant("split", np.array([0, 0, KV_HEADS, HEAD_SIZE], dtype=np.int64))
    copies = toy.constant("copies", np.array([1, 1, HEADS // KV_HEADS, 1, 1], dtype=np.int64))
    merge = toy.constant("merge", np.array([0, HEADS, -1, HEAD_SIZE], dtype=np.int64))
    flat = toy.constant("flat", np.array([0, 0, HEADS * HEAD_SIZE], dtype=np.int64))
    for name, what in (("k", "key"), ("v", "value")):
        toy.node(
            "Transpose",
            [toy.node("Reshape", [name, split], f"{name}_split")],
            f"{name}_heads",
            perm=[0, 2, 1, 3],
        )
        toy.node("Concat", [f"past_key_values.0.{what}", f"{name}_heads"], f"present.0.{what}", axis=2)
        two = toy.constant(f"{name}_axis", np.array([2], dtype=np.int64))
        toy.node("Unsqueeze", [f"present.0.{what}", two], f"{name}_alone")
        toy.node(
            "Reshape", [toy.node("Tile", [f"{name}_alone", copies], f"{name}_copies"), merge], f"{name}_all"
        )
        toy.node("Transpose", [f"{name}_all"], f"{name}_back", perm=[0, 2, 1, 3])
        toy.node("Reshape", [f"{name}_back", flat], f"{name}_flat")
    node = helper.make_node(
        "MultiHeadAttention", ["q", "k_flat", "v_flat"], ["context"], domain=MICROSOFT, num_heads=HEADS
    )
    toy.nodes.append(node)
