"""A small pre-LN decoder on characters, in plain PyTorch."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

LAYERS, NUM_HEADS, HEAD_SIZE, MLP_RATIO = 4, 8, 16, 3
HIDDEN = NUM_HEADS * HEAD_SIZE
VOCABULARY, CONTEXT = 96, 96
INIT_STD = 0.02


class Attention(nn.Module):
    """Causal multi-head self-attention with separate projections."""

    mask: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(HIDDEN, HIDDEN) for _ in range(3))
        self.proj = nn.Linear(HIDDEN, HIDDEN)
        self.register_buffer("mask", torch.ones(CONTEXT, CONTEXT, dtype=torch.bool).tril(), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps [batch, sequence, hidden] to the same shape."""
        batch, sequence = x.shape[:2]
        split = (batch, sequence, NUM_HEADS, HEAD_SIZE)
        query = self.query(x).reshape(split).transpose(1, 2)
        key = self.key(x).reshape(split).transpose(1, 2)
        value = self.value(x).reshape(split).transpose(1, 2)
        scores = (query * HEAD_SIZE**-0.5) @ key.transpose(-2, -1)
        visible = self.mask[:sequence, :sequence]
        context = torch.where(visible, scores, float("-inf")).softmax(-1) @ value
        projected: torch.Tensor = self.proj(context.transpose(1, 2).reshape(batch, sequence, HIDDEN))
        return projected


class Block(nn.Module):
    """A pre-LN transformer block."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(HIDDEN), Attention()
        self.norm2 = nn.LayerNorm(HIDDEN)
        self.fc1 = nn.Linear(HIDDEN, MLP_RATIO * HIDDEN)
        self.fc2 = nn.Linear(MLP_RATIO * HIDDEN, HIDDEN)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps [batch, sequence, hidden] to the same shape."""
        x = x + self.attn(self.norm1(x))
        update: torch.Tensor = self.fc2(functional.gelu(self.fc1(self.norm2(x))))
        return x + update


class CharGPT(nn.Module):
    """Predicts the next character: [batch, sequence] ids to [batch, sequence, vocabulary] logits."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, HIDDEN)
        self.positions = nn.Parameter(torch.randn(CONTEXT, HIDDEN) * INIT_STD)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(HIDDEN)
        self.head = nn.Linear(HIDDEN, VOCABULARY)
        nn.init.normal_(self.embed.weight, std=INIT_STD)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Gives the logits of a batch; at most `CONTEXT` characters each."""
        x = self.embed(input_ids) + self.positions[: input_ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        logits: torch.Tensor = self.head(self.norm(x))
        return logits
