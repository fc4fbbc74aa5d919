"""What an `If` hands on narrowed, every branch hands out narrowed: computed, unknown and stored values alike."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, numpy_helper

from onnxheadprune.attention.planning import analyse
from tests.attention.block_graph import Net
from tests.attention.blueprint import PLAIN
from tests.attention.cuts import check_exact
from tests.attention.net_parts import WIDTH, B, D, H, S
from tests.liveness.masks import Array

Branch = Callable[[Net, str], str]
SHAPE = (B, S, H * D)


def scaled(net: Net, data: str) -> str:
    return str(net.op("Mul", data, net.weight("scale", H * D)))


def unknown(net: Net, data: str) -> str:
    """An operator without a rule, on [b, s, H * D]."""
    return str(net.op("ReverseSequence", data, net.ints(*[S] * B), batch_axis=0, time_axis=1))


def stored(net: Net, data: str) -> str:
    return str(net.op("Constant", value=numpy_helper.from_array(net.random(*SHAPE))))


def model(branches: tuple[Branch, Branch], condition: bool) -> tuple[ModelProto, dict[str, Array]]:
    net = Net(PLAIN)
    x = net.input("x", (B, S, WIDTH), "---")
    q, k, v = (net.op("MatMul", x, net.weight(name, WIDTH, H * D)) for name in "qkv")
    then, other = (net.body(lambda: [net.info(branch(net, v), SHAPE)]) for branch in branches)  # noqa: B023
    net.inputs.append(net.info("flag", [], TensorProto.BOOL))
    net.feed["flag"] = np.array(condition)
    v = net.op("If", "flag", then_branch=then, else_branch=other)
    q, k, v = (
        net.op("Transpose", net.op("Reshape", f, net.ints(0, 0, H, D)), perm=[0, 2, 1, 3]) for f in (q, k, v)
    )
    scores = net.op("MatMul", q, net.op("Transpose", k, perm=[0, 1, 3, 2]))
    context = net.op("Transpose", net.op("MatMul", net.op("Softmax", scores, axis=-1), v), perm=[0, 2, 1, 3])
    merged = net.op("Reshape", context, net.ints(0, 0, H * D))
    return net.export([net.op("MatMul", merged, net.weight("o", H * D, WIDTH))]), net.feed


@pytest.mark.parametrize("condition", [True, False])
@pytest.mark.parametrize("other", [scaled, unknown, stored])
def test_both_branches_hand_out_the_same_part(other: Branch, condition: bool) -> None:
    graph, feed = model((scaled, other), condition)
    planning = analyse(graph, {0: [1, 2]}, "branches")
    assert bool(planning.plan.edge_gathers) == (other is unknown)
    check_exact(planning, graph, feed)
