"""Where masks go, which feeds run, and whose fault a declared shape is."""

from __future__ import annotations

from onnxheadprune import validate
from tests import attacks
from tests.graphs import toys

HEADS = [1, 3]


# Sizes


def test_a_shape_that_the_original_breaks_itself_is_no_fault() -> None:
    model = toys.attention(cache=True)
    for info in model.graph.output:
        if info.name == "present_key":
            dims = info.type.tensor_type.shape.dim
            dims[1].dim_value, dims[3].dim_value = toys.HEADS, toys.HEAD_SIZE + 1
    assert validate(model, attacks.pruned(model), provider="cpu").verdict == "passed"
