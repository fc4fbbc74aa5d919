"""Encoder-decoder models: cross-attention, shared position biases, speech."""

from __future__ import annotations

from typing import Any

from tests.zoo import feeds
from tests.zoo.case import Case, Feed, Projection
from tests.zoo.families.common import (
    ONE_KIND,
    VOCAB,
    Make,
    Options,
    layers,
    maker,
    text_model,
    twins,
)

FAMILY = "seq2seq"
INPUTS = ("input_ids", "attention_mask", "decoder_input_ids")
DECODER_INPUTS = ("input_ids", "attention_mask", "encoder_hidden_states")
NO_CACHE = {"use_cache": False}
T5: Options = {
    "vocab_size": VOCAB,
    "d_model": 32,
    "d_kv": 6,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 10,
}
STACKS: Options = {
    "vocab_size": VOCAB,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
}
BART: Options = STACKS | {"max_position_embeddings": 24}
MARIAN: Options = BART | {"pad_token_id": 0, "decoder_start_token_id": 0}
WHISPER: Options = STACKS | {
    "num_mel_bins": 12,
    "max_source_positions": 10,
    "max_target_positions": 16,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}
T5_ENCODER = layers("encoder.block.{}.layer.0.SelfAttention.o", 2, 4, 6)


def _decoder(own: str, cross: str, heads: int, size: int) -> tuple[Projection, ...]:
    """Self- and cross-attention of each of two layers."""
    paths = [path.format(i) for i in range(2) for path in (own, cross)]
    return tuple(Projection(path, heads, size, heads) for path in paths)


def _pairs(name: str, make: Make, projections: tuple[Projection, ...], **rest: Any) -> list[Case]:
    """A model that reads a source and a shorter target."""
    made: tuple[Feed, ...] = tuple(
        {
            "input_ids": feeds.ids(batch, length, VOCAB),
            "attention_mask": feeds.mask(batch, length),
            "decoder_input_ids": feeds.ids(batch, length - 3, VOCAB),
        }
        for batch, length in feeds.SIZES
    )
    source, target = {0: "batch", 1: "source"}, {0: "batch", 1: "target"}
    axes = {"input_ids": source, "attention_mask": source}
    axes |= {"decoder_input_ids": target, "last_hidden_state": target}
    return twins(
        name,
        FAMILY,
        make,
        feeds=made,
        inputs=INPUTS,
        dynamic_axes=axes,
        projections=projections,
        fixed=NO_CACHE,
        **rest,
    )


def _speech() -> list[Case]:
    """Whisper's encoder, and its decoder alone."""
    mel: tuple[Feed, ...] = tuple({"input_features": feeds.floats(batch, 12, 20)} for batch in (3, 1))
    states: tuple[Feed, ...] = tuple(
        {
            "input_ids": feeds.ids(batch, length, VOCAB),
            "attention_mask": feeds.mask(batch, length),
            "encoder_hidden_states": feeds.floats(batch, 10, 32),
        }
        for batch, length in feeds.SIZES
    )
    target = {0: "batch", 1: "target"}
    return [
        *twins(
            "whisper-encoder",
            FAMILY,
            maker("WhisperModel", part="encoder", **WHISPER),
            feeds=mel,
            inputs=("input_features",),
            dynamic_axes={"input_features": {0: "batch"}},
            projections=layers("layers.{}.self_attn.out_proj", 2, 4, 8),
            fusion="bart",
        ),
        *twins(
            "whisper-decoder",
            FAMILY,
            maker("WhisperModel", part="decoder", **WHISPER),
            feeds=states,
            inputs=DECODER_INPUTS,
            dynamic_axes={
                "input_ids": target,
                "attention_mask": target,
                "encoder_hidden_states": {0: "batch"},
            },
            projections=_decoder("layers.{}.self_attn.out_proj", "layers.{}.encoder_attn.out_proj", 2, 16),
            fixed=NO_CACHE,
        ),
    ]


def cases() -> list[Case]:
    """Returns the cases of this family."""
    t5 = (
        *T5_ENCODER,
        *_decoder(
            "decoder.block.{}.layer.0.SelfAttention.o",
            "decoder.block.{}.layer.1.EncDecAttention.o",
            4,
            6,
        ),
    )
    bart = (
        *layers("encoder.layers.{}.self_attn.out_proj", 2, 4, 8),
        *_decoder(
            "decoder.layers.{}.self_attn.out_proj",
            "decoder.layers.{}.encoder_attn.out_proj",
            2,
            16,
        ),
    )
    gated = T5 | {"feed_forward_proj": "gated-gelu"}
    return [
        *text_model(
            "t5-encoder",
            FAMILY,
            maker("T5EncoderModel", **T5),
            T5_ENCODER,
            kinds=ONE_KIND,
            fusion="t5",
            note="one position bias for all layers",
        ),
        *text_model(
            "umt5-encoder",
            FAMILY,
            maker("UMT5EncoderModel", **gated),
            T5_ENCODER,
            kinds=ONE_KIND,
            note="a position bias per layer",
        ),
        *_pairs("t5", maker("T5Model", **T5), t5, kinds=ONE_KIND),
        *_pairs("bart", maker("BartModel", **BART), bart, fusion="bart"),
        *_pairs("mbart", maker("MBartModel", **BART), bart),
        *_pairs("marian", maker("MarianModel", **MARIAN), bart),
        *_pairs("pegasus", maker("PegasusModel", **MARIAN), bart, kinds=ONE_KIND),
        *_speech(),
    ]
