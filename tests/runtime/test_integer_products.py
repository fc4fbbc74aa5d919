"""Products of integers are exact where a processor's kernel saturates."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from onnxheadprune import prune
from onnxheadprune.model.load import LoadedModel
from onnxheadprune.runtime.int8_saturation import unsaturated
from tests.graphs import toys

RANDOM = np.random.default_rng(0)
OPSETS = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]


def model_of(nodes: list[Any], stored: dict[str, Any], shape: list[int], made: int) -> ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("a", TensorProto.UINT8, shape)],
        [helper.make_tensor_value_info("y", made, None)],
        [numpy_helper.from_array(array, name) for name, array in stored.items()],
    )
    return helper.make_model(graph, opset_imports=OPSETS, ir_version=9)


def run(model: ModelProto, feed: dict[str, Any]) -> Any:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, feed)[0]


def moved(model: ModelProto) -> ModelProto:
    changed = unsaturated(LoadedModel(model, "m")).proto
    assert changed is not model
    return changed


A = np.full((3, 64), 250, np.uint8)
B = RANDOM.integers(100, 128, (64, 16)).astype(np.int8)


@pytest.mark.parametrize("zero", [None, np.int8(-7), RANDOM.integers(-9, 9, 16).astype(np.int8)])
def test_a_product_is_what_integers_give(zero: Any) -> None:
    stored = {"b": B, "a0": np.uint8(3)} | ({} if zero is None else {"b0": np.asarray(zero)})
    inputs = ["a", "b", "a0", *(["b0"] if zero is not None else [])]
    node = helper.make_node("MatMulInteger", inputs, ["y"])
    found = run(moved(model_of([node], stored, [3, 64], TensorProto.INT32)), {"a": A})
    right = B.astype(np.int64) - (0 if zero is None else zero.astype(np.int64))
    assert np.array_equal(found, (A.astype(np.int64) - 3) @ right)


def test_a_convolution_is_what_integers_give() -> None:
    pictures = np.full((1, 32, 4, 4), 250, np.uint8)
    weight = RANDOM.integers(100, 128, (8, 32, 1, 1)).astype(np.int8)
    node = helper.make_node("ConvInteger", ["a", "w"], ["y"])
    found = run(moved(model_of([node], {"w": weight}, [1, 32, 4, 4], TensorProto.INT32)), {"a": pictures})
    wanted = np.einsum("nchw,kc->nkhw", pictures.astype(np.int64), weight[:, :, 0, 0].astype(np.int64))
    assert np.array_equal(found, wanted)


@pytest.mark.parametrize("runs", [False, True])
def test_a_model_that_onnx_runtime_cannot_optimize_is_not_called_wrong(runs: bool) -> None:
    """Its optimizer lets a Transpose and a Reshape move float8 numbers, for which they have no kernel."""
    model = toys.attention()
    model.opset_import[0].version = 19
    type_of = TensorProto.UINT8 if runs else TensorProto.FLOAT8E4M3FN
    model.graph.initializer.extend(
        [helper.make_tensor("s", TensorProto.FLOAT, [], [0.02]), helper.make_tensor("z", type_of, [], [0])]
    )
    places = [position for position, node in enumerate(model.graph.node) if node.output[0] == "merged"]
    model.graph.node[places[0]].output[0] = "raw"
    for step, (op, given, made) in enumerate(
        [("QuantizeLinear", "raw", "levels"), ("DequantizeLinear", "levels", "merged")], start=1
    ):
        model.graph.node.insert(places[0] + step, helper.make_node(op, [given, "s", "z"], [made]))
    found = prune(model, heads="0:1", provider="cpu").validation
    assert found is not None and found.passed
    assert any("not even the original runs" in note for note in found.notes) != runs
