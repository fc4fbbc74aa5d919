"""Attention whose products are spelled as a multiplication and a sum: nothing is a matrix product."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from onnxheadprune.attention.sites.find import find_sites
from tests.engine.block_graph import Net
from tests.engine.blueprint import PLAIN, STATIC, Blueprint
from tests.engine.cuts import check_cut
from tests.engine.net_parts import WIDTH, B, D, H, S

POINTS = 2


def _exact(net: Net, output: Any, sets: Sequence[list[int]]) -> None:
    model = net.export([output])
    assert [site.num_heads for site in find_sites(model)] == [H]
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
