"""Attention whose products are spelled as a multiplication and a sum: nothing is a matrix product."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from onnx import TensorProto

from onnxheadprune.attention.sites.find import inspect
from tests.attention.block_graph import Net
from tests.attention.blueprint import PLAIN, STATIC, Blueprint
from tests.attention.cuts import check_cut
from tests.attention.net_parts import WIDTH, B, D, H, S

POINTS = 2
FLOAT, INT64 = int(TensorProto.FLOAT), int(TensorProto.INT64)


def _exact(net: Net, output: Any, sets: Sequence[list[int]]) -> None:
    model = net.export([output])
    assert [site.num_heads for site in inspect(model)] == [H]
    for gone in sets:
        check_cut(model, net.feed, gone)


@pytest.mark.parametrize("plan", [STATIC, PLAIN], ids=("static", "dynamic"))
def test_scores_and_context_by_broadcast(plan: Blueprint) -> None:
    """`(q[:, :, None] * k[:, None]).sum(-1)`, and the same with weights and values."""
    net = Net(plan)
    x = net.input("x", (B, S, WIDTH), "bs-")

    def heads(name: str, axis: int) -> Any:
        flat = net.op("MatMul", x, net.weight(name, WIDTH, H * D))
        return net.op("Unsqueeze", net.op("Reshape", flat, net.ints(0, 0, H, D)), net.ints(axis))

    scores = net.op("ReduceSum", net.op("Mul", heads("q", 2), heads("k", 1)), net.ints(4), keepdims=0)
    weights = net.op("Unsqueeze", net.op("Softmax", scores, axis=2), net.ints(4))
    context = net.op("ReduceSum", net.op("Mul", weights, heads("v", 1)), net.ints(2), keepdims=0)
    merged = net.op("Reshape", context, net.ints(0, 0, H * D))
    output = net.op("Add", x, net.op("MatMul", merged, net.weight("o", H * D, WIDTH)))
    _exact(net, output, ([1], [0, 2], list(range(H))))


def test_values_are_sampled_where_the_query_says() -> None:
    """Deformable attention (RT-DETR): heads on the batch axis, offsets and weights from the query alone."""
    net = Net(PLAIN)
    x = net.input("x", (B, S, WIDTH), "b--")

    def folded(name: str, width: int, *tail: int) -> Any:
        """[b * H, S, *tail]"""
        flat = net.op("MatMul", x, net.weight(name, WIDTH, H * width))
        moved = net.op("Transpose", net.op("Reshape", flat, net.ints(0, S, H, width)), perm=[0, 2, 1, 3])
        return net.op("Reshape", moved, net.ints(-1, S, *tail))

    values = net.op("Transpose", folded("v", D, D), perm=[0, 2, 1])
    picture = net.op("Reshape", values, net.ints(0, D, S, 1))
    places = net.op("Tanh", folded("offsets", POINTS * 2, POINTS, 2))
    sampled = net.op("GridSample", picture, places, align_corners=1)
    weights = net.op("Unsqueeze", net.op("Softmax", folded("weights", POINTS, POINTS), axis=-1), net.ints(1))
    context = net.op("ReduceSum", net.op("Mul", sampled, weights), net.ints(-1), keepdims=0)
    merged = net.op("Transpose", net.op("Reshape", context, net.ints(-1, H * D, S)), perm=[0, 2, 1])
    output = net.op("Add", x, net.op("MatMul", merged, net.weight("o", H * D, WIDTH)))
    _exact(net, output, ([1], [0, 2], list(range(H))))


@pytest.mark.parametrize("plan", [STATIC, PLAIN], ids=("static", "dynamic"))
def test_a_query_sees_its_neighbours(plan: Blueprint) -> None:
    """Windows are cut out of what was padded: their length has a name of its own, and is the sequence's."""
    net = Net(plan)
    x = net.input("x", (B, S, WIDTH), "bs-")
    length = net.op("Cast", net.op("Slice", net.op("Shape", x), net.ints(1), net.ints(2)), to=FLOAT)
    length = net.op("Cast", net.op("Ceil", length), to=INT64)

    def heads(name: str) -> Any:
        return net.op("Reshape", net.op("MatMul", x, net.weight(name, WIDTH, H * D)), net.ints(0, 0, H, D))

    def windows(name: str) -> Any:
        """[B, S, H, 3, D]"""
        padded = net.op("Pad", heads(name), net.ints(0, 1, 0, 0, 0, 1, 0, 0))
        ends = [net.op("Add", length, net.ints(start)) for start in range(3)]
        cut = [net.op("Slice", padded, net.ints(start), end, net.ints(1)) for start, end in enumerate(ends)]
        return net.op("Concat", *(net.op("Unsqueeze", piece, net.ints(3)) for piece in cut), axis=3)

    queries = net.op("Unsqueeze", heads("q"), net.ints(3))
    scores = net.op("ReduceSum", net.op("Mul", queries, windows("k")), net.ints(-1), keepdims=0)
    weights = net.op("Unsqueeze", net.op("Softmax", scores, axis=-1), net.ints(-1))
    context = net.op("ReduceSum", net.op("Mul", weights, windows("v")), net.ints(3), keepdims=0)
    merged = net.op("Reshape", context, net.ints(0, 0, H * D))
    _exact(net, net.op("MatMul", merged, net.weight("o", H * D, WIDTH)), ([1], [0, 2], list(range(H))))


