"""Every sample export, every head set: equal to PyTorch's own silenced model, and nothing else was touched."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from onnx import ModelProto, TensorProto

from onnxheadprune import apply_plan
from onnxheadprune.attention.planning import planned
from onnxheadprune.runtime import Session
from tests.attention.tiny_samples import NAMES, PROVIDER, TOLERANCE, analysis, error, reference, sample
from tests.edit.lossless import unexplained

HEADS, HEAD_SIZE, HIDDEN = 4, 8, 32
PER_HEAD = HEAD_SIZE * 4 * HIDDEN + 3 * HEAD_SIZE
"""Weights of q, k, v and o of one head, and the biases of q, k and v: what one head costs."""
FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16)

CASES = [(name, index) for name in NAMES for index in range(20)]


def test_nothing_is_missing() -> None:
    architectures = ("bert", "distilbert", "gpt2", "roberta", "vit")
    assert [
        f"{architecture}-{exporter}-{attention}"
        for architecture in architectures
        for exporter in ("dynamo", "torchscript")
        for attention in ("eager", "sdpa")
    ] == NAMES
    for architecture in architectures:
        assert len(reference(architecture).head_sets) == 20


@pytest.mark.parametrize("name", NAMES)
def test_the_original_equals_pytorch(name: str) -> None:
    """The reference and the comparison themselves are right."""
    expected = reference(name.partition("-")[0])
    session = Session(sample(name), PROVIDER)
    for feed, arrays in expected.feeds.items():
        (output,) = session.run(arrays).values()
        assert error(output, expected.output("original", feed)) <= TOLERANCE
        assert error(output, expected.output("set00", feed)) > 100 * TOLERANCE


@pytest.mark.each_choice
@pytest.mark.parametrize(("name", "index"), CASES, ids=[f"{name}-set{index:02}" for name, index in CASES])
def test_pruned_equals_pytorch_and_nothing_else_moved(name: str, index: int) -> None:
    expected = reference(name.partition("-")[0])
    heads = expected.head_sets[index]
    original = sample(name)
    before = original.SerializeToString(deterministic=True)
    plan = planned(analysis(name), heads).plan
    pruned = apply_plan(plan, original)
    assert original.SerializeToString(deterministic=True) == before
    session = Session(pruned, PROVIDER)
    for feed, arrays in expected.feeds.items():
        (output,) = session.run(arrays).values()
        assert error(output, expected.output(f"set{index:02}", feed)) <= TOLERANCE
    assert plan.edge_gathers == ()
    assert plan.io_changes == ()
    removed = sum(len(gone) for gone in heads.values())
    assert floats(original) - floats(pruned) == removed * PER_HEAD
    assert unexplained(original, pruned, plan) == []


def floats(model: ModelProto) -> int:
    """Elements of all stored float tensors."""
    return sum(int(np.prod(tensor.dims)) for tensor in tensors(model) if tensor.data_type in FLOATS)


def tensors(model: ModelProto) -> Iterator[TensorProto]:
    yield from model.graph.initializer
    for node in model.graph.node:
        yield from (attribute.t for attribute in node.attribute if attribute.name == "value")
