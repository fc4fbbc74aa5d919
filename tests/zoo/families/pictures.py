"""Vision models of transformers: one resolution throughout, or pyramids whose head count changes on the way."""

# fmt: off

from __future__ import annotations

from functools import partial
from typing import Any

from tests.zoo.case import Case
from tests.zoo.families.row import BATCH, ONE_KIND, VOCAB, Options, floats, row

SIZES: Options = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 16,
    "patch_size": 8}
PLAIN: Options = SIZES | {"intermediate_size": 48}
SAM: Options = SIZES | {"image_size": 24, "patch_size": 4, "window_size": 4, "global_attn_indexes": [1],
    "mlp_dim": 48, "output_channels": 16}
DETR: Options = {"backbone_config": {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16],
    "depths": [1, 1], "layer_type": "basic", "out_features": ["stage2"]}, "d_model": 32, "encoder_layers": 2,
    "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48, "num_queries": 5}
CLIP_TEXT: Options = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
    "vocab_size": VOCAB, "max_position_embeddings": 24, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 60}
WINDOWED: Options = {"image_size": 32, "patch_size": 4, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4],
    "window_size": 4}
TWO_STAGES: Options = {"num_encoder_blocks": 2, "depths": [1, 1], "hidden_sizes": [16, 32], "strides": [4, 2],
    "num_attention_heads": [2, 4], "mlp_ratios": [2, 2]}
SEGFORMER: Options = TWO_STAGES | {"sr_ratios": [4, 1], "patch_sizes": [7, 3]}
PVT: Options = TWO_STAGES | {"image_size": 32, "sequence_reduction_ratios": [4, 1], "patch_sizes": [4, 2]}
LEVIT: Options = {"image_size": 64, "hidden_sizes": [16, 32, 48], "num_attention_heads": [2, 3, 4],
    "depths": [1, 1, 1], "key_dim": [4, 4, 4], "mlp_ratio": [2, 2, 2], "attention_ratio": [2, 2, 2]}
HIERA: Options = {"embed_dim": 16, "image_size": [32, 32], "patch_size": [7, 7], "patch_stride": [4, 4],
    "patch_padding": [3, 3], "mlp_ratio": 2.0, "depths": [1, 2], "num_heads": [2, 4], "embed_dim_multiplier": 2.0,
    "num_query_pool": 1, "query_stride": [2, 2], "masked_unit_size": [4, 4], "masked_unit_attention": [True, False]}
MOBILEVIT: Options = {"hidden_sizes": [16, 24, 32], "neck_hidden_sizes": [8, 12, 16, 20, 24, 28, 32],
    "num_attention_heads": 4, "image_size": 64, "mlp_ratio": 2.0}

NO_POOLER = {"add_pooling_layer": False}
DENSE, O_PROJ, OUT_PROJ = "attention.output.dense", "attention.o_proj", "self_attn.out_proj"


def _images(family: str, name: str, model: str, options: Options, *out: str, side: int = 16, wide: int = 0,
        **rest: Any) -> list[Case]:
    reads = floats("pixel_values", BATCH, 3, side, wide or side)
    return row(family, name, model, options, *out, reads=reads, sizes=((3, 0), (1, 0)), **rest)


def cases() -> list[Case]:
    vision, pyramid = partial(_images, "vision"), partial(_images, "pyramids", side=32)
    pooled = {"keywords": NO_POOLER}
    return [case for rows in (
        vision("vit", "ViTModel", PLAIN, O_PROJ, fusion="vit", **pooled),
        vision("deit", "DeiTModel", PLAIN, O_PROJ, fusion="vit", **pooled),
        vision("beit", "BeitModel", PLAIN | {"use_relative_position_bias": True}, O_PROJ, **pooled),
        vision("beit-shared-bias", "BeitModel", PLAIN | {"use_shared_relative_position_bias": True}, O_PROJ, **pooled),
        vision("dinov2", "Dinov2Model", SIZES | {"mlp_ratio": 2}, O_PROJ),
        vision("dinov3", "DINOv3ViTModel", PLAIN | {"num_register_tokens": 2}, O_PROJ),
        vision("clip-vision", "CLIPVisionModel", PLAIN, OUT_PROJ, fusion="clip"),
        vision("siglip-vision", "SiglipVisionModel", PLAIN, OUT_PROJ, "head.attention",
            fields={"last_hidden_state": BATCH, "pooler_output": BATCH}, note="a pooling head with one learned query"),
        vision("yolos", "YolosModel", PLAIN | {"image_size": [16, 24], "num_detection_tokens": 3}, DENSE, wide=24,
            **pooled),
        vision("sam-vision", "SamVisionModel", SAM, "attn.proj", side=24, config="SamVisionConfig",
            note="windows, padded, with decomposed relative positions"),
        # Its backbone has no SDPA.
        vision("detr", "DetrModel", DETR, "self_attn.o_proj", "encoder_attn.o_proj", side=64, wide=96, kinds=ONE_KIND,
            note="learned queries; positions join Q and K"),
        row("vision", "clip-text", "CLIPTextModel", CLIP_TEXT, OUT_PROJ, fusion="clip"),

        pyramid("swin", "SwinModel", WINDOWED, O_PROJ, fusion="swin", **pooled),
        pyramid("swinv2", "Swinv2Model", WINDOWED, DENSE, kinds=ONE_KIND,
            note="cosine attention; the bias is an MLP of positions", **pooled),
        pyramid("segformer", "SegformerModel", SEGFORMER, O_PROJ,
            note="a strided convolution shortens keys and values"),
        pyramid("pvt", "PvtModel", PVT, DENSE, kinds=ONE_KIND),
        pyramid("levit", "LevitModel", LEVIT, "projection.linear", side=64, kinds=ONE_KIND,
            note="Hardswish, then Linear with BatchNorm; one Q/K/V weight, interleaved"),
        pyramid("hiera", "HieraModel", HIERA, "attn.proj", kinds=ONE_KIND, note="queries are max-pooled"),
        pyramid("mobilevit", "MobileViTModel", MOBILEVIT, DENSE, side=64, kinds=ONE_KIND,
            keywords={"expand_output": False}),
    ) for case in rows]
