"""The axes of a value are followed through every reduction, in every way in which its axes can be written.

The oracle permutes an axis of the input, and sees along which axis of the output ONNX Runtime's results are permuted.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, helper, numpy_helper

from onnxheadprune import inspect
from onnxheadprune.liveness.carriers import labels_behind
from onnxheadprune.liveness.live import Live
from onnxheadprune.model.graph.operator import REDUCES
from onnxheadprune.operators import view_of
from tests.graphs.experts import Experts
from tests.liveness.one_node import run

SHAPE = (3, 5, 4)
X = np.random.default_rng(0).uniform(0.5, 2.0, SHAPE).astype(np.float32)
AXES = [None, [], [0], [1], [-1], [-2], [0, 2], [1, -1], [-3, 1], [0, 1, 2]]
CHOICES = ("ArgMax", "ArgMin")
REDUCTIONS = sorted(REDUCES)


def _forms() -> Iterator[tuple[str, int, list[int] | None, bool, Mapping[str, int]]]:
    """Operator, opset, axes, whether these are an input, and the other attributes."""
    for op_type, keepdims in itertools.product([*REDUCTIONS, *CHOICES], (None, 0, 1)):
        kept = {} if keepdims is None else {"keepdims": keepdims}
        if op_type in CHOICES:
            for axis in range(-3, 3):
                yield op_type, 13, None, False, kept | {"axis": axis}
            continue
        first = 13 if op_type == "ReduceSum" else 18
        for axes in AXES:
            if axes != []:
                yield op_type, first - 1, axes, False, kept
            for noop in {(), ("noop_with_empty_axes",)}:
                if axes or not noop or op_type in ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin"):
                    yield op_type, first, axes, True, kept | dict.fromkeys(noop, 1)


def _model(
    op_type: str, opset: int, axes: list[int] | None, given: bool, more: Mapping[str, Any]
) -> ModelProto:
    attributes = dict(more) | ({"axes": axes} if axes is not None and not given else {})
    inputs = ["x", "axes"] if axes is not None and given else ["x"]
    node = helper.make_node(op_type, inputs, ["y"], **attributes)
    stored = [numpy_helper.from_array(np.array(axes, np.int64), "axes")] if len(inputs) > 1 else []
    kind = 7 if op_type in CHOICES else 1
    graph = helper.make_graph(
        [node],
        "reduction",
        [helper.make_tensor_value_info("x", 1, SHAPE)],
        [helper.make_tensor_value_info("y", kind, None)],
        stored,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    rank = len(run(model, {"x": X})["y"].shape)
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", kind, [None] * rank))
    return model


@pytest.mark.first_case
@pytest.mark.parametrize("op_type", [*REDUCTIONS, *CHOICES])
def test_axes_are_followed_through_reductions(op_type: str) -> None:
    tried = 0
    for form in _forms():
        if form[0] != op_type:
            continue
        model = _model(*form)
        node = next(node for node in view_of(model).nodes if node.op_type == op_type)
        whole = run(model, {"x": X})["y"]
        for axis, size in enumerate(SHAPE):
            order = np.roll(np.arange(size), 1)
            permuted = run(model, {"x": X.take(order, axis)})["y"]
            places = [
                place
                for place in range(whole.ndim)
                if whole.shape[place] == size and np.allclose(permuted, whole.take(order, place), rtol=1e-6)
            ]
            found = labels_behind(node, 0, Live.numbered(axis, size))
            assert ([] if found is None else list(found.axes)) == places, (form, axis)
            tried += 1
    assert tried > 50


@pytest.mark.parametrize("axes", [[-1, -2], [0, 1], [-2, 1]])
def test_a_one_hot_mask_that_is_reduced_to_experts_is_no_bug(axes: list[int]) -> None:
    """`expert_mask.sum((-1, -2)) > 0`, as transformers asks which experts are hit: `inspect` ended in exit code 70."""
    listed = ", ".join(map(str, axes))
    more = f"""
  marks = OneHot <axis = 0> (i, depth, off_on)
  turned = Transpose <perm = [{"0, 1, 2" if axes[0] < 0 else "1, 2, 0"}]> (marks)
  both = Constant <value_ints = [{listed}]> ()
  hits = ReduceSum <keepdims = 0> (turned, both)
  hit = Greater (hits, low)
"""
    (mixture,) = inspect(Experts(more=more, outputs=", bool[6] hit").model()).of("experts")
    assert "hit is a graph output with scores of experts" in str(mixture.reason)
