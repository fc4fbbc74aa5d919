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
SCALE = float(SIZE) ** -0.5
SIZES = ((3, 7), (1, 5))
Tensors = tuple[torch.Tensor, ...]


def split_heads(x: torch.Tensor, heads: int = HEADS) -> torch.Tensor:
    """``[B, S, H*D] -> [B, H, S, D]``."""
    return x.view(x.shape[0], x.shape[1], heads, -1).transpose(1, 2)


def merge_heads(x: torch.Tensor) -> torch.Tensor:
    """``[B, H, S, D] -> [B, S, H*D]``."""
    return x.transpose(1, 2).reshape(x.shape[0], x.shape[2], -1)


def softmax_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Plain attention on the last two axes."""
    return (q @ k.transpose(-1, -2) / math.sqrt(SIZE)).softmax(-1) @ v


class Block(nn.Module):
    """Three projections, ``attend`` on ``[B, H, S, D]``, what is behind it, and an output projection.

    Args:
        attend: From queries, keys and values to the context.
        behind: What changes the heads beside one another; it also gets the block and its input.
        parts: Functions that make the modules and parameters of the block that these two use.
        bias: Whether the projections of queries, keys and values have biases.
        queries: Query heads.
        groups: Heads of keys and values.
    """

    def __init__(
        self,
        attend: Callable[..., torch.Tensor] = softmax_attention,
        behind: Callable[..., torch.Tensor] | None = None,
        *,
        bias: bool = True,
        queries: int = HEADS,
        groups: int = HEADS,
        **parts: Callable[[], nn.Module | nn.Parameter],
    ) -> None:
        super().__init__()
        self.q = nn.Linear(WIDTH, queries * SIZE, bias=bias)
        self.k, self.v = (nn.Linear(WIDTH, groups * SIZE, bias=bias) for _ in range(2))
        self.out = nn.Linear(queries * SIZE, WIDTH)
        self.attending, self.behind, self.has_parts = attend, behind, bool(parts)
        for name, make in parts.items():
            setattr(self, name, make())

    def heads(self, x: torch.Tensor, memory: torch.Tensor | None = None) -> Tensors:
        """Q, K and V as ``[B, H, S, D]``."""
        memory = x if memory is None else memory
        return split_heads(self.q(x)), split_heads(self.k(memory)), split_heads(self.v(memory))

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """The context."""
        own = (self,) if self.has_parts and self.behind is None else ()
        return self.attending(*own, q, k, v)

    def context(self, x: torch.Tensor, memory: torch.Tensor | None = None) -> torch.Tensor:
        """The heads beside one another."""
        context = merge_heads(self.attend(*self.heads(x, memory)))
        return context if self.behind is None else self.behind(self, context, x)

    def forward(self, x: torch.Tensor, memory: torch.Tensor | None = None) -> torch.Tensor:
        return self.out(self.context(x, memory))


def parameter(*shape: int) -> Callable[[], nn.Parameter]:
    """Makes a parameter, whose numbers `spread` draws."""
    return lambda: nn.Parameter(torch.empty(*shape))


def linear(*sizes: int, **options: Any) -> Callable[[], nn.Module]:
    """Makes a linear layer."""
    return partial(nn.Linear, *sizes, **options)


class Stack(nn.Module):
    """``x = x + block(norm(x))``, twice, on ``[batch, sequence, width]``."""

    def __init__(self, make: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([make(), make()])
        self.norms = nn.ModuleList([nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)])

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        x, *others = inputs
        for block, norm in zip(self.blocks, self.norms, strict=True):
            x = x + block(norm(x), *others)
        return x


def sequences(sizes: tuple[tuple[int, int], ...] = SIZES) -> tuple[Feed, ...]:
    """One ``x`` per size."""
    return tuple({"x": feeds.floats(batch, length, WIDTH)} for batch, length in sizes)


def of(name: str, family: str, make: Callable[[], nn.Module], **rest: Any) -> Case:
    """The case of a module that reads ``x``."""
    axes = {0: "batch", 1: "sequence"}
    given = {"feeds": sequences(), "outputs": ("y",), "dynamic_axes": {"x": axes, "y": axes}, **rest}
    return Case(name=name, family=family, builder=lambda: spread(make()), **given)


def stacked(
    name: str,
    family: str,
    make: Callable[[], nn.Module],
    *,
    heads: int = HEADS,
    kv: int | None = None,
    dynamic: bool = True,
    **rest: Any,
) -> Case:
    """The case of a stack of two blocks whose output projections are called ``out``.

    ``dynamic=False`` keeps the sequence length fixed, where the method needs that.
    """
    if not dynamic:
        axes = {"x": {0: "batch"}, "y": {0: "batch"}}
        rest = {"feeds": sequences(((3, 8), (1, 8))), "dynamic_axes": axes} | rest
    return of(name, family, partial(Stack, make), **{"rules": at("out", heads=heads, kv=kv), **rest})
