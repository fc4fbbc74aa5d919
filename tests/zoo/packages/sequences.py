"""The family of small attention packages, ESM, torchscale, PyG, tabular transformers: sequences and sets."""

# fmt: off

from __future__ import annotations

from functools import partial
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from tests.zoo import feeds
from tests.zoo.attributes import Heads
from tests.zoo.case import Case
from tests.zoo.packages.row import Repeated, new, of, row, sequence, tokens

ROW = {"x": sequence(16, 24)}


class _Esm(nn.Module):
    """ESM-2 without the results that are dictionaries."""

    def __init__(self, contacts: bool) -> None:
        super().__init__()
        self.esm = of("esm.model.esm2:ESM2", num_layers=2, embed_dim=24, attention_heads=3)
        self.contacts = contacts

    def forward(self, ids: torch.Tensor) -> Any:
        out = self.esm(ids, repr_layers=[2], return_contacts=self.contacts)
        return (out["logits"], out["contacts"]) if self.contacts else out["representations"][2]


def _hf_esm(contacts: bool) -> nn.Module:
    module = import_module("transformers")
    config = module.EsmConfig(vocab_size=50, hidden_size=24, num_hidden_layers=2, num_attention_heads=3,
        intermediate_size=32, position_embedding_type="rotary", pad_token_id=1, mask_token_id=2,
        max_position_embeddings=32, attn_implementation="eager")
    model = module.EsmForMaskedLM(config)
    return _Contacts(model) if contacts else model


