"""What operators make of their inputs is so; a declared shape that contradicts them is reported and ignored."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from onnx import ModelProto, ValueInfoProto
from onnx.shape_inference import infer_shapes

from onnxheadprune import inspect
from tests.graphs.models import EACH, MODELS

DRAWN = 12
"""Tensors of a toy whose declarations are corrupted, of all of them: each size costs an analysis of the whole toy."""


def _declarations(model: ModelProto) -> list[ValueInfoProto]:
    return [
        info for info in (*model.graph.value_info, *model.graph.output) if info.type.HasField("tensor_type")
    ]


def _corrupted(model: ModelProto) -> Iterator[tuple[str, ModelProto]]:
    """The model with one declared size changed, by turns, or with one axis more."""
    declarations = list(enumerate(_declarations(model)))
    for number, info in random.Random(0).sample(declarations, min(DRAWN, len(declarations))):
        for axis, size in enumerate(info.type.tensor_type.shape.dim):
            if size.HasField("dim_value"):
                changed = ModelProto()
                changed.CopyFrom(model)
                _declarations(changed)[number].type.tensor_type.shape.dim[axis].dim_value += 1
                yield f"{info.name}[{axis}]", changed
        changed = ModelProto()
        changed.CopyFrom(model)
        _declarations(changed)[number].type.tensor_type.shape.dim.add().dim_value = 2
        yield f"rank of {info.name}", changed


@pytest.mark.slow
@pytest.mark.parametrize("name", EACH)
def test_sites_stay_what_they_were(name: str) -> None:
    model = infer_shapes(MODELS[name]())
    right = inspect(model)
    assert not right.ignored_declarations
    # The rank of an output of a node with bodies may be known from its declaration alone.
    bodies = any(item.HasField("g") for node in model.graph.node for item in node.attribute)
    for where, changed in _corrupted(model):
        found = inspect(changed)
        assert [site.to_dict() for site in found] == [site.to_dict() for site in right], where
        assert found.ignored_declarations or bodies, where