@pytest.mark.parametrize("plan", [STATIC, PLAIN], ids=("static", "dynamic"))
def test_a_query_reads_the_state_so_far(plan: Blueprint) -> None:
    """Causal linear attention: outer products of keys and values, summed up to each position, times its query."""
    net = Net(plan)
    x = net.input("x", (B, S, WIDTH), "bs-")

    def heads(name: str, axis: int) -> Any:
        flat = net.op("MatMul", x, net.weight(name, WIDTH, H * D))
        return net.op("Unsqueeze", net.op("Reshape", flat, net.ints(0, 0, H, D)), net.ints(axis))

    state = net.op("CumSum", net.op("Mul", heads("k", 4), heads("v", 3)), net.ints(1))
    context = net.op("ReduceSum", net.op("Mul", heads("q", 4), state), net.ints(3), keepdims=0)
    merged = net.op("Reshape", context, net.ints(0, 0, H * D))
    _exact(net, net.op("MatMul", merged, net.weight("o", H * D, WIDTH)), ([1], [0, 2], list(range(H))))


@pytest.mark.parametrize("first", [True, False], ids=("past-first", "past-last"))
@pytest.mark.parametrize("skip", [False, True], ids=("attention", "state space"))
def test_a_query_reads_what_is_left_of_a_state(first: bool, skip: bool) -> None:
    """A decoder adds an outer product to what is left of a state; a state space model also adds its inputs after it."""
    net = Net(PLAIN)
    x = net.input("x", (B, WIDTH), "b-")
    past = net.op("Reshape", net.op("MatMul", x, net.weight("past", WIDTH, H * D * D)), net.ints(0, H, D, D))

    def heads(name: str, axis: int, size: int = D) -> Any:
        flat = net.op("MatMul", x, net.weight(name, WIDTH, H * size))
        return net.op("Unsqueeze", net.op("Reshape", flat, net.ints(0, H, size)), net.ints(axis))

    forgotten = net.op("Mul", past, net.op("Sigmoid", heads("g", 3)))
    parts = [forgotten, net.op("Mul", heads("k", 3), heads("v", 2))]
    state = net.op("Add", *(parts if first else parts[::-1]))
    context = net.op("ReduceSum", net.op("Mul", heads("q", 3), state), net.ints(2), keepdims=0)
    if skip:
        inputs = net.op("Reshape", net.op("MatMul", x, net.weight("i", WIDTH, H * D)), net.ints(0, H, D))
        context = net.op("Add", context, net.op("Mul", inputs, net.weight("d", H, 1)))
    merged = net.op("Reshape", context, net.ints(0, H * D))
    output = net.op("MatMul", merged, net.weight("o", H * D, WIDTH))
    if skip:
        assert not inspect(net.export([output]))
    else:
        _exact(net, output, ([1], [0, 2], list(range(H))))


def test_a_gate_is_no_state() -> None:
    """A sum of gated groups has no product of two activations that each own an axis: nobody attends there."""
    net = Net(PLAIN)
    x = net.input("x", (B, S, WIDTH), "bs-")
    values = net.op(
        "Reshape", net.op("MatMul", x, net.weight("v", WIDTH, H * D * 2)), net.ints(0, 0, H, 2, D)
    )
    gates = net.op("Reshape", net.op("MatMul", x, net.weight("g", WIDTH, H * 2)), net.ints(0, 0, H, 2, 1))
    context = net.op("ReduceSum", net.op("Mul", gates, values), net.ints(3), keepdims=0)
    merged = net.op("Reshape", context, net.ints(0, 0, H * D))
    assert not inspect(net.export([net.op("MatMul", merged, net.weight("o", H * D, WIDTH))]))
