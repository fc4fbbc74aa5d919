"""Products of integers: exact where a processor's kernel saturates, and compared by what they mean by zero."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from onnxheadprune import prune, validate
from onnxheadprune.model.load import LoadedModel
from onnxheadprune.runtime import Session, session
from onnxheadprune.runtime.int8_saturation import may_saturate, saturates, unsaturated
from onnxheadprune.runtime.session import onnx_runtime
from onnxheadprune.validation import runs
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


def unrecorded(path: Path) -> onnx.ModelProto:
    """A cut that does not say which heads it lacks."""
    model = onnx.load(path)
    del model.metadata_props[:]
    return model


@pytest.mark.slow
@pytest.mark.parametrize("gone", [[1], [0, 2]])
def test_dynamically_quantized_models_are_proven(gone: list[int], tmp_path: Path) -> None:
    """The zero point of a projection's input changes with the input; positions of silenced heads hold just that."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    source, quantized, cut = (tmp_path / name for name in ("m.onnx", "q.onnx", "cut.onnx"))
    onnx.save(toys.attention(hidden=64, heads=4), source)
    quantize_dynamic(source, quantized, weight_type=QuantType.QInt8)
    assert any(node.op_type == "MatMulInteger" for node in onnx.load(quantized).graph.node)
    prune(quantized, cut, heads={0: gone})
    assert validate(quantized, cut).verdict == "passed"
    assert validate(quantized, unrecorded(cut), heads="0:3").verdict == "failed"


@pytest.mark.slow
@pytest.mark.parametrize("pretended", [True, False])
def test_deployment_is_compared_without_saturation(
    pretended: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On processors that saturate, a cut changes which products do, and a right one would look wrong.

    What exact settings do for a processor that saturates is exact on every processor, so any may pretend to be one.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    ran: list[bool] = []

    class Recording(Session):
        def __init__(self, model: Any, *given: Any, **more: Any) -> None:
            if more.get("optimize"):
                ran.append(may_saturate(model))
            super().__init__(model, *given, **more)

    if pretended:
        monkeypatch.setattr(session, "saturates", lambda runtime: True)
    here = pretended or saturates(onnx_runtime())
    monkeypatch.setattr(runs, "Session", Recording)
    source, quantized, cut = (tmp_path / name for name in ("m.onnx", "q.onnx", "cut.onnx"))
    onnx.save(toys.attention(hidden=64, heads=4), source)
    quantize_dynamic(source, quantized, weight_type=QuantType.QInt8, per_channel=True)
    prune(quantized, cut, heads={0: [1]})
    ran.clear()
    verdict = validate(quantized, cut)
    assert verdict.verdict == "passed"
    assert ran == [not here] * 2
    assert (runs.SATURATES in verdict.notes) == here
    assert validate(quantized, unrecorded(cut), heads="0:3").verdict == "failed"


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
