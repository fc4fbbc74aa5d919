"""The residual stack around hand-written attention blocks, and the cases made of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from tests.zoo import feeds
from tests.zoo.case import Case, Feed
from tests.zoo.families.common import layers
from tests.zoo.init import spread

WIDTH = 40
HEADS = 4
SIZE = 8
INNER = HEADS * SIZE
SCALE = float(SIZE) ** -0.5
SIZES = ((3, 7), (1, 5))


class Stack(nn.Module):
    """``x = x + block(norm(x))``, twice, on ``[batch, sequence, width]``."""

    def __init__(self, make: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([make(), make()])
        self.norms = nn.ModuleList([nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)])

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Runs the stack; inputs after the first go to every block."""
        x, *others = inputs
        for block, norm in zip(self.blocks, self.norms, strict=True):
            x = x + block(norm(x), *others)
        return x


def split_heads(x: torch.Tensor, heads: int = HEADS) -> torch.Tensor:
    """``[B, S, H*D] -> [B, H, S, D]``."""
    return x.view(x.shape[0], x.shape[1], heads, -1).transpose(1, 2)


def merge_heads(x: torch.Tensor) -> torch.Tensor:
    """``[B, H, S, D] -> [B, S, H*D]``."""
    return x.transpose(1, 2).reshape(x.shape[0], x.shape[2], -1)


def softmax_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Plain attention on the last two axes."""
    scores = q @ k.transpose(-1, -2) / math.sqrt(SIZE)
    return scores.softmax(-1) @ v


def _made(make: Callable[[], nn.Module]) -> nn.Module:
    return spread(Stack(make))


def sequences(sizes: tuple[tuple[int, int], ...] = SIZES) -> tuple[Feed, ...]:
    """Returns one ``x`` per size."""
    return tuple({"x": feeds.floats(batch, length, WIDTH)} for batch, length in sizes)


def stacked(
    name: str,
    family: str,
    make: Callable[[], nn.Module],
    *,
    heads: tuple[int, ...] = (HEADS, SIZE),
    dynamic: bool = True,
    **rest: Any,
) -> Case:
    """Returns the case of a stack of two blocks whose output projections are called ``out``.

    ``dynamic=False`` keeps the sequence length fixed, where the method needs that.
    """
    axes = {0: "batch", 1: "sequence"} if dynamic else {0: "batch"}
    sizes = SIZES if dynamic else ((3, 8), (1, 8))
    return Case(
        **{
            "name": name,
            "family": family,
            "builder": partial(_made, make),
            "feeds": sequences(sizes),
            "inputs": ("x",),
            "outputs": ("y",),
            "dynamic_axes": {"x": axes, "y": axes},
            "projections": layers("blocks.{}.out", 2, *heads),
            **rest,
        }
    )
