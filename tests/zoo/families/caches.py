"""Decoders with their key/value cache as explicit graph inputs and outputs."""

from __future__ import annotations

import torch
from torch import nn
from transformers.cache_utils import DynamicCache

from tests.zoo import feeds
from tests.zoo.attributes import at
from tests.zoo.case import Cache, Case, Feed
from tests.zoo.families.row import VOCAB, Options, maker
from tests.zoo.init import spread

LAYERS = 2
# (batch, past, new); the last two are a decode step and a prefill onto an empty cache.
SIZES = ((3, 6, 2), (2, 4, 1), (1, 0, 5))
LLAMA: Options = {
    "vocab_size": VOCAB,
    "hidden_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 40,
    "max_position_embeddings": 32,
}
MHA: Options = LLAMA | {"num_key_value_heads": 6}
GPT2: Options = {"vocab_size": VOCAB, "n_embd": 32, "n_layer": LAYERS, "n_head": 4, "n_positions": 32}
NEOX: Options = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "max_position_embeddings": 32,
}


class Cached(nn.Module):
    """A causal language model with one past and present pair of tensors per layer.

    Inputs: ``input_ids``, ``attention_mask`` over past and new tokens, then each layer's past key
    and value ``[B, H, P, D]``. Outputs: logits, then each layer's present key and value.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        ids, mask, *pasts = inputs
        cache = DynamicCache()
        for layer in range(LAYERS):
            cache.update(pasts[2 * layer], pasts[2 * layer + 1], layer)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        out = self.model(
            input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
        )
        presents = [getattr(layer, what) for layer in cache.layers for what in ("keys", "values")]
        return (out.logits, *presents)


def _names(kind: str) -> tuple[str, ...]:
    return tuple(f"{kind}.{i}.{what}" for i in range(LAYERS) for what in ("key", "value"))


def _feed(batch: int, past: int, new: int, kv_heads: int, size: int) -> Feed:
    feed = {
        "input_ids": feeds.ids(batch, new, VOCAB),
        "attention_mask": feeds.mask(batch, past + new, left=True),
    }
    for i, name in enumerate(_names("past_key_values")):
        feed[name] = feeds.floats(batch, kv_heads, past, size, seed=i)
    return feed


def cases() -> list[Case]:
    return [
        _case(*item, kind)
        for kind in ("eager", "sdpa")
        for item in (
            ("cache-llama-gqa", "LlamaForCausalLM", LLAMA, "self_attn.o_proj", 2, 8),
            ("cache-llama-mha", "LlamaForCausalLM", MHA, "self_attn.o_proj", 6, 8),
            ("cache-qwen3", "Qwen3ForCausalLM", LLAMA, "self_attn.o_proj", 2, 8),
            ("cache-gpt2", "GPT2LMHeadModel", GPT2, "attn.c_proj", 4, 8),
            ("cache-gpt-neox", "GPTNeoXForCausalLM", NEOX, "attention.dense", 4, 8),
        )
    ]


def _case(name: str, model: str, options: Options, output: str, kv_heads: int, size: int, kind: str) -> Case:
    """A model, with the shape of its cache."""
    pasts, presents = _names("past_key_values"), _names("present")
    axes: dict[str, dict[int, str]] = {
        "input_ids": {0: "batch", 1: "sequence"},
        "attention_mask": {0: "batch", 1: "total"},
        "logits": {0: "batch", 1: "sequence"},
    }
    axes |= {n: {0: "batch", 2: "past"} for n in pasts}
    axes |= {n: {0: "batch", 2: "total"} for n in presents}
    make = maker(model, **options)
    pairs = zip(pasts, presents, strict=True)
    return Case(
        name=name if kind == "eager" else f"{name}-{kind}",
        family="caches",
        builder=lambda: spread(Cached(make(kind))),
        feeds=tuple(_feed(*sizes, kv_heads, size) for sizes in SIZES),
        outputs=("logits", *presents),
        dynamic_axes=axes,
        rules=at(output),
        caches=tuple(Cache(past, present, 1, i // 2) for i, (past, present) in enumerate(pairs)),
        note="presents are compared on the kept heads only",
    )
