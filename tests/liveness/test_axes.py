"""Heads are found on the axes that a reshape moves them to."""

from __future__ import annotations

import numpy as np
import pytest

from onnxheadprune.liveness.axes import reshape_back
from onnxheadprune.liveness.live import Live
from onnxheadprune.model.graph.dims import Shape, floor_divide, multiply, symbol

B, S = symbol("b"), symbol("s")
HEADS = np.array([True, False, True, True])


CASES: dict[str, tuple[Shape, Shape, int, int, int]] = {
    # name: input shape, output shape, live output axis, input axis, period there
    "batch = heads = seq = 4": ((4, 4, 20), (4, 4, 4, 5), 2, 2, 20),
    "size-1 query axis": ((B, 1, 20), (B, 1, 4, 5), 2, 2, 20),
    "size-1 axis before the heads": ((B, S, 20), (B, S, 1, 4, 5), 3, 2, 20),
    "merged batch and heads": ((multiply(B, 4), S, 5), (B, 4, S, 5), 1, 0, 4),
    "unmerged batch and heads": ((B, 4, S, 5), (multiply(B, 4), S, 5), 0, 1, 4),
    "merged, fixed batch": ((8, 3, 5), (2, 4, 3, 5), 1, 0, 8),
    "sequence first": ((S, multiply(B, 4), 5), (S, B, 20), 2, 1, 4),
    "opaque symbol": ((floor_divide(S, 2), 20), (floor_divide(S, 2), 4, 5), 1, 1, 20),
}


@pytest.mark.parametrize("name", CASES)
def test_heads_are_found_on(name: str) -> None:
    before, after, axis, want, period = CASES[name]
    repeats = 5 if name == "sequence first" else 1
    live = Live.over((axis,), HEADS.repeat(repeats))
    back = reshape_back(live, before, after)
    assert back is not None
    assert back.axes == (want,)
    assert back.period(want) == period
    assert back.array.mean() == HEADS.mean()


def test_packed_and_interleaved_heads() -> None:
    grid = np.arange(3 * 4 * 5)
    packed = reshape_back(Live.over((3,), HEADS), (B, S, 60), (B, S, 3, 4, 5))
    interleaved = reshape_back(Live.over((2,), HEADS), (B, S, 60), (B, S, 4, 3, 5))
    assert packed is not None
    assert interleaved is not None
    np.testing.assert_array_equal(np.tile(packed.array, 60 // packed.period(2)), HEADS[grid // 5 % 4])
    np.testing.assert_array_equal(interleaved.array, HEADS[grid // 15])


def test_two_unrelated_symbols_are_not_matched() -> None:
    assert reshape_back(Live.over((1,), HEADS), (symbol("u"), 5), (B, 4, 5)) is None
