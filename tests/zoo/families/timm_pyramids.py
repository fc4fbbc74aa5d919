"""timm's hierarchical and convolutional transformers, and its attention layers on images."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from timm import layers as timm_layers
from timm.models.mvitv2 import MultiScaleVit, MultiScaleVitCfg
from torch import nn

from tests.zoo import feeds
from tests.zoo.case import Case, Projection
from tests.zoo.families.common import Options, layers
from tests.zoo.families.timm_vits import image_case
from tests.zoo.init import spread

FAMILY = "timm-pyramids"
WINDOWED: Options = {
    "img_size": 32,
    "patch_size": 4,
    "window_size": 4,
    "embed_dim": 16,
    "depths": (2, 1),
    "num_heads": (2, 4),
}


class OnMap(nn.Module):
    """``x + layer(x)`` on a feature map, or the layer alone where it pools."""

    def __init__(self, layer: nn.Module, pools: bool) -> None:
        super().__init__()
        self.layer = layer
        self.pools = pools

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Runs the layer."""
        y: torch.Tensor = self.layer(x)
        return y if self.pools else x + y


def _layer(name: str, options: dict[str, Any], pools: bool) -> nn.Module:
    return spread(OnMap(getattr(timm_layers, name)(32, **options), pools))


def _mvit() -> nn.Module:
    options: Options = {"stride_q": ((1, 1), (2, 2))}  # annotated as a tuple of one pair
    config = MultiScaleVitCfg(
        depths=(1, 1),
        embed_dim=16,
        num_heads=2,
        residual_pooling=True,
        **options,
    )
    return spread(MultiScaleVit(config, img_size=(32, 32), num_classes=0))


def _heads(*named: tuple[str, int, int]) -> tuple[Projection, ...]:
    return tuple(Projection(path, heads, size, heads) for path, heads, size in named)


def _on_map(
    name: str, layer: str, projection: Projection, pools: bool, size: int = 4, **options: Any
) -> Case:
    return Case(
        name=name,
        family=FAMILY,
        builder=partial(_layer, layer, options, pools),
        feeds=tuple({"x": feeds.floats(batch, 32, size, size)} for batch in (3, 1)),
        inputs=("x",),
        outputs=("y",),
        dynamic_axes={"x": {0: "batch"}, "y": {0: "batch"}},
        projections=(projection,),
    )


def _layer_cases() -> list[Case]:
    """Attention layers on feature maps."""
    pooled = _heads(("layer.proj", 4, 8))[0]
    queries = {"num_heads": 4, "key_dim": 8, "value_dim": 8}
    return [
        _on_map("timm-attention-pool", "AttentionPool2d", pooled, True, feat_size=4, num_heads=4),
        _on_map(
            "timm-attention-pool-rotary",
            "RotAttentionPool2d",
            pooled,
            True,
            ref_feat_size=4,
            num_heads=4,
        ),
        _on_map(
            "timm-mqa-conv",
            "MultiQueryAttention2d",
            Projection("layer.output.proj", 4, 8, 1),
            False,
            8,
            kv_stride=2,
            **queries,
        ),
    ]


