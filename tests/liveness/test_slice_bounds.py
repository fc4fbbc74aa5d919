"""Slices with bounds of which only some are literal: what is known is used, what cannot be written is refused."""

from __future__ import annotations

import numpy as np

from onnxheadprune import Reason
from onnxheadprune.liveness.live import Live
from onnxheadprune.liveness.sweep import sweep
from onnxheadprune.liveness.sweep_result import Seed
from onnxheadprune.operators import view_of
from tests.graph_text import model_of
from tests.liveness.masks import compact
from tests.liveness.one_node import pruned, run

PARTLY = """
<ir_version: 10, opset_import: ["": 17]>
g (float[2, S, 12] x, float[R] counted) => (float[2, T, 4] y)
<int64[2] axes = {1, 2}, int64[1] zero = {0}, int64[1] four = {4}, int64[1] eight = {8}>
{
    length = Shape(counted)
    starts = Concat<axis = 0>(zero, four)
    ends = Concat<axis = 0>(length, eight)
    part = Slice(x, starts, ends, axes)
    y = Identity(part)
}
"""
UNKNOWN = """
<ir_version: 10, opset_import: ["": 17]>
g (float[2, 12] x, int64[1] start, int64[1] end) => (float[A, B] y)
{
    y = Slice(x, start, end)
}
"""
PAIRS = np.array([True, True, False, False])


def test_the_size_of_an_axis_with_literal_bounds_is_known() -> None:
    view = view_of(model_of(PARTLY))
    shape = view.main.values["part"].shape
    assert shape is not None
    assert (shape[0], shape[2]) == (2, 4)
    assert not isinstance(shape[1], int)


def test_bounds_that_are_partly_computed_do_not_move() -> None:
    """The heads lie along the axis with literal bounds, but both axes' bounds are one computed list."""
    model = model_of(PARTLY)
    view = view_of(model)
    swept = sweep([Seed(view.nodes[-1], 0, Live.over((2,), PAIRS), "s")], frozenset([view.main.values["x"]]))
    (refusal,) = swept.refusals.values()
    assert refusal.reason is Reason.INEXPRESSIBLE
    feed = {"x": np.random.default_rng(0).random((2, 5, 12), np.float32), "counted": np.zeros(3, np.float32)}
    got, want = run(pruned(view, swept), feed)["y"], run(model, feed)["y"]
    np.testing.assert_array_equal(got, compact(want, Live.over((2,), PAIRS)))


def test_a_slice_of_which_nothing_is_known_has_no_shape_of_ours() -> None:
    shape = view_of(model_of(UNKNOWN)).main.values["y"].shape
    assert shape is None or not any(isinstance(dim, int) for dim in shape)
