"""Dynamically quantized models: proven as they are, and compared in deployment without what a processor saturates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import ModelProto, TensorProto

from onnxheadprune import prune, validate
from onnxheadprune.model.load import LoadedModel, open_structure
from onnxheadprune.runtime import Session, saturates_here
from onnxheadprune.validation import runs
from tests.graphs import toys


def multiplies_int8(model: ModelProto) -> bool:
    """Whether products of integers read stored int8 weights, as they saturate."""
    stored = {item.name: item.data_type for item in model.graph.initializer}
    products = (node for node in model.graph.node if node.op_type == "MatMulInteger")
    return any(stored.get(node.input[1]) == TensorProto.INT8 for node in products)


def unrecorded(path: Path) -> ModelProto:
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

    What is run for a processor that saturates is exact on every processor, so any may pretend to be one.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    ran: list[bool] = []

    class Recording(Session):
        def __init__(self, model: LoadedModel, *given: Any, **more: Any) -> None:
            if more.get("optimize"):
                ran.append(multiplies_int8(model.proto))
            super().__init__(model, *given, **more)

    source, quantized, cut = (tmp_path / name for name in ("m.onnx", "q.onnx", "cut.onnx"))
    onnx.save(toys.attention(hidden=64, heads=4), source)
    quantize_dynamic(source, quantized, weight_type=QuantType.QInt8, per_channel=True)
    prune(quantized, cut, heads={0: [1]})
    here = pretended or saturates_here(open_structure(quantized))
    monkeypatch.setattr(runs, "saturates_here", lambda *_, **__: here)
    monkeypatch.setattr(runs, "Session", Recording)
    verdict = validate(quantized, cut)
    assert verdict.verdict == "passed"
    assert ran == [not here] * 2
    assert (runs.SATURATES in verdict.notes) == here
    assert validate(quantized, unrecorded(cut), heads="0:3").verdict == "failed"
