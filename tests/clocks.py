"""Models whose heads are nearly all of their work, so that no noise hides what a cut of them saves."""

from __future__ import annotations

from onnx import ModelProto

from tests import toys

HEADS = 16


def heavy(heads: int = HEADS, batch: int = 2, length: int = 48) -> ModelProto:
    """Attention of many heads on one size of inputs: one grid point."""
    model = toys.attention(hidden=16, heads=heads)
    for info in (*model.graph.input, *model.graph.output):
        dims = info.type.tensor_type.shape.dim
        dims[0].dim_value, dims[1].dim_value = batch, length
    return model
