"""Calls as tests make them."""

from __future__ import annotations

from onnxheadprune.settings.calls import PruneCall


def call(heads: str | None = "0:1", *, seed: int = 0, validate: bool = True) -> PruneCall:
    """Named heads, on the CPU."""
    return PruneCall(heads=heads, provider="cpu", seed=seed, validate=validate)
