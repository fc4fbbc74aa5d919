"""Heads smaller than a block of a packed projection: those of one block go together, never one of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import ModelProto

from onnxheadprune import RefusedError, inspect, plan_pruning, select_heads
from onnxheadprune.attention.specs import is_legal
from onnxheadprune.choosing.scoring.moves import moves, path_by_worth
from tests.attention.cuts import check_cut
from tests.graphs.blueprint import PLAIN
from tests.graphs.net import Net
from tests.graphs.toys import packed
from tests.liveness.masks import Array

WIDTH, SIZE, LENGTH = 16, 8, 3
"""Two heads fill a block of 16."""


def _model(num_heads: int = 6, kv_num_heads: int = 6) -> tuple[ModelProto, dict[str, Array]]:
    net = Net(PLAIN)
    x = net.input("x", (2, LENGTH, WIDTH), "bs-")

    def heads(name: str, count: int, *order: int) -> Any:
        flat = net.op("MatMul", x, net.weight(name, WIDTH, count * SIZE))
        apart = net.op("Reshape", flat, net.ints(0, 0, count, SIZE))
        if count != num_heads:
            owners = np.repeat(np.arange(count), num_heads // count)
            apart = net.op("Gather", apart, net.ints(*(int(owner) for owner in owners)), axis=2)
        return net.op("Transpose", apart, perm=list(order))

    scores = net.op("MatMul", heads("q", num_heads, 0, 2, 1, 3), heads("k", kv_num_heads, 0, 2, 3, 1))
    context = net.op("MatMul", net.op("Softmax", scores, axis=-1), heads("v", kv_num_heads, 0, 2, 1, 3))
    apart = net.op("Transpose", context, perm=[0, 2, 1, 3])
    merged = net.op("Reshape", apart, net.ints(0, 0, num_heads * SIZE))
    output = net.op("MatMul", merged, net.weight("o", num_heads * SIZE, WIDTH))
    return packed(net.export([output]), 1), net.feed


@pytest.mark.parametrize(
    ("gone", "nearest"),
    [
        ([1], "; the nearest legal sets are 0,1$"),
        ([0, 1, 2], "; the nearest legal sets are 0,1,2,3 or 0,1$"),
        ([0, 2, 4], "$"),
    ],
)
def test_half_a_block_is_refused_with_the_nearest_sets(gone: list[int], nearest: str) -> None:
    model, _ = _model()
    with pytest.raises(RefusedError, match=f"only go together{nearest}"):
        plan_pruning(model, heads={0: gone})


def test_targets_keep_blocks_whole() -> None:
    model, _ = _model()
    for ratio, most in ((0.4, 2), (0.7, 4)):
        chosen = select_heads(model, ratio=ratio).heads[0]
        assert len(chosen) == most
        plan_pruning(model, heads={0: chosen})
    assert len(select_heads(model, ratio=0.4, multiple_of={"heads": 4}).heads[0]) == 2


def test_blocks_within_groups_of_queries() -> None:
    """Four query heads per group, two per block: one block of every group, or a whole group."""
    model, feed = _model(8, 2)
    (site,) = inspect(model)
    assert (site.kv_num_heads, site.units) == (2, ((0, 1), (2, 3), (4, 5), (6, 7)))
    found = moves(site, frozenset(), worth=list(range(8)))
    assert frozenset({0, 1, 4, 5}) in found
    assert frozenset(range(4)) in found
    for step in path_by_worth(site, list(range(8))):
        assert is_legal(site.groups, set(step.removed))
        check_cut(model, feed, sorted(step.removed))
    nearest = "the nearest legal sets are 0,1,4,5$"
    for gone, reason in (([0, 1], "different numbers of query heads"), ([0], "only go together")):
        with pytest.raises(RefusedError, match=f"{reason}.*; {nearest}"):
            plan_pruning(model, heads={0: gone})
