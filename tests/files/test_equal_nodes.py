"""Two nodes with one operator, attributes and inputs are one value: a model is read as if each was computed once."""

from __future__ import annotations

import numpy as np

from onnxheadprune.model.load import open_structure
from tests.graph_builder import GraphBuilder

B, S, H, D = 2, 5, 3, 4


def test_weights_are_equal_only_if_they_are_one() -> None:
    """Two norms of new networks have equal weights, until they are trained."""
    net = GraphBuilder()
    for name in ("first", "second"):
        net.node("Mul", ["x", net.constant(name, np.ones(3, np.float32))], f"{name}/scaled")
        net.node("Neg", [f"{name}/scaled"], f"{name}/y")
    outputs = [net.info(f"{name}/y", [2, 3]) for name in ("first", "second")]
    model = net.model([net.info("x", [2, 3])], outputs)
    assert open_structure(model).proto is model
