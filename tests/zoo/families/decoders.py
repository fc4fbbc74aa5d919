"""Decoders before Llama, without a cache."""

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

FAMILY = "decoders"
BLOOM: Options = {"vocab_size": VOCAB, "hidden_size": 32, "n_layer": 2, "n_head": 4}
GPT: Options = {"vocab_size": VOCAB, "n_embd": 32, "n_layer": 2, "n_head": 4}
GPT |= {"n_positions": 24}
SIZES: Options = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
NEOX: Options = SIZES | {
    "intermediate_size": 48,
    "max_position_embeddings": 24,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.5,
    },
}
NEO: Options = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "num_layers": 2,
    "num_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 24,
    "attention_types": [[["global", "local"], 1]],
    "window_size": 4,
}
MPT: Options = {"vocab_size": VOCAB, "d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 24}
OPT: Options = SIZES | {"ffn_dim": 48, "word_embed_proj_dim": 32, "max_position_embeddings": 24}
GROUPED: Options = SIZES | {
    "new_decoder_architecture": True,
    "num_kv_heads": 2,
    "hidden_size": 48,
    "num_attention_heads": 6,
}


def _decoder(name: str, make: Make, output: str, *heads: int, **rest: Any) -> list[Case]:
    projections = layers(output, 2, *(heads or (4, 8)))
    return text_model(name, FAMILY, make, projections, fixed={"use_cache": False}, **rest)


def cases() -> list[Case]:
    """Returns the cases of this family."""
    falcon = "h.{}.self_attention.dense"
    alibi = maker("FalconModel", **SIZES, alibi=True, multi_query=False)
    bigcode = maker("GPTBigCodeModel", **GPT, multi_query=True)
    neox = maker("GPTNeoXModel", **NEOX)
    dense = "layers.{}.attention.dense"
    return [
        *_decoder("gpt2", maker("GPT2Model", **GPT), "h.{}.attn.c_proj", fusion="gpt2"),
        *_decoder("gptj", maker("GPTJModel", **GPT, rotary_dim=4), "h.{}.attn.out_proj"),
        *_decoder("gpt-neox", neox, dense),
        *_decoder("gpt-neox-positions", neox, dense, inputs=(*TEXT, "position_ids")),
        *_decoder("gpt-neo", maker("GPTNeoModel", **NEO), "h.{}.attn.attention.out_proj", kinds=ONE_KIND),
        *_decoder(
            "codegen",
            maker("CodeGenModel", **GPT, n_ctx=24, rotary_dim=4),
            "h.{}.attn.out_proj",
            kinds=ONE_KIND,
        ),
        *_decoder("opt", maker("OPTModel", **OPT), "decoder.layers.{}.self_attn.out_proj"),
        *_decoder("bloom", maker("BloomModel", **BLOOM), falcon, kinds=ONE_KIND),
        *_decoder("falcon-mqa", maker("FalconModel", **SIZES), falcon, 4, 8, 1),
        *_decoder("falcon-alibi", alibi, falcon, kinds=ONE_KIND),
        *_decoder("falcon-gqa", maker("FalconModel", **GROUPED), falcon, 6, 8, 2),
        *_decoder("gpt-bigcode", bigcode, "h.{}.attn.c_proj", 4, 8, 1),
        *_decoder("mpt", maker("MptModel", **MPT), "blocks.{}.attn.out_proj", kinds=ONE_KIND),
    ]
