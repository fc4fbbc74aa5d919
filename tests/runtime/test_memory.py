"""Memory that a model takes, measured in a process of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnxheadprune.runtime import CPU, Provider
from onnxheadprune.runtime.memory import footprint


@pytest.mark.slow
def test_memory_grows_with_the_batch(digits: Path) -> None:
    provider = Provider(CPU, "test")
    small, large = (
        footprint(digits, provider, {"images": np.zeros((batch, 1, 8, 8), dtype=np.float32)})
        for batch in (1, 512)
    )
    if small.peak_bytes is None:
        pytest.skip(small.how)
    assert large.peak_bytes is not None and large.peak_bytes > 2 * small.peak_bytes
    assert "resident memory" in large.how
