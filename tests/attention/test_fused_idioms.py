"""What torch.onnx.export writes around the standard's fused operators (opset 23)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from onnx import helper

from onnxheadprune import apply_plan, plan_pruning
from onnxheadprune.attention.sites.find import inspect
from tests.attention.block_graph import Net
from tests.attention.blueprint import PLAIN, Blueprint
from tests.attention.cuts import check_cut
from tests.attention.net_parts import WIDTH, B, D, H, S, split
from tests.graph_builder import GraphBuilder
from tests.toys import get_initializer

STATIC, SYMBOLIC = (replace(PLAIN, symbolic=symbolic, opset=23) for symbolic in (False, True))


def _exact(net: Net, output: Any, kv_num_heads: int, v_head_size: int, *sets: list[int]) -> None:
    model = net.export([output])
    found = [(site.num_heads, site.kv_num_heads, site.v_head_size) for site in inspect(model)]
    assert found == [(H, kv_num_heads, v_head_size)]
    for gone in (*sets, list(range(H))):
        check_cut(model, net.feed, gone)


def _heads(net: Net, x: Any, name: str, count: int) -> Any:
    return split(net, x, name, 0, 2, 1, 3, heads=count)


@pytest.mark.parametrize("plan", [STATIC, SYMBOLIC], ids=("static", "dynamic"))
def test_two_fused_products_with_one_map_are_one_head(plan: Blueprint) -> None:
    """Differential Llama: a head is two maps, each of which two nodes make again, for one half of the values each.

    Two head positions of a fused node are one head then, and its groups are those of heads, not of positions.
    """
    net = Net(plan)
    x = net.input("x", (B, S, WIDTH), "bs-")
    groups = H // 2
    q, k = _heads(net, x, "q", 2 * H), _heads(net, x, "k", groups)

    def repeated(kv: Any, times: int) -> Any:
        apart = net.op("Unsqueeze", kv, net.ints(2))
        spread = net.op("Expand", apart, net.ints(1, 1, times, 1, 1))
        return net.op("Reshape", spread, net.ints(0, times * groups, -1, D))

    keys = repeated(k, 4)
    halves = [_heads(net, x, f"v{half}", groups) for half in range(2)]
    # Maps h and h + H are those of head h: values of its group lie behind both.
    values = [net.op("Concat", repeated(half, 2), repeated(half, 2), axis=1) for half in halves]
    contexts = [net.op("Attention", q, keys, value, scale=0.5) for value in values]
    joined = net.op("Transpose", net.op("Concat", *contexts, axis=-1), perm=[0, 2, 1, 3])
    first, second = net.op("Split", joined, outputs=2, axis=2, num_outputs=2)
    merged = net.op("Reshape", net.op("Sub", first, second), net.ints(0, 0, H * 2 * D))
    _exact(net, net.op("MatMul", merged, net.weight("o", H * 2 * D, WIDTH)), groups, 2 * D, [0, 1], [1, 2])


@pytest.mark.parametrize("plan", [STATIC, SYMBOLIC], ids=("static", "dynamic"))
def test_a_scale_as_large_as_what_is_normalized(plan: Blueprint) -> None:
    """A RMSNorm without weights gets ones of the input's shape: they have a head axis too."""
    net = Net(plan)
    x = net.input("x", (B, S, WIDTH), "bs-")
    context = net.op("Attention", *(_heads(net, x, name, H) for name in "qkv"))
    apart = net.op("Transpose", context, perm=[0, 2, 1, 3])
    ones = net.op("Expand", net.weight("one", 1), net.op("Shape", apart))
    normed = net.op("RMSNormalization", apart, ones, axis=-1)
    merged = net.op("Reshape", normed, net.ints(0, 0, H * D))
    _exact(net, net.op("MatMul", merged, net.weight("o", H * D, WIDTH)), H, D, [1], [0, 2])


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
