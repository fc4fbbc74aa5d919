"""Weights that follow from stored tensors are read like stored ones, and written where the way back is known."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto

from onnxheadprune.attention.matrices import matrix_of
from onnxheadprune.attention.quantized import numbers_of
from onnxheadprune.model.graph.view import Value
from onnxheadprune.operators import view_of
from tests.graphs.derived_weights import READABLE, WAYS, computed, network


def weights(model: ModelProto) -> Value:
    """What the output projection multiplies with."""
    return view_of(model).main.values["o"]


@pytest.mark.parametrize("way", WAYS)
def test_weights_are_read(way: str) -> None:
    model = network(WAYS[way])
    want = computed(model, "o")
    # A newer version of the format than ONNX Runtime reads.
    model.ir_version = 99
    np.testing.assert_allclose(numbers_of(weights(model)), want, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("way", WAYS)
def test_weights_are_written_where_the_way_back_is_known(way: str) -> None:
    model = network(WAYS[way])
    operand = weights(model)
    assert operand is not None
    matrix = matrix_of(operand, (0,), (1,))
    if way in READABLE:
        assert matrix is None or matrix.shared
        return
    assert matrix is not None and not matrix.shared
    before = matrix.read()
    np.testing.assert_allclose(before, computed(model, "o"), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(matrix.written(before), matrix.stored.numbers(), rtol=1e-5, atol=1e-6)
    wanted = before + 0.02 * np.random.default_rng(4).standard_normal(before.shape)
    grid, new = matrix.grid(), matrix.written(wanted)
    assert matrix.is_quantized == (grid is not None) == (new.dtype.kind in "iu")
    changed = ModelProto()
    changed.CopyFrom(model)
    for tensor in changed.graph.initializer:
        if tensor.name == matrix.stored.name:
            tensor.raw_data = new.tobytes()
    after = computed(changed, "o")
    tolerance = 2e-3 if new.dtype == np.float16 else 1e-5
    np.testing.assert_allclose(
        after, wanted if grid is None else grid.nearest(wanted), rtol=tolerance, atol=1e-5
    )
