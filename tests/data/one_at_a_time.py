"""A model that takes one sample at a time, whatever its inputs declare, and data for it."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import ModelProto, helper, numpy_helper

from tests.graphs import toys

SAMPLES, LENGTH = 40, 6
TABLE = 2**14
"""Tokens in the table: as large as it is then, it stays on disk while it is read."""


def one_sample(*, fails: bool) -> ModelProto:
    """A decoder that takes one sample though its batch is a symbol: several fail, or become one long sequence."""
    model = toys.stack()
    embedding = next(node for node in model.graph.node if node.op_type == "Gather")
    table = next(tensor for tensor in model.graph.initializer if tensor.name == embedding.input[0])
    rows = np.resize(numpy_helper.to_array(table), (TABLE, table.dims[1]))
    table.CopyFrom(numpy_helper.from_array(rows, table.name))
    read = embedding.output[0]
    embedding.output[0] = "looked_up"
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, -1, toys.HIDDEN]), "one"))
    new = [helper.make_node("Reshape", ["looked_up", "one"], ["together"], name="together")]
    other = "looked_up" if fails else "together"
    new.append(helper.make_node("Add", ["together", other], [read], name="doubled"))
    position = list(model.graph.node).index(embedding) + 1
    for node in reversed(new):
        model.graph.node.insert(position, node)
    return model


def tokens() -> dict[str, Any]:
    random = np.random.default_rng(0)
    return {"input_ids": random.integers(0, toys.VOCABULARY, (SAMPLES, LENGTH))}
