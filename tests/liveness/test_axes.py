"""The view algebra against numpy: `reshape(gather(x)) == gather(reshape(x))`."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from onnxheadprune.liveness.axes import align, broadcast_back, reshape_back
from onnxheadprune.liveness.live import Live, fits
from onnxheadprune.model.graph.dims import Shape, floor_divide, multiply, symbol
from tests.liveness.cases_views import reshaped
from tests.liveness.masks import compact, lives
from tests.liveness.strategies import broadcastable, draw_shape

B, S = symbol("b"), symbol("s")
HEADS = np.array([True, False, True, True])


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(st.data())
def test_reshape_commutes(data: st.DataObject) -> None:
    before, after = reshaped(data.draw)
    live = data.draw(lives(after))
    back = reshape_back(live, before, after)
    assert back is not None
    assert fits(back, before)
    assume(back.dense_shape() is not None)
    array = np.arange(np.prod(before)).reshape(before)
    want = compact(array.reshape(after), live)
    np.testing.assert_array_equal(compact(array, back).reshape(want.shape), want)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_groups_hold_equal_products(data: st.DataObject) -> None:
    before, after = reshaped(data.draw)
    ends = (0, 0)
    for group in align(before, after):
        assert (group.in_start, group.out_start) == ends
        ends = (group.in_stop, group.out_stop)
        inside = np.prod(before[group.in_start : group.in_stop])
        assert inside == np.prod(after[group.out_start : group.out_stop])
    assert ends == (len(before), len(after))


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(st.data())
def test_broadcast_commutes(data: st.DataObject) -> None:
    after = draw_shape(data.draw)
    before = broadcastable(data.draw, after)
    live = data.draw(lives(after))
    back = broadcast_back(live, before, after)
    if back is None or back.dense_shape() is None:
        assert not live.is_product
        return
    array = np.arange(np.prod(before)).reshape(before)
    want = compact(np.broadcast_to(array, after), live)
    np.testing.assert_array_equal(np.broadcast_to(compact(array, back), want.shape), want)


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
