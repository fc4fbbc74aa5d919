"""Requests as tests make them."""

from __future__ import annotations

from onnxheadprune.attention.specs import HeadSpec
from onnxheadprune.workflow.requests import Choice, Proving, Request, Run


def asked(heads: HeadSpec = "0:1", *, seed: int = 0, validate: bool = True) -> Request:
    """Named heads, on the CPU."""
    return Request(Choice(heads), run=Run("cpu", seed), proving=Proving(validate))
