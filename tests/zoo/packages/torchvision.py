"""torchvision: its vision transformers, built small."""

# fmt: off

from __future__ import annotations

from functools import partial
from importlib import import_module
from typing import Any

from torch import nn

from tests.zoo import feeds
from tests.zoo.attributes import Heads
from tests.zoo.case import Case
from tests.zoo.packages.row import MHA, image, new, row

WINDOW = Heads("ShiftedWindowAttention(V2|3d)?", ("",), "num_heads")


def _swin2(**options: Any) -> nn.Module:
    module = import_module("torchvision.models.swin_transformer")
    blocks = {"block": module.SwinTransformerBlockV2, "downsample_layer": module.PatchMergingV2}
    return module.SwinTransformer(**blocks, **options)


def _mvit(**options: Any) -> nn.Module:
    module = import_module("torchvision.models.video.mvit")
    setting = [
        module.MSBlockConfig(1, 16, 24, [3, 3, 3], [3, 3, 3], [1, 1, 1], [1, 2, 2]),
        module.MSBlockConfig(3, 24, 24, [3, 3, 3], [3, 3, 3], [1, 2, 2], [1, 1, 1]),
        module.MSBlockConfig(3, 24, 24, [3, 3, 3], [3, 3, 3], [1, 1, 1], [1, 1, 1]),
    ]
    return module.MViT(spatial_size=(16, 16), temporal_size=4, block_setting=setting, patch_embed_kernel=(3, 7, 7),
        patch_embed_stride=(2, 4, 4), patch_embed_padding=(1, 3, 3), num_classes=7, **options)


def cases() -> list[Case]:
    clip = feeds.floats(2, 3, 4, 16, 16)
    multi = Heads("MultiscaleAttention", ("project",), "num_heads")
    v1 = {"residual_pool": False, "residual_with_cls_embed": True, "rel_pos_embed": False, "proj_after_attn": False}
    v2 = {"residual_pool": True, "residual_with_cls_embed": False, "rel_pos_embed": True, "proj_after_attn": True}
    swin: dict[str, Any] = {"embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "num_classes": 7}
    flat = swin | {"patch_size": [2, 2], "window_size": [4, 4]}
    deep = swin | {"patch_size": [2, 4, 4], "window_size": [2, 4, 4]}
    return [
        row("vit", "torchvision", new("torchvision.models:VisionTransformer", image_size=32, patch_size=8, num_layers=2,
            num_heads=3, hidden_dim=24, mlp_dim=32, num_classes=7), {"x": image()}, MHA),
        row("swin", "torchvision", new("torchvision.models.swin_transformer:SwinTransformer", **flat), {"x": image()},
            WINDOW),
        row("swin-v2", "torchvision", partial(_swin2, **flat), {"x": image()}, WINDOW),
        row("swin3d", "torchvision", new("torchvision.models.video.swin_transformer:SwinTransformer3d", **deep),
            {"x": feeds.floats(2, 3, 4, 16, 16)}, WINDOW),
        row("maxvit", "torchvision", new("torchvision.models.maxvit:MaxVit", input_size=(32, 32), stem_channels=16,
            partition_size=4, block_channels=[16, 24], block_layers=[1, 1], head_dim=8, stochastic_depth_prob=0.0,
            num_classes=7), {"x": image()},
            Heads("RelativePositionalMultiHeadAttention", ("merge",), "n_heads")),
        row("mvit-v1", "torchvision", partial(_mvit, **v1), {"x": clip}, multi, note="pooled queries, keys and values"),
        row("mvit-v2", "torchvision", partial(_mvit, **v2), {"x": clip}, multi, note="pooled queries join the context"),
    ]
