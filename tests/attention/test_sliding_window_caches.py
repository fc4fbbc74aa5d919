"""A window of the last tokens: the oldest is dropped unread, and past and present lose the same heads."""

from __future__ import annotations

import pytest

from onnxheadprune import prune
from tests.graph_text import model_of

WINDOW = """
<ir_version: 8, opset_import: ["" : 17]>
decoder (float[b,1,8] x, float[b,4,6,2] past_k, float[b,4,6,2] past_v)
    => (float[b,1,8] y, float[b,4,6,2] present_k, float[b,4,6,2] present_v)
<
  float[8,8] w_q, float[8,8] w_k, float[8,8] w_v, float[8,8] w_o,
  int64[4] apart = {0, 0, 4, 2}, int64[3] joined = {0, 0, 8},
  int64[1] first = {0}, int64[1] second = {1}, int64[1] end = {99}, int64[1] axis = {2}
>
{
  q1 = MatMul (x, w_q)
  k1 = MatMul (x, w_k)
  v1 = MatMul (x, w_v)
  q2 = Reshape (q1, apart)
  k2 = Reshape (k1, apart)
  v2 = Reshape (v1, apart)
  q = Transpose <perm = [0, 2, 1, 3]> (q2)
  k = Transpose <perm = [0, 2, 1, 3]> (k2)
  v = Transpose <perm = [0, 2, 1, 3]> (v2)
  MOVED
  keys = Transpose <perm = [0, 1, 3, 2]> (present_k)
  scores = MatMul (q, keys)
  weights = Softmax <axis = -1> (scores)
  context = MatMul (weights, present_v)
  back = Transpose <perm = [0, 2, 1, 3]> (context)
  flat = Reshape (back, joined)
  y = MatMul (flat, w_o)
}
"""
DROPPED = """
  rest_{0} = Slice (past_{0}, second, end, axis)
  present_{0} = Concat <axis = 2> (rest_{0}, {0})"""
ROLLED = """
  rest_{0} = Slice (past_{0}, second, end, axis)
  oldest_{0} = Slice (past_{0}, first, second, axis)
  rolled_{0} = Concat <axis = 2> (rest_{0}, oldest_{0})
  five_{0} = Constant <value_ints = [5]> ()
  kept_{0} = Slice (rolled_{0}, first, five_{0}, axis)
  present_{0} = Concat <axis = 2> (kept_{0}, {0})"""


@pytest.mark.each_choice
@pytest.mark.parametrize("moved", [DROPPED, ROLLED], ids=["dropped", "rolled"])
@pytest.mark.parametrize("gone", [[1], [0, 3]])
def test_a_window_that_moves_on_is_a_cache(moved: str, gone: list[int]) -> None:
    model = model_of(WINDOW.replace("MOVED", moved.format("k") + moved.format("v")))
    result = prune(model, heads={0: gone})
    left = 4 - len(gone)
    assert sorted(result.plan.io_changes) == [
        f"{role}_{what}: 4 -> {left} on axis 1"
        for role in ("input past", "output present")
        for what in ("k", "v")
    ]
    assert result.plan.edge_gathers == ()
