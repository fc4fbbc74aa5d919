"""Attention as torch's own modules write it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from tests.zoo import feeds
from tests.zoo.attributes import at
from tests.zoo.case import Case, Feed
from tests.zoo.families._stack import of

WIDTH = 32
ANY_LENGTH = ((3, 7), (1, 5))
# TorchScript bakes the length of the keys into nn.MultiheadAttention: most models keep one length.
ONE_LENGTH = ((3, 7), (1, 7))


class SelfAttention(nn.Module):
    """``x + nn.MultiheadAttention(x)``, optionally with the probabilities as a second output."""

    def __init__(self, batch_first: bool, weights: str = "none", **options: Any) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, 4, batch_first=batch_first, **options)
        self.weights = weights

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        out, probabilities = self.attention(
            x, x, x, need_weights=self.weights != "none", average_attn_weights=self.weights == "average"
        )
        return (x + out,) if self.weights in ("none", "unused") else (x + out, probabilities)


class CrossAttention(nn.Module):
    """Attention to a memory of another width."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, 4, kdim=24, vdim=20, batch_first=True)

    def forward(self, x: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        return x + self.attention(x, keys, values, need_weights=False)[0]


class Encoder(nn.Module):
    """``nn.TransformerEncoder`` over two layers."""

    def __init__(self, causal: bool = False, **options: Any) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 48, batch_first=True, **options)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.causal = causal

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1]) if self.causal else None
        return self.encoder(x, mask=mask, is_causal=self.causal)


class Seq2Seq(nn.Module):
    """``nn.Transformer`` with one encoder and two decoder layers."""

    def __init__(self) -> None:
        super().__init__()
        self.transformer = nn.Transformer(WIDTH, 4, 1, 2, 48, batch_first=True)

    def forward(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return self.transformer(source, target)


class FrozenEncoder(nn.Module):
    """One pre-norm layer with GELU and without biases."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(
            WIDTH, 4, 48, batch_first=True, norm_first=True, activation="gelu", bias=False
        )
        self.layers = nn.ModuleList([layer])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


def _sequences(
    *named: tuple[str, int, int], any_length: bool = False, seq_first: bool = False
) -> tuple[Feed, ...]:
    """``(name, width, extra length)`` per input; one feed per size."""
    return tuple(
        {
            name: feeds.floats(
                *(length + extra, batch) if seq_first else (batch, length + extra), width, seed=i
            )
            for i, (name, width, extra) in enumerate(named)
        }
        for batch, length in (ANY_LENGTH if any_length else ONE_LENGTH)
    )


def _case(
    name: str,
    make: Callable[[], nn.Module],
    *out: str,
    made: tuple[Feed, ...] | None = None,
    seq_first: bool = False,
    any_length: bool = False,
    outputs: tuple[str, ...] = ("y",),
    **rest: Any,
) -> Case:
    made = made or _sequences(("x", WIDTH, 0), any_length=any_length, seq_first=seq_first)
    batch: dict[int, str] = {int(seq_first): "batch"} | ({1: "length"} if any_length else {})
    axes = dict.fromkeys((*made[0], "y"), batch)
    if "probabilities" in outputs:
        axes["probabilities"] = {0: "batch"}
    return of(name, "torch", make, feeds=made, outputs=outputs, dynamic_axes=axes, rules=at(*out), **rest)


def cases() -> list[Case]:
    mha = partial(SelfAttention, True)
    with_probabilities: dict[str, Any] = {
        "outputs": ("y", "probabilities"),
        "note": "the probabilities are a graph output, so queries and keys must stay",
    }
    any_length: dict[str, Any] = {
        "any_length": True,
        "note": "TorchScript cannot export it with a dynamic length",
    }
    cross = _sequences(("x", WIDTH, 0), ("keys", 24, 4), ("values", 20, 4))
    pair = _sequences(("source", WIDTH, 4), ("target", WIDTH, 0))
    learned = "a learned key and value joins the sequence"
    return [
        _case("mha-batch-first", mha, "attention"),
        _case("mha-any-length", mha, "attention", **any_length),
        _case("torch-encoder-any-length", Encoder, "self_attn", **any_length),
        _case("mha-seq-first", partial(SelfAttention, False), "attention", seq_first=True),
        _case("mha-need-weights", partial(SelfAttention, True, "unused"), "attention"),
        _case(
            "mha-average-output", partial(SelfAttention, True, "average"), "attention", **with_probabilities
        ),
        _case("mha-probs-output", partial(SelfAttention, True, "each"), "attention", **with_probabilities),
        _case("mha-no-bias", partial(SelfAttention, True, bias=False), "attention"),
        _case("mha-bias-kv", partial(SelfAttention, True, add_bias_kv=True), "attention", note=learned),
        _case("mha-zero-attn", partial(SelfAttention, True, add_zero_attn=True), "attention"),
        _case("mha-cross", CrossAttention, "attention", made=cross),
        _case("torch-encoder", Encoder, "self_attn"),
        _case("torch-encoder-causal", partial(Encoder, True), "self_attn"),
        _case("torch-encoder-prenorm", FrozenEncoder, "self_attn"),
        _case("torch-transformer", Seq2Seq, "self_attn", "multihead_attn", made=pair),
    ]
