"""The toys of all kinds by name: what a law that holds for every model is tried on."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
from onnx import ModelProto, helper

from tests import (
    toys,
    toys_exits,
    toys_genai,
    toys_layers,
    toys_nbits,
    toys_parallel,
    toys_recovery,
    toys_scores,
    toys_seq2seq,
)


def fused_at_the_end() -> ModelProto:
    """A decoder whose last sum and the normalisation behind it are one operator, as ONNX Runtime fuses them."""
    model = toys_layers.decoder(3, norms="pre")
    last = next(node for node in model.graph.node if node.output[0] == "layer2.ffn.stream")
    norm = ["layer2.ffn.norm.gain", "layer2.ffn.norm.shift"]
    last.CopyFrom(
        helper.make_node(
            "SkipLayerNormalization",
            [*last.input, *norm],
            list(last.output),
            name="end",
            domain="com.microsoft",
            epsilon=1e-5,
        )
    )
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return model


MODELS: Mapping[str, Callable[[], ModelProto]] = {
    "one block with a cache": lambda: toys.attention(cache=True),
    "pre-norm": lambda: toys_layers.decoder(norms="pre"),
    "post-norm": lambda: toys_layers.decoder(norms="post"),
    "norms of small operators": lambda: toys_layers.decoder(norms="pre", spelled=True),
    "caches": lambda: toys_layers.decoder(4, cache=True, measured=0),
    "merged decoder": toys_layers.merged,
    "fused at the end": fused_at_the_end,
    "parallel": toys_parallel.decoder,
    "parallel with biases": lambda: toys_parallel.decoder(bias=True),
    "encoder": toys_recovery.encoder,
    "plain": toys_scores.stack,
    "grouped": lambda: toys_scores.stack(kv_heads=2),
    "one key for all": lambda: toys_scores.stack(kv_heads=1),
    "grouped and gated": lambda: toys_scores.stack(kv_heads=2, gated=True),
    "quantized": lambda: toys_scores.stack(quantized=True),
    "4 bits": lambda: toys_nbits.packed(toys_scores.stack(), 0),
    "encoder of two": lambda: toys_seq2seq.encoder(feed=True),
    "decoder of two": lambda: toys_seq2seq.decoder(past=True, feed=True),
    "merged decoder of two": lambda: toys_seq2seq.merged(feed=True),
    "GroupQueryAttention": toys_genai.decoder,
    "MultiHeadAttention": lambda: toys_genai.decoder(repeated=True, bias=True),
    "exits in branches": toys_exits.nested,
    "exits after each other": toys_exits.chain,
    "exit of a loop": toys_exits.loop,
}

_QUICK = (
    "one block with a cache",
    "caches",
    "parallel with biases",
    "merged decoder of two",
    "MultiHeadAttention",
)

EACH = [pytest.param(name, marks=() if name in _QUICK else pytest.mark.slow) for name in MODELS]
"""All names, for laws that take seconds a toy: a few kinds in every run of the tests, the others with the long ones."""
