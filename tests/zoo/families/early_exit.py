"""Early exits: layers inside the branches of ``If``, exported from scripted modules with their control flow."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from tests.zoo.attributes import at
from tests.zoo.case import Case
from tests.zoo.families._stack import HEADS, INNER, WIDTH, of

DEPTH = 3
CLASSES = 5


class Layer(nn.Module):
    """Attention with a residual and a norm, in words that TorchScript's compiler understands."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(WIDTH, INNER) for _ in range(3))
        self.out = nn.Linear(INNER, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, _ = x.shape
        q = self.q(x).view(batch, length, 4, 8).transpose(1, 2)
        k = self.k(x).view(batch, length, 4, 8).transpose(1, 2)
        v = self.v(x).view(batch, length, 4, 8).transpose(1, 2)
        weights = torch.softmax(q @ k.transpose(-1, -2) / 8**0.5, -1)
        context = (weights @ v).transpose(1, 2).reshape(batch, length, 32)
        return self.norm(x + self.out(context))


class EarlyExit(nn.Module):
    """A classifier behind every layer; the one that is sure enough answers (PABEE, DeeBERT)."""

    scripted = True

    def __init__(self, sure: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Layer() for _ in range(DEPTH)])
        self.exits = nn.ModuleList([nn.Linear(WIDTH, CLASSES) for _ in range(DEPTH)])
        self.sure = sure

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        answer = torch.zeros(x.shape[0], 5)
        going = True
        for block, leave in zip(self.blocks, self.exits):  # noqa: B905 TorchScript knows no strict
            if going:
                x = block(x)
                answer = leave(x.mean(1))
                going = bool(torch.softmax(answer, -1).max() < self.sure)
        return answer


def cases() -> list[Case]:
    axes = {"x": {0: "batch", 1: "sequence"}, "y": {0: "batch"}}
    note = "scripted, not traced: later layers live in the branches of If"
    made = partial(EarlyExit, 2.0)
    return [of("early-exit", "early_exit", made, dynamic_axes=axes, rules=at("out", heads=HEADS), note=note)]
