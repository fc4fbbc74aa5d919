"""Text for a decoder: short lines joined to windows and long ones divided, as far as the model's positions reach."""

from __future__ import annotations

import pytest

from onnxheadprune.data.text import Windows
from tests.data.windows import lines


@pytest.mark.parametrize("joins", [True, False])
@pytest.mark.parametrize("start", [[], [7]])
def test_windows_hold_every_token_once(joins: bool, start: list[int]) -> None:
    texts = [[*start, *row] for row in lines(9, 31)] + [[*start, 5]]
    windows = Windows(12, start, () if start else (1,), joins=joins)
    found = windows.of(texts)
    assert max(map(len, found)) <= 12 and all(window[: len(start)] == start for window in found)
    tokens = [token for window in found for token in window if token not in (*start, 1)]
    assert tokens == [token for text in texts for token in text if token not in start]
    if joins and not start:
        assert {len(window) for window in found} <= {11, 12}
        assert sum(window.count(1) for window in found) == len(texts) - 1
