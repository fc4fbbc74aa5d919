"""What torch.onnx.export writes around the standard's fused operators (opset 23)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from onnx import helper

from onnxheadprune import apply_plan, inspect, plan_pruning
from tests.graph_builder import GraphBuilder
from tests.graphs.blueprint import PLAIN
from tests.graphs.toys import get_initializer

STATIC, SYMBOLIC = (replace(PLAIN, symbolic=symbolic, opset=23) for symbolic in (False, True))


def test_keys_and_values_packed_by_head() -> None:
    """[B, T, H, 2, D] has a kernel on CUDA only, but its heads are told and cut everywhere."""
    toy = GraphBuilder()
    count, size, hidden = 4, 8, 12
    query = toy.node("MatMul", ["x", toy.weight("q.weight", hidden, count * size)], "q")
    flat = toy.node("MatMul", ["x", toy.weight("kv.weight", hidden, 2 * count * size)], "kv")
    packed = toy.node("Reshape", [flat, toy.constant("split", np.array([0, 0, count, 2, size]))], "packed")
    toy.nodes.append(
        helper.make_node(
            "MultiHeadAttention", [query, packed], ["c"], "core", domain="com.microsoft", num_heads=count
        )
    )
    toy.node("MatMul", ["c", toy.weight("o.weight", count * size, hidden)], "y")
    info = ["b", "s", hidden]
    model = toy.model([toy.info("x", info)], [toy.info("y", info)])
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    (site,) = inspect(model)
    assert (site.num_heads, site.head_size, site.v_head_size) == (count, size, size)
    smaller = apply_plan(plan_pruning(model, heads={0: (1,)}), model)
    kept = [0, 2, 3]
    for name, axis, width in (("q.weight", 1, size), ("kv.weight", 1, 2 * size), ("o.weight", 0, size)):
        whole = get_initializer(model, name)
        rows = np.concatenate([np.arange(head * width, (head + 1) * width) for head in kept])
        np.testing.assert_array_equal(get_initializer(smaller, name), whole.take(rows, axis=axis))
