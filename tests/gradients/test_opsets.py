"""Gradients run in every opset that ONNX Runtime runs."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import numpy_helper

from onnxheadprune.choosing.gradients.differentiate import differentiate
from tests.graph_text import model_of
from tests.graphs.opsets import ADDED, ATTENTION, OPSETS, PLAIN
from tests.liveness.one_node import run


@pytest.mark.slow
@pytest.mark.parametrize("opset", OPSETS)
def test_gradients_run_in_every_opset(opset: int) -> None:
    tail = (
        ADDED
        + " squares = Mul (y, y) flat_list = Flatten <axis = 0> (squares) loss = MatMul (flat_list, ones)"
    )
    model = model_of(
        ATTENTION.format(opset=opset, **(PLAIN | {"tail": tail})).replace("batch, seq, 6", "1, 4, 6"),
        given={"ones": np.ones((24, 1), np.float32)},
    )
    made = differentiate(model, "loss", ["wq", "wo"]).model
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    feed = {"x": np.ones((1, 4, 6), np.float32)} | stored
    got = run(made, {info.name: feed[info.name] for info in made.graph.input})
    assert all(np.isfinite(array).all() for array in got.values())
