"""The family of small attention packages, ESM, torchscale, PyG, tabular transformers: sequences and sets."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from tests.zoo import feeds
from tests.zoo.wild.case import Wild, sequence, tokens
from tests.zoo.wild.rules import Heads

OUT = Heads(r"\w*Attention|LocalMHA", ("to_out",), "heads")
ROW = {"x": sequence(16, 24)}


def _of(module: str, name: str, *arguments: Any, **options: Any) -> nn.Module:
    built: nn.Module = getattr(import_module(module), name)(*arguments, **options)
    return built


class _Esm(nn.Module):
    """ESM-2 without the results that are dictionaries."""

    def __init__(self, contacts: bool) -> None:
        super().__init__()
        self.esm = _of("esm.model.esm2", "ESM2", num_layers=2, embed_dim=24, attention_heads=3)
        self.contacts = contacts

    def forward(self, ids: torch.Tensor) -> Any:
        """Runs on token ids."""
        out = self.esm(ids, repr_layers=[2], return_contacts=self.contacts)
        return (out["logits"], out["contacts"]) if self.contacts else out["representations"][2]


def _hf_esm(contacts: bool) -> nn.Module:
    module = import_module("transformers")
    config = module.EsmConfig(
        vocab_size=50,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=32,
        position_embedding_type="rotary",
        pad_token_id=1,
        mask_token_id=2,
        max_position_embeddings=32,
        attn_implementation="eager",
    )
    model = module.EsmForMaskedLM(config)
    return _Contacts(model) if contacts else model


class _Contacts(nn.Module):
    """ESM's contact prediction: a regression on all attention maps."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Runs on token ids."""
        out: torch.Tensor = self.model.predict_contacts(ids, torch.ones_like(ids))
        return out


def _retention() -> nn.Module:
    return _of(
        "torchscale.component.multihead_attention",
        "MultiheadAttention",
        SimpleNamespace(xpos_rel_pos=False, multiway=False, flash_attention=False, layernorm_eps=1e-5),
        24,
        3,
        self_attention=True,
    )


class _Three(nn.Module):
    """Calls a module with one tensor three times."""

    def __init__(self, make: Any) -> None:
        super().__init__()
        self.inner = make()

    def forward(self, x: torch.Tensor) -> Any:
        """Query, key and value are the same."""
        return self.inner(x, x, x)


def _ft(**options: Any) -> nn.Module:
    return _of(
        "rtdl_revisiting_models",
        "FTTransformer",
        n_cont_features=3,
        cat_cardinalities=[4, 5],
        d_out=2,
        n_blocks=2,
        d_block=24,
        attention_n_heads=3,
        attention_dropout=0.0,
        ffn_d_hidden=32,
        ffn_d_hidden_multiplier=None,
        ffn_dropout=0.0,
        residual_dropout=0.0,
        **options,
    )


def _case(
    name: str, package: str, make: Any, inputs: Mapping[str, torch.Tensor], *rules: Heads, **rest: Any
) -> Wild:
    prefix = {"rtdl-revisiting-models": "rtdl", "torch-geometric": "pyg", "fair-esm": "esm"}.get(
        package, package
    )
    if rest.get("expect") != "no-site":
        rules = rules or (OUT,)
    return Wild(f"{prefix}-{name}" if name else prefix, package, make, inputs, rules, **rest)


