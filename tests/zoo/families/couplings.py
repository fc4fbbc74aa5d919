"""Attention whose heads meet elsewhere than in one output projection, or hardly at all."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

from tests.zoo import feeds
from tests.zoo.case import Case, Projection
from tests.zoo.families._stack import (
    HEADS,
    INNER,
    SCALE,
    SIZE,
    SIZES,
    WIDTH,
    merge_heads,
    softmax_attention,
    split_heads,
    stacked,
)
from tests.zoo.families.common import layers
from tests.zoo.init import spread

FAMILY = "couplings"


class Projected(nn.Module):
    """Q, K, V and output projections for the blocks below."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(WIDTH, INNER) for _ in range(3))
        self.out = nn.Linear(INNER, WIDTH)

    def heads(
        self, x: torch.Tensor, memory: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Returns Q, K and V as ``[B, H, S, D]``."""
        memory = x if memory is None else memory
        return split_heads(self.q(x)), split_heads(self.k(memory)), split_heads(self.v(memory))


class TalkingHeads(Projected):
    """Shazeer et al. 2020: heads are mixed before or after the softmax."""

    def __init__(self, before: bool) -> None:
        super().__init__()
        self.mix = nn.Linear(HEADS, HEADS, bias=False)
        self.before = before

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Runs the block."""
        q, k, v = self.heads(x)
        weights = q @ k.transpose(-1, -2) * SCALE
        weights = self._mixed(weights).softmax(-1) if self.before else weights.softmax(-1)
        weights = weights if self.before else self._mixed(weights)
        out: torch.Tensor = self.out(merge_heads(weights @ v))
        return out

    def _mixed(self, x: torch.Tensor) -> torch.Tensor:
        mixed: torch.Tensor = self.mix(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return mixed


class SubNorm(Projected):
    """A layer norm over all heads between the context and the output projection (MAGNETO)."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(INNER)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Runs the block."""
        out: torch.Tensor = self.out(self.norm(merge_heads(softmax_attention(*self.heads(x)))))
        return out


class HeadNorm(Projected):
    """A norm per head between the context and the output projection: no coupling."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(HEADS, INNER)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Runs the block."""
        context = merge_heads(softmax_attention(*self.heads(x)))
        flat = self.norm(context.reshape(-1, INNER)).view(x.shape[0], -1, INNER)
        out: torch.Tensor = self.out(flat)
        return out


class HeadSoftmax(Projected):
    """A softmax *over the heads* weighs their contexts."""

    def __init__(self) -> None:
        super().__init__()
        self.weigh = nn.Linear(WIDTH, HEADS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Runs the block."""
        share = self.weigh(x).softmax(-1).transpose(1, 2).unsqueeze(-1)
        out: torch.Tensor = self.out(merge_heads(softmax_attention(*self.heads(x)) * share))
        return out


class QueryNorm(Projected):
    """Queries are normalised across heads."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(INNER)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Runs the block."""
        _, k, v = self.heads(x)
        q = split_heads(self.norm(self.q(x)))
        out: torch.Tensor = self.out(merge_heads(softmax_attention(q, k, v)))
        return out


class NoOutput(nn.Module):
    """The context goes straight to the residual stream."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Runs the block."""
        q, k, v = (split_heads(f(x)) for f in (self.q, self.k, self.v))
        return merge_heads(softmax_attention(q, k, v))


class SingleHeadBlock(nn.Module):
    """Attention with a single head: nothing to remove but all of it."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(WIDTH, INNER) for _ in range(3))
        self.out = nn.Linear(INNER, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Runs the block."""
        out: torch.Tensor = self.out(softmax_attention(self.q(x), self.k(x), self.v(x)))
        return out


class Cross(Projected):
    """Queries from one input, keys and values from another; the projection is shared work."""

    def forward(self, x: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
        """Runs the block."""
        out: torch.Tensor = self.out(merge_heads(softmax_attention(*self.heads(x, memory))))
        return out


class Pooling(Projected):
    """Two learned queries, the same for every sample, pool the sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.empty(1, 2, WIDTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the pooled ``[batch, 2, width]``."""
        queries = self.queries.expand(x.shape[0], -1, -1)
        _, k, v = self.heads(x)
        context = softmax_attention(split_heads(self.q(queries)), k, v)
        out: torch.Tensor = self.out(merge_heads(context))
        return out


class HeadQueries(Projected):
    """The learned query is stored per head, ``[1, heads, 1, size]``, without a projection."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.empty(1, HEADS, 1, SIZE))
        del self.q

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the pooled ``[batch, 1, width]``."""
        k, v = split_heads(self.k(x)), split_heads(self.v(x))
        query = self.query.expand(x.shape[0], -1, -1, -1)
        out: torch.Tensor = self.out(merge_heads(softmax_attention(query, k, v)))
        return out


class Joint(nn.Module):
    """MM-DiT: text and image attend together, and leave through a projection each."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.text = nn.Linear(WIDTH, 3 * INNER), nn.Linear(WIDTH, 3 * INNER)
        self.image_out, self.text_out = nn.Linear(INNER, WIDTH), nn.Linear(INNER, WIDTH)

    def forward(self, image: torch.Tensor, text: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Runs the block."""
        packed = [self._qkv(self.image, image), self._qkv(self.text, text)]
        q, k, v = (torch.cat(parts, dim=2) for parts in zip(*packed, strict=True))
        context = merge_heads(softmax_attention(q, k, v))
        own = image.shape[1]
        return image + self.image_out(context[:, :own]), text + self.text_out(context[:, own:])

    @staticmethod
    def _qkv(project: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        packed: torch.Tensor = project(x).view(x.shape[0], x.shape[1], 3, HEADS, SIZE)
        return packed.permute(2, 0, 3, 1, 4).unbind(0)


class TwoReaders(Projected):
    """Two projections read the same context and their results are multiplied."""

    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Linear(INNER, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Runs the block."""
        context = merge_heads(softmax_attention(*self.heads(x)))
        out: torch.Tensor = self.out(context) * torch.tanh(self.other(context))
        return out


class Reused(nn.Module):
    """The second block attends with the probabilities of the first."""

    def __init__(self) -> None:
        super().__init__()
        self.first = Projected()
        self.v = nn.Linear(WIDTH, INNER)
        self.out = nn.Linear(INNER, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Runs both."""
        q, k, v = self.first.heads(x)
        weights = (q @ k.transpose(-1, -2) * SCALE).softmax(-1)
        x = x + self.first.out(merge_heads(weights @ v))
        out: torch.Tensor = x + self.out(merge_heads(weights @ split_heads(self.v(x))))
        return out


class AsModule(nn.Module):
    """Redraws the weights of what it is given and passes tensors through."""

    def __init__(self, make: type[nn.Module]) -> None:
        super().__init__()
        self.model = make()

    def forward(self, *inputs: torch.Tensor) -> Any:
        """Runs the block."""
        return self.model(*inputs)


def _made(make: type[nn.Module]) -> nn.Module:
    return spread(AsModule(make))


def _block(
    name: str,
    make: type[nn.Module],
    projections: tuple[Projection, ...],
    *,
    inputs: tuple[str, ...] = ("x",),
    outputs: tuple[str, ...] = ("y",),
    note: str = "",
) -> Case:
    made = tuple(
        {n: feeds.floats(batch, length + 4 * i, WIDTH, seed=i) for i, n in enumerate(inputs)}
        for batch, length in SIZES
    )
    return Case(
        name=name,
        family=FAMILY,
        builder=partial(_made, make),
        feeds=made,
        inputs=inputs,
        outputs=outputs,
        dynamic_axes={
            **{n: {0: "batch", 1: f"{n}_length"} for n in inputs},
            **{n: {0: "batch", 1: f"{n}_length"} for n in outputs},
        },
        projections=projections,
        note=note,
    )


def cases() -> list[Case]:
    """Returns the cases of this family."""
    one = layers("model.out", 1, HEADS, SIZE)
    joint = (
        Projection("model.image_out", HEADS, SIZE, HEADS),
        Projection("model.text_out", HEADS, SIZE, HEADS, tied_to=0),
    )
    readers = (
        Projection("model.out", HEADS, SIZE, HEADS),
        Projection("model.other", HEADS, SIZE, HEADS, tied_to=0),
    )
    reused = (
        Projection("model.first.out", HEADS, SIZE, HEADS),
        Projection("model.out", HEADS, SIZE, HEADS),
    )
    memory = ("x", "memory")
    return [
        stacked("talking-heads-before", FAMILY, partial(TalkingHeads, True), expect="refused"),
        stacked("talking-heads-after", FAMILY, partial(TalkingHeads, False), expect="refused"),
        stacked(
            "sub-layer-norm",
            FAMILY,
            SubNorm,
            expect="refused",
            note="silencing columns is not removing the head: the norm sees it",
        ),
        stacked("norm-per-head", FAMILY, HeadNorm, note="GroupNorm with one group per head"),
        stacked("softmax-over-heads", FAMILY, HeadSoftmax, expect="refused"),
        stacked("query-norm-across-heads", FAMILY, QueryNorm, expect="refused"),
        stacked("no-output-projection", FAMILY, NoOutput, projections=(), expect="no-site"),
        stacked("single-head", FAMILY, SingleHeadBlock, heads=(1, INNER)),
        _block("cross-attention", Cross, one, inputs=memory),
        _block("pooling", Pooling, one, note="learned queries, independent of the input"),
        _block("pooling-per-head", HeadQueries, one, note="the query is a constant per head"),
        _block(
            "joint-attention",
            Joint,
            joint,
            inputs=("image", "text"),
            outputs=("image_out", "text_out"),
            note="two projections read one core",
        ),
        _block("two-readers", TwoReaders, readers, note="two projections read one context"),
        _block("shared-probabilities", Reused, reused, note="two sites share Q and K"),
    ]
