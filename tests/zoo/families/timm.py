"""timm's vision transformers, pyramids, and attention layers on images."""

# fmt: off

from __future__ import annotations

from functools import partial
from typing import Any

import timm
import torch
from timm import layers as timm_layers
from timm.models.mvitv2 import MultiScaleVit, MultiScaleVitCfg
from torch import nn

from tests.zoo import feeds
from tests.zoo.attributes import at
from tests.zoo.case import Case
from tests.zoo.init import spread

Options = dict[str, Any]
VIT: Options = {"img_size": 16, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4}
WINDOWED: Options = {"img_size": 32, "patch_size": 4, "window_size": 4, "embed_dim": 16, "depths": (2, 1),
    "num_heads": (2, 4)}
STAGES: Options = {"img_size": 64, "depth": (1, 1, 1)}
FOUR: Options = {"embed_dims": (16, 16, 32, 32), "depths": (1, 1, 1, 1)}
MAXVIT: Options = {"img_size": 32, "embed_dim": (16, 32), "depths": (1, 1), "stem_width": 16,
    "transformer_dim_head": 8, "transformer_window_size": (4, 4), "transformer_grid_size": (4, 4)}


class OnMap(nn.Module):
    """``x + layer(x)`` on a feature map, or the layer alone where it pools."""

    def __init__(self, layer: nn.Module, pools: bool) -> None:
        super().__init__()
        self.layer, self.pools = layer, pools

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.layer(x)
        return y if self.pools else x + y


def _layer(name: str, options: Options, pools: bool) -> nn.Module:
    return spread(OnMap(getattr(timm_layers, name)(32, **options), pools))


def _mvit() -> nn.Module:
    options: Options = {"stride_q": ((1, 1), (2, 2))}  # annotated as a tuple of one pair
    config = MultiScaleVitCfg(depths=(1, 1), embed_dim=16, num_heads=2, residual_pooling=True, **options)
    return spread(MultiScaleVit(config, img_size=(32, 32), num_classes=0))


def _model(model: str, options: Options, fused: bool) -> nn.Module:
    """Builds a timm model without a classifier; ``fused`` selects SDPA where there is a choice."""
    built = timm.create_model(model, pretrained=False, num_classes=0, **options)
    for module in built.modules():
        if hasattr(module, "fused_attn"):
            vars(module)["fused_attn"] = fused
    return spread(built)


def _case(family: str, name: str, builder: Any, *out: str, shape: tuple[int, ...], heads: Any = None, kv: Any = None,
        **rest: Any) -> Case:
    axes = {"x": {0: "batch"}, "y": {0: "batch"}}
    made = tuple({"x": feeds.floats(batch, *shape)} for batch in (3, 1))
    return Case(name=f"timm-{name}", family=family, builder=builder, feeds=made, outputs=("y",),
        dynamic_axes=axes, rules=at(*out, heads=heads, kv=kv), **rest)


def _vit(name: str, model: str, *out: str, fused: bool = False, changes: Options | None = None, **rest: Any) -> Case:
    options = {**VIT, **(changes or {})}
    side = options["img_size"]
    return _case("timm-vits", name, partial(_model, model, options, fused), *(out or ("attn.proj",)),
        shape=(3, side, side), **rest)


def _pyramid(name: str, model: str, side: int, options: Options, *out: str, fused: bool = False, **rest: Any) -> Case:
    return _case("timm-pyramids", name, partial(_model, model, options, fused), *(out or ("attn.proj",)),
        shape=(3, side, side), **rest)


def _on_map(name: str, layer: str, out: str, pools: bool, side: int = 4, kv: int | None = None,
        **options: Any) -> Case:
    return _case("timm-pyramids", name, partial(_layer, layer, {**options, "num_heads": 4}, pools), out,
        shape=(32, side, side), heads=None if kv is None else 4, kv=kv)


