"""A small GPT-2 inside ONNX Runtime's generation operators, which hold the decoder as a subgraph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, helper

from tests.graph_builder import GraphBuilder

LAYERS, HEADS, SIZE, VOCABULARY, LENGTH = 2, 4, 8, 23, 12
HIDDEN = HEADS * SIZE
MICROSOFT = "com.microsoft"


def _decoder(silent: Mapping[int, Sequence[int]]) -> Any:
    toy = GraphBuilder(seed=3)
    sums = {"x": "stream"}

    def fused(op_type: str, inputs: list[str], outputs: list[str], **attributes: Any) -> None:
        toy.nodes.append(
            helper.make_node(
                op_type, inputs, outputs, domain=MICROSOFT, name=f"{op_type}_{outputs[0]}", **attributes
            )
        )

    def norm(name: str) -> list[str]:
        return [toy.weight(f"{name}.gain", HIDDEN), toy.weight(f"{name}.shift", HIDDEN)]

    tables = [toy.weight("words", VOCABULARY, HIDDEN), toy.weight("places", LENGTH, HIDDEN), ""]
    fused(
        "EmbedLayerNormalization",
        ["input_ids", "", *tables, *norm("embed"), "", "position_ids"],
        ["x", "unused", sums["x"]],
        mask_index_type=0,
    )
    stream, normed = "stream", "x"
    for layer in range(LAYERS):
        name = f"layers.{layer}.attention"
        weights = [
            toy.weight(f"{name}.qkv.weight", HIDDEN, 3 * HIDDEN),
            toy.weight(f"{name}.qkv.bias", 3 * HIDDEN),
        ]
        made = [f"context{layer}", f"present_{layer}"]
        fused(
            "Attention",
            [normed, *weights, "attention_mask", f"past_{layer}"],
            made,
            num_heads=HEADS,
            unidirectional=1,
        )
        context = made[0]
        if layer in silent:
            mask = np.ones(HIDDEN, np.float32)
            for head in silent[layer]:
                mask[head * SIZE : (head + 1) * SIZE] = 0
            context = toy.node("Mul", [context, toy.constant(f"mask{layer}", mask)], f"silenced{layer}")
        projected = toy.node(
            "MatMul", [context, toy.weight(f"{name}.o.weight", HIDDEN, HIDDEN)], f"projected{layer}"
        )
        bias = toy.weight(f"{name}.o.bias", HIDDEN)
        fused(
            "SkipLayerNormalization",
            [stream, projected, *norm(f"norm{layer}"), bias],
            [f"normed{layer}", "", "", f"stream{layer}"],
        )
        stream, normed = f"stream{layer}", f"normed{layer}"
    toy.node("MatMul", [normed, toy.weight("logits.weight", HIDDEN, VOCABULARY)], "logits")
    cache = [2, "batch", HEADS, "past", SIZE]
    inputs = [
        toy.info(name, ["batch", "sequence" if name != "attention_mask" else "total"], TensorProto.INT32)
        for name in ("input_ids", "position_ids", "attention_mask")
    ]
    inputs += [toy.info(f"past_{layer}", cache) for layer in range(LAYERS)]
    outputs = [toy.info("logits", ["batch", "sequence", VOCABULARY])]
    outputs += [toy.info(f"present_{layer}", [2, "batch", HEADS, "total", SIZE]) for layer in range(LAYERS)]
    return helper.make_graph(toy.nodes, "decoder", inputs, outputs, toy.initializers)


def generator(
    op_type: str = "GreedySearch", silent: Mapping[int, Sequence[int]] | None = None, init: bool = False
) -> ModelProto:
    """Token ids in, sequences out.

    Args:
        op_type: GreedySearch, BeamSearch or Sampling.
        silent: heads per layer whose context is multiplied by zero, in every copy of the decoder.
        init: with a second copy of the decoder for the prompt.
    """
    toy = GraphBuilder()
    names = ["input_ids", toy.constant("max_length", np.array([LENGTH], np.int32))]
    names.append(toy.constant("min_length", np.array([LENGTH], np.int32)))
    attributes: dict[str, Any] = {
        "decoder": _decoder(silent or {}),
        "model_type": 0,
        "vocab_size": VOCABULARY,
    }
    if init:
        attributes["init_decoder"] = _decoder(silent or {})
    attributes |= {"eos_token_id": VOCABULARY - 1, "pad_token_id": VOCABULARY - 1}
    if op_type == "BeamSearch":
        counts = {"num_beams": 2, "num_return_sequences": 1}
        names += [toy.constant(name, np.array([count], np.int32)) for name, count in counts.items()]
        names.append(toy.constant("length_penalty", np.array([1], np.float32)))
    toy.node(op_type, names, "sequences", domain=MICROSOFT, **attributes)
    shape = ["batch", 1, LENGTH] if op_type == "BeamSearch" else ["batch", LENGTH]
    model = toy.model(
        [toy.info("input_ids", ["batch", "prompt"], TensorProto.INT32)],
        [toy.info("sequences", shape, TensorProto.INT32)],
    )
    model.opset_import.append(helper.make_opsetid(MICROSOFT, 1))
    return model
