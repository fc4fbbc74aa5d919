"""timm's vision transformers with one resolution throughout."""

from __future__ import annotations

from functools import partial
from typing import Any

import timm
from torch import nn

from tests.zoo import feeds
from tests.zoo.case import Case, Projection
from tests.zoo.families.common import Options, layers
from tests.zoo.init import spread

FAMILY = "timm-vits"
SIZES: Options = {
    "img_size": 16,
    "patch_size": 8,
    "embed_dim": 32,
    "depth": 2,
    "num_heads": 4,
}


def made(model: str, options: dict[str, Any], fused: bool) -> nn.Module:
    """Builds a timm model without a classifier; ``fused`` selects SDPA where there is a choice."""
    built: nn.Module = timm.create_model(model, pretrained=False, num_classes=0, **options)
    for module in built.modules():
        if hasattr(module, "fused_attn"):
            vars(module)["fused_attn"] = fused
    return spread(built)


def image_case(
    name: str,
    family: str,
    model: str,
    projections: tuple[Projection, ...],
    *,
    size: int = 16,
    fused: bool = False,
    options: dict[str, Any] | None = None,
    **rest: Any,
) -> Case:
    """Returns the case of a timm model that reads square images."""
    return Case(
        name=name,
        family=family,
        builder=partial(made, model, options or {}, fused),
        feeds=tuple({"x": feeds.floats(batch, 3, size, size)} for batch in (3, 1)),
        inputs=("x",),
        outputs=("y",),
        dynamic_axes={"x": {0: "batch"}, "y": {0: "batch"}},
        projections=projections,
        **rest,
    )


def cases() -> list[Case]:
    """Returns the cases of this family."""
    blocks = layers("blocks.{}.attn.proj", 2, 4, 8)

    def vit(name: str, model: str, projections: tuple[Projection, ...] = blocks, **rest: Any) -> Case:
        options = {**SIZES, **rest.pop("changes", {})}
        size = options["img_size"]
        return image_case(f"timm-{name}", FAMILY, model, projections, size=size, options=options, **rest)

    cait = (*blocks, *layers("blocks_token_only.{}.attn.proj", 2, 4, 8))
    xcit = (*blocks, *layers("cls_attn_blocks.{}.attn.proj", 2, 4, 8))
    tiny = "vit_tiny_patch16_224"
    return [
        vit("vit", tiny),
        vit("vit-sdpa", tiny, fused=True),
        vit("vit-qk-norm", tiny, changes={"qk_norm": True}),
        vit(
            "vit-scale-norm",
            tiny,
            changes={"scale_attn_norm": True},
            expect="refused",
            note="a norm over all heads before the output projection",
        ),
        vit("deit3", "deit3_small_patch16_224"),
        vit("relpos", "vit_relpos_small_patch16_224"),
        vit("rope", "vit_base_patch16_rope_224"),
        vit("eva02", "eva02_tiny_patch14_224", changes={"mlp_ratio": 2}),
        vit("eva02-sdpa", "eva02_tiny_patch14_224", changes={"mlp_ratio": 2}, fused=True),
        vit("beitv2", "beitv2_base_patch16_224"),
        vit(
            "siglip",
            "vit_base_patch16_siglip_224",
            (*blocks, Projection("attn_pool.proj", 4, 8, 4)),
        ),
        vit("dinov2-reg", "vit_giant_patch14_reg4_dinov2"),
        vit("sam", "samvit_base_patch16", changes={"img_size": 32}),
        vit(
            "parallel",
            "vit_pwee_patch16_reg1_gap_256",
            layers("blocks.{}.attn_out_proj", 2, 4, 8),
            note="attention and MLP leave one packed projection",
        ),
        vit(
            "convit",
            "convit_tiny",
            layers("blocks.{}.attn.proj", 2, 4, 32),
            note="softmax and positional maps blended per head",
        ),
        vit("cait", "cait_xxs24_224", cait, expect="refused", note="talking heads; class attention"),
        vit(
            "xcit",
            "xcit_nano_12_p16_224",
            xcit,
            note="channel attention",
            changes={"img_size": 32, "patch_size": 16},
        ),
    ]
