"""Queries, keys and values picked from one view by slices, integers, negative numbers or lists: its weight is cut."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from onnx import ModelProto

from onnxheadprune.attention.planning import analyse
from onnxheadprune.edit.apply import apply_plan
from tests.graph_builder import GraphBuilder
from tests.liveness.one_node import run
from tests.toys import get_initializer

H, D, HIDDEN = 4, 4, 6


def queries(toy: GraphBuilder, spelled: str) -> str:
    """The first H of H + 2 rows."""
    if spelled == "slice":
        bounds = [toy.constant(name, np.array([at])) for name, at in (("start", 0), ("end", -2), ("axis", 2))]
        return toy.node("Slice", ["view", *bounds], "q")
    numbers = np.arange(H) - (H + 2 if spelled == "negative" else 0)
    return toy.node("Gather", ["view", toy.constant("q_rows", numbers)], "q", axis=2)


def row(toy: GraphBuilder, name: str, at: int, spelled: str) -> str:
    """One of the last rows, [batch, sequence, 1, D]."""
    if spelled == "list":
        return toy.node("Gather", ["view", toy.constant(f"{name}_row", np.array([at]))], name, axis=2)
    if spelled == "turned":
        turned = toy.node("Transpose", ["view"], f"{name}_turned", perm=[2, 0, 1, 3])
        picked = toy.node(
            "GatherND", [turned, toy.constant(f"{name}_row", np.array([[at]]))], f"{name}_picked"
        )
        return toy.node("Transpose", [picked], name, perm=[1, 2, 0, 3])
    number = at if spelled == "negative" else at + H + 2
    picked = toy.node(
        "Gather", ["view", toy.constant(f"{name}_row", np.array(number))], f"{name}_picked", axis=2
    )
    return toy.node("Unsqueeze", [picked, toy.constant(f"{name}_axis", np.array([2]))], name)


def build(q: str, kv: str, silent: Sequence[int] = ()) -> ModelProto:
    toy = GraphBuilder()
    packed = toy.node("MatMul", ["x", toy.weight("qkv", HIDDEN, (H + 2) * D)], "packed")
    toy.node("Reshape", [packed, toy.constant("rows", np.array([0, 0, H + 2, D]))], "view")
    queried = toy.node("Transpose", [queries(toy, q)], "q_heads", perm=[0, 2, 1, 3])
    keys = toy.node("Transpose", [row(toy, "k", -2, kv)], "keys", perm=[0, 2, 3, 1])
    values = toy.node("Transpose", [row(toy, "v", -1, kv)], "values", perm=[0, 2, 1, 3])
    weights = toy.node("Softmax", [toy.node("MatMul", [queried, keys], "scores")], "weights", axis=-1)
    context = toy.node("MatMul", [weights, values], "context")
    if silent:
        mask = np.ones((1, H, 1, 1), np.float32)
        mask[:, list(silent)] = 0
        context = toy.node("Mul", [context, toy.constant("mask", mask)], "silenced")
    turned = toy.node("Transpose", [context], "turned", perm=[0, 2, 1, 3])
    merged = toy.node("Reshape", [turned, toy.constant("merge", np.array([0, 0, H * D]))], "merged")
    toy.node("MatMul", [merged, toy.weight("o", H * D, HIDDEN)], "y")
    info = toy.info("x", ["batch", "sequence", HIDDEN])
    return toy.model([info], [toy.info("y", ["batch", "sequence", HIDDEN])], opset=18)


@pytest.mark.each_choice
@pytest.mark.parametrize("q", ["slice", "positive", "negative"])
@pytest.mark.parametrize("kv", ["positive", "negative", "list", "turned"])
def test_the_packed_weight_is_cut(q: str, kv: str) -> None:
    feed = {"x": np.random.default_rng(1).standard_normal((2, 3, HIDDEN)).astype(np.float32)}
    model = build(q, kv)
    for gone in ((0,), (1, 3)):
        plan = analyse(model, {0: gone}, "packed").plan
        pruned = apply_plan(plan, model)
        assert not plan.edge_gathers
        assert get_initializer(pruned, "qkv").shape == (HIDDEN, (H + 2 - len(gone)) * D)
        np.testing.assert_allclose(run(pruned, feed)["y"], run(build(q, kv, gone), feed)["y"], atol=1e-5)
