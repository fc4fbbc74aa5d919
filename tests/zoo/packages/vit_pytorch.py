"""vit-pytorch: every variant that is a forward pass from a picture to logits."""

# fmt: off

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tests.zoo import feeds
from tests.zoo.attributes import Heads
from tests.zoo.case import Case, Expect
from tests.zoo.packages.row import image, new, of, row

ATTENTION = Heads(r"\w*Attention|DSSA|XCAttention", ("to_out",), "heads")
PLAIN: dict[str, Any] = {"num_classes": 7, "dim": 24, "depth": 2, "heads": 3, "dim_head": 8, "mlp_dim": 32}
PATCHES: dict[str, Any] = PLAIN | {"image_size": 32, "patch_size": 8}
SIMPLE = (*("simple_vit", "simple_vit_with_qk_norm", "simple_vit_with_register_tokens"),
    *("simple_vit_with_value_residual", "simple_vit_with_patch_dropout", "simple_flash_attn_vit"),
    *("simple_vit_orthog_residual_update", "simple_vit_with_specialized_cls"),
    "simple_vit_with_relative_proj_pos_bias")
VITS = ("vit", "vit_with_patch_dropout", "vit_with_keel_post_ln", "vit_with_decorr")


def _case(module: str, name: str, *, x: torch.Tensor | None = None, suffix: str = "", rule: Heads = ATTENTION,
        expect: Expect = "exact", note: str = "", **options: Any) -> Case:
    return row(module.replace("_", "-") + suffix, "vit-pytorch", new(f"vit_pytorch.{module}:{name}", **options),
        {"x": image() if x is None else x}, rule, expect=expect, note=note)


def _patches(module: str, name: str, **options: Any) -> Case:
    return _case(module, name, **PATCHES | options)


def _stages(**changes: tuple[int, ...]) -> dict[str, int]:
    """Keywords ``s1_…``, ``s2_…`` from one tuple per name."""
    return {f"s{i + 1}_{name}": value for name, values in changes.items() for i, value in enumerate(values)}


def _efficient() -> nn.Module:
    inner = of("nystrom_attention:Nystromformer", dim=24, dim_head=8, heads=3, depth=2, num_landmarks=4)
    return of("vit_pytorch.efficient:ViT", image_size=32, patch_size=8, num_classes=7, dim=24, transformer=inner)