def cases() -> list[Wild]:
    """Returns the cases of these packages."""
    small: dict[str, Any] = {"dim": 24, "depth": 2, "heads": 3}
    headed = small | {"dim_head": 8}
    fixed = {"dynamic": False}
    picture = feeds.floats(2, 24, 8, 8)
    perceiver: dict[str, Any] = {
        "depth": 1,
        "num_latents": 6,
        "latent_dim": 24,
        "cross_heads": 2,
        "latent_heads": 3,
        "cross_dim_head": 8,
        "latent_dim_head": 8,
    }
    performer = "performer-pytorch"
    linear = "linear-attention-transformer"
    esm = Heads("MultiheadAttention", ("out_proj",), "num_heads")
    tables = {"x_categ": torch.tensor([[1, 2], [3, 0]]), "x_cont": feeds.floats(2, 3)}
    variates = sequence(16, 5)
    return [
        _case("", performer, partial(_of, "performer_pytorch", "Performer", nb_features=6, **headed), ROW),
        _case(
            "causal",
            performer,
            partial(_of, "performer_pytorch", "Performer", nb_features=6, causal=True, **headed),
            ROW,
            note="its causal product is a CUDA kernel, or a loop",
        ),
        _case(
            "generalized",
            performer,
            partial(
                _of, "performer_pytorch", "Performer", nb_features=6, generalized_attention=True, **headed
            ),
            ROW,
        ),
        _case(
            "local",
            performer,
            partial(
                _of,
                "performer_pytorch",
                "Performer",
                nb_features=6,
                local_attn_heads=1,
                local_window_size=4,
                **headed,
            ),
            ROW,
        ),
        _case(
            "no-projection",
            performer,
            partial(_of, "performer_pytorch", "Performer", no_projection=True, **headed),
            ROW,
        ),
        _case(
            "",
            linear,
            partial(
                _of, "linear_attention_transformer", "LinearAttentionTransformer", max_seq_len=16, **headed
            ),
            ROW,
        ),
        _case(
            "causal-local",
            linear,
            partial(
                _of,
                "linear_attention_transformer",
                "LinearAttentionTransformer",
                max_seq_len=16,
                causal=True,
                bucket_size=4,
                n_local_attn_heads=1,
                local_attn_window_size=4,
                **headed,
            ),
            ROW,
            **fixed,
        ),
        _case("", "linformer", partial(_of, "linformer", "Linformer", seq_len=16, k=4, **headed), ROW),
        _case(
            "one-kv",
            "linformer",
            partial(
                _of, "linformer", "Linformer", seq_len=16, k=4, one_kv_head=True, share_kv=True, **headed
            ),
            ROW,
            Heads("LinformerSelfAttention", ("to_out",), "heads", kv=1),
        ),
        _case(
            "",
            "nystrom-attention",
            partial(_of, "nystrom_attention", "Nystromformer", num_landmarks=4, **headed),
            ROW,
            expect="refused",
            note="the pseudo-inverse starts from a maximum over all heads",
        ),
        _case(
            "transformer",
            "local-attention",
            partial(
                _of,
                "local_attention",
                "LocalTransformer",
                num_tokens=50,
                max_seq_len=16,
                local_attn_window_size=4,
                ff_mult=1,
                **headed,
            ),
            {"ids": tokens(16)},
        ),
        _case(
            "transformer-xpos",
            "local-attention",
            partial(
                _of,
                "local_attention",
                "LocalTransformer",
                num_tokens=50,
                max_seq_len=16,
                local_attn_window_size=4,
                ff_mult=1,
                use_xpos=True,
                xpos_scale_base=8,
                **headed,
            ),
            {"ids": tokens(16)},
        ),
        _case(
            "",
            "memory-efficient-attention-pytorch",
            partial(
                _of,
                "memory_efficient_attention_pytorch",
                "Attention",
                dim=24,
                heads=3,
                dim_head=8,
                memory_efficient=True,
                q_bucket_size=4,
                k_bucket_size=4,
                causal=True,
            ),
            ROW,
            **fixed,
        ),
        _case(
            "",
            "reformer-pytorch",
            partial(
                _of,
                "reformer_pytorch",
                "Reformer",
                bucket_size=4,
                n_hashes=2,
                use_full_attn=True,
                ff_chunks=1,
                ff_mult=1,
                **headed,
            ),
            ROW,
            Heads("LSHSelfAttention", ("to_out",), "heads"),
            note="full attention with shared queries and keys",
        ),
        _case(
            "",
            "sinkhorn-transformer",
            partial(
                _of, "sinkhorn_transformer", "SinkhornTransformer", max_seq_len=16, bucket_size=4, **headed
            ),
            ROW,
        ),
        _case(
            "",
            "routing-transformer",
            partial(
                _of,
                "routing_transformer",
                "RoutingTransformer",
                max_seq_len=16,
                window_size=4,
                local_attn_window_size=4,
                n_local_attn_heads=3,
                **headed,
            ),
            ROW,
        ),
        _case(
            "",
            "perceiver-pytorch",
            partial(
                _of,
                "perceiver_pytorch",
                "Perceiver",
                num_freq_bands=2,
                max_freq=4.0,
                input_channels=3,
                input_axis=2,
                num_classes=7,
                **perceiver,
            ),
            {"x": feeds.floats(2, 8, 8, 3)},
        ),
        _case(
            "io",
            "perceiver-pytorch",
            partial(
                _of, "perceiver_pytorch", "PerceiverIO", dim=24, queries_dim=20, logits_dim=7, **perceiver
            ),
            {"data": sequence(16, 24), "queries": sequence(4, 20)},
            by_name=True,
        ),
        _case(
            "tab",
            "tab-transformer-pytorch",
            partial(
                _of,
                "tab_transformer_pytorch",
                "TabTransformer",
                categories=(4, 5),
                num_continuous=3,
                dim_head=8,
                num_residual_streams=1,
                mlp_act=nn.ReLU(),
                **small,
            ),
            tables,
        ),
        _case(
            "ft",
            "tab-transformer-pytorch",
            partial(
                _of,
                "tab_transformer_pytorch",
                "FTTransformer",
                categories=(4, 5),
                num_continuous=3,
                dim_head=8,
                num_residual_streams=1,
                **small,
            ),
            tables,
        ),
        _case(
            "ft-streams",
            "tab-transformer-pytorch",
            partial(
                _of,
                "tab_transformer_pytorch",
                "FTTransformer",
                categories=(4, 5),
                num_continuous=3,
                dim_head=8,
                num_residual_streams=2,
                **small,
            ),
            tables,
        ),
        _case(
            "ft",
            "rtdl-revisiting-models",
            _ft,
            {"x": feeds.floats(2, 3), "c": torch.tensor([[1, 2], [3, 0]])},
            Heads("MultiheadAttention", ("W_out",), "_n_heads"),
        ),
        _case(
            "ft-linformer",
            "rtdl-revisiting-models",
            partial(_ft, linformer_kv_compression_ratio=0.5, linformer_kv_compression_sharing="headwise"),
            {"x": feeds.floats(2, 3), "c": torch.tensor([[1, 2], [3, 0]])},
            Heads("MultiheadAttention", ("W_out",), "_n_heads"),
            note="features are mixed, not heads",
        ),
        _case(
            "",
            "itransformer",
            partial(
                _of,
                "iTransformer",
                "iTransformer",
                num_variates=5,
                lookback_len=16,
                pred_length=(4,),
                dim_head=8,
                flash_attn=False,
                num_residual_streams=1,
                **small,
            ),
            {"x": variates},
            Heads("Attention", ("to_out",), 3),
        ),
        _case(
            "2d",
            "itransformer",
            partial(
                _of,
                "iTransformer",
                "iTransformer2D",
                num_variates=5,
                lookback_len=16,
                num_time_tokens=4,
                pred_length=(4,),
                dim_head=8,
                flash_attn=True,
                **small,
            ),
            {"x": variates},
            Heads("Attention", ("to_out",), 3),
        ),
        _case(
            "",
            "axial-attention",
            partial(_of, "axial_attention", "AxialAttention", dim=24, heads=3, dim_index=1),
            {"x": picture},
        ),
        _case(
            "image",
            "axial-attention",
            partial(
                _of,
                "axial_attention",
                "AxialImageTransformer",
                dim=24,
                depth=1,
                heads=3,
                reversible=False,
                axial_pos_emb_shape=(8, 8),
            ),
            {"x": picture},
        ),
        _case(
            "",
            "halonet-pytorch",
            partial(
                _of,
                "halonet_pytorch",
                "HaloAttention",
                dim=24,
                block_size=4,
                halo_size=2,
                dim_head=8,
                heads=3,
            ),
            {"x": picture},
        ),
        _case(
            "",
            "bottleneck-transformer-pytorch",
            partial(
                _of,
                "bottleneck_transformer_pytorch",
                "BottleStack",
                dim=24,
                fmap_size=8,
                dim_out=32,
                proj_factor=2,
                num_layers=1,
                heads=3,
                dim_head=8,
                downsample=False,
            ),
            {"x": picture},
            Heads("BottleBlock", ("net.6", "net.7"), "net.3.heads", tied=False),
            expect="refused",
            note="BatchNorm and ReLU between the heads and the convolution that sums them",
        ),
        _case(
            "",
            "lambda-networks",
            partial(
                _of, "lambda_networks", "LambdaLayer", dim=24, dim_out=24, r=3, dim_k=8, heads=3, dim_u=1
            ),
            {"x": picture},
            expect="no-site",
            note="no projection of its own",
        ),
        _case(
            "multi-head",
            "slot-attention",
            partial(
                _of,
                "slot_attention",
                "MultiHeadSlotAttention",
                num_slots=3,
                dim=24,
                heads=3,
                dim_head=8,
                iters=2,
            ),
            ROW,
            Heads("MultiHeadSlotAttention", ("combine_heads",), 3),
            note="slots start from noise",
        ),
        _case(
            "layer",
            "enformer-pytorch",
            partial(
                _of,
                "enformer_pytorch.modeling_enformer",
                "Attention",
                24,
                num_rel_pos_features=12,
                heads=3,
                dim_key=8,
                dim_value=8,
            ),
            ROW,
        ),
        _case("2", "fair-esm", partial(_Esm, False), {"ids": tokens(vocab=20)}, esm),
        _case(
            "2-contacts",
            "fair-esm",
            partial(_Esm, True),
            {"ids": tokens(vocab=20)},
            esm,
            pick=tuple,
            note="the contact head is no attention",
        ),
        Wild(
            "transformers-esm",
            "transformers",
            partial(_hf_esm, False),
            {"ids": tokens()},
            (Heads("EsmAttention", ("output.dense",), "self.num_attention_heads"),),
        ),
        Wild(
            "transformers-esm-contacts",
            "transformers",
            partial(_hf_esm, True),
            {"ids": tokens()},
            (Heads("EsmAttention", ("output.dense",), "self.num_attention_heads"),),
            note="the contact head is no attention; the last block's context is not read",
        ),
        _case(
            "attention",
            "torchscale",
            partial(_Three, _retention),
            ROW,
            Heads("MultiheadAttention", ("out_proj",), "num_heads"),
        ),
        _case(
            "performer",
            "torch-geometric",
            partial(_of, "torch_geometric.nn.attention", "PerformerAttention", 24, 3, 8),
            ROW,
            Heads("PerformerAttention", ("attn_out",), "heads"),
        ),
        _case(
            "block",
            "torch-geometric",
            partial(_of, "torch_geometric.nn.aggr.utils", "MultiheadAttentionBlock", 24, 3),
            {"x": sequence(9, 24), "y": sequence(5, 24)},
            Heads("MultiheadAttention", ("",), "num_heads"),
        ),
    ]
