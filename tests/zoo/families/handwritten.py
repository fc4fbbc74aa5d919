"""Softmax attention as people write it by hand."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from tests.zoo.attributes import at
from tests.zoo.case import Case
from tests.zoo.families._stack import (
    HEADS,
    INNER,
    SCALE,
    SIZE,
    WIDTH,
    Block,
    Tensors,
    merge_heads,
    sequences,
    softmax_attention,
    split_heads,
    stacked,
)


class Einsum(Block):
    """Every contraction of the core is an einsum; heads stay on axis 2."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (f(x).view(*x.shape[:2], HEADS, SIZE) for f in (self.q, self.k, self.v))
        scores = torch.einsum("bqhd,bkhd->bhqk", q, k) * SCALE
        context = torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v)
        return self.out(context.reshape(*x.shape[:2], INNER))


class HeadContraction(nn.Module):
    """An output projection that contracts heads and sizes of ``[B, H, S, D]`` at once."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(WIDTH, INNER))

    def forward(self, context: torch.Tensor) -> torch.Tensor:
        return torch.einsum("bhsd,whd->bsw", context, self.weight.view(WIDTH, HEADS, SIZE))


class EinsumWeights(nn.Module):
    """Three-dimensional weights ``[width, heads, size]``, contracted by einsum (JAX style)."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Parameter(torch.empty(WIDTH, HEADS, SIZE)) for _ in range(3))
        self.out = HeadContraction()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (torch.einsum("bsw,whd->bhsd", x, w) for w in (self.q, self.k, self.v))
        return self.out(softmax_attention(q, k, v))


class HeadMinor(Block):
    """The context is merged as ``[size, heads]``: a head's columns are not adjacent."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (f(x).view(*x.shape[:2], SIZE, HEADS).permute(0, 3, 1, 2) for f in (self.q, self.k, self.v))
        context = softmax_attention(q, k, v).permute(0, 2, 3, 1)
        return self.out(context.reshape(*x.shape[:2], INNER))


class SingleHead(nn.Module):
    """One head of a per-head module list."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(WIDTH, SIZE, bias=False) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return softmax_attention(self.q(x), self.k(x), self.v(x))


class HeadList(nn.Module):
    """Heads as separate modules whose outputs are concatenated (every GPT tutorial)."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleList([SingleHead() for _ in range(HEADS)])
        self.out = nn.Linear(INNER, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(torch.cat([head(x) for head in self.heads], -1))


class HeadLoop(Block):
    """One wide projection, then a Python loop over slices of it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.q(x), self.k(x), self.v(x)
        contexts = []
        for head in range(HEADS):
            own = slice(head * SIZE, (head + 1) * SIZE)
            contexts.append(softmax_attention(q[..., own], k[..., own], v[..., own]))
        return self.out(torch.cat(contexts, -1))


