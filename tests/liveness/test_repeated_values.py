"""Values that layers share although they lose different heads: computed once more where that costs no more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto

from onnxheadprune.attention.masking import masked_reference
from onnxheadprune.attention.planning import analyse
from onnxheadprune.edit.apply import apply_plan
from onnxheadprune.edit.plan import PrunePlan
from tests.attention.block_graph import Net
from tests.attention.blueprint import PLAIN
from tests.attention.net_parts import WIDTH, B, D, H, S
from tests.liveness.one_node import check_equal, run

SETS: list[dict[int, list[int]]] = [{0: [1], 1: [2]}, {0: [0, 2], 1: []}, {0: [3], 1: [0, 1]}, {1: [0, 1, 2]}]


def _check(net: Net, output: Any, gone: dict[int, list[int]]) -> tuple[ModelProto, PrunePlan]:
    model = net.export([output])
    planning = analyse(model, gone, "shared")
    pruned = apply_plan(planning.plan, model)
    want = run(masked_reference(planning.view, planning.sites, planning.heads), net.feed)
    got = run(pruned, net.feed)
    check_equal(got, want)
    return pruned, planning.plan


def _layers(
    net: Net, x: Any, weights: Callable[[int, str, int, int], Any], bias: Callable[[Any], Any]
) -> Any:
    """Two layers with heads in the batch axis; both add what `bias` makes of the input."""
    shared = bias(x)
    length = net.piece(net.op("Shape", x), 1)
    for number in range(2):
        q, k, v = (net.op("MatMul", x, weights(number, name, WIDTH, H * D)) for name in "qkv")
        folded = []
        for flat, order in ((q, [0, 2, 1, 3]), (k, [0, 2, 3, 1]), (v, [0, 2, 1, 3])):
            apart = net.op("Transpose", net.op("Reshape", flat, net.ints(0, 0, H, D)), perm=order)
            rows = [net.ints(D), length] if order[3] == 1 else [length, net.ints(D)]
            folded.append(net.op("Reshape", apart, net.op("Concat", net.ints(-1), *rows, axis=0)))
        scores = net.op("MatMul", folded[0], folded[1])
        if shared is not None:
            scores = net.op("Add", scores, shared)
        context = net.op("MatMul", net.op("Softmax", scores, axis=-1), folded[2])
        target = net.op("Concat", net.ints(-1, H), length, net.ints(D), axis=0)
        apart = net.op("Transpose", net.op("Reshape", context, target), perm=[0, 2, 1, 3])
        merged = net.op("Reshape", apart, net.ints(0, 0, H * D))
        x = net.op("Add", x, net.op("MatMul", merged, weights(number, "o", H * D, WIDTH)))
    return x


def _own(net: Net) -> Callable[[int, str, int, int], Any]:
    return lambda _, name, rows, columns: net.weight(name, rows, columns)


def _nothing(_: Any) -> None:
    return None


@pytest.mark.parametrize("gone", SETS)
def test_shared_weights_behind_a_cast(gone: dict[int, list[int]]) -> None:
    """ALBERT in bfloat16: each layer casts the part of the weights that it needs."""
    net = Net(PLAIN)
    cast: dict[str, Any] = {}

    def weights(_: int, name: str, rows: int, columns: int) -> Any:
        if name not in cast:
            half = net.stored(name, net.random(rows, columns).astype(np.float16))
            cast[name] = net.op("Cast", half, to=1)
        return cast[name]

    x = net.input("x", (B, S, WIDTH), "bs-")
    pruned, plan = _check(net, _layers(net, x, weights, _nothing), gone)
    assert not plan.edge_gathers
    assert sum(node.op_type == "Cast" for node in pruned.graph.node) <= 8


@pytest.mark.parametrize("gone", SETS)
def test_slopes_of_all_heads_spread_over_the_batch(gone: dict[int, list[int]]) -> None:
    """BLOOM's positions times a slope per head, `[b*H, 1, s]`: the slopes are cut, not the product gathered."""
    net = Net(PLAIN)

    def bias(x: Any) -> Any:
        shape = net.op("Shape", x)
        positions = net.op("Unsqueeze", net.op("ReduceMax", x, axes=[2], keepdims=0), net.ints(1))
        slopes = net.op("Mul", net.weight("slopes", H, 1), positions)
        batch = net.op("Mul", net.piece(shape, 0), net.ints(H))
        target = net.op("Concat", batch, net.ints(1), net.piece(shape, 1), axis=0)
        return net.op("Reshape", slopes, target)

    x = net.input("x", (B, S, WIDTH), "bs-")
    _, plan = _check(net, _layers(net, x, _own(net), bias), gone)
    assert not plan.edge_gathers


@pytest.mark.each_choice
@pytest.mark.parametrize("gone", SETS)
@pytest.mark.parametrize("spread", ["Expand", "ConstantOfShape"])
def test_one_bias_for_all_heads(spread: str, gone: dict[int, list[int]]) -> None:
    """Heads are only repetitions: each layer repeats as often as it has heads (T5's zeros, DeBERTa's indices)."""
    net = Net(PLAIN)

    def bias(x: Any) -> Any:
        shape = net.op("Shape", x)
        batch = net.op("Mul", net.piece(shape, 0), net.ints(H))
        length = net.piece(shape, 1)
        target = net.op("Concat", batch, length, length, axis=0)
        if spread == "ConstantOfShape":
            return net.op("ConstantOfShape", target)
        rows = net.op("ReduceMax", x, axes=[0, 2], keepdims=0)
        return net.op("Expand", net.op("Unsqueeze", rows, net.ints(0)), target)

    x = net.input("x", (B, S, WIDTH), "bs-")
    _, plan = _check(net, _layers(net, x, _own(net), bias), gone)
    assert not plan.edge_gathers


def test_a_bias_that_is_dear_is_computed_once() -> None:
    """T5's buckets: looking the table up per layer would cost more than gathering from one bias."""
    net = Net(PLAIN)

    def bias(x: Any) -> Any:
        shape = net.op("Shape", x)
        length = net.op("Squeeze", net.piece(shape, 1), net.ints(0))
        zero, one = (net.stored("number", np.array(number)) for number in (0, 1))
        places = net.op("Range", zero, length, one)
        apart = net.op(
            "Abs",
            net.op("Sub", net.op("Unsqueeze", places, net.ints(1)), net.op("Unsqueeze", places, net.ints(0))),
        )
        table = net.op("Transpose", net.op("Gather", net.weight("table", S, H), apart), perm=[2, 0, 1])
        batch = net.op(
            "Expand", table, net.op("Concat", net.piece(shape, 0), *map(net.ints, (1, 1, 1)), axis=0)
        )
        target = net.op("Concat", net.ints(-1), net.piece(shape, 1), net.piece(shape, 1), axis=0)
        return net.op("Reshape", batch, target)

    x = net.input("x", (B, S, WIDTH), "bs-")
    _, plan = _check(net, _layers(net, x, _own(net), bias), {0: [1], 1: [2]})
    assert len(plan.edge_gathers) == 2
    assert all("computed once for consumers that need different parts" in g.reason for g in plan.edge_gathers)
