"""How numbers and sets of numbers are spelled."""

from __future__ import annotations

import numpy as np
import pytest

from onnxheadprune.display.spelling import read_ranges, spelled


def test_ranges_are_read_as_they_are_spelled() -> None:
    numbers = sorted(np.random.default_rng(0).choice(300, 120, replace=False).tolist())
    assert list(read_ranges(spelled(numbers), 299)) == numbers
    assert read_ranges("", 5) == ()
    for text in ("3-1", "-1", "4-9", "x"):
        with pytest.raises(ValueError, match=r".+"):
            read_ranges(text, 5)
