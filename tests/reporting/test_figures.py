"""The numbers that people are shown agree with the files, and say which way they went."""

from __future__ import annotations

import pytest
from onnx import ModelProto, helper

from onnxheadprune.display.spelling import change
from onnxheadprune.model.storage.tensors import stored_size
from tests.graphs import toys


def with_constants(model: ModelProto) -> ModelProto:
    """The same model with Constant nodes in place of its initializers."""
    made = ModelProto()
    made.CopyFrom(model)
    nodes = [helper.make_node("Constant", [], [item.name], value=item) for item in model.graph.initializer]
    nodes += list(model.graph.node)
    del made.graph.initializer[:], made.graph.node[:]
    made.graph.node.extend(nodes)
    return made


def test_constants_count_as_initializers_do() -> None:
    plain = toys.attention()
    assert stored_size(with_constants(plain)) == stored_size(plain)
    bare = ModelProto()
    bare.graph.node.append(helper.make_node("Constant", [], ["a"], value_ints=[1, 2, 3]))
    bare.graph.node.append(helper.make_node("Constant", [], ["b"], value_float=1.0))
    assert stored_size(bare).to_dict() == {"elements": 4, "bytes": 28}


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (100, 75, "-25.0 %"),
        (100, 114.9, "+14.9 %"),
        (7, 7, "unchanged"),
        (0, 4, "new"),
        (10**6, 10**6 - 1, "-<0.1 %"),
    ],
)
def test_changes_carry_their_sign_once(before: float, after: float, said: str) -> None:
    assert change(before, after) == said
