"""Llama and its relatives, without a cache."""

from __future__ import annotations

from typing import Any

from tests.zoo.case import Case
from tests.zoo.families.common import (
    ONE_KIND,
    TEXT,
    VOCAB,
    Make,
    Options,
    layers,
    maker,
    text_model,
)

FAMILY = "llamas"
OUTPUT = "layers.{}.self_attn.o_proj"
SIZES: Options = {
    "vocab_size": VOCAB,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 48,
    "max_position_embeddings": 24,
    "pad_token_id": 0,
}
MHA: Options = SIZES | {"num_key_value_heads": 4, "num_attention_heads": 4}
MQA: Options = SIZES | {"num_key_value_heads": 1, "num_attention_heads": 4}
WINDOW: Options = {
    "sliding_window": 4,
    "layer_types": ["sliding_attention", "full_attention"],
}
GEMMA: Options = SIZES | WINDOW | {"query_pre_attn_scalar": 8}
# Grouped matrix products, the default, cannot be exported.
EXPERTS: Options = {"num_experts_per_tok": 2, "experts_implementation": "batched_mm"}
MIXTRAL: Options = SIZES | EXPERTS | {"num_local_experts": 4}
MOE: Options = SIZES | EXPERTS | {"num_experts": 4, "moe_intermediate_size": 24}


def _llama(name: str, make: Make, *heads: int, **rest: Any) -> list[Case]:
    projections = layers(OUTPUT, 2, *(heads or (6, 8, 2)))
    return text_model(name, FAMILY, make, projections, fixed={"use_cache": False}, **rest)


def _with_positions() -> list[Case]:
    """Cases whose positions are an input.

    ONNX Runtime's RotaryEmbedding does not broadcast the angles over the batch, so the exports at
    opset 23 only run where the positions have a batch axis of their own.
    """
    gemma = maker("Gemma3TextModel", config="Gemma3TextConfig", **GEMMA)
    rest: dict[str, Any] = {
        "inputs": (*TEXT, "position_ids"),
        "note": "opset 23 exports use RotaryEmbedding",
    }
    return [
        *_llama("llama-mha-positions", maker("LlamaModel", **MHA), 4, 8, **rest),
        *_llama("llama-gqa-positions", maker("LlamaModel", **SIZES), **rest),
        *_llama("llama-mqa-positions", maker("LlamaModel", **MQA), 4, 8, 1, **rest),
        *_llama("qwen3-positions", maker("Qwen3Model", **SIZES), **rest),
        *_llama("phi3-positions", maker("Phi3Model", **SIZES), **rest),
        *_llama("gemma3-positions", gemma, **rest),
    ]


def cases() -> list[Case]:
    """Returns the cases of this family."""
    gemma3 = maker("Gemma3TextModel", config="Gemma3TextConfig", **GEMMA)
    return [
        *_with_positions(),
        *_llama("llama-mha", maker("LlamaModel", **MHA), 4, 8),
        *_llama("llama-gqa", maker("LlamaModel", **SIZES)),
        *_llama("llama-mqa", maker("LlamaModel", **MQA), 4, 8, 1),
        *_llama("llama-bias", maker("LlamaModel", **SIZES, attention_bias=True)),
        *_llama("qwen2", maker("Qwen2Model", **SIZES)),
        *_llama("qwen3", maker("Qwen3Model", **SIZES)),
        *_llama("gemma2", maker("Gemma2Model", **GEMMA), kinds=ONE_KIND),
        *_llama("gemma3", gemma3),
        *_llama("phi3", maker("Phi3Model", **SIZES)),
        *_llama("mixtral", maker("MixtralModel", **MIXTRAL)),
        *_llama("qwen3-moe", maker("Qwen3MoeModel", **MOE)),
        *_llama(
            "gpt-oss",
            maker("GptOssModel", **MIXTRAL, **WINDOW),
            kinds=ONE_KIND,
            note="attention sinks: one logit per head joins the softmax",
        ),
        *_llama("cohere", maker("CohereModel", **SIZES)),
        *_llama("cohere2", maker("Cohere2Model", **SIZES, **WINDOW)),
        *_llama("starcoder2", maker("Starcoder2Model", **SIZES)),
        *_llama("granite", maker("GraniteModel", **SIZES, attention_multiplier=0.3)),
        *_llama("smollm3", maker("SmolLM3Model", **SIZES, no_rope_layers=[1, 0])),
        *_llama(
            "olmo2",
            maker("Olmo2Model", **SIZES),
            expect="refused",
            note="Q and K are normalised across heads",
        ),
    ]
