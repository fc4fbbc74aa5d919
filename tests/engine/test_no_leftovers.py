"""A cut leaves nothing behind that nobody reads."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
import pytest
from onnx import GraphProto

from onnxheadprune import find_sites, plan_pruning
from onnxheadprune.edit.apply import apply_plan
from tests.conftest import SAMPLES


def unread(graph: GraphProto) -> Iterator[str]:
    """Initializers, and nodes without a reader, of a graph without subgraphs."""
    read = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
    yield from (tensor.name for tensor in graph.initializer if tensor.name not in read)
    yield from (node.name for node in graph.node if not read & set(node.output))


@pytest.mark.parametrize(
    "name", ["gpt2-torchscript-eager", "gpt2-torchscript-sdpa", "gpt2-dynamo-sdpa", "bert-dynamo-eager"]
)
@pytest.mark.parametrize("whole", [False, True])
def test_everything_left_is_read(name: str, whole: bool) -> None:
    model = onnx.load(SAMPLES / "tiny" / f"{name}.onnx")
    assert not list(unread(model.graph))
    heads = {site.index: range(site.num_heads if whole else 1) for site in find_sites(model)}
    assert not list(unread(apply_plan(plan_pruning(model, heads), model).graph))
