"""The residual stack around hand-written attention blocks, and the cases made of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from tests.zoo import feeds
from tests.zoo.attributes import at
from tests.zoo.case import Case, Feed
from tests.zoo.init import spread

WIDTH = 40
HEADS = 4
SIZE = 8
INNER = HEADS * SIZE
SIZES = ((3, 7), (1, 5))
Tensors = tuple[torch.Tensor, ...]


def split_heads(x: torch.Tensor) -> torch.Tensor:
    """``[B, S, H*D] -> [B, H, S, D]``."""
    return x.view(x.shape[0], x.shape[1], HEADS, -1).transpose(1, 2)


def merge_heads(x: torch.Tensor) -> torch.Tensor:
    """``[B, H, S, D] -> [B, S, H*D]``."""
    return x.transpose(1, 2).reshape(x.shape[0], x.shape[2], -1)


def softmax_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Plain attention on the last two axes."""
    return (q @ k.transpose(-1, -2) / math.sqrt(SIZE)).softmax(-1) @ v


class Block(nn.Module):
    """Three projections, attention on ``[B, H, S, D]``, and an output projection."""

    def __init__(self, *, bias: bool = True) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(WIDTH, INNER, bias=bias) for _ in range(3))
        self.out = nn.Linear(INNER, WIDTH)

    def context(self, x: torch.Tensor) -> torch.Tensor:
        """The heads beside one another."""
        return merge_heads(softmax_attention(*(split_heads(f(x)) for f in (self.q, self.k, self.v))))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.context(x))


class Stack(nn.Module):
    """``x = x + block(norm(x))``, twice, on ``[batch, sequence, width]``."""

    def __init__(self, make: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([make(), make()])
        self.norms = nn.ModuleList([nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block, norm in zip(self.blocks, self.norms, strict=True):
            x = x + block(norm(x))
        return x


def of(name: str, family: str, make: Callable[[], nn.Module], **rest: Any) -> Case:
    """The case of a module that reads ``x``."""
    axes = {0: "batch", 1: "sequence"}
    made: tuple[Feed, ...] = tuple({"x": feeds.floats(batch, length, WIDTH)} for batch, length in SIZES)
    given = {"feeds": made, "outputs": ("y",), "dynamic_axes": {"x": axes, "y": axes}, **rest}
    return Case(name=name, family=family, builder=lambda: spread(make()), **given)


def stacked(name: str, family: str, make: Callable[[], nn.Module], **rest: Any) -> Case:
    """The case of a stack of two blocks whose output projections are called ``out``."""
    return of(name, family, partial(Stack, make), **{"rules": at("out", heads=HEADS), **rest})
