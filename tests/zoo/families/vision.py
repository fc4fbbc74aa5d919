"""Vision transformers of transformers with one resolution throughout."""

from __future__ import annotations

from typing import Any

from tests.zoo import feeds
from tests.zoo.case import Case, Projection
from tests.zoo.families.common import (
    ONE_KIND,
    TEXT,
    TEXT_AXES,
    VOCAB,
    Make,
    Options,
    layers,
    maker,
    text_feeds,
    twins,
)

FAMILY = "vision"
NO_POOLER = {"add_pooling_layer": False}
SIZES: Options = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 16,
    "patch_size": 8,
}
PLAIN: Options = SIZES | {"intermediate_size": 48}
SAM: Options = SIZES | {
    "image_size": 24,
    "patch_size": 4,
    "window_size": 4,
    "global_attn_indexes": [1],
    "mlp_dim": 48,
    "output_channels": 16,
}
DETR: Options = {
    "backbone_config": {
        "model_type": "resnet",
        "embedding_size": 8,
        "hidden_sizes": [8, 16],
        "depths": [1, 1],
        "layer_type": "basic",
        "out_features": ["stage2"],
    },
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "num_queries": 5,
}
CLIP_TEXT: Options = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "vocab_size": VOCAB,
    "max_position_embeddings": 24,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 60,
}


def image_twins(
    name: str,
    family: str,
    make: Make,
    projections: tuple[Projection, ...],
    size: tuple[int, int] = (16, 16),
    **rest: Any,
) -> list[Case]:
    """Returns the twins of a model that reads images of one size."""
    return twins(
        name,
        family,
        make,
        feeds=tuple({"pixel_values": feeds.floats(batch, 3, *size)} for batch in (3, 1)),
        inputs=("pixel_values",),
        dynamic_axes={"pixel_values": {0: "batch"}},
        projections=projections,
        **rest,
    )


def cases() -> list[Case]:
    """Returns the cases of this family."""

    def images(name: str, make: Make, *projections: Projection, **rest: Any) -> list[Case]:
        return image_twins(name, FAMILY, make, projections, **rest)

    plain = layers("layers.{}.attention.o_proj", 2, 4, 8)
    clip = layers("encoder.layers.{}.self_attn.out_proj", 2, 4, 8)
    dino = layers("encoder.layer.{}.attention.o_proj", 2, 4, 8)
    head = Projection("head.attention", 4, 8, 4)
    detr = (
        *layers("encoder.layers.{}.self_attn.o_proj", 2, 4, 8),
        *(
            Projection(f"decoder.layers.{i}.{kind}.o_proj", 4, 8, 4)
            for i in range(2)
            for kind in ("self_attn", "encoder_attn")
        ),
    )
    beit = maker("BeitModel", keywords=NO_POOLER, **PLAIN, use_relative_position_bias=True)
    shared = maker("BeitModel", keywords=NO_POOLER, **PLAIN, use_shared_relative_position_bias=True)
    yolos = PLAIN | {"image_size": [16, 24], "num_detection_tokens": 3}
    return [
        *images("vit", maker("ViTModel", keywords=NO_POOLER, **PLAIN), *plain, fusion="vit"),
        *images("deit", maker("DeiTModel", keywords=NO_POOLER, **PLAIN), *plain, fusion="vit"),
        *images("beit", beit, *plain),
        *images("beit-shared-bias", shared, *plain),
        *images("dinov2", maker("Dinov2Model", **SIZES, mlp_ratio=2), *dino),
        *images(
            "dinov3",
            maker("DINOv3ViTModel", **PLAIN, num_register_tokens=2),
            *layers("model.layer.{}.attention.o_proj", 2, 4, 8),
        ),
        *images("clip-vision", maker("CLIPVisionModel", **PLAIN), *clip, fusion="clip"),
        *images(
            "siglip-vision",
            maker("SiglipVisionModel", **PLAIN),
            *clip,
            head,
            fields=("last_hidden_state", "pooler_output"),
            note="a pooling head with one learned query",
        ),
        *images(
            "yolos",
            maker("YolosModel", keywords=NO_POOLER, **yolos),
            *layers("encoder.layer.{}.attention.output.dense", 2, 4, 8),
            size=(16, 24),
        ),
        *images(
            "sam-vision",
            maker("SamVisionModel", config="SamVisionConfig", **SAM),
            *layers("vision_encoder.layers.{}.attn.proj", 2, 4, 8),
            size=(24, 24),
            note="windows, padded, with decomposed relative positions",
        ),
        *images(
            "detr",
            maker("DetrModel", **DETR),
            *detr,
            size=(64, 96),
            kinds=ONE_KIND,  # its backbone has no SDPA
            note="learned queries; positions join Q and K",
        ),
        *twins(
            "clip-text",
            FAMILY,
            maker("CLIPTextModel", **CLIP_TEXT),
            feeds=text_feeds(),
            inputs=TEXT,
            dynamic_axes={name: dict(TEXT_AXES) for name in TEXT},
            projections=clip,
            fusion="clip",
        ),
    ]
