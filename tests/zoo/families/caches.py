"""Decoders with their key/value cache as explicit graph inputs and outputs."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn
from transformers.cache_utils import DynamicCache

from tests.zoo import feeds
from tests.zoo.case import Cache, Case, Feed, Projection
from tests.zoo.families.common import VOCAB, Make, Options, layers, maker, wrapped
from tests.zoo.init import spread

FAMILY = "caches"
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
GPT2: Options = {
    "vocab_size": VOCAB,
    "n_embd": 32,
    "n_layer": LAYERS,
    "n_head": 4,
    "n_positions": 32,
}
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
        """Runs one step."""
        ids, mask, *pasts = inputs
        cache = DynamicCache()
        for layer in range(LAYERS):
            cache.update(pasts[2 * layer], pasts[2 * layer + 1], layer)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        out = self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        )
        presents = [getattr(layer, what) for layer in cache.layers for what in ("keys", "values")]
        return (out.logits, *presents)


def _made(make: Make, attention: str) -> nn.Module:
    return spread(Cached(make(attention)))


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


def _case(name: str, make: Make, attention: str, output: str, heads: tuple[int, ...]) -> Case:
    projections: tuple[Projection, ...] = wrapped(layers(output, LAYERS, *heads))
    kv_heads = projections[0].kv_num_heads
    pasts, presents = _names("past_key_values"), _names("present")
    axes: dict[str, dict[int, str]] = {
        "input_ids": {0: "batch", 1: "sequence"},
        "attention_mask": {0: "batch", 1: "total"},
        "logits": {0: "batch", 1: "sequence"},
    }
    axes |= {n: {0: "batch", 2: "past"} for n in pasts}
    axes |= {n: {0: "batch", 2: "total"} for n in presents}
    return Case(
        name=name if attention == "eager" else f"{name}-{attention}",
        family=FAMILY,
        builder=partial(_made, make, attention),
        feeds=tuple(_feed(*size, kv_heads, heads[1]) for size in SIZES),
        inputs=("input_ids", "attention_mask", *pasts),
        outputs=("logits", *presents),
        dynamic_axes=axes,
        projections=projections,
        caches=tuple(
            Cache(past, present, 1, i // 2)
            for i, (past, present) in enumerate(zip(pasts, presents, strict=True))
        ),
        note="presents are compared on the kept heads only",
    )


def cases() -> list[Case]:
    """Returns the cases of this family."""
    llama = "model.layers.{}.self_attn.o_proj"
    gpt2 = maker("GPT2LMHeadModel", **GPT2)
    neox = maker("GPTNeoXForCausalLM", **NEOX)
    return [
        case
        for kind in ("eager", "sdpa")
        for case in (
            _case("cache-llama-gqa", maker("LlamaForCausalLM", **LLAMA), kind, llama, (6, 8, 2)),
            _case("cache-llama-mha", maker("LlamaForCausalLM", **MHA), kind, llama, (6, 8)),
            _case("cache-qwen3", maker("Qwen3ForCausalLM", **LLAMA), kind, llama, (6, 8, 2)),
            _case("cache-gpt2", gpt2, kind, "transformer.h.{}.attn.c_proj", (4, 8)),
            _case("cache-gpt-neox", neox, kind, "gpt_neox.layers.{}.attention.dense", (4, 8)),
        )
    ]
