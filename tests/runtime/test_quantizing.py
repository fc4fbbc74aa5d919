"""How ONNX Runtime's quantizer is called."""

from __future__ import annotations

import onnx
import pytest

from onnxheadprune import quantize
from onnxheadprune.runtime import quantizing
from tests.graphs import toys


@pytest.mark.parametrize(
    ("probe", "asked", "used"), [(True, None, True), (False, None, False), (True, False, False)]
)
def test_seven_bits_where_the_processor_saturates(
    probe: bool, asked: bool | None, used: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantizing, "saturates", lambda runtime: probe)
    result = quantize(toys.stack(), to="int8-dynamic", reduce_range=asked)
    weights = [
        onnx.numpy_helper.to_array(item) for item in result.model.graph.initializer if item.data_type == 3
    ]
    assert result.how.reduce_range is used
    assert max(int(abs(item.astype(int)).max()) for item in weights) <= (64 if used else 127)
    assert bool(result.notes) is (asked is None)
