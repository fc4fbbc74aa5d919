"""Adapters that give every model the same face: positional tensors in, a tuple of tensors out."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class Positional(nn.Module):
    """Calls a model that wants keywords and returns the named fields of its output.

    The wrapped model is the submodule ``model``.
    """

    def __init__(
        self, model: nn.Module, inputs: tuple[str, ...], fields: tuple[str, ...], **fixed: Any
    ) -> None:
        super().__init__()
        self.model = model
        self._inputs = inputs
        self._fields = fields
        self._fixed = fixed

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Runs the model."""
        out = self.model(**dict(zip(self._inputs, inputs, strict=True)), **self._fixed)
        if isinstance(out, torch.Tensor):
            return (out,)
        return tuple(out[field] for field in self._fields)
