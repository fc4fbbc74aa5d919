"""Vision transformers of transformers whose resolution and head count change on the way."""

from __future__ import annotations

from typing import Any

from tests.zoo.case import Case, Projection
from tests.zoo.families.common import ONE_KIND, Make, Options, maker
from tests.zoo.families.vision import image_twins

FAMILY = "pyramids"
NO_POOLER = {"add_pooling_layer": False}
WINDOWED: Options = {
    "image_size": 32,
    "patch_size": 4,
    "embed_dim": 16,
    "depths": [2, 2],
    "num_heads": [2, 4],
    "window_size": 4,
}
TWO_STAGES: Options = {
    "num_encoder_blocks": 2,
    "depths": [1, 1],
    "hidden_sizes": [16, 32],
    "strides": [4, 2],
    "num_attention_heads": [2, 4],
    "mlp_ratios": [2, 2],
}
SEGFORMER: Options = TWO_STAGES | {"sr_ratios": [4, 1], "patch_sizes": [7, 3]}
PVT: Options = TWO_STAGES | {
    "image_size": 32,
    "sequence_reduction_ratios": [4, 1],
    "patch_sizes": [4, 2],
}
LEVIT: Options = {
    "image_size": 64,
    "hidden_sizes": [16, 32, 48],
    "num_attention_heads": [2, 3, 4],
    "depths": [1, 1, 1],
    "key_dim": [4, 4, 4],
    "mlp_ratio": [2, 2, 2],
    "attention_ratio": [2, 2, 2],
}
HIERA: Options = {
    "embed_dim": 16,
    "image_size": [32, 32],
    "patch_size": [7, 7],
    "patch_stride": [4, 4],
    "patch_padding": [3, 3],
    "mlp_ratio": 2.0,
    "depths": [1, 2],
    "num_heads": [2, 4],
    "embed_dim_multiplier": 2.0,
    "num_query_pool": 1,
    "query_stride": [2, 2],
    "masked_unit_size": [4, 4],
    "masked_unit_attention": [True, False],
}
MOBILEVIT: Options = {
    "hidden_sizes": [16, 24, 32],
    "neck_hidden_sizes": [8, 12, 16, 20, 24, 28, 32],
    "num_attention_heads": 4,
    "image_size": 64,
    "mlp_ratio": 2.0,
}


def _staged(template: str, *stages: tuple[int, int, int, int]) -> tuple[Projection, ...]:
    """``(stage, blocks, heads, size)`` each; ``template`` takes the stage and the block."""
    return tuple(
        Projection(template.format(stage, block), heads, size, heads)
        for stage, blocks, heads, size in stages
        for block in range(blocks)
    )


def _levit() -> tuple[Projection, ...]:
    heads = ((2, 8), (4, 16), (3, 8), (8, 16), (4, 8))
    paths = (
        "0.layers.0.module",
        "0.layers.2",
        "1.layers.0.module",
        "1.layers.2",
        "2.layers.0.module",
    )
    return tuple(
        Projection(f"encoder.stages.{path}.projection.linear", count, size, count)
        for path, (count, size) in zip(paths, heads, strict=True)
    )


def cases() -> list[Case]:
    """Returns the cases of this family."""

    def images(
        name: str, make: Make, projections: tuple[Projection, ...], side: int = 32, **rest: Any
    ) -> list[Case]:
        return image_twins(name, FAMILY, make, projections, (side, side), **rest)

    stages = ((0, 2, 2, 8), (1, 2, 4, 8))
    single = ((0, 1, 2, 8), (1, 1, 4, 8))
    mobile = ((2, 2, 4, 4), (3, 4, 4, 6), (4, 3, 4, 8))
    return [
        *images(
            "swin",
            maker("SwinModel", keywords=NO_POOLER, **WINDOWED),
            _staged("encoder.layers.{}.blocks.{}.attention.o_proj", *stages),
            fusion="swin",
        ),
        *images(
            "swinv2",
            maker("Swinv2Model", keywords=NO_POOLER, **WINDOWED),
            _staged("encoder.layers.{}.blocks.{}.attention.output.dense", *stages),
            kinds=ONE_KIND,
            note="cosine attention; the bias is an MLP of positions",
        ),
        *images(
            "segformer",
            maker("SegformerModel", **SEGFORMER),
            _staged("stages.{}.blocks.{}.attention.o_proj", *single),
            note="a strided convolution shortens keys and values",
        ),
        *images(
            "pvt",
            maker("PvtModel", **PVT),
            _staged("encoder.block.{}.{}.attention.output.dense", *single),
            kinds=ONE_KIND,
        ),
        *images(
            "levit",
            maker("LevitModel", **LEVIT),
            _levit(),
            64,
            kinds=ONE_KIND,
            note="Hardswish, then Linear with BatchNorm; one Q/K/V weight, interleaved",
        ),
        *images(
            "hiera",
            maker("HieraModel", **HIERA),
            _staged("encoder.stages.{}.layers.{}.attn.proj", (0, 1, 2, 8), (1, 2, 4, 8)),
            kinds=ONE_KIND,
            note="queries are max-pooled",
        ),
        *images(
            "mobilevit",
            maker("MobileViTModel", keywords={"expand_output": False}, **MOBILEVIT),
            _staged("encoder.layer.{}.transformer.layer.{}.attention.output.dense", *mobile),
            64,
            kinds=ONE_KIND,
        ),
    ]
