"""diffusers: transformers, UNets and autoencoders of diffusion models."""

# fmt: off

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from tests.zoo import feeds
from tests.zoo.attributes import Heads
from tests.zoo.case import Case
from tests.zoo.packages.row import new, row

BOTH = ("to_out", "to_add_out")
ATTENTION = Heads(r"\w*Attention", BOTH, "heads")
GROUPED = Heads("Attention", BOTH, "heads", kv=lambda a: a.inner_kv_dim * a.heads // a.inner_dim)
LATENT = feeds.floats(2, 4, 8, 8)
TIME = torch.tensor([3, 700])
WORDS = feeds.floats(2, 5, 20, seed=1)
POOLED = feeds.floats(2, 12, seed=2)
SMALL: dict[str, Any] = {"num_attention_heads": 3, "attention_head_dim": 8, "num_layers": 2}
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])


def _case(name: str, model: str, inputs: Mapping[str, torch.Tensor], *rules: Heads,
        fixed: Mapping[str, Any] | None = None, extra: Mapping[str, Any] | None = None, **options: Any) -> Case:
    given = {**({} if model == "UVit2DModel" else {"return_dict": False}), **(fixed or {})}
    return row(name, "diffusers", new(f"diffusers:{model}", **options), inputs, *(rules or (ATTENTION,)), by_name=True,
        fixed=given, **(extra or {}))


def _rotary_3d() -> tuple[Any, Any]:
    """Rotary tables and grids of Allegro for 3 x 4 x 4 patches and heads of 12."""
    grids = torch.meshgrid(torch.arange(3), torch.arange(4), torch.arange(4), indexing="ij")
    places = [grid.reshape(1, -1) for grid in grids]
    table = tuple((torch.ones(6, 4), torch.zeros(6, 4)) for _ in range(3))
    return (table, places)


def _ids(length: int, axes: int = 3) -> torch.Tensor:
    return torch.arange(length * axes).reshape(length, axes).float() % 4


def _sd3(name: str, **options: Any) -> Case:
    return _case(name, "SD3Transformer2DModel", {"hidden_states": LATENT, "encoder_hidden_states": WORDS,
        "pooled_projections": POOLED, "timestep": TIME}, sample_size=8, in_channels=4, out_channels=4,
        joint_attention_dim=20, caption_projection_dim=24, pooled_projection_dim=12, pos_embed_max_size=8,
        **SMALL | options)


def _flux(name: str, model: str, single: str, **options: Any) -> Case:
    inputs = {"hidden_states": feeds.floats(2, 9, 4), "encoder_hidden_states": WORDS, "timestep": TIME.float() / 1000,
        "pooled_projections": POOLED, "img_ids": _ids(9), "txt_ids": _ids(5)}
    if model == "ChromaTransformer2DModel":
        del inputs["pooled_projections"]
    return _case(name, model, inputs, Heads(single, ("proj_out",), "attn.heads", width="attn.inner_dim"), ATTENTION,
        extra={"dynamic": False}, in_channels=4, num_single_layers=1, joint_attention_dim=20, axes_dims_rope=(2, 2,
        4), **SMALL | {"num_layers": 1} | options)


def _unet(name: str, **options: Any) -> Case:
    return _case(name, "UNet2DConditionModel", {"sample": LATENT, "timestep": TIME, "encoder_hidden_states": WORDS},
        **{"sample_size": 8, "block_out_channels": (16, 32), "down_block_types": ("CrossAttnDownBlock2D",
        "DownBlock2D"), "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"), "layers_per_block": 1,
        "cross_attention_dim": 20, "attention_head_dim": 4, "norm_num_groups": 4, **options})


