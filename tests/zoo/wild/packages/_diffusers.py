"""diffusers: transformers, UNets and autoencoders of diffusion models."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import nn

from tests.zoo import feeds
from tests.zoo.wild.case import Wild
from tests.zoo.wild.rules import Heads

PACKAGE = "diffusers"
OUT = ("to_out", "to_add_out")
ATTENTION = Heads(r"\w*Attention", OUT, "heads")
GROUPED = Heads("Attention", OUT, "heads", kv=lambda a: a.inner_kv_dim * a.heads // a.inner_dim)
LATENT = feeds.floats(2, 4, 8, 8)
TIME = torch.tensor([3, 700])
WORDS = feeds.floats(2, 5, 20, seed=1)
POOLED = feeds.floats(2, 12, seed=2)
SMALL: dict[str, Any] = {"num_attention_heads": 3, "attention_head_dim": 8, "num_layers": 2}
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])


def _of(name: str, **options: Any) -> nn.Module:
    built: nn.Module = getattr(import_module("diffusers"), name)(**options)
    return built


def _case(
    name: str,
    model: str,
    inputs: Mapping[str, torch.Tensor],
    *rules: Heads,
    fixed: Mapping[str, Any] | None = None,
    extra: Mapping[str, Any] | None = None,
    **options: Any,
) -> Wild:
    return Wild(
        f"diffusers-{name}",
        PACKAGE,
        partial(_of, model, **options),
        inputs,
        rules or (ATTENTION,),
        by_name=True,
        fixed=_fixed(model, fixed or {}),
        **(extra or {}),
    )


def _rotary_3d() -> tuple[Any, Any]:
    """Rotary tables and grids of Allegro for 3 x 4 x 4 patches and heads of 12."""
    grids = torch.meshgrid(torch.arange(3), torch.arange(4), torch.arange(4), indexing="ij")
    places = [grid.reshape(1, -1) for grid in grids]
    table = tuple((torch.ones(6, 4), torch.zeros(6, 4)) for _ in range(3))
    return table, places


def _fixed(model: str, given: Mapping[str, Any]) -> dict[str, Any]:
    return dict(given) if model == "UVit2DModel" else {"return_dict": False, **given}


def _ids(length: int, axes: int = 3) -> torch.Tensor:
    return torch.arange(length * axes).reshape(length, axes).float() % 4


def _sd3(name: str, **options: Any) -> Wild:
    return _case(
        name,
        "SD3Transformer2DModel",
        {
            "hidden_states": LATENT,
            "encoder_hidden_states": WORDS,
            "pooled_projections": POOLED,
            "timestep": TIME,
        },
        sample_size=8,
        in_channels=4,
        out_channels=4,
        joint_attention_dim=20,
        caption_projection_dim=24,
        pooled_projection_dim=12,
        pos_embed_max_size=8,
        **(SMALL | options),
    )


def _flux(name: str, model: str, single: str, **options: Any) -> Wild:
    inputs = {
        "hidden_states": feeds.floats(2, 9, 4),
        "encoder_hidden_states": WORDS,
        "timestep": TIME.float() / 1000,
        "pooled_projections": POOLED,
        "img_ids": _ids(9),
        "txt_ids": _ids(5),
    }
    if model == "ChromaTransformer2DModel":
        del inputs["pooled_projections"]
    return _case(
        name,
        model,
        inputs,
        Heads(single, ("proj_out",), "attn.heads", width="attn.inner_dim"),
        ATTENTION,
        extra={"dynamic": False},
        in_channels=4,
        num_single_layers=1,
        joint_attention_dim=20,
        axes_dims_rope=(2, 2, 4),
        **(SMALL | {"num_layers": 1} | options),
    )


def _unet(name: str, **options: Any) -> Wild:
    return _case(
        name,
        "UNet2DConditionModel",
        {"sample": LATENT, "timestep": TIME, "encoder_hidden_states": WORDS},
        **{
            "sample_size": 8,
            "block_out_channels": (16, 32),
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
            "layers_per_block": 1,
            "cross_attention_dim": 20,
            "attention_head_dim": 4,
            "norm_num_groups": 4,
            **options,
        },
    )
