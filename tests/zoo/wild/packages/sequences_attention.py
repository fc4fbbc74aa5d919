"""The family of small attention packages: sequences and sets."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

from tests.zoo import feeds
from tests.zoo.wild.case import Wild, sequence, tokens
from tests.zoo.wild.packages._sequences import (
    ROW,
    _case,
    _of,
)
from tests.zoo.wild.rules import Heads


def cases() -> list[Wild]:
    """Returns these cases."""
    small: dict[str, Any] = {"dim": 24, "depth": 2, "heads": 3}
    headed = small | {"dim_head": 8}
    fixed = {"dynamic": False}
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
    tables = {"x_categ": torch.tensor([[1, 2], [3, 0]]), "x_cont": feeds.floats(2, 3)}
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
    ]