def cases() -> list[Case]:
    """Returns the cases of this family."""
    swin = _heads(
        ("layers.0.blocks.0.attn.proj", 2, 8),
        ("layers.0.blocks.1.attn.proj", 2, 8),
        ("layers.1.blocks.0.attn.proj", 4, 8),
    )
    levit = _heads(
        ("stages.0.blocks.0.attn.proj.ln.linear", 2, 8),
        ("stages.1.downsample.attn_downsample.proj.ln.linear", 4, 16),
        ("stages.1.blocks.0.attn.proj.ln.linear", 3, 8),
        ("stages.2.downsample.attn_downsample.proj.ln.linear", 8, 16),
        ("stages.2.blocks.0.attn.proj.ln.linear", 4, 8),
    )
    cascade = _heads(
        ("stages.0.blocks.0.mixer.m.attn.proj.1.conv", 2, 16),
        ("stages.1.blocks.0.mixer.m.attn.proj.1.conv", 4, 8),
        ("stages.2.blocks.0.mixer.m.attn.proj.1.conv", 4, 12),
    )
    pvt = _heads(
        *((f"stages.{i}.blocks.0.attn.proj", *h) for i, h in enumerate(((1, 16), (2, 8), (4, 8), (4, 8))))
    )
    twins = _heads(
        *(
            (f"blocks.{i}.{j}.attn.proj", *h)
            for i, h in enumerate(((2, 8), (2, 8), (4, 8), (4, 8)))
            for j in range(2 if i < 2 else 1)
        )
    )
    davit = _heads(
        *(
            (f"stages.{i}.blocks.0.{j}.attn.proj", *h)
            for i, h in enumerate(((2, 8), (4, 8)))
            for j in range(2)
        )
    )
    maxvit = _heads(
        *(
            (f"stages.{i}.blocks.0.{kind}.attn.proj", *h)
            for i, h in enumerate(((2, 8), (4, 8)))
            for kind in ("attn_block", "attn_grid")
        )
    )
    made = partial(image_case, family=FAMILY)
    return [
        made(
            "timm-swin",
            model="swin_tiny_patch4_window7_224",
            projections=swin,
            size=32,
            options=WINDOWED,
        ),
        made(
            "timm-swin-sdpa",
            model="swin_tiny_patch4_window7_224",
            projections=swin,
            size=32,
            options=WINDOWED,
            fused=True,
        ),
        made(
            "timm-swinv2",
            model="swinv2_tiny_window8_256",
            projections=swin,
            size=32,
            options=WINDOWED,
        ),
        made(
            "timm-levit",
            model="levit_128s",
            projections=levit,
            size=64,
            options={
                "img_size": 64,
                "embed_dim": (16, 32, 48),
                "key_dim": 4,
                "num_heads": (2, 3, 4),
                "depth": (1, 1, 1),
            },
        ),
        made(
            "timm-efficientvit",
            model="efficientvit_b0",
            size=64,
            projections=_heads(
                ("stages.2.blocks.1.context_module.main.proj.conv", 4, 16),
                ("stages.3.blocks.1.context_module.main.proj.conv", 4, 16),
            ),
            options={"widths": (8, 16, 16, 32, 32), "depths": (1, 1, 1, 1, 1), "head_widths": (32, 32)},
            note="ReLU linear attention; half of the heads see depthwise-convolved "
            "Q, K and V; BatchNorm folds into the projection's weight",
        ),
        made(
            "timm-efficientvit-cascade",
            model="efficientvit_m0",
            projections=cascade,
            size=64,
            expect="refused",
            options={
                "img_size": 64,
                "embed_dim": (32, 32, 48),
                "depth": (1, 1, 1),
                "num_heads": (2, 4, 4),
                "key_dim": (4, 4, 4),
            },
            note="every head's output also enters the next head; BatchNorm folds into the projection",
        ),
        made(
            "timm-pvt-v2",
            model="pvt_v2_b0",
            projections=pvt,
            size=64,
            options={
                "depths": (1, 1, 1, 1),
                "embed_dims": (16, 16, 32, 32),
                "num_heads": (1, 2, 4, 4),
            },
        ),
        made(
            "timm-twins",
            model="twins_svt_small",
            projections=twins,
            size=64,
            options={
                "img_size": 64,
                "embed_dims": (16, 16, 32, 32),
                "num_heads": (2, 2, 4, 4),
                "depths": (2, 2, 1, 1),
                "wss": (4, 4, 2, 2),
            },
        ),
        made(
            "timm-davit",
            model="davit_tiny",
            projections=davit,
            size=64,
            note="channel attention",
            options={
                "embed_dims": (16, 32),
                "depths": (1, 1),
                "num_heads": (2, 4),
                "window_size": 4,
            },
        ),
        made(
            "timm-maxvit",
            model="maxvit_rmlp_pico_rw_256",
            projections=maxvit,
            size=32,
            options={
                "img_size": 32,
                "embed_dim": (16, 32),
                "depths": (1, 1),
                "stem_width": 16,
                "transformer_dim_head": 8,
                "transformer_window_size": (4, 4),
                "transformer_grid_size": (4, 4),
            },
        ),
        made(
            "timm-tiny-vit",
            model="tiny_vit_5m_224",
            size=64,
            projections=_heads(
                ("stages.1.blocks.0.attn.proj", 2, 8),
                ("stages.2.blocks.0.attn.proj", 4, 8),
                ("stages.3.blocks.0.attn.proj", 4, 8),
            ),
            options={
                "embed_dims": (16, 16, 32, 32),
                "depths": (1, 1, 1, 1),
                "num_heads": (2, 2, 4, 4),
                "window_sizes": (4, 4, 4, 4),
            },
        ),
        made(
            "timm-visformer",
            model="visformer_tiny",
            size=64,
            projections=_heads(("stage2.0.attn.proj", 4, 8), ("stage3.0.attn.proj", 4, 16)),
            options={"img_size": 64, "embed_dim": 32, "num_heads": 4, "depth": (1, 1, 1)},
            note="1x1 convolutions",
        ),
        made(
            "timm-coat",
            model="coat_lite_tiny",
            size=64,
            projections=layers("serial_blocks{}.0.factoratt_crpe.proj", 5, 8, 4)[1:],
            options={"img_size": 64, "embed_dims": (32, 32, 32, 32), "serial_depths": (1, 1, 1, 1)},
            note="linear attention; depthwise convolutions of three sizes split the heads",
        ),
        Case(
            name="timm-mvitv2",
            family=FAMILY,
            builder=_mvit,
            feeds=tuple({"x": feeds.floats(batch, 3, 32, 32)} for batch in (3, 1)),
            inputs=("x",),
            outputs=("y",),
            dynamic_axes={"x": {0: "batch"}, "y": {0: "batch"}},
            projections=_heads(("stages.0.blocks.0.attn.proj", 2, 8), ("stages.1.blocks.0.attn.proj", 4, 8)),
            note="depthwise convolutions shared by all heads pool Q, K and V",
        ),
        *_layer_cases(),
    ]
