"""x-transformers: one decoder or encoder per option of its attention."""

# fmt: off

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn

from tests.zoo.attributes import Heads
from tests.zoo.case import Case
from tests.zoo.packages.row import image, of, row, sequence, tokens

ATTENTION = Heads("Attention", ("to_out",), "heads", kv="kv_heads")
MIXED = {"note": "talking heads"}
OPTIONS: dict[str, dict[str, Any]] = {"plain": {}, "flash": {"attn_flash": True}, "rotary": {"rotary_pos_emb": True},
    "rotary-xpos": {"rotary_pos_emb": True, "rotary_xpos": True}, "alibi": {"alibi_pos_bias": True,
    "alibi_num_heads": 2}, "t5-bias": {"rel_pos_bias": True}, "dynamic-bias": {"dynamic_pos_bias": True,
    "dynamic_pos_bias_log_distance": False}, "qk-norm": {"attn_qk_norm": True},
    "qk-norm-groups": {"attn_qk_norm": True, "attn_qk_norm_groups": 2}, "qk-norm-scale": {"attn_qk_norm": True,
    "attn_qk_norm_dim_scale": True}, "gated-values": {"attn_gate_values": True},
    "head-scale": {"attn_head_scale": True}, "value-head-gates": {"attn_gate_value_heads": True},
    "swiglu-out": {"attn_on_attn": True}, "kv-heads": {"attn_kv_heads": 2}, "one-kv-head": {"attn_one_kv_head": True},
    "kv-heads-flash-rotary": {"attn_kv_heads": 2, "attn_flash": True, "rotary_pos_emb": True},
    "memory-kv": {"attn_num_mem_kv": 3}, "sparse-topk": {"attn_sparse_topk": 3},
    "value-rmsnorm": {"attn_value_dim_head": 6}, "sandwich": {"sandwich_norm": True, "use_rmsnorm": True},
    "macaron": {"macaron": True}, "residual-attn": {"residual_attn": True}, "zero-kv": {"attn_add_zero_kv": True},
    "softclamp": {"attn_softclamp_logits": True}, "laser": {"attn_laser": True}, "shift-tokens": {"shift_tokens": 1},
    "ff-glu": {"ff_glu": True, "ff_swish": True, "ff_no_bias": True}, "value-residual": {"add_value_residual": True},
    "hybrid-gate": {"gate_residual": True}, "cope": {"attn_use_cope": True}}


def _lm(kind: str, options: dict[str, Any]) -> nn.Module:
    layers = of(f"x_transformers:{kind}", dim=32, depth=2, heads=4, attn_dim_head=8, ff_mult=1, **options)
    return of("x_transformers:TransformerWrapper", num_tokens=50, max_seq_len=16, attn_layers=layers)


def _wrapped(wrapper: str, **options: Any) -> nn.Module:
    layers = of("x_transformers:Encoder", dim=32, depth=2, heads=4, attn_dim_head=8, ff_mult=1)
    return of(f"x_transformers:{wrapper}", attn_layers=layers, **options)


def _case(name: str, make: Any, inputs: Any, **rest: Any) -> Case:
    return row(name, "x-transformers", make, inputs, ATTENTION, **rest)


def cases() -> list[Case]:
    words = {"ids": tokens()}
    talking = {"attn_pre_talking_heads": True, "attn_post_talking_heads": True}
    return [
        *(_case(name, partial(_lm, "Decoder", options), words) for name, options in OPTIONS.items()),
        *(_case(f"encoder-{name}", partial(_lm, "Encoder", OPTIONS[name]), words) for name in ("plain", "flash")),
        _case("talking-heads", partial(_lm, "Decoder", talking), words, **MIXED),
        _case("talking-heads-pre", partial(_lm, "Decoder", {"attn_pre_talking_heads": True}), words, **MIXED),
        _case("vit", partial(_wrapped, "ViTransformerWrapper", image_size=32, patch_size=8, num_classes=7),
            {"x": image()}),
        _case("continuous", partial(_wrapped, "ContinuousTransformerWrapper", max_seq_len=16, dim_in=20, dim_out=10),
            {"x": sequence(12, 20)}),
    ]
