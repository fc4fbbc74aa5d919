"""torchvision: its vision transformers, built small."""

from __future__ import annotations

from functools import partial
from importlib import import_module
from typing import Any

from torch import nn

from tests.zoo import feeds
from tests.zoo.wild.case import Wild, image
from tests.zoo.wild.rules import Heads

PACKAGE = "torchvision"
MHA = Heads("MultiheadAttention", ("",), "num_heads")
WINDOW = Heads(r"ShiftedWindowAttention(V2|3d)?", ("",), "num_heads")


def _vit(**options: Any) -> nn.Module:
    built: nn.Module = import_module("torchvision.models").VisionTransformer(
        image_size=32,
        patch_size=8,
        num_layers=2,
        num_heads=3,
        hidden_dim=24,
        mlp_dim=32,
        num_classes=7,
        **options,
    )
    return built


def _swin(version: int) -> nn.Module:
    module = import_module("torchvision.models.swin_transformer")
    more = {}
    if version == 2:
        more = {"block": module.SwinTransformerBlockV2, "downsample_layer": module.PatchMergingV2}
    built: nn.Module = module.SwinTransformer(
        patch_size=[2, 2],
        embed_dim=16,
        depths=[2, 2],
        num_heads=[2, 4],
        window_size=[4, 4],
        num_classes=7,
        **more,
    )
    return built


def _swin3d() -> nn.Module:
    built: nn.Module = import_module("torchvision.models.video.swin_transformer").SwinTransformer3d(
        patch_size=[2, 4, 4],
        embed_dim=16,
        depths=[2, 2],
        num_heads=[2, 4],
        window_size=[2, 4, 4],
        num_classes=7,
    )
    return built


def _maxvit() -> nn.Module:
    built: nn.Module = import_module("torchvision.models.maxvit").MaxVit(
        input_size=(32, 32),
        stem_channels=16,
        partition_size=4,
        block_channels=[16, 24],
        block_layers=[1, 1],
        head_dim=8,
        stochastic_depth_prob=0.0,
        num_classes=7,
    )
    return built


def _mvit(**options: Any) -> nn.Module:
    module = import_module("torchvision.models.video.mvit")
    setting = [
        module.MSBlockConfig(1, 16, 24, [3, 3, 3], [3, 3, 3], [1, 1, 1], [1, 2, 2]),
        module.MSBlockConfig(3, 24, 24, [3, 3, 3], [3, 3, 3], [1, 2, 2], [1, 1, 1]),
        module.MSBlockConfig(3, 24, 24, [3, 3, 3], [3, 3, 3], [1, 1, 1], [1, 1, 1]),
    ]
    built: nn.Module = module.MViT(
        spatial_size=(16, 16),
        temporal_size=4,
        block_setting=setting,
        patch_embed_kernel=(3, 7, 7),
        patch_embed_stride=(2, 4, 4),
        patch_embed_padding=(1, 3, 3),
        num_classes=7,
        **options,
    )
    return built


def _case(name: str, make: Any, x: Any, rule: Heads, **rest: Any) -> Wild:
    return Wild(f"torchvision-{name}", PACKAGE, make, {"x": x}, (rule,), **rest)


def cases() -> list[Wild]:
    """Returns the cases of this package."""
    clip = feeds.floats(2, 3, 4, 16, 16)
    multi = Heads("MultiscaleAttention", ("project",), "num_heads")
    v1 = {
        "residual_pool": False,
        "residual_with_cls_embed": True,
        "rel_pos_embed": False,
        "proj_after_attn": False,
    }
    v2 = {
        "residual_pool": True,
        "residual_with_cls_embed": False,
        "rel_pos_embed": True,
        "proj_after_attn": True,
    }
    return [
        _case("vit", _vit, image(), MHA),
        _case("swin", partial(_swin, 1), image(), WINDOW),
        _case("swin-v2", partial(_swin, 2), image(), WINDOW),
        _case("swin3d", _swin3d, feeds.floats(2, 3, 4, 16, 16), WINDOW),
        _case(
            "maxvit", _maxvit, image(), Heads("RelativePositionalMultiHeadAttention", ("merge",), "n_heads")
        ),
        _case("mvit-v1", partial(_mvit, **v1), clip, multi, note="pooled queries, keys and values"),
        _case("mvit-v2", partial(_mvit, **v2), clip, multi, note="pooled queries join the context"),
    ]