def cases() -> list[Case]:
    words = {"encoder_hidden_states": WORDS, "timestep": TIME}
    video = feeds.floats(2, 4, 3, 8, 8)
    pixart = {"hidden_states": LATENT, **words, "encoder_attention_mask": MASK}
    return [
        _sd3("sd3"),
        _sd3("sd3-qk-norm", qk_norm="rms_norm"),
        _sd3("sd35-dual", qk_norm="rms_norm", dual_attention_layers=(0,)),
        _flux("flux", "FluxTransformer2DModel", "FluxSingleTransformerBlock", pooled_projection_dim=12),
        _flux("chroma", "ChromaTransformer2DModel", "ChromaSingleTransformerBlock", approximator_num_channels=8,
            approximator_hidden_dim=16, approximator_layers=1),
        _flux("bria", "BriaTransformer2DModel", "BriaSingleTransformerBlock"),
        _case("auraflow", "AuraFlowTransformer2DModel", {"hidden_states": LATENT, **words}, sample_size=8,
            num_mmdit_layers=1, num_single_dit_layers=1, joint_attention_dim=20, caption_projection_dim=24,
            pos_embed_max_size=16, num_attention_heads=3, attention_head_dim=8),
        _case("pixart", "PixArtTransformer2DModel", pixart, extra={"dynamic": False}, sample_size=8,
            cross_attention_dim=24, caption_channels=20, norm_num_groups=4, use_additional_conditions=False,
            fixed={"added_cond_kwargs": {"resolution": None, "aspect_ratio": None}}, **SMALL),
        _case("hunyuan-dit", "HunyuanDiT2DModel", {"hidden_states": LATENT, "timestep": TIME.float(),
            "encoder_hidden_states": WORDS, "text_embedding_mask": MASK, "encoder_hidden_states_t5": feeds.floats(2,
            6, 16), "text_embedding_mask_t5": torch.ones(2, 6).long()}, ATTENTION, Heads("HunyuanDiTAttentionPool",
            ("",), "num_heads"), fixed={"image_rotary_emb": (feeds.floats(16, 8), feeds.floats(16, 8, seed=3))},
            in_channels=4, patch_size=2, sample_size=8, hidden_size=24, mlp_ratio=2.0, cross_attention_dim=20,
            cross_attention_dim_t5=16, pooled_projection_dim=12, text_len=5, text_len_t5=6,
            use_style_cond_and_image_meta_size=False, extra={"dynamic": False}, **SMALL | {"num_layers": 4}),
        _case("dit", "DiTTransformer2DModel", {"hidden_states": LATENT, "timestep": TIME,
            "class_labels": torch.tensor([1, 5])}, sample_size=8, norm_num_groups=4, num_embeds_ada_norm=10, **SMALL),
        _case("sana", "SanaTransformer2DModel", {"hidden_states": LATENT, **words}, in_channels=4, out_channels=4,
            num_cross_attention_heads=3, cross_attention_head_dim=8, cross_attention_dim=24, caption_channels=20,
            sample_size=8, **SMALL),
        _case("cogvideox", "CogVideoXTransformer3DModel", {"hidden_states": feeds.floats(2, 2, 4, 8, 8), **words},
            in_channels=4, out_channels=4, text_embed_dim=20, sample_width=8, sample_height=8, sample_frames=5,
            time_embed_dim=8, max_text_seq_length=5, **SMALL | {"num_attention_heads": 4}),
        _case("stable-audio", "StableAudioDiTModel", {"hidden_states": feeds.floats(2, 4, 16),
            "timestep": TIME.float() / 1000, "encoder_hidden_states": WORDS, "global_hidden_states": feeds.floats(2,
            1, 12)}, GROUPED, sample_size=16, in_channels=4, out_channels=4, num_key_value_attention_heads=2,
            cross_attention_dim=16, time_proj_dim=8, global_states_input_dim=12, cross_attention_input_dim=20,
            **SMALL | {"num_attention_heads": 4}),
        _case("lumina2", "Lumina2Transformer2DModel", {"hidden_states": LATENT, "timestep": TIME.float() / 1000,
            "encoder_hidden_states": WORDS, "encoder_attention_mask": torch.ones(2, 5).bool()}, GROUPED,
            sample_size=8, in_channels=4, hidden_size=32, num_layers=1, num_refiner_layers=1, num_attention_heads=4,
            num_kv_heads=2, multiple_of=8, axes_dim_rope=(4, 2, 2), axes_lens=(32, 16, 16), cap_feat_dim=20,
            extra={"dynamic": False}),
        _case("ltx", "LTXVideoTransformer3DModel", {"hidden_states": feeds.floats(2, 12, 4), **words,
            "encoder_attention_mask": MASK}, fixed={"num_frames": 3, "height": 2, "width": 2}, in_channels=4,
            out_channels=4, cross_attention_dim=24, caption_channels=20, extra={
            "note": "RMSNorm of queries and keys across heads", "dynamic": False}, **SMALL),
        _case("mochi", "MochiTransformer3DModel", {"hidden_states": video, "timestep": TIME,
            "encoder_hidden_states": feeds.floats(2, 5, 16), "encoder_attention_mask": MASK}, ATTENTION,
            Heads("MochiAttentionPool", ("to_out",), "num_attention_heads"), in_channels=4, pooled_projection_dim=24,
            text_embed_dim=16, time_embed_dim=8, max_sequence_length=5, extra={"dynamic": False}, **SMALL),
        _case("cogview4", "CogView4Transformer2DModel", {"hidden_states": LATENT, **words,
            "original_size": torch.full((2, 2), 8), "target_size": torch.full((2, 2), 8),
            "crop_coords": torch.zeros(2, 2).long()}, in_channels=4, out_channels=4, text_embed_dim=20,
            time_embed_dim=8, condition_dim=4, pos_embed_max_size=8, sample_size=8, rope_axes_dim=(8, 8), **SMALL),
        _case("cogview3plus", "CogView3PlusTransformer2DModel", {"hidden_states": LATENT, **words,
            "original_size": torch.full((2, 2), 8.0), "target_size": torch.full((2, 2), 8.0),
            "crop_coords": torch.zeros(2, 2)}, in_channels=4, out_channels=4, text_embed_dim=20, time_embed_dim=8,
            condition_dim=4, pos_embed_max_size=8, sample_size=8, **SMALL),
        _case("wan", "WanTransformer3DModel", {"hidden_states": video, **words}, in_channels=4, out_channels=4,
            text_dim=20, freq_dim=8, ffn_dim=32, rope_max_seq_len=16, extra={
            "note": "RMSNorm of queries and keys across heads", "dynamic": False}, **SMALL | {"num_layers": 1}),
        _case("qwen-image", "QwenImageTransformer2DModel", {"hidden_states": feeds.floats(2, 16, 4), **words},
            fixed={"img_shapes": [[(1, 4, 4)], [(1, 4, 4)]]}, in_channels=4, out_channels=4, patch_size=1,
            joint_attention_dim=20, axes_dims_rope=(2, 2, 4), extra={"dynamic": False}, **SMALL | {"num_layers": 1}),
        _case("hunyuan-video", "HunyuanVideoTransformer3DModel", {"hidden_states": video, **words,
            "encoder_attention_mask": MASK, "pooled_projections": POOLED, "guidance": torch.tensor([3.0, 4.0])},
            Heads("HunyuanVideoSingleTransformerBlock", ("proj_out",), "attn.heads", width="attn.inner_dim"),
            ATTENTION, in_channels=4, out_channels=4, num_single_layers=1, num_refiner_layers=1, mlp_ratio=2.0,
            text_embed_dim=20, pooled_projection_dim=12, rope_axes_dim=(2, 2, 4), extra={"dynamic": False},
            **SMALL | {"num_layers": 1}),
        _case("allegro", "AllegroTransformer3DModel", {"hidden_states": video, **words,
            "attention_mask": torch.ones(2, 3, 8, 8).long(), "encoder_attention_mask": MASK},
            fixed={"image_rotary_emb": _rotary_3d()}, in_channels=4, cross_attention_dim=24, sample_height=8,
            sample_width=8, sample_frames=3, caption_channels=20, extra={"dynamic": False},
            **SMALL | {"num_attention_heads": 2, "attention_head_dim": 12}),
        _case("latte", "LatteTransformer3DModel", {"hidden_states": video, "timestep": TIME,
            "encoder_hidden_states": feeds.floats(2, 5, 20)}, in_channels=4, out_channels=4, patch_size=2,
            sample_size=8, caption_channels=20, video_length=3, cross_attention_dim=24, norm_type="ada_norm_single",
            num_embeds_ada_norm=10, activation_fn="gelu-approximate", extra={"dynamic": False},
            **SMALL | {"num_layers": 1}),
        _case("prior", "PriorTransformer", {"hidden_states": feeds.floats(2, 12), "timestep": TIME,
            "proj_embedding": POOLED, "encoder_hidden_states": feeds.floats(2, 5, 12)}, embedding_dim=12,
            num_embeddings=5, additional_embeddings=4, **SMALL),
        _unet("unet-condition"),
        _unet("unet-linear", use_linear_projection=True, attention_head_dim=(2, 4)),
        _unet("unet-mid-only", only_cross_attention=True),
        _unet("unet-simple", down_block_types=("SimpleCrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "SimpleCrossAttnUpBlock2D"), mid_block_type="UNetMidBlock2DSimpleCrossAttn"),
        _case("unet2d", "UNet2DModel", {"sample": feeds.floats(2, 3, 8, 8), "timestep": TIME}, sample_size=8,
            block_out_channels=(8, 16), down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"), layers_per_block=1, attention_head_dim=4,
            norm_num_groups=4),
        _case("autoencoder-kl", "AutoencoderKL", {"sample": feeds.floats(2, 3, 16, 16)}, block_out_channels=(8,),
            norm_num_groups=4, sample_size=16),
        _case("vq", "VQModel", {"sample": feeds.floats(2, 3, 16, 16)}, block_out_channels=(8,), norm_num_groups=4,
            num_vq_embeddings=16, extra={"note": "one head in the middle of encoder and decoder"}),
        _case("unet1d", "UNet1DModel", {"sample": feeds.floats(2, 2, 32), "timestep": TIME}, Heads("SelfAttention1d",
            ("proj_attn",), "num_heads"), sample_size=32, block_out_channels=(32, 32, 64), extra_in_channels=64),
        _case("prx", "PRXTransformer2DModel", {"hidden_states": LATENT, "timestep": TIME.float() / 1000,
            "encoder_hidden_states": WORDS}, in_channels=4, context_in_dim=20, hidden_size=24, num_heads=3, depth=2,
            mlp_ratio=2.0, axes_dim=(4, 4)),
        _case("uvit", "UVit2DModel", {"input_ids": torch.arange(128).reshape(2, 8, 8) % 16,
            "encoder_hidden_states": WORDS, "pooled_text_emb": POOLED, "micro_conds": torch.ones(2, 5)},
            hidden_size=24, cond_embed_dim=12, micro_cond_encode_dim=4, micro_cond_embed_dim=20,
            encoder_hidden_size=20, vocab_size=17, codebook_size=16, in_channels=12, block_out_channels=12,
            num_res_blocks=1, block_num_heads=3, num_hidden_layers=1, num_attention_heads=3, intermediate_size=32,
            sample_size=8),
        _case("stable-cascade", "StableCascadeUNet", {"sample": LATENT, "timestep_ratio": torch.tensor([0.3, 0.6]),
            "clip_text_pooled": feeds.floats(2, 1, 12)}, in_channels=4, out_channels=4,
            timestep_ratio_embedding_dim=8, conditioning_dim=20, block_out_channels=(16, 24), num_attention_heads=(2,
            3), down_num_layers_per_block=(1, 1), up_num_layers_per_block=(1, 1), clip_text_pooled_in_channels=12,
            clip_seq=2),
    ]
