"""A small pre-LN vision transformer for 8x8 images, in plain PyTorch."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

LAYERS, NUM_HEADS, HEAD_SIZE, MLP_RATIO = 4, 8, 8, 2
HIDDEN = NUM_HEADS * HEAD_SIZE
IMAGE, PATCH, CLASSES = 8, 2, 10
TOKENS = (IMAGE // PATCH) ** 2 + 1
DROPOUT = 0.1


class Attention(nn.Module):
    """Multi-head self-attention with one packed projection for query, key and value."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(HIDDEN, 3 * HIDDEN)
        self.proj = nn.Linear(HIDDEN, HIDDEN)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps [batch, tokens, hidden] to the same shape."""
        batch = x.shape[0]
        packed = self.qkv(x).reshape(batch, TOKENS, 3, NUM_HEADS, HEAD_SIZE)
        query, key, value = packed.permute(2, 0, 3, 1, 4).unbind(0)
        scores = (query * HEAD_SIZE**-0.5) @ key.transpose(-2, -1)
        context = scores.softmax(-1) @ value
        projected: torch.Tensor = self.proj(context.transpose(1, 2).reshape(batch, TOKENS, HIDDEN))
        return projected


class Mlp(nn.Module):
    """The feed-forward half of a block."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(HIDDEN, MLP_RATIO * HIDDEN)
        self.fc2 = nn.Linear(MLP_RATIO * HIDDEN, HIDDEN)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps [batch, tokens, hidden] to the same shape."""
        projected: torch.Tensor = self.fc2(functional.gelu(self.fc1(x)))
        return projected


class Block(nn.Module):
    """A pre-LN transformer block."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(HIDDEN), Attention()
        self.norm2, self.mlp = nn.LayerNorm(HIDDEN), Mlp()
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps [batch, tokens, hidden] to the same shape."""
        x = x + self.dropout(self.attn(self.norm1(x)))
        update: torch.Tensor = self.dropout(self.mlp(self.norm2(x)))
        return x + update


class DigitsViT(nn.Module):
    """Classifies [batch, 1, 8, 8] images in [0, 1] into [batch, 10] logits."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(1, HIDDEN, PATCH, PATCH)
        self.cls_token = nn.Parameter(torch.randn(1, 1, HIDDEN) * 0.02)
        self.pos_embed = nn.Parameter(torch.randn(1, TOKENS, HIDDEN) * 0.02)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(HIDDEN)
        self.head = nn.Linear(HIDDEN, CLASSES)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Gives the logits of a batch."""
        patches = self.patch_embed(images).flatten(2).transpose(1, 2)
        cls_tokens = self.cls_token.expand(images.shape[0], -1, -1)
        x = torch.cat((cls_tokens, patches), dim=1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        logits: torch.Tensor = self.head(self.norm(x)[:, 0])
        return logits
