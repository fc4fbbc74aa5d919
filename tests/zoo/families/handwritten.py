"""Softmax attention as people write it by hand, in ways that no library here has."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from tests.zoo.attributes import at
from tests.zoo.case import Case
from tests.zoo.families._stack import (
    HEADS,
    INNER,
    SIZE,
    WIDTH,
    Block,
    Tensors,
    merge_heads,
    softmax_attention,
    split_heads,
    stacked,
)


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
    def _innermost(packed: torch.Tensor) -> Tensors:  # [heads, size, 3]
        parts = packed.view(*packed.shape[:2], HEADS, SIZE, 3).transpose(1, 2)
        return parts[..., 0], parts[..., 1], parts[..., 2]


def cases() -> list[Case]:
    made = partial(stacked, family="handwritten")
    minor = at("out", heads=HEADS, head_minor=True)
    contracted = "the output projection is an Einsum that contracts two axes"
    return [
        made("hand-no-bias", make=partial(Block, bias=False)),
        made("hand-einsum-weights", make=EinsumWeights, note=contracted),
        made("hand-head-minor", make=HeadMinor, rules=minor, note="a head's columns are strided"),
        *(made(f"hand-packed-{style}", make=partial(Packed, style)) for style in ("split", "innermost")),
    ]
