"""A head is a position along which queries and keys are multiplied separately, whatever order its channels have behind.

Queries are grouped by their key/value heads, [B, K, G, S, D]. The oracle multiplies zeros into the contexts of heads.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto

from onnxheadprune import inspect, plan_pruning
from onnxheadprune.edit.apply import apply_plan
from onnxheadprune.errors import RefusedError
from tests.graph_builder import GraphBuilder
from tests.liveness.one_node import check_equal, run

B, S, D, WIDTH = 2, 5, 3, 12
Project = Callable[[GraphBuilder, str, int, int], str]
Attend = Callable[[GraphBuilder, str, str, str], str]


def split(net: GraphBuilder, name: str, heads: int) -> str:
    flat = net.op("MatMul", "x", net.weight(name, WIDTH, heads * D))
    return str(net.op("Transpose", net.op("Reshape", flat, net.ints(0, -1, heads, D)), perm=[0, 2, 1, 3]))


def softmax(net: GraphBuilder, q: str, k: str, v: str) -> str:
    turned = net.op("Transpose", net.op("Unsqueeze", k, net.ints(2)), perm=[0, 1, 2, 4, 3])
    maps = net.op("Softmax", net.op("MatMul", q, turned), axis=-1)
    return str(net.op("MatMul", maps, net.op("Unsqueeze", v, net.ints(2))))


def einsum(net: GraphBuilder, q: str, k: str, v: str) -> str:
    maps = net.op("Softmax", net.op("Einsum", q, k, equation="bkgsd,bktd->bkgst"), axis=-1)
    return str(net.op("Einsum", maps, v, equation="bkgst,bktd->bkgsd"))


def linear(net: GraphBuilder, q: str, k: str, v: str) -> str:
    state = net.op("Einsum", net.op("Relu", k), v, equation="bktd,bkte->bkde")
    return str(net.op("MatMul", net.op("Relu", q), net.op("Unsqueeze", state, net.ints(2))))


ATTEND: dict[str, Attend] = {"softmax": softmax, "einsum": einsum, "linear": linear}


def in_order(order: str) -> Project:
    """One projection of channels in some order of key/value heads, positions in a group, and channels of a head."""

    def project(net: GraphBuilder, context: str, kv: int, group: int) -> str:
        turned = net.op("Transpose", context, perm=[0, 3, *("kgsd".index(axis) + 1 for axis in order)])
        flat = net.op("Reshape", turned, net.ints(0, -1, kv * group * D))
        return str(net.op("MatMul", flat, net.weight("o", kv * group * D, WIDTH)))

    return project


def one_by_one(net: GraphBuilder, context: str, kv: int, group: int) -> str:
    parts = [
        net.op("MatMul", net.op("Gather", of_one, number(net, g), axis=1), net.weight(f"o{k}{g}", D, WIDTH))
        for k in range(kv)
        for of_one in [net.op("Gather", context, number(net, k), axis=1)]
        for g in range(group)
    ]
    return str(net.op("Sum", *parts))


def by_position(net: GraphBuilder, context: str, kv: int, group: int) -> str:
    """A projection for each position in all groups."""
    parts = []
    for g in range(group):
        turned = net.op("Transpose", net.op("Gather", context, number(net, g), axis=2), perm=[0, 2, 1, 3])
        flat = net.op("Reshape", turned, net.ints(0, -1, kv * D))
        parts.append(net.op("MatMul", flat, net.weight(f"o{g}", kv * D, WIDTH)))
    return str(net.op("Sum", *parts))


def number(net: GraphBuilder, value: int) -> str:
    return net.constant(net.name("at"), np.int64(value))


PROJECT: dict[str, Project] = {
    **{"".join(order): in_order("".join(order)) for order in itertools.permutations("kgd")},
    "one by one": one_by_one,
    "by position": by_position,
}


def grouped(
    attend: Attend,
    project: Project,
    kv: int,
    group: int,
    silent: Sequence[tuple[int, int]] = (),
    batch: Any = "b",
) -> ModelProto:
    net = GraphBuilder()
    q = net.op("Reshape", split(net, "q", kv * group), net.ints(0, kv, group, -1, D))
    context = attend(net, q, split(net, "k", kv), split(net, "v", kv))
    mask = np.ones((kv, group, 1, 1), np.float32)
    for head in silent:
        mask[head] = 0
    net.node("Add", [project(net, net.op("Mul", context, net.constant("mask", mask)), kv, group), "x"], "y")
    shape = [batch, S if isinstance(batch, int) else "s", WIDTH]
    return net.model([net.info("x", shape)], [net.info("y", shape)])


def check(write: Callable[[Sequence[tuple[int, int]]], ModelProto], heads: Sequence[int], gone: Any) -> None:
    model = write(())
    feed = {"x": np.random.default_rng(0).standard_normal((B, S, WIDTH)).astype(np.float32)}
    pruned = apply_plan(plan_pruning(model, heads={0: list(heads)}), model)
    check_equal(run(pruned, feed), run(write(gone), feed))


@pytest.mark.each_choice
@pytest.mark.parametrize("project", PROJECT)
@pytest.mark.parametrize("attend", ATTEND)
@pytest.mark.parametrize(("kv", "group"), [(1, 4), (2, 3)])
@pytest.mark.parametrize("batch", ["b", B])
def test_heads_are_where_queries_and_keys_meet(
    attend: str, project: str, kv: int, group: int, batch: Any
) -> None:
    def write(silent: Sequence[tuple[int, int]]) -> ModelProto:
        return grouped(ATTEND[attend], PROJECT[project], kv, group, silent, batch)

    (site,) = inspect(write(()))
    assert (site.num_heads, site.kv_num_heads, site.v_head_size, site.reason) == (kv * group, kv, D, None)
    # Heads are numbered by the first channels that the projection reads.
    outer_g = project.find("g") != -1 and project.index("g") < project.find("k")
    own = [g * kv + k if outer_g else k * group + g for k in range(kv) for g in (1,)]
    check(write, own, [(k, 1) for k in range(kv)])


def convolution(net: GraphBuilder, context: str, heads: int, sets: int) -> str:
    rows = net.op("Reshape", net.op("Transpose", context, perm=[0, 1, 3, 2]), net.ints(0, heads * D, -1))
    weight = net.weight("mixing", heads * D, heads * D // sets, 1)
    return str(net.op("Transpose", net.op("Conv", rows, weight, group=sets), perm=[0, 2, 1]))


def blocks(net: GraphBuilder, context: str, heads: int, sets: int) -> str:
    turned = net.op("Transpose", context, perm=[0, 2, 1, 3])
    rows = net.op("Reshape", turned, net.ints(0, -1, sets, 1, heads * D // sets))
    mixed = net.op("MatMul", rows, net.weight("mixing", sets, heads * D // sets, heads * D // sets))
    return str(net.op("Reshape", mixed, net.ints(0, -1, heads * D)))


MIX: dict[str, Callable[[GraphBuilder, str, int, int], str]] = {"convolution": convolution, "blocks": blocks}


@pytest.mark.parametrize("mix", MIX)
@pytest.mark.parametrize(("heads", "sets"), [(4, 2), (6, 2), (6, 3), (4, 4)])
def test_heads_that_a_layer_mixes_are_heads_that_go_together(mix: str, heads: int, sets: int) -> None:
    def write(silent: Sequence[tuple[int, int]]) -> ModelProto:
        def project(net: GraphBuilder, context: str, kv: int, group: int) -> str:
            mixed = MIX[mix](net, net.op("Squeeze", context, net.ints(2)), heads, sets)
            return str(net.op("MatMul", mixed, net.weight("o", heads * D, WIDTH)))

        return grouped(softmax, project, heads, 1, silent)

    (site,) = inspect(write(()))
    size = heads // sets
    assert (site.num_heads, site.kv_num_heads, site.v_head_size, site.reason) == (heads, heads, D, None)
    assert site.units == tuple(tuple(range(first, first + size)) for first in range(0, heads, size))
    check(write, range(size), [(head, 0) for head in range(size)])
    if size > 1:
        with pytest.raises(RefusedError, match="only go together"):
            plan_pruning(write(()), heads={0: [0]})
