"""Grouped- and multi-query attention, in every way of repeating the shared heads."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from tests.zoo.case import Case
from tests.zoo.families._stack import SIZE, WIDTH, Block, merge_heads, softmax_attention, split_heads, stacked

QUERIES = 6
GROUPS = 2
RATIO = QUERIES // GROUPS


class Grouped(Block):
    """Six query heads over two key/value heads; ``repeat`` names the way they meet."""

    def __init__(self, repeat: str) -> None:
        super().__init__(queries=QUERIES, groups=GROUPS)
        self.repeat = repeat

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q = split_heads(self.q(x), QUERIES)
        k, v = (split_heads(f(x), GROUPS) for f in (self.k, self.v))
        return self.out(merge_heads(getattr(self, f"_{self.repeat}")(q, k, v)))

    @staticmethod
    def _interleave(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        k, v = (t.repeat_interleave(RATIO, dim=1) for t in (k, v))
        return softmax_attention(q, k, v)

    @staticmethod
    def _expand(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        k, v = (t.unsqueeze(2).expand(-1, -1, RATIO, -1, -1).flatten(1, 2) for t in (k, v))
        return softmax_attention(q, k, v)

    @staticmethod
    def _index(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        owner = torch.arange(QUERIES) // RATIO
        return softmax_attention(q, k[:, owner], v[:, owner])

    @staticmethod
    def _stack(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        k, v = (torch.stack([t] * RATIO, dim=2).flatten(1, 2) for t in (k, v))
        return softmax_attention(q, k, v)

    @staticmethod
    def _broadcast(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        batch, _, length, _ = q.shape
        q = q.view(batch, GROUPS, RATIO, length, SIZE)  # against [B, G, 1, S, D]
        return softmax_attention(q, k.unsqueeze(2), v.unsqueeze(2)).flatten(1, 2)

    @staticmethod
    def _tall(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        batch, _, length, _ = q.shape
        q = q.reshape(batch, GROUPS, RATIO * length, SIZE)  # the queries of a group in a row
        return softmax_attention(q, k, v).reshape(batch, QUERIES, length, SIZE)


class Tiled(nn.Module):
    """One head serves as key and value; it is copied for every query head with ``repeat``."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.kv = nn.Linear(WIDTH, 4 * SIZE), nn.Linear(WIDTH, SIZE)
        self.out = nn.Linear(4 * SIZE, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q = split_heads(self.q(x), 4)
        k = split_heads(self.kv(x), 1).repeat(1, 4, 1, 1)
        return self.out(merge_heads(softmax_attention(q, k, k)))


class MultiQuery(nn.Module):
    """One key/value head; ``flat`` makes heads and sequence one axis (GPT-BigCode)."""

    def __init__(self, flat: bool) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 4 * SIZE + 2 * SIZE)
        self.out = nn.Linear(4 * SIZE, WIDTH)
        self.flat = flat

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, _ = x.shape
        q, k, v = self.qkv(x).split((4 * SIZE, SIZE, SIZE), dim=2)
        if self.flat:
            q = q.reshape(batch, length * 4, SIZE)
            return self.out(softmax_attention(q, k, v).reshape(batch, length, 4 * SIZE))
        return self.out(merge_heads(softmax_attention(split_heads(q), k.unsqueeze(1), v.unsqueeze(1))))


def cases() -> list[Case]:
    made = partial(stacked, family="grouped", heads=QUERIES, kv=GROUPS)
    one = partial(stacked, family="grouped", heads=4, kv=1)
    tall = partial(Grouped, "tall")
    repeats = ("interleave", "expand", "index", "stack", "broadcast")
    return [
        *(made(f"gqa-{repeat}", make=partial(Grouped, repeat)) for repeat in repeats),
        made("gqa-tall", make=tall, note="heads within 3*sequence rows"),
        made("gqa-tall-fixed", make=tall, dynamic=False, note="the same, 8 tokens"),
        one("mqa-repeat", make=Tiled),
        one("mqa-broadcast", make=partial(MultiQuery, False)),
        one(
            "mqa-flat", make=partial(MultiQuery, True), note="heads and sequence share one axis: [B, S*H, D]"
        ),
    ]
