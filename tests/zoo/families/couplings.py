"""Attention whose heads meet elsewhere than in one output projection, or not at all."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

from tests.zoo import feeds
from tests.zoo.attributes import Heads
from tests.zoo.case import Case
from tests.zoo.families._stack import (
    HEADS,
    INNER,
    SIZE,
    SIZES,
    WIDTH,
    Block,
    Tensors,
    merge_heads,
    of,
    softmax_attention,
    split_heads,
    stacked,
)


class Normed(Block):
    """A layer norm over all heads between the context and the output projection (MAGNETO)."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(INNER)

    def context(self, x: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.norm(super().context(x))
        return made


class NoOutput(nn.Module):
    """The context goes straight to the residual stream."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (split_heads(f(x)) for f in (self.q, self.k, self.v))
        return merge_heads(softmax_attention(q, k, v))


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
    def _qkv(project: nn.Module, x: torch.Tensor) -> Tensors:
        packed: torch.Tensor = project(x).view(x.shape[0], x.shape[1], 3, HEADS, SIZE)
        return packed.permute(2, 0, 3, 1, 4).unbind(0)


class AsModule(nn.Module):
    """Joint attention alone, as the submodule ``model``."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Joint()

    def forward(self, *inputs: torch.Tensor) -> Any:
        return self.model(*inputs)


def _joint() -> Case:
    names = ("image", "text")
    made = tuple(
        {name: feeds.floats(batch, length + 4 * at, WIDTH, seed=at) for at, name in enumerate(names)}
        for batch, length in SIZES
    )
    outputs = ("image_out", "text_out")
    axes = {name: {0: "batch", 1: f"{name}_length"} for name in (*names, *outputs)}
    given = {"feeds": made, "outputs": outputs, "dynamic_axes": axes}
    rules = (Heads("Joint", outputs, HEADS),)
    note = "two projections read one core"
    return of("joint-attention", "couplings", AsModule, rules=rules, note=note, **given)


def cases() -> list[Case]:
    made = partial(stacked, family="couplings")
    seen = "silencing columns is not removing the head: the norm sees it"
    return [
        made("sub-layer-norm", make=Normed, expect="refused", note=seen),
        made("no-output-projection", make=NoOutput, rules=(), expect="no-site"),
        _joint(),
    ]
