"""Speech encoders."""

from __future__ import annotations

from typing import Any

from tests.zoo import feeds
from tests.zoo.case import Case, Feed
from tests.zoo.families.common import ONE_KIND, Make, Options, layers, maker, twins

FAMILY = "audio"
OUTPUT = "encoder.layers.{}.attention.out_proj"
SIZES: Options = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
}
WAVE: Options = SIZES | {
    "conv_dim": (16, 16),
    "conv_stride": (5, 4),
    "conv_kernel": (10, 4),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 4,
    "feat_extract_norm": "layer",
}
CONFORMER: Options = WAVE | {"conv_depthwise_kernel_size": 3}
SPECTRUM: Options = SIZES | {
    "patch_size": 8,
    "frequency_stride": 6,
    "time_stride": 6,
    "max_length": 32,
    "num_mel_bins": 16,
}


def _waves(name: str, make: Make, output: str = OUTPUT, **rest: Any) -> list[Case]:
    made: tuple[Feed, ...] = tuple(
        {"input_values": feeds.floats(batch, length)} for batch, length in ((3, 170), (1, 130))
    )
    return twins(
        name,
        FAMILY,
        make,
        feeds=made,
        inputs=("input_values",),
        dynamic_axes={
            "input_values": {0: "batch", 1: "samples"},
            "last_hidden_state": {0: "batch", 1: "frames"},
        },
        projections=layers(output, 2, 4, 8),
        **rest,
    )


def cases() -> list[Case]:
    """Returns the cases of this family."""
    conformer = "encoder.layers.{}.self_attn.linear_out"
    relative = maker("Wav2Vec2ConformerModel", **CONFORMER, position_embeddings_type="relative")
    rotary = maker("Wav2Vec2ConformerModel", **CONFORMER, position_embeddings_type="rotary")
    wavlm = maker("WavLMModel", **WAVE, num_buckets=8, max_bucket_distance=10)
    return [
        *_waves("wav2vec2", maker("Wav2Vec2Model", **WAVE)),
        *_waves("hubert", maker("HubertModel", **WAVE)),
        *_waves(
            "wavlm",
            wavlm,
            "encoder.layers.{}.attention",
            kinds=ONE_KIND,
            note="a position bias gated per head, inside nn.MultiheadAttention's function",
        ),
        *_waves("conformer-relative", relative, conformer, kinds=ONE_KIND, note="relative shift"),
        *_waves("conformer-rotary", rotary, conformer, kinds=ONE_KIND),
        *twins(
            "ast",
            FAMILY,
            maker("ASTModel", **SPECTRUM),
            feeds=tuple({"input_values": feeds.floats(batch, 32, 16)} for batch in (3, 1)),
            inputs=("input_values",),
            dynamic_axes={"input_values": {0: "batch"}},
            projections=layers("layers.{}.attention.o_proj", 2, 4, 8),
        ),
    ]
