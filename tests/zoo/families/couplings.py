"""Attention whose heads meet elsewhere than in one output projection, or hardly at all."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from tests.zoo import feeds
from tests.zoo.attributes import Heads, at
from tests.zoo.case import Case
from tests.zoo.families._stack import (
    HEADS,
    INNER,
    SCALE,
    SIZE,
    SIZES,
    WIDTH,
    Block,
    linear,
    merge_heads,
    of,
    softmax_attention,
    split_heads,
    stacked,
)


def _talking(own: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, before: bool) -> torch.Tensor:
    """Shazeer et al. 2020: heads are mixed before or after the softmax."""

    def mixed(x: torch.Tensor) -> torch.Tensor:
        return own.mix(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    weights = q @ k.transpose(-1, -2) * SCALE
    return (mixed(weights).softmax(-1) if before else mixed(weights.softmax(-1))) @ v


def _normed(own: Any, context: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """A layer norm over all heads between the context and the output projection (MAGNETO)."""
    return own.norm(context)


def _normed_by_head(own: Any, context: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """A norm per head between the context and the output projection: no coupling."""
    return own.norm(context.reshape(-1, INNER)).view(x.shape[0], -1, INNER)


class HeadSoftmax(Block):
    """A softmax *over the heads* weighs their contexts."""

    def __init__(self) -> None:
        super().__init__()
        self.weigh = nn.Linear(WIDTH, HEADS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        share = self.weigh(x).softmax(-1).transpose(1, 2).unsqueeze(-1)
        return self.out(merge_heads(softmax_attention(*self.heads(x)) * share))


class QueryNorm(Block):
    """Queries are normalised across heads."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(INNER)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        _, k, v = self.heads(x)
        q = split_heads(self.norm(self.q(x)))
        return self.out(merge_heads(softmax_attention(q, k, v)))


class NoOutput(nn.Module):
    """The context goes straight to the residual stream."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (split_heads(f(x)) for f in (self.q, self.k, self.v))
        return merge_heads(softmax_attention(q, k, v))


class SingleHeadBlock(Block):
    """Attention with a single head: nothing to remove but all of it."""

    def context(self, x: torch.Tensor, memory: torch.Tensor | None = None) -> torch.Tensor:
        return softmax_attention(self.q(x), self.k(x), self.v(x))


class Pooling(Block):
    """Two learned queries, the same for every sample, pool the sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.empty(1, 2, WIDTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        queries = self.queries.expand(x.shape[0], -1, -1)
        _, k, v = self.heads(x)
        context = softmax_attention(split_heads(self.q(queries)), k, v)
        return self.out(merge_heads(context))


class HeadQueries(Block):
    """The learned query is stored per head, ``[1, heads, 1, size]``, without a projection."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.empty(1, HEADS, 1, SIZE))
        del self.q

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        k, v = split_heads(self.k(x)), split_heads(self.v(x))
        query = self.query.expand(x.shape[0], -1, -1, -1)
        return self.out(merge_heads(softmax_attention(query, k, v)))


class Joint(nn.Module):
    """MM-DiT: text and image attend together, and leave through a projection each."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.text = nn.Linear(WIDTH, 3 * INNER), nn.Linear(WIDTH, 3 * INNER)
        self.image_out, self.text_out = nn.Linear(INNER, WIDTH), nn.Linear(INNER, WIDTH)

    def forward(self, image: torch.Tensor, text: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        packed = [self._qkv(self.image, image), self._qkv(self.text, text)]
        q, k, v = (torch.cat(parts, dim=2) for parts in zip(*packed, strict=True))
        context = merge_heads(softmax_attention(q, k, v))
        own = image.shape[1]
        return image + self.image_out(context[:, :own]), text + self.text_out(context[:, own:])

    @staticmethod
    def _qkv(project: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        packed: torch.Tensor = project(x).view(x.shape[0], x.shape[1], 3, HEADS, SIZE)
        return packed.permute(2, 0, 3, 1, 4).unbind(0)


class TwoReaders(Block):
    """Two projections read the same context and their results are multiplied."""

    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Linear(INNER, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        context = self.context(x)
        return self.out(context) * torch.tanh(self.other(context))


class Reused(nn.Module):
    """The second block attends with the probabilities of the first."""

    def __init__(self) -> None:
        super().__init__()
        self.first = Block()
        self.v = nn.Linear(WIDTH, INNER)
        self.out = nn.Linear(INNER, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.first.heads(x)
        weights = (q @ k.transpose(-1, -2) * SCALE).softmax(-1)
        x = x + self.first.out(merge_heads(weights @ v))
        return x + self.out(merge_heads(weights @ split_heads(self.v(x))))


class AsModule(nn.Module):
    """A block alone, as the submodule ``model``."""

    def __init__(self, make: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.model = make()

    def forward(self, *inputs: torch.Tensor) -> Any:
        return self.model(*inputs)


def _block(
    name: str,
    make: type[nn.Module],
    *out: str,
    inputs: tuple[str, ...] = ("x",),
    outputs: tuple[str, ...] = ("y",),
    tied: bool = False,
    note: str = "",
) -> Case:
    made = tuple(
        {n: feeds.floats(batch, length + 4 * i, WIDTH, seed=i) for i, n in enumerate(inputs)}
        for batch, length in SIZES
    )
    axes = {n: {0: "batch", 1: f"{n}_length"} for n in (*inputs, *outputs)}
    rules = (Heads(make.__name__, out, HEADS),) if tied else at(*(out or ("out",)), heads=HEADS)
    return of(
        *(name, "couplings", partial(AsModule, make)),
        feeds=made,
        outputs=outputs,
        dynamic_axes=axes,
        rules=rules,
        note=note,
    )


def cases() -> list[Case]:
    made = partial(stacked, family="couplings")
    mix, norm = linear(HEADS, HEADS, bias=False), partial(nn.LayerNorm, INNER)
    seen = "silencing columns is not removing the head: the norm sees it"
    both = {"inputs": ("image", "text"), "outputs": ("image_out", "text_out")}
    return [
        made("talking-heads-before", make=partial(Block, partial(_talking, before=True), mix=mix)),
        made("talking-heads-after", make=partial(Block, partial(_talking, before=False), mix=mix)),
        made("sub-layer-norm", make=partial(Block, behind=_normed, norm=norm), expect="refused", note=seen),
        made(
            "norm-per-head",
            make=partial(Block, behind=_normed_by_head, norm=partial(nn.GroupNorm, HEADS, INNER)),
            note="GroupNorm with one group per head",
        ),
        made("softmax-over-heads", make=HeadSoftmax),
        made("query-norm-across-heads", make=QueryNorm),
        made("no-output-projection", make=NoOutput, rules=(), expect="no-site"),
        made("single-head", make=SingleHeadBlock, heads=1),
        _block("cross-attention", Block, inputs=("x", "memory")),
        _block("pooling", Pooling, note="learned queries, independent of the input"),
        _block("pooling-per-head", HeadQueries, note="the query is a constant per head"),
        _block(
            "joint-attention",
            Joint,
            "image_out",
            "text_out",
            tied=True,
            note="two projections read one core",
            **both,
        ),
        _block("two-readers", TwoReaders, "out", "other", tied=True, note="two projections read one context"),
        _block("shared-probabilities", Reused, note="two sites share Q and K"),
    ]
