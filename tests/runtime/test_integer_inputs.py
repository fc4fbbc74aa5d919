"""Inputs of integers that are not what their name says, or say nothing: read otherwise until the model runs."""

from __future__ import annotations

import numpy as np
import pytest

from onnxheadprune import InferenceError
from onnxheadprune.operators import view_of
from onnxheadprune.runtime import CPU, Provider, Session
from onnxheadprune.runtime.feeds.generate import FeedMaker
from onnxheadprune.runtime.feeds.inputs import Role, graph_inputs
from tests.graph_text import model_of
from tests.runtime.feeding import F32, I64, feeds_of, graph_with

HEAD = """
<ir_version: 9, opset_import: ["" : 17]>
toy (float[batch, length, 4] x, int64[batch, length] b) => (float[batch, n, 4] y)
<int64[1] zero = {0}, int64[1] one = {1}, int64[1] width = {4}, int64[1] first = {0}, int64 two = {2},
 float[1, 4] row, float[66, 4] table>
"""
SUM = "copied = Shape<start=0, end=1>(x) target = Concat<axis=0>(copied, n, width) y = Reshape<allowzero=1>(x, target)"
ONLY = {
    "ones": "{ d = Sub(b, one) p = Pow(d, two) g = Gather(row, p) y = Add(x, g) }",
    "zeros": "{ p = Pow(b, two) g = Gather(row, p) y = Add(x, g) }",
    "row numbers": f"{{ m = ReduceMax<keepdims=0>(b) r = Reshape(m, one) n = Add(r, one) {SUM} }}",
    "the length": f"{{ m = ReduceMax<keepdims=0>(b) n = Reshape(m, one) {SUM} }}",
}
SUMMED_UP = """
<ir_version: 9, opset_import: ["" : 17]>
toy (float[batch, length, 4] x, int64[batch, length] attention_mask) => (float[batch, length, 4] y)
<int64 one = {1}, int64 two = {2}, float[12, 4] table>
{
    counted = CumSum(attention_mask, one)
    known = Mul(counted, attention_mask)
    from_zero = Sub(known, one)
    positions = Add(from_zero, two)
    placed = Gather(table, positions)
    y = Add(x, placed)
}
"""


@pytest.mark.parametrize("reading", ONLY)
def test_other_readings_are_tried(reading: str) -> None:
    view = view_of(model_of(HEAD + ONLY[reading]))
    session = Session(view.model, Provider(CPU, "test"))
    maker = FeedMaker(view)
    for case in maker.cases:
        found = maker.first_that_runs(case, session.run)
        assert not isinstance(found, InferenceError), found
    assert maker.note.endswith(f"b holds {reading}")
    again = FeedMaker(view)
    assert not isinstance(again.first_that_runs(again.cases[0], session.run), InferenceError)
    assert again.readings == maker.readings


def test_a_mask_that_is_summed_up_to_positions_is_a_mask() -> None:
    view = view_of(model_of(SUMMED_UP))
    (_, mask) = graph_inputs(view)
    assert mask.role is Role.MASK
    session = Session(view.model, Provider(CPU, "test"))
    maker = FeedMaker(view)
    found = maker.first_that_runs(maker.cases[0], session.run)
    assert not isinstance(found, InferenceError)
    assert (found[0]["attention_mask"] == np.ones((2, 7))).all() and not maker.note


IDS = ("ids", I64, ["batch", "length"])


def test_lengths_with_a_cache_count_it() -> None:
    cache = ("past_key_values.0.key", F32, ["batch", 2, "past", 4])
    for feed in feeds_of(graph_with(IDS, cache, ("total_length", I64, []))):
        assert feed["total_length"] == feed["ids"].shape[1] + feed["past_key_values.0.key"].shape[2]
