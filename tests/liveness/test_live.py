"""`Live` against boolean arrays spelled out in full."""

from __future__ import annotations

import itertools
import pickle

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st

from onnxheadprune.liveness.live import DEAD, FULL, Live, fits
from onnxheadprune.model.graph.dims import multiply, symbol
from tests.liveness.masks import Array, compact

SHAPE = (2, 3, 4)


@st.composite
def masks(draw: st.DrawFn) -> Array:
    """Any mask of SHAPE, often constant along some axes."""
    kept = [size if draw(st.booleans()) else 1 for size in SHAPE]
    bits = draw(st.lists(st.booleans(), min_size=int(np.prod(kept)), max_size=int(np.prod(kept))))
    return np.array(np.broadcast_to(np.array(bits).reshape(kept), SHAPE))


def live(mask: Array) -> Live:
    return Live.over(range(3), mask)


def whole(item: Live) -> Array:
    """The mask of a `Live` on SHAPE."""
    sized = item.aligned(range(3), SHAPE)
    return np.asarray(sized != 0)


@given(masks())
def test_canonical_form_keeps_the_mask_and_only_axes_that_vary(mask: Array) -> None:
    item = live(mask)
    np.testing.assert_array_equal(whole(item), mask)
    for position, _ in enumerate(item.axes):
        first = item.array.take([0], axis=position)
        assert not np.all(item.array == first)
    assert item.is_full == bool(mask.all())
    assert item.is_dead == (not mask.any())


@given(masks(), st.permutations(range(3)))
def test_order_of_axes_does_not_matter(mask: Array, order: list[int]) -> None:
    assert Live.over(order, mask.transpose(order)) == live(mask)


@given(masks(), masks())
def test_union_and_intersection(left: Array, right: Array) -> None:
    np.testing.assert_array_equal(whole(live(left) | live(right)), left | right)
    np.testing.assert_array_equal(whole(live(left) & live(right)), left & right)
    assert live(left).covers(live(right)) == bool(np.all(left >= right))


@given(masks(), st.sets(st.integers(0, 2)))
def test_projection_is_any_along_the_rest(mask: Array, kept: set[int]) -> None:
    rest = tuple(axis for axis in range(3) if axis not in kept)
    want = np.broadcast_to(mask.any(axis=rest, keepdims=True), SHAPE)
    np.testing.assert_array_equal(whole(live(mask).only(kept)), want)


@given(masks())
def test_product_closure_is_the_smallest_product(mask: Array) -> None:
    assume(mask.any())  # DEAD has no axes to close; nothing asks for its closure
    sides = [np.asarray(mask.any(axis=tuple(o for o in range(3) if o != axis))) for axis in range(3)]
    want = sides[0][:, None, None] & sides[1][:, None] & sides[2]
    item = live(mask)
    np.testing.assert_array_equal(whole(item.product_closure()), want)
    assert item.is_product == bool(np.array_equal(want, mask))


@given(masks())
def test_dense_shape_is_the_shape_of_the_compacted_array(mask: Array) -> None:
    item, data = live(mask), np.arange(24).reshape(SHAPE)
    shape = item.dense_shape()
    if not mask.any():
        return
    if shape is None:
        try:
            compact(data, item)
        except ValueError:
            assert item.dense_closure() == item.product_closure()
            return
        raise AssertionError("this mask is rectangular")
    kept = dict(zip(item.axes, shape, strict=True))
    assert compact(data, item).shape == tuple(kept.get(axis, size) for axis, size in enumerate(SHAPE))
    assert item.dense_closure() == item
    for axis in item.axes:
        assert item.extent(axis) == (kept[axis], SHAPE[axis])
        assert item.narrow(SHAPE[axis], axis) == kept[axis]


def test_periods_repeat_on_symbolic_axes() -> None:
    batch = symbol("b")
    item = Live.over((0,), np.array([True, False, True]))
    merged = multiply(batch, 6)
    assert fits(item, (merged,))
    assert not fits(item, (multiply(batch, 4),))
    assert not fits(item, (6,))
    assert fits(Live.over((0,), np.array([True, False, True])), (merged,))
    assert item.narrow(merged, 0) == multiply(batch, 4)
    assert item.narrow(batch, 0) == batch
    other = Live.over((0,), np.array([True, False]))
    assert (item | other).period(0) == 6


def test_labels_unite() -> None:
    labels = Live.over((0, 1), np.array([[1, 2], [0, 4]]))
    assert labels.only([0]) == Live.over((0,), np.array([1, 4]))
    bits = Live.over((0, 1), np.array([[1, 2], [0, 4]], dtype=object))
    assert bits.only([0]) == Live.over((0,), np.array([3, 4], dtype=object))
    assert labels.as_mask() == Live.over((0, 1), np.array([[True, True], [False, True]]))


def test_full_and_dead() -> None:
    assert FULL.is_full
    assert DEAD.is_dead
    assert (FULL | DEAD).is_full
    assert FULL.extent(0) == (1, 1)
    assert DEAD != FULL


def test_keys_tell_live_sets_apart_and_stay_short() -> None:
    """A decoder of 7 billion weights has 800 keys of 4,096 or 11,008 labels."""
    labels = np.arange(1, 11_009)
    parts, repeats = (labels, labels[:4], -labels), ((), ((0, symbol("batch")),))
    apart = [
        *(Live((axis,), *item) for axis in (0, 1) for item in itertools.product(parts, repeats)),
        *(Live.over((0, 1), labels.reshape(shape)) for shape in ((2, -1), (4, -1))),
    ]
    assert len({live.key for live in apart}) == len(apart)
    assert all(Live(live.axes, live.array.copy(), live.repeats).key == live.key for live in apart)
    assert max(len(pickle.dumps(live.key)) for live in apart) < 512
