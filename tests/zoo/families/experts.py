"""Mixtures of experts that are written out: every expert a network of its own, as Mixtral and Qwen2-MoE have them."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from tests.zoo.attributes import at
from tests.zoo.case import Case
from tests.zoo.families._stack import HEADS, WIDTH, Block, of

DEPTH, EXPERTS, CHOSEN, HIDDEN = 2, 4, 2, 20


class Expert(nn.Module):
    """Gates and values from a map each."""

    def __init__(self) -> None:
        super().__init__()
        self.w1, self.w3 = nn.Linear(WIDTH, HIDDEN, bias=False), nn.Linear(WIDTH, HIDDEN, bias=False)
        self.w2 = nn.Linear(HIDDEN, WIDTH, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.w2(nn.functional.silu(self.w1(x)) * self.w3(x))


class Mixture(nn.Module):
    """A router chooses two experts a token."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.gate = nn.Linear(WIDTH, EXPERTS, bias=False)
        self.experts = nn.ModuleList([Expert() for _ in range(EXPERTS)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = x.reshape(-1, WIDTH)
        shares, chosen = torch.topk(torch.softmax(self.gate(tokens), -1), CHOSEN, dim=-1)
        shares = shares / shares.sum(-1, keepdim=True)
        total = torch.zeros_like(tokens)
        if self.way == "all":
            weights = torch.zeros(tokens.shape[0], EXPERTS).scatter(1, chosen, shares)
            for number, expert in enumerate(self.experts):
                total = total + expert(tokens) * weights[:, number : number + 1]
        elif self.way == "where":
            for number, expert in enumerate(self.experts):
                share = torch.where(chosen == number, shares, torch.zeros_like(shares)).sum(-1, keepdim=True)
                total = total + share * expert(tokens)
        else:
            for number, expert in enumerate(self.experts):
                rows, places = torch.where(chosen == number)
                made = expert(tokens[rows]) * shares[rows, places, None]
                total = total.index_add(0, rows, made)
        return total.reshape(x.shape)


class Layer(Block):
    """Attention and a mixture, each with a residual and a norm before it."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.mixture = Mixture(way)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.out(self.context(self.first(x)))
        return x + torch.as_tensor(self.mixture(self.second(x)))


class Decoder(nn.Module):
    """Layers."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Layer(way) for _ in range(DEPTH)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


NOTES = {
    "all": "every expert sees every token, and most weigh nothing",
    "where": "the same, with a comparison per expert",
    "rows": "every expert sees the tokens that chose it, which are put back by index_add",
}


def cases() -> list[Case]:
    made = partial(of, family="experts", rules=at("out", heads=HEADS))
    return [made(f"experts-{way}", make=partial(Decoder, way), note=note) for way, note in NOTES.items()]