def cases() -> list[Case]:
    video = feeds.floats(2, 3, 4, 16, 16)
    mixed = "talking heads"
    two = {"image_size": 32, "num_classes": 7}
    small: dict[str, Any] = {"dim": (16, 24, 32, 48), "depth": (1, 1, 1, 1), "num_classes": 7}
    return [
        *(_patches(module, "SimpleViT") for module in SIMPLE),
        _patches("simple_vit_with_fft", "SimpleViT", freq_patch_size=8),
        _patches("simple_vit_with_hyper_connections", "SimpleViT", num_residual_streams=2),
        *(_patches(module, "ViT") for module in VITS),
        _patches("vit", "ViT", suffix="-mean", pool="mean"),
        _patches("parallel_vit", "ViT"),
        _patches("deepvit", "DeepViT", note=mixed),
        _patches("learnable_memory_vit", "ViT"),
        _patches("simple_uvit", "SimpleUViT"),
        _patches("vit_with_patch_merger", "ViT", patch_merge_layer=1, patch_merge_num_tokens=4),
        _patches("normalized_vit", "nViT", rule=Heads("Attention", ("to_out.linear",), 3)),
        _patches("rvt", "RvT"),
        _patches("jumbo_vit", "JumboViT"),
        _patches("vit_for_small_dataset", "ViT", rule=Heads("LSA", ("to_out",), "heads")),
        _patches("ats_vit", "ViT", max_tokens_per_depth=(12, 8)),
        _patches("cait", "CaiT", cls_depth=1, note=mixed),
        _patches("xcit", "XCiT", cls_depth=1),
        _case("vit_1d", "ViT", x=feeds.floats(2, 3, 32), seq_len=32, patch_size=8, **PLAIN),
        _case("simple_vit_1d", "SimpleViT", x=feeds.floats(2, 3, 32), seq_len=32, patch_size=8, **PLAIN),
        *(_case(*(module, name), x=video, image_size=16, image_patch_size=8, frames=4, frame_patch_size=2,
            **PLAIN) for module, name in (("vit_3d", "ViT"), ("simple_vit_3d", "SimpleViT"))),
        *(_case(*("vivit", "ViViT"), suffix=f"-{variant.replace('_', '-')}", x=video, image_size=16,
            image_patch_size=8, frames=4, frame_patch_size=2, spatial_depth=1, temporal_depth=1, variant=variant,
            **{key: value for key, value in PLAIN.items() if key != "depth"}) for variant in ("factorized_encoder",
            "factorized_self_attention")),
        _case("pit", "PiT", image_size=32, patch_size=8, **PLAIN | {"depth": (1, 1)}),
        _case("t2t", "T2TViT", image_size=32, t2t_layers=((7, 4), (3, 2)), **PLAIN),
        _case("cct", "CCT", img_size=32, embedding_dim=24, n_conv_layers=1, kernel_size=7, stride=4, padding=3,
            pooling_kernel_size=3, pooling_stride=2, pooling_padding=1, num_layers=2, num_heads=3, mlp_ratio=2.0,
            num_classes=7, rule=Heads("Attention", ("proj",), "heads")),
        _case("cross_vit", "CrossViT", sm_dim=24, lg_dim=32, sm_patch_size=8, sm_enc_depth=1, sm_enc_heads=3,
            sm_enc_mlp_dim=32, sm_enc_dim_head=8, lg_patch_size=16, lg_enc_depth=1, lg_enc_heads=4, lg_enc_mlp_dim=32,
            lg_enc_dim_head=8, cross_attn_depth=1, cross_attn_heads=2, cross_attn_dim_head=8, depth=1, **two),
        _case("cvt", "CvT", x=image(64), num_classes=7, **_stages(emb_dim=(16, 24, 32), heads=(1, 3, 4), depth=(1, 1,
            1), mlp_mult=(2, 2, 2))),
        _case("twins_svt", "TwinsSVT", x=image(64), num_classes=7, **_stages(emb_dim=(16, 24, 32, 40),
            local_patch_size=(2, 2, 2, 1), global_k=(2, 2, 2, 1), depth=(1, 1, 1, 1))),
        _case("nest", "NesT", image_size=32, patch_size=4, dim=24, heads=3, num_hierarchies=2, block_repeats=(1, 1),
            num_classes=7, dim_head=8),
        _case("regionvit", "RegionViT", x=image(64), window_size=2, **small),
        _case("crossformer", "CrossFormer", x=image(64), global_window_size=(4, 2, 1, 1), local_window_size=2,
            **small | {"dim": (32, 32, 64, 64)}),
        _case("scalable_vit", "ScalableViT", x=image(64), num_classes=7, dim=16, heads=(1, 2, 3), depth=(1, 1, 1),
            reduction_factor=(2, 2, 1), window_size=(4, 4, None), iwsa_dim_key=8, iwsa_dim_value=8, ssa_dim_key=8,
            ssa_dim_value=8),
        _case("sep_vit", "SepViT", x=image(56), num_classes=7, dim=16, heads=(2, 4), depth=(1, 2),
            note="it takes no window size but its own"),
        _case("max_vit", "MaxViT", x=image(32), num_classes=7, dim=16, depth=(1, 1), dim_head=8, window_size=4),
        _case("max_vit_with_registers", "MaxViT", x=image(32), num_classes=7, dim=16, depth=(1, 1), dim_head=8,
            window_size=4),
        _case("mobile_vit", "MobileViT", x=image(64), image_size=(64, 64), dims=[24, 32, 40], channels=[16, 16, 24,
            24, 32, 32, 40, 40, 48, 48, 64], num_classes=7),
        _case("levit", "LeViT", x=image(64), image_size=64, stages=2, dim=(16, 24), depth=(1, 1), heads=(2, 3),
            mlp_mult=2, dim_key=8, dim_value=16, num_classes=7),
        _case("look_vit", "LookViT", image_size=32, patch_size=8, highres_patch_size=4, num_classes=7, dim=24,
            depth=2, heads=3, dim_head=8, cross_attn_heads=2, cross_attn_dim_head=8, patch_conv_kernel_size=3),
        row("efficient-nystrom", "vit-pytorch", _efficient, {"x": image()}, ATTENTION,
            note="a maximum over all heads"),
    ]
