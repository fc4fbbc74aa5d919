"""Inputs for the cases, drawn from a fixed seed."""

from __future__ import annotations

import torch

SIZES = ((3, 7), (1, 5))
"""(batch, sequence) of the two feeds; all different, so that no axis is mistaken for another."""


def ids(batch: int, length: int, vocab: int) -> torch.Tensor:
    """Returns random token ids ``[batch, length]``, without the special ids 0, 1 and 2."""
    return torch.randint(3, vocab, (batch, length), generator=_generator(batch, length))


def mask(batch: int, length: int, *, left: bool = False) -> torch.Tensor:
    """Returns a padding mask ``[batch, length]``; row ``i`` has ``i`` padded places."""
    value = torch.ones(batch, length, dtype=torch.int64)
    for row in range(1, batch):
        padded = min(row, length - 1)
        value[row, : padded if left else length] = 0 if left else 1
        if not left:
            value[row, length - padded :] = 0
    return value


def floats(*shape: int, seed: int = 0) -> torch.Tensor:
    """Returns standard normal values."""
    return torch.randn(*shape, generator=_generator(seed, *shape))


def _generator(*key: int) -> torch.Generator:
    return torch.Generator().manual_seed(hash(key) & 0xFFFFFFFF)
