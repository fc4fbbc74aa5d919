"""A context in integers: a silenced head is its zero point there, and not the number 0."""

from __future__ import annotations

import numpy as np
import pytest

from onnxheadprune import apply_plan, plan_pruning, prune, validate
from tests.graph_text import model_of
from tests.toys import get_initializer, set_initializer

TEXT = """
<ir_version: 9, opset_import: ["" : 17]>
block (float[batch,sequence,4] x) => (float[batch,sequence,4] y)
   <int64[4] split = {0,0,3,2}, int64[3] merge = {0,0,6}, float[4,6] w_q, float[4,6] w_k, float[4,6] w_v>
{
   q = MatMul (x, w_q)
   q_split = Reshape (q, split)
   q_heads = Transpose <perm = [0, 2, 1, 3]> (q_split)
   k = MatMul (x, w_k)
   k_split = Reshape (k, split)
   k_heads = Transpose <perm = [0, 2, 3, 1]> (k_split)
   v = MatMul (x, w_v)
   v_split = Reshape (v, split)
   v_heads = Transpose <perm = [0, 2, 1, 3]> (v_split)
   scores = MatMul (q_heads, k_heads)
   weights = Softmax <axis = -1> (scores)
   p8 = QuantizeLinear (weights, p_scale, p_zero)
   v8 = QuantizeLinear (v_heads, v_scale, v_zero)
   context = QLinearMatMul (p8, p_scale, p_zero, v8, v_scale, v_zero, c_scale, c_zero)
   back = Transpose <perm = [0, 2, 1, 3]> (context)
   merged = Reshape (back, merge)
   projected = QLinearMatMul (merged, c_scale, c_zero, w_o, w_scale, w_zero, y_scale, y_zero)
   y = DequantizeLinear (projected, y_scale, y_zero)
}
"""
GIVEN = {
    "p_scale": np.float32(1 / 255),
    "p_zero": np.uint8(0),
    "v_scale": np.float32(0.02),
    "v_zero": np.uint8(128),
    "c_scale": np.float32(0.02),
    "c_zero": np.uint8(120),
    "w_o": np.random.default_rng(0).integers(0, 255, (6, 4)).astype(np.uint8),
    "w_scale": np.float32(0.01),
    "w_zero": np.uint8(128),
    "y_scale": np.float32(0.02),
    "y_zero": np.uint8(128),
}


@pytest.mark.parametrize("gone", ["0:1", "0:0,2"])
def test_heads_go_from_a_context_in_integers(gone: str) -> None:
    result = prune(model_of(TEXT, given=GIVEN), heads=gone, provider="cpu")
    assert result.validation is not None and result.validation.verdict == "passed"


@pytest.mark.slow
def test_another_row_of_the_projection_is_seen() -> None:
    model = model_of(TEXT, given=GIVEN)
    wrong = apply_plan(plan_pruning(model, heads="0:1"), model)
    set_initializer(wrong, "w_o", get_initializer(wrong, "w_o")[::-1])
    assert validate(model, wrong, provider="cpu").verdict == "failed"