class HeadSplit(Block):
    """Heads moved to the batch axis with split and cat (the Annotated Transformer's cousin)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (torch.cat(torch.split(f(x), SIZE, -1), 0) for f in (self.q, self.k, self.v))
        return self.out(torch.cat(softmax_attention(q, k, v).chunk(HEADS, 0), -1))


class Packed(nn.Module):
    """One projection for Q, K and V, taken apart in the way ``style`` names."""

    def __init__(self, style: str) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * INNER)
        self.out = nn.Linear(INNER, WIDTH)
        self.style = style

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = getattr(self, f"_{self.style}")(self.qkv(x))
        return self.out(merge_heads(softmax_attention(q, k, v)))

    @staticmethod
    def _split(packed: torch.Tensor) -> list[torch.Tensor]:  # nanoGPT
        return [split_heads(part) for part in torch.split(packed, INNER, dim=2)]

    @staticmethod
    def _chunk(packed: torch.Tensor) -> list[torch.Tensor]:  # lucidrains
        parts = packed.chunk(3, dim=-1)
        return [part.view(*part.shape[:2], HEADS, SIZE).permute(0, 2, 1, 3) for part in parts]

    @staticmethod
    def _unbind(packed: torch.Tensor) -> Tensors:  # timm
        parts = packed.reshape(*packed.shape[:2], 3, HEADS, SIZE)
        return parts.permute(2, 0, 3, 1, 4).unbind(0)

    @staticmethod
    def _index(packed: torch.Tensor) -> Tensors:  # DINO, old timm
        parts = packed.reshape(*packed.shape[:2], 3, HEADS, SIZE).permute(2, 0, 3, 1, 4)
        return parts[0], parts[1], parts[2]

    @staticmethod
    def _interleaved(packed: torch.Tensor) -> Tensors:  # Megatron
        return packed.view(*packed.shape[:2], HEADS, 3 * SIZE).transpose(1, 2).chunk(3, dim=-1)

    @staticmethod
    def _innermost(packed: torch.Tensor) -> Tensors:  # [heads, size, 3]
        parts = packed.view(*packed.shape[:2], HEADS, SIZE, 3).transpose(1, 2)
        return parts[..., 0], parts[..., 1], parts[..., 2]


class ConvAttention(nn.Module):
    """Channel-first attention with 1x1 convolutions over ``[batch, width, sequence, 1]``."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Conv2d(WIDTH, 3 * INNER, 1)
        self.out = nn.Conv2d(INNER, WIDTH, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        image = x.transpose(1, 2).unsqueeze(-1)
        batch, _, height, width = image.shape
        q, k, v = self.qkv(image).view(batch, 3, HEADS, SIZE, -1).unbind(1)
        weights = (q.transpose(-1, -2) @ k * SCALE).softmax(-1)
        context = v @ weights.transpose(-1, -2)
        return self.out(context.reshape(batch, INNER, height, width)).squeeze(-1).transpose(1, 2)


class KeysTransposed(Block):
    """Keys are permuted straight to ``[B, H, D, S]``, scores scaled on both sides, masked."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, _ = x.shape
        q = self.q(x).view(batch, length, HEADS, SIZE).permute(0, 2, 1, 3) * SIZE**-0.25
        k = self.k(x).view(batch, length, HEADS, SIZE).permute(0, 2, 3, 1) * SIZE**-0.25
        v = split_heads(self.v(x))
        later = torch.ones(length, length, dtype=torch.bool).triu(1)
        scores = (q @ k).masked_fill(later, float("-inf"))
        return self.out(merge_heads(scores.softmax(-1) @ v).contiguous())


def _flat(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Heads merged into the batch axis as ``[B*H, S, D]``, contracted with ``bmm``."""
    batch, _, length, _ = q.shape
    q, k, v = (t.reshape(batch * HEADS, length, SIZE) for t in (q, k, v))
    scores = torch.baddbmm(torch.zeros(1, 1, 1), q, k.transpose(1, 2), beta=1.0, alpha=SCALE)
    return torch.bmm(scores.softmax(-1), v).view(batch, HEADS, length, SIZE)


class PerHeadConstants(Block):
    """Everything a head may own: a scale, a bias table, a norm of its queries, an output gate."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.empty(HEADS, 1, 1))
        self.table = nn.Parameter(torch.empty(16, HEADS))
        self.norm = nn.LayerNorm(SIZE)
        self.gate = nn.Parameter(torch.empty(1, HEADS, 1, 1))

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        places = torch.arange(q.shape[2])
        offset = (places[None] - places[:, None]).clamp(-8, 7) + 8
        bias = self.table[offset].permute(2, 0, 1)
        scores = self.norm(q) @ nn.functional.normalize(k, dim=-1).transpose(-1, -2)
        return (scores * self.scale.exp() + bias).softmax(-1) @ v * self.gate


class WideValues(Block):
    """Values are wider than queries and keys."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k = nn.Linear(WIDTH, HEADS * 5), nn.Linear(WIDTH, HEADS * 5)
        self.v, self.out = nn.Linear(WIDTH, HEADS * 12), nn.Linear(HEADS * 12, WIDTH)


def cases() -> list[Case]:
    made = partial(stacked, family="handwritten")
    styles = ("split", "chunk", "unbind", "index", "interleaved", "innermost")
    return [
        made("hand-separate", make=Block),
        made("hand-no-bias", make=partial(Block, bias=False)),
        made("hand-einsum", make=Einsum),
        made(
            "hand-einsum-weights",
            make=EinsumWeights,
            note="the output projection is an Einsum that contracts two axes",
        ),
        made(
            "hand-head-minor",
            make=HeadMinor,
            rules=at("out", heads=HEADS, head_minor=True),
            note="a head's columns are strided",
        ),
        made("hand-head-list", make=HeadList, note="heads are separate, joined by Concat"),
        made("hand-head-loop", make=HeadLoop, note="heads are slices, joined by Concat"),
        made("hand-head-split", make=HeadSplit, note="Split, then Concat on the batch axis"),
        made(
            "hand-head-split-fixed",
            make=HeadSplit,
            feeds=sequences(((3, 7), (3, 5))),
            dynamic_axes={name: {1: "sequence"} for name in "xy"},
            note="the same, for a batch of 3",
        ),
        made("hand-conv1x1", make=ConvAttention),
        made("hand-keys-transposed", make=KeysTransposed),
        made("hand-flat-heads", make=partial(Block, _flat)),
        made("hand-per-head-constants", make=PerHeadConstants),
        made("hand-wide-values", make=WideValues),
        made("hand-shared-kv", make=partial(Block, lambda q, k, v: softmax_attention(q, k, k))),
        *(made(f"hand-packed-{style}", make=partial(Packed, style)) for style in styles),
    ]