def cases() -> list[Case]:
    tiny, swin = "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"
    return [
        _vit("vit", tiny),
        _vit("vit-sdpa", tiny, fused=True),
        _vit("vit-qk-norm", tiny, changes={"qk_norm": True}),
        _vit("vit-scale-norm", tiny, changes={"scale_attn_norm": True}, expect="refused",
            note="a norm over all heads before the output projection"),
        _vit("deit3", "deit3_small_patch16_224"),
        _vit("relpos", "vit_relpos_small_patch16_224"),
        _vit("rope", "vit_base_patch16_rope_224"),
        _vit("eva02", "eva02_tiny_patch14_224", changes={"mlp_ratio": 2}),
        _vit("eva02-sdpa", "eva02_tiny_patch14_224", changes={"mlp_ratio": 2}, fused=True),
        _vit("beitv2", "beitv2_base_patch16_224"),
        _vit("siglip", "vit_base_patch16_siglip_224", "attn.proj", "attn_pool.proj"),
        _vit("dinov2-reg", "vit_giant_patch14_reg4_dinov2"),
        _vit("sam", "samvit_base_patch16", changes={"img_size": 32}),
        _vit("parallel", "vit_pwee_patch16_reg1_gap_256", "attn_out_proj",
            note="attention and MLP leave one packed projection"),
        _vit("convit", "convit_tiny", note="softmax and positional maps blended per head"),
        _vit("cait", "cait_xxs24_224", note="talking heads; class attention"),
        _vit("xcit", "xcit_nano_12_p16_224", note="channel attention", changes={"img_size": 32, "patch_size": 16}),

        _pyramid("swin", swin, 32, WINDOWED),
        _pyramid("swin-sdpa", swin, 32, WINDOWED, fused=True),
        _pyramid("swinv2", "swinv2_tiny_window8_256", 32, WINDOWED),
        _pyramid("levit", "levit_128s", 64, STAGES | {"embed_dim": (16, 32, 48), "key_dim": 4,
            "num_heads": (2, 3, 4)}, "proj.ln.linear"),
        _pyramid("efficientvit", "efficientvit_b0", 64, {"widths": (8, 16, 16, 32, 32), "depths": (1, 1, 1, 1, 1),
            "head_widths": (32, 32)}, "context_module.main.proj.conv", heads=4,
            note="ReLU linear attention; half of the heads see depthwise-convolved "
            "Q, K and V; BatchNorm folds into the projection's weight"),
        _pyramid("efficientvit-cascade", "efficientvit_m0", 64, STAGES | {"embed_dim": (32, 32, 48),
            "num_heads": (2, 4, 4), "key_dim": (4, 4, 4)}, "attn.proj.1.conv", expect="refused",
            note="every head's output also enters the next head; BatchNorm folds into the projection"),
        _pyramid("pvt-v2", "pvt_v2_b0", 64, FOUR | {"num_heads": (1, 2, 4, 4)}),
        _pyramid("twins", "twins_svt_small", 64, FOUR | {"img_size": 64, "num_heads": (2, 2, 4, 4),
            "depths": (2, 2, 1, 1), "wss": (4, 4, 2, 2)}),
        _pyramid("davit", "davit_tiny", 64, {"embed_dims": (16, 32), "depths": (1, 1), "num_heads": (2, 4),
            "window_size": 4}, note="channel attention"),
        _pyramid("maxvit", "maxvit_rmlp_pico_rw_256", 32, MAXVIT),
        _pyramid("tiny-vit", "tiny_vit_5m_224", 64, FOUR | {"num_heads": (2, 2, 4, 4), "window_sizes": (4, 4, 4, 4)}),
        _pyramid("visformer", "visformer_tiny", 64, STAGES | {"embed_dim": 32, "num_heads": 4},
            note="1x1 convolutions"),
        _pyramid("coat", "coat_lite_tiny", 64, {"img_size": 64, "embed_dims": (32, 32, 32, 32),
            "serial_depths": (1, 1, 1, 1)}, "factoratt_crpe.proj",
            note="linear attention; depthwise convolutions of three sizes split the heads"),
        _case("timm-pyramids", "mvitv2", _mvit, "attn.proj", shape=(3, 32, 32),
            note="depthwise convolutions shared by all heads pool Q, K and V"),
        _on_map("attention-pool", "AttentionPool2d", "layer.proj", True, feat_size=4),
        _on_map("attention-pool-rotary", "RotAttentionPool2d", "layer.proj", True, ref_feat_size=4),
        _on_map("mqa-conv", "MultiQueryAttention2d", "output.proj", False, 8, kv=1, kv_stride=2, key_dim=8,
            value_dim=8),
    ]
