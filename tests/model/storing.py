"""Tensors that stay on disk where a test is to see what happens to those of gigabytes."""

from __future__ import annotations

import pytest

from onnxheadprune.model import load, new_contents
from onnxheadprune.model.storage import wire

FILE, TENSOR = 1000, 100
"""Bytes of what counts as large."""


def on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of 1000 bytes are mapped, and tensors of 100 stay in them."""
    monkeypatch.setattr(load, "MAPPED_FROM", FILE)
    for module in (wire, load, new_contents):
        monkeypatch.setattr(module, "BIG", TENSOR)
