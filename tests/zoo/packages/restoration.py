"""spandrel's collection of restoration networks, and timm's attention layers with a convolution around them."""

# fmt: off

from __future__ import annotations

from functools import partial
from importlib import import_module
from typing import Any

from torch import nn

from tests.zoo import feeds
from tests.zoo.attributes import Heads
from tests.zoo.case import Case
from tests.zoo.packages.row import image, new, row

WINDOW = Heads("WindowAttention|OCAB|WindowAttentionSC", ("proj",), "num_heads")


def _case(name: str, *rules: Heads, side: int = 16, note: str = "", **options: Any) -> Case:
    # Most divide by a batch that tracing has made a number.
    return row(name.lower(), "spandrel", new(f"spandrel.architectures.{name}:{name}", **options), {"x": image(side)},
        *rules, dynamic=False, note=note)


def _byo(attention: str, **options: Any) -> nn.Module:
    module = import_module("timm.models.byobnet")
    blocks = module.ByoBlockCfg(type="self_attn", d=1, c=48, s=1, gs=0, br=0.5)
    start = module.ByoBlockCfg(type="bottle", d=1, c=24, s=2, gs=0, br=0.5)
    config = module.ByoModelCfg(blocks=(start, blocks), stem_chs=8, stem_type="3x3", stem_pool="",
        self_attn_layer=attention, fixed_input_size=True, self_attn_kwargs=options)
    return module.ByobNet(config, num_classes=7, img_size=(32, 32))


def cases() -> list[Case]:
    swin: dict[str, Any] = {"img_size": 16, "embed_dim": 24, "depths": [2], "num_heads": [3], "window_size": 4,
        "mlp_ratio": 2.0, "upscale": 2}
    flat: dict[str, Any] = {"img_size": 16, "embed_dim": 24, "depth": [2], "num_heads": [4], "upscale": 2}
    own_norm = "BatchNorm and ReLU, per channel, between the heads and the convolution that sums them"
    return [
        _case("SwinIR", WINDOW, upsampler="pixelshuffledirect", **swin),
        _case("Swin2SR", WINDOW, upsampler="pixelshuffledirect", **swin),
        _case("HAT", WINDOW, num_feat=16, squeeze_factor=8, **swin),
        _case("DAT", Heads("Adaptive_(Spatial|Channel)_Attention", ("proj",), "num_heads"), split_size=[2, 4],
            expansion_factor=2.0, note="two spatial halves of the heads, joined before one projection", **flat),
        _case("GRL", Heads("MixedAttention", ("proj",), 4), img_size=16, embed_dim=32, depths=[2],
            num_heads_window=[2], num_heads_stripe=[2], window_size=4, stripe_size=[4, 4], mlp_ratio=2.0,
            note="two window heads and two stripe heads, joined before one projection"),
        _case("ATD", Heads("ATD_CA", ("proj",), 1), Heads("WindowAttention|AC_MSA", ("proj",), "num_heads"),
            category_size=8, num_tokens=4, reducted_dim=4, **swin),
        _case("DRCT", WINDOW, gc=8, upsampler="pixelshuffle", **swin | {"depths": [6], "num_heads": [3]}),
        _case("RGT", Heads("L_SA|RG_SA", ("proj",), "num_heads"), split_size=[4, 4], mlp_ratio=2.0, **flat),
        _case("SCUNet", Heads("WMSA", ("linear",), "n_heads"), side=64, config=[1] * 7, dim=64, input_resolution=64),
        _case("Uformer", WINDOW, side=32, img_size=32, embed_dim=8, depths=[1] * 9, num_heads=[1, 2, 2, 2, 2, 2, 2, 2,
            2], win_size=2, mlp_ratio=2.0),
        _case("RetinexFormer", Heads("IG_MSA", ("proj",), "num_heads"), n_feat=16, stage=1),
        _case("OmniSR", Heads("Attention|Block_Attention", ("to_out",), "heads"), Heads("Channel_Attention(_grid)?",
            ("project_out",), "heads"), num_feat=32, window_size=4, up_scale=2),
        _case("FDAT", Heads("Fast\\w*Attention", ("proj",), "nh"), embed_dim=24, num_groups=1, depth_per_group=2,
            num_heads=3, window_size=4, scale=2, mid_dim=16, aim_reduction_ratio=4),
        row("bottleneck-attn", "timm", partial(_byo, "bottleneck", num_heads=3), {"x": image(32)},
            Heads("SelfAttnBlock", ("conv3_1x1.conv",), "self_attn.num_heads"), note=own_norm),
        row("halo-attn", "timm", partial(_byo, "halo", num_heads=3, block_size=4, halo_size=2),
            {"x": image(32)}, Heads("SelfAttnBlock", ("conv3_1x1.conv",), "self_attn.num_heads"), note=own_norm),
        row("lambda", "timm", partial(_byo, "lambda", num_heads=3, r=3), {"x": image(32)},
            Heads("SelfAttnBlock", ("conv3_1x1.conv",), "self_attn.num_heads", kv=1), note=own_norm),
        *(row(name, "timm", new(f"timm.layers:{kind}", in_features=24, num_heads=3, **options), {"x": x},
            Heads(kind, ("proj",), "num_heads")) for name, kind, x, options in (
            ("attention-pool2d", "AttentionPool2d", feeds.floats(2, 24, 4, 4), {"feat_size": 4}),
            ("rot-attention-pool2d", "RotAttentionPool2d", feeds.floats(2, 24, 4, 4), {"ref_feat_size": 4}),
            ("attention-pool-latent", "AttentionPoolLatent", feeds.floats(2, 9, 24), {}))),
    ]
