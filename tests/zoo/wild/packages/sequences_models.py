"""Tabular and axial transformers, ESM, torchscale, PyG and others: sequences and sets."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from tests.zoo import feeds
from tests.zoo.wild.case import Wild, sequence, tokens
from tests.zoo.wild.packages._sequences import (
    ROW,
    _case,
    _Esm,
    _ft,
    _hf_esm,
    _of,
    _retention,
    _Three,
)
from tests.zoo.wild.rules import Heads


def cases() -> list[Wild]:
    """Returns these cases."""
    small: dict[str, Any] = {"dim": 24, "depth": 2, "heads": 3}
    picture = feeds.floats(2, 24, 8, 8)
    esm = Heads("MultiheadAttention", ("out_proj",), "num_heads")
    tables = {"x_categ": torch.tensor([[1, 2], [3, 0]]), "x_cont": feeds.floats(2, 3)}
    variates = sequence(16, 5)
    return [
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
            note="BatchNorm and ReLU, per channel, between the heads and the convolution that sums them",
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
