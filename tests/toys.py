"""Small models made by hand, so that the tests need neither torch nor a sample."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, numpy_helper

from tests.graph_builder import GraphBuilder

HEADS, HEAD_SIZE, HIDDEN, VOCABULARY = 4, 4, 12, 19
BIG = 64


def attention(
    *,
    heads: int = HEADS,
    hidden: int = HIDDEN,
    cache: bool = False,
    ids: bool = False,
    dtype: Any = np.float32,
    silent_heads: tuple[int, ...] = (),
    out_scale: float = 1.0,
    extra_weight: int = 0,
) -> ModelProto:
    """One self-attention block with a residual connection: x [batch, sequence, hidden] -> y.

    Args:
        heads: query heads.
        hidden: width of the residual stream.
        cache: with past_key/past_value inputs and present outputs.
        ids: input_ids into an embedding table instead of x.
        dtype: of everything that is no integer.
        silent_heads: heads whose rows of the output projection are zero, so that removing them shows nowhere.
        out_scale: factor on the output projection.
        extra_weight: elements of an initializer that is added to the output, to make the file larger.
    """
    toy = GraphBuilder(dtype)
    width = heads * HEAD_SIZE
    inputs = [toy.info("x", ["batch", "sequence", hidden])]
    stream = "x"
    if ids:
        inputs = [toy.info("input_ids", ["batch", "sequence"], TensorProto.INT64)]
        stream = toy.node("Gather", [toy.weight("embed.weight", VOCABULARY, hidden), "input_ids"], "embedded")
    split = toy.constant("split_shape", np.array([0, 0, heads, HEAD_SIZE]))
    for name in "qkv":
        product = toy.node(
            "MatMul", [stream, toy.weight(f"attn.{name}.weight", hidden, width)], f"{name}_product"
        )
        biased = toy.node("Add", [product, toy.weight(f"attn.{name}.bias", width)], f"{name}_biased")
        toy.node("Reshape", [biased, split], f"{name}_split")
        toy.node("Transpose", [f"{name}_split"], f"{name}_heads", perm=[0, 2, 1, 3])
    outputs = []
    keys, values = "k_heads", "v_heads"
    if cache:
        for letter, name in (("k", "key"), ("v", "value")):
            inputs.append(toy.info(f"past_{name}", ["batch", heads, "past_sequence_length", HEAD_SIZE]))
            present = toy.node("Concat", [f"past_{name}", f"{letter}_heads"], f"present_{name}", axis=2)
            length = "past_sequence_length + sequence"
            outputs.append(toy.info(present, ["batch", heads, length, HEAD_SIZE]))
        keys, values = "present_key", "present_value"
    toy.node("Transpose", [keys], "keys_transposed", perm=[0, 1, 3, 2])
    toy.node("MatMul", ["q_heads", "keys_transposed"], "scores")
    toy.node("Softmax", ["scores"], "probabilities", axis=-1)
    toy.node("MatMul", ["probabilities", values], "context")
    toy.node("Transpose", ["context"], "context_back", perm=[0, 2, 1, 3])
    merged = toy.node(
        "Reshape", ["context_back", toy.constant("merge_shape", np.array([0, 0, width]))], "merged"
    )
    out = out_scale * toy.rng.standard_normal((width, hidden)).astype(toy.dtype)
    for head in silent_heads:
        out[head * HEAD_SIZE : (head + 1) * HEAD_SIZE] = 0
    projected = toy.node(
        "MatMul", [merged, toy.constant("attn.out.weight", out.astype(toy.dtype))], "projected"
    )
    if extra_weight:
        total = toy.node("ReduceSum", [toy.weight("extra.weight", extra_weight)], "extra_total", keepdims=0)
        projected = toy.node("Add", [projected, total], "projected_more")
    toy.node("Add", [stream, projected], "y")
    return toy.model(inputs, [toy.info("y", ["batch", "sequence", hidden]), *outputs])


def no_attention() -> ModelProto:
    """A single product with weights."""
    toy = GraphBuilder()
    toy.node("MatMul", ["x", toy.weight("w", 3, 5)], "y")
    return toy.model([toy.info("x", ["batch", 3])], [toy.info("y", ["batch", 5])])


def set_initializer(model: ModelProto, name: str, array: Any) -> None:
    """Replaces an initializer's data."""
    for tensor in model.graph.initializer:
        if tensor.name == name:
            tensor.CopyFrom(numpy_helper.from_array(np.asarray(array), name))
            return
    raise KeyError(name)


def get_initializer(model: ModelProto, name: str) -> Any:
    """An initializer as an array that may be changed."""
    for tensor in model.graph.initializer:
        if tensor.name == name:
            return numpy_helper.to_array(tensor).copy()
    raise KeyError(name)
