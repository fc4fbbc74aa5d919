"""Decoders of fused operators: a block as onnxruntime-genai's model builder writes it, and a generating operator."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import GraphProto, ModelProto, TensorProto, helper

from tests.graph_builder import GraphBuilder
from tests.graphs.toys import I64, MICROSOFT, Stack

HEADS, KV_HEADS, HEAD_SIZE, HIDDEN = 4, 2, 16, 24
LENGTH, VOCABULARY = 12, 23
"""Of what a generating operator returns."""


def decoder(*, repeated: bool = False, bias: bool = False) -> ModelProto:
    """`x [batch, sequence, hidden]`, a past and a mask to `y` and presents, with the head size named `kv_cache_dim`.

    Args:
        repeated: MultiHeadAttention on key and value heads that are copied for their query heads, in place of
            GroupQueryAttention.
        bias: with a bias in the output projection's SkipSimplifiedLayerNormalization.
    """
    net = Stack(hidden=HIDDEN, kv_heads=KV_HEADS, size=HEAD_SIZE, reads="x", biases=())
    net.inputs = [net.info("x", ["batch", "sequence", HIDDEN])]
    net.inputs += [net.info("attention_mask", ["batch", "total_sequence_length"], I64)]
    outputs = [net.info("y", ["batch", "sequence", HIDDEN])]
    ends = [f"0.{what}" for what in ("key", "value")]
    for tense, length, infos in (("past_key_values", "past", net.inputs), ("present", "total", outputs)):
        shape = ["batch", KV_HEADS, f"{length}_sequence_length", "kv_cache_dim"]
        infos += [net.info(f"{tense}.{end}", shape) for end in ends]
    width, kv_width = HEADS * HEAD_SIZE, KV_HEADS * HEAD_SIZE
    if repeated:
        flat = [net.linear_layer("x", "q", HIDDEN, width)]
        for end in ends:
            name = end[2]
            net.node(
                "Concat", [f"past_key_values.{end}", net.heads("x", name, KV_HEADS)], f"present.{end}", axis=2
            )
            every = net.repeated(f"present.{end}", name, KV_HEADS)
            back = net.node("Transpose", [every], f"{name}_back", perm=[0, 2, 1, 3])
            flat.append(net.node("Reshape", [back, net.once("flat", [0, 0, width])], f"{name}_flat"))
        net.node("MultiHeadAttention", flat, "context", domain=MICROSOFT, num_heads=HEADS)
    else:
        flat = [net.linear_layer("x", name, HIDDEN, width if name == "q" else kv_width) for name in "qkv"]
        one = net.once("one", [1])
        lengths = net.op("Sub", net.op("ReduceSum", "attention_mask", one, keepdims=1), one)
        total = net.op("Gather", net.op("Shape", "attention_mask"), net.once("axis", 1))
        lengths, total = (net.op("Cast", item, to=TensorProto.INT32) for item in (lengths, total))
        inputs = [*flat, *(f"past_key_values.{end}" for end in ends), lengths, total]
        made = ["context", *(f"present.{end}" for end in ends)]
        _fused(net, "GroupQueryAttention", inputs, made, num_heads=HEADS, kv_num_heads=KV_HEADS)
    added = ["x", net.linear_layer("context", "o", width, HIDDEN, "projected"), net.weight("gain", HIDDEN)]
    added += [net.weight("o.bias", HIDDEN)] * bias
    _fused(net, "SkipSimplifiedLayerNormalization", added, ["normed", "", "", "stream"], epsilon=1e-5)
    net.node("Add", ["stream", net.linear_layer("normed", "mlp", HIDDEN, HIDDEN)], "y")
    return net.export(outputs)


def _fused(net: GraphBuilder, op_type: str, inputs: list[str], outputs: list[str], **attributes: Any) -> None:
    made = helper.make_node(
        op_type, inputs, outputs, domain=MICROSOFT, name=f"{op_type}_{outputs[0]}", **attributes
    )
    net.nodes.append(made)


def generator(op_type: str = "GreedySearch") -> ModelProto:
    """Token ids in, sequences out: GreedySearch, BeamSearch or Sampling, which hold a decoder as a subgraph."""
    net = GraphBuilder()
    given = {"max_length": np.int32(LENGTH), "min_length": np.int32(LENGTH)}
    if op_type == "BeamSearch":
        given |= {
            "num_beams": np.int32(2),
            "num_return_sequences": np.int32(1),
            "length_penalty": np.float32(1),
        }
    names = ["input_ids", *(net.constant(name, np.array([value])) for name, value in given.items())]
    end = {"eos_token_id": VOCABULARY - 1, "pad_token_id": VOCABULARY - 1}
    body = {"decoder": _body(), "model_type": 0, "vocab_size": VOCABULARY}
    net.node(op_type, names, "sequences", domain=MICROSOFT, **body, **end)
    shape = ["batch", 1, LENGTH] if op_type == "BeamSearch" else ["batch", LENGTH]
    model = net.model(
        [net.info("input_ids", ["batch", "prompt"], TensorProto.INT32)],
        [net.info("sequences", shape, TensorProto.INT32)],
    )
    model.opset_import.append(helper.make_opsetid(MICROSOFT, 1))
    return model


def _body(heads: int = 4, size: int = 8) -> GraphProto:
    """One layer of a GPT-2 as the transformer optimizer fuses it."""
    net, hidden = GraphBuilder(seed=3), heads * size
    norms = [
        [net.weight(f"{name}.{what}", hidden) for what in ("gain", "shift")] for name in ("embed", "norm")
    ]
    tables = [net.weight("words", VOCABULARY, hidden), net.weight("places", LENGTH, hidden), ""]
    inputs = ["input_ids", "", *tables, *norms[0], "", "position_ids"]
    _fused(net, "EmbedLayerNormalization", inputs, ["x", "", "stream"], mask_index_type=0)
    packed = [net.weight("qkv.weight", hidden, 3 * hidden), net.weight("qkv.bias", 3 * hidden)]
    made = ["context", "present_0"]
    _fused(
        net, "Attention", ["x", *packed, "attention_mask", "past_0"], made, num_heads=heads, unidirectional=1
    )
    projected = net.node("MatMul", ["context", net.weight("o.weight", hidden, hidden)], "projected")
    _fused(
        net,
        "SkipLayerNormalization",
        ["stream", projected, *norms[1], net.weight("o.bias", hidden)],
        ["normed"],
    )
    net.node("MatMul", ["normed", net.weight("logits.weight", hidden, VOCABULARY)], "logits")
    lengths = {"input_ids": "sequence", "position_ids": "sequence", "attention_mask": "total"}
    infos = [net.info(name, ["batch", length], TensorProto.INT32) for name, length in lengths.items()]
    infos.append(net.info("past_0", [2, "batch", heads, "past", size]))
    ends = [net.info("logits", ["batch", "sequence", VOCABULARY])]
    return net.graph([*ends, net.info("present_0", [2, "batch", heads, "total", size])], infos, "decoder")
