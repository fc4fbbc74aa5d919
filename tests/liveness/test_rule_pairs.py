"""Rules that one node alone cannot show: dynamic quantization before a projection, dead pieces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from onnxheadprune.liveness.live import FULL, Live
from onnxheadprune.liveness.sweep import sweep
from onnxheadprune.liveness.sweep_result import Seed
from onnxheadprune.operators import view_of
from tests.liveness.masks import Array, compact
from tests.liveness.one_node import pruned, run

FLOAT = TensorProto.FLOAT
RNG = np.random.default_rng(1)


def model_of(
    nodes: Sequence[NodeProto],
    inputs: Mapping[str, Array],
    outputs: Sequence[str],
    stored: Mapping[str, Array],
) -> ModelProto:
    infos = [helper.make_tensor_value_info(name, FLOAT, array.shape) for name, array in inputs.items()]
    results = [helper.make_tensor_value_info(name, FLOAT, None) for name in outputs]
    tensors = [numpy_helper.from_array(array, name) for name, array in stored.items()]
    graph = helper.make_graph(list(nodes), "pair", infos, results, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


def check(model: ModelProto, feed: Mapping[str, Array], demands: Mapping[str, Live]) -> None:
    """`demands`: what the producers of the named outputs read of their first input."""
    view = view_of(model)
    readers = {name: view.main.values[name].producer for name in demands}
    seeds = [Seed(node, 0, demands[name], "test") for name, node in readers.items() if node is not None]
    free = frozenset(value for value in view.main.values.values() if value.is_graph_input)
    swept = sweep(seeds, free)
    assert not swept.refusals
    narrowed = {value.name: live for value, live in swept.narrowed()}
    got = run(
        pruned(view, swept), {name: compact(array, narrowed.get(name, FULL)) for name, array in feed.items()}
    )
    for name, array in run(model, feed).items():
        np.testing.assert_array_equal(got[name], compact(array, demands.get(name, FULL)))


def test_dynamic_quantization_before_a_projection_equals_the_masked_context() -> None:
    data = RNG.uniform(-1, 1, (3, 8)).astype(np.float32)
    data[:, 6:] *= 50  # the removed columns have by far the widest range
    mask = np.arange(8) < 6
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["xq", "scale", "zero"]),
        helper.make_node("MatMulInteger", ["xq", "w", "zero"], ["product"]),
        helper.make_node("Cast", ["product"], ["real"], to=FLOAT),
        helper.make_node("Mul", ["real", "scale"], ["y"]),
    ]
    weight = RNG.integers(-100, 100, (8, 4)).astype(np.int8)
    model = model_of(nodes, {"x": data}, ["y"], {"w": weight})
    view = view_of(model)
    product = view.main.values["product"].producer
    assert product is not None
    seeds = [Seed(product, 0, Live.over((1,), mask), "s"), Seed(product, 1, Live.over((0,), mask), "s")]
    swept = sweep(seeds, frozenset([view.main.values["x"]]))
    assert not swept.refusals
    got = run(pruned(view, swept), {"x": data[:, mask]})["y"]
    np.testing.assert_array_equal(got, run(model, {"x": data * mask})["y"])


def test_a_piece_that_died_leaves_split_and_concat() -> None:
    data = RNG.random((2, 6)).astype(np.float32)
    nodes = [
        helper.make_node("Split", ["x", "sizes"], ["a", "b", "c"], axis=1),
        helper.make_node("Concat", ["c", "b", "a"], ["joined"], axis=1),
        helper.make_node("Identity", ["joined"], ["y"]),
    ]
    model = model_of(nodes, {"x": data}, ["y"], {"sizes": np.array([2, 1, 3])})
    check(model, {"x": data}, {"y": Live.over((1,), np.array([True, True, False, False, True, True]))})


def test_carrier_that_stays_whole_needs_its_whole_input() -> None:
    """One reader of the Transpose wants half of it, one all; a third wants half of what the Transpose reads."""
    data = RNG.random((2, 4)).astype(np.float32)
    nodes = [
        helper.make_node("Transpose", ["x"], ["turned"]),
        helper.make_node("Identity", ["turned"], ["half"]),
        helper.make_node("Relu", ["turned"], ["whole"]),
        helper.make_node("Neg", ["x"], ["other"]),
    ]
    model = model_of(nodes, {"x": data}, ["half", "whole", "other"], {})
    mask = np.array([True, False, True, False])
    check(model, {"x": data}, {"half": Live.over((0,), mask), "other": Live.over((1,), mask)})


@pytest.mark.parametrize("nothing", ["Slice", "Gather", "Split"])
def test_pieces_without_elements_follow_on_other_axes(nothing: str) -> None:
    """`cat(t[..., :0], t[..., 1:])`, where `t` stays whole for another reader; the empty piece is also read alone."""
    data = RNG.random((2, 4, 3)).astype(np.float32)
    made = {
        "Slice": helper.make_node("Slice", ["x", "zero", "zero", "last"], ["nothing"]),
        "Gather": helper.make_node("Gather", ["x", "none"], ["nothing"], axis=2),
        "Split": helper.make_node("Split", ["x", "sizes"], ["nothing", "all"], axis=2),
    }
    nodes = [
        made[nothing],
        helper.make_node("Slice", ["x", "one", "three", "last"], ["rest"]),
        helper.make_node("Concat", ["nothing", "rest"], ["joined"], axis=2),
        helper.make_node("Identity", ["joined"], ["narrow"]),
        helper.make_node("Identity", ["nothing"], ["alone"]),
        helper.make_node("Relu", ["x"], ["whole"]),
    ]
    stored = {
        "zero": np.array([0]),
        "one": np.array([1]),
        "three": np.array([3]),
        "last": np.array([2]),
        "none": np.zeros(0, np.int64),
        "sizes": np.array([0, 3]),
    }
    live = Live.over((1,), np.array([True, False, True, True]))
    model = model_of(nodes, {"x": data}, ["narrow", "alone", "whole"], stored)
    check(model, {"x": data}, {"narrow": live, "alone": live})