class _Contacts(nn.Module):
    """ESM's contact prediction: a regression on all attention maps."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.model.predict_contacts(ids, torch.ones_like(ids))


def _retention() -> nn.Module:
    return of("torchscale.component.multihead_attention:MultiheadAttention", SimpleNamespace(xpos_rel_pos=False,
        multiway=False, flash_attention=False, layernorm_eps=1e-05), 24, 3, self_attention=True)


def _ft(**options: Any) -> nn.Module:
    return of("rtdl_revisiting_models:FTTransformer", n_cont_features=3, cat_cardinalities=[4, 5], d_out=2,
        n_blocks=2, d_block=24, attention_n_heads=3, attention_dropout=0.0, ffn_d_hidden=32,
        ffn_d_hidden_multiplier=None, ffn_dropout=0.0, residual_dropout=0.0, **options)


def cases() -> list[Case]:
    small: dict[str, Any] = {"dim": 24, "depth": 2, "heads": 3}
    picture = feeds.floats(2, 24, 8, 8)
    esm = Heads("MultiheadAttention", ("out_proj",), "num_heads")
    tables = {"x_categ": torch.tensor([[1, 2], [3, 0]]), "x_cont": feeds.floats(2, 3)}
    variates = sequence(16, 5)
    headed = small | {"dim_head": 8}
    fixed = {"dynamic": False}
    perceiver: dict[str, Any] = {"depth": 1, "num_latents": 6, "latent_dim": 24, "cross_heads": 2, "latent_heads": 3,
        "cross_dim_head": 8, "latent_dim_head": 8}
    performer = "performer-pytorch"
    linear = "linear-attention-transformer"
    return [
        row("ft", "tab-transformer-pytorch", new("tab_transformer_pytorch:FTTransformer", categories=(4, 5),
            num_continuous=3, dim_head=8, num_residual_streams=1, **small), tables),
        row("ft-streams", "tab-transformer-pytorch", new("tab_transformer_pytorch:FTTransformer", categories=(4, 5),
            num_continuous=3, dim_head=8, num_residual_streams=2, **small), tables),
        row("ft", "rtdl-revisiting-models", _ft, {"x": feeds.floats(2, 3), "c": torch.tensor([[1, 2], [3, 0]])},
            Heads("MultiheadAttention", ("W_out",), "_n_heads")),
        row("ft-linformer", "rtdl-revisiting-models", partial(_ft, linformer_kv_compression_ratio=0.5,
            linformer_kv_compression_sharing="headwise"), {"x": feeds.floats(2, 3), "c": torch.tensor([[1, 2], [3,
            0]])}, Heads("MultiheadAttention", ("W_out",), "_n_heads"), note="features are mixed, not heads"),
        row("", "itransformer", new("iTransformer:iTransformer", num_variates=5, lookback_len=16, pred_length=(4,),
            dim_head=8, flash_attn=False, num_residual_streams=1, **small), {"x": variates}, Heads("Attention",
            ("to_out",), 3)),
        row("2d", "itransformer", new("iTransformer:iTransformer2D", num_variates=5, lookback_len=16,
            num_time_tokens=4, pred_length=(4,), dim_head=8, flash_attn=True, **small), {"x": variates},
            Heads("Attention", ("to_out",), 3)),
        row("", "axial-attention", new("axial_attention:AxialAttention", dim=24, heads=3, dim_index=1),
            {"x": picture}),
        row("image", "axial-attention", new("axial_attention:AxialImageTransformer", dim=24, depth=1, heads=3,
            reversible=False, axial_pos_emb_shape=(8, 8)), {"x": picture}),
        row("", "halonet-pytorch", new("halonet_pytorch:HaloAttention", dim=24, block_size=4, halo_size=2,
            dim_head=8, heads=3), {"x": picture}),
        row("", "bottleneck-transformer-pytorch", new("bottleneck_transformer_pytorch:BottleStack", dim=24,
            fmap_size=8, dim_out=32, proj_factor=2, num_layers=1, heads=3, dim_head=8, downsample=False),
            {"x": picture}, Heads("BottleBlock", ("net.6", "net.7"), "net.3.heads", tied=False),
            note="BatchNorm and ReLU, per channel, between the heads and the convolution that sums them"),
        row("", "lambda-networks", new("lambda_networks:LambdaLayer", dim=24, dim_out=24, r=3, dim_k=8, heads=3,
            dim_u=1), {"x": picture}, expect="no-site", note="no projection of its own"),
        row("multi-head", "slot-attention", new("slot_attention:MultiHeadSlotAttention", num_slots=3, dim=24,
            heads=3, dim_head=8, iters=2), ROW, Heads("MultiHeadSlotAttention", ("combine_heads",), 3),
            note="slots start from noise"),
        row("layer", "enformer-pytorch", new("enformer_pytorch.modeling_enformer:Attention", 24,
            num_rel_pos_features=12, heads=3, dim_key=8, dim_value=8), ROW),
        row("2", "fair-esm", partial(_Esm, False), {"ids": tokens(vocab=20)}, esm),
        row("2-contacts", "fair-esm", partial(_Esm, True), {"ids": tokens(vocab=20)}, esm, pick=tuple,
            note="the contact head is no attention"),
        row("esm", "transformers", partial(_hf_esm, False), {"ids": tokens()},
            Heads("EsmAttention", ("output.dense",), "self.num_attention_heads")),
        row("esm-contacts", "transformers", partial(_hf_esm, True), {"ids": tokens()},
            Heads("EsmAttention", ("output.dense",), "self.num_attention_heads"),
            note="the contact head is no attention; the last block's context is not read"),
        row("attention", "torchscale", partial(Repeated, _retention), ROW, Heads("MultiheadAttention", ("out_proj",),
            "num_heads")),
        row("performer", "torch-geometric", new("torch_geometric.nn.attention:PerformerAttention", 24, 3, 8), ROW,
            Heads("PerformerAttention", ("attn_out",), "heads")),
        row("block", "torch-geometric", new("torch_geometric.nn.aggr.utils:MultiheadAttentionBlock", 24, 3),
            {"x": sequence(9, 24), "y": sequence(5, 24)}, Heads("MultiheadAttention", ("",), "num_heads")),
        row("", performer, new("performer_pytorch:Performer", nb_features=6, **headed), ROW),
        row("causal", performer, new("performer_pytorch:Performer", nb_features=6, causal=True, **headed), ROW,
            note="its causal product is a CUDA kernel, or a loop"),
        row("generalized", performer, new("performer_pytorch:Performer", nb_features=6, generalized_attention=True,
            **headed), ROW),
        row("local", performer, new("performer_pytorch:Performer", nb_features=6, local_attn_heads=1,
            local_window_size=4, **headed), ROW),
        row("no-projection", performer, new("performer_pytorch:Performer", no_projection=True, **headed), ROW),
        row("", linear, new("linear_attention_transformer:LinearAttentionTransformer", max_seq_len=16, **headed),
            ROW),
        row("causal-local", linear, new("linear_attention_transformer:LinearAttentionTransformer", max_seq_len=16,
            causal=True, bucket_size=4, n_local_attn_heads=1, local_attn_window_size=4, **headed), ROW, **fixed),
        row("", "linformer", new("linformer:Linformer", seq_len=16, k=4, **headed), ROW),
        row("one-kv", "linformer", new("linformer:Linformer", seq_len=16, k=4, one_kv_head=True, share_kv=True,
            **headed), ROW, Heads("LinformerSelfAttention", ("to_out",), "heads", kv=1)),
        row("", "nystrom-attention", new("nystrom_attention:Nystromformer", num_landmarks=4, **headed), ROW,
            note="the pseudo-inverse starts from a maximum over all heads"),
        row("transformer", "local-attention", new("local_attention:LocalTransformer", num_tokens=50, max_seq_len=16,
            local_attn_window_size=4, ff_mult=1, **headed), {"ids": tokens(16)}),
        row("transformer-xpos", "local-attention", new("local_attention:LocalTransformer", num_tokens=50,
            max_seq_len=16, local_attn_window_size=4, ff_mult=1, use_xpos=True, xpos_scale_base=8, **headed),
            {"ids": tokens(16)}),
        row("", "memory-efficient-attention-pytorch", new("memory_efficient_attention_pytorch:Attention", dim=24,
            heads=3, dim_head=8, memory_efficient=True, q_bucket_size=4, k_bucket_size=4, causal=True), ROW, **fixed),
        row("", "reformer-pytorch", new("reformer_pytorch:Reformer", bucket_size=4, n_hashes=2, use_full_attn=True,
            ff_chunks=1, ff_mult=1, **headed), ROW, Heads("LSHSelfAttention", ("to_out",), "heads"),
            note="full attention with shared queries and keys"),
        row("", "sinkhorn-transformer", new("sinkhorn_transformer:SinkhornTransformer", max_seq_len=16,
            bucket_size=4, **headed), ROW),
        row("", "routing-transformer", new("routing_transformer:RoutingTransformer", max_seq_len=16, window_size=4,
            local_attn_window_size=4, n_local_attn_heads=3, **headed), ROW),
        row("", "perceiver-pytorch", new("perceiver_pytorch:Perceiver", num_freq_bands=2, max_freq=4.0,
            input_channels=3, input_axis=2, num_classes=7, **perceiver), {"x": feeds.floats(2, 8, 8, 3)}),
        row("io", "perceiver-pytorch", new("perceiver_pytorch:PerceiverIO", dim=24, queries_dim=20, logits_dim=7,
            **perceiver), {"data": sequence(16, 24), "queries": sequence(4, 20)}, by_name=True),
        row("tab", "tab-transformer-pytorch", new("tab_transformer_pytorch:TabTransformer", categories=(4, 5),
            num_continuous=3, dim_head=8, num_residual_streams=1, mlp_act=nn.ReLU(), **small), tables),
    ]
