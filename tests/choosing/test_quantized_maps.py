"""Linear maps of a model that ONNX Runtime has quantized are those of the model in floats."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from onnxheadprune import quantize
from onnxheadprune.choosing.activations.linear import Linear
from onnxheadprune.operators import view_of
from tests.graphs import toys


def maps(model: onnx.ModelProto) -> list[Any]:
    return [linear for node in view_of(model).main.nodes if (linear := Linear.at(node)) is not None]


@pytest.mark.parametrize("to", ["int8-dynamic", "int8-qdq"])
def test_maps_of_integers_are_what_they_were_of_floats(to: Any) -> None:
    floats = {linear.out.name: linear for linear in maps(toys.stack())}
    found = maps(quantize(toys.stack(), to=to, data=toys.ids(12, 8), provider="cpu").model)
    assert len(found) >= 4 and any(linear.other is not None for linear in found)
    for linear in found:
        assert linear.matrix.is_quantized and linear.source.elem_type == onnx.TensorProto.FLOAT
        before = floats[linear.out.name].matrix.read()
        np.testing.assert_allclose(linear.matrix.read(), before, atol=np.abs(before).max() / 60)
        np.testing.assert_array_equal(
            linear.matrix.written(linear.matrix.read()), linear.matrix.stored.numbers()
        )
