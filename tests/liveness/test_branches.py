"""What an `If` hands on narrowed, every branch hands out narrowed: computed, unknown and stored values alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import pytest
from onnx import ModelProto

from onnxheadprune.attention.masking import masked_reference
from onnxheadprune.attention.planning import analyse
from onnxheadprune.edit.apply import apply_plan
from tests.attention.block_graph import Net
from tests.attention.blueprint import PLAIN
from tests.attention.net_parts import WIDTH, B, D, H, S
from tests.liveness.masks import Array
from tests.liveness.one_node import run

Branch = Callable[[Net, gs.Graph, Any], Any]
SHAPE = (B, S, H * D)


def scaled(net: Net, body: gs.Graph, data: Any) -> Any:
    return body.layer(op="Mul", inputs=[data, net.weight("scale", H * D)], outputs=[net.name("scaled")])[0]


def unknown(net: Net, body: gs.Graph, data: Any) -> Any:
    """An operator without a rule, on [b, s, H * D]."""
    attributes = {"batch_axis": 0, "time_axis": 1}
    lengths = net.ints(*[S] * B)
    return body.layer(
        op="ReverseSequence", inputs=[data, lengths], outputs=[net.name("r")], attrs=attributes
    )[0]


def stored(net: Net, body: gs.Graph, data: Any) -> Any:
    tensor = gs.Variable(net.name("stored"))
    value = gs.Constant(net.name("numbers"), net.random(*SHAPE))
    body.nodes.append(gs.Node("Constant", inputs=[], outputs=[tensor], attrs={"value": value}))
    return tensor


def model(branches: tuple[Branch, Branch], condition: bool) -> tuple[ModelProto, dict[str, Array]]:
    net = Net(PLAIN)
    x = net.input("x", (B, S, WIDTH), "---")
    q, k, v = (net.op("MatMul", x, net.weight(name, WIDTH, H * D)) for name in "qkv")
    bodies = []
    for branch in branches:
        body = gs.Graph(opset=PLAIN.opset, name="body")
        output = branch(net, body, v)
        output.dtype, output.shape = np.dtype(np.float32), SHAPE
        body.outputs = [output]
        bodies.append(body)
    flag = gs.Variable("flag", dtype=np.bool_, shape=())
    net.graph.inputs.append(flag)
    net.feed["flag"] = np.array(condition)
    v = net.op("If", flag, then_branch=bodies[0], else_branch=bodies[1])
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
    got = run(apply_plan(planning.plan, graph), feed)
    want = run(masked_reference(planning.view, planning.sites, planning.heads), feed)
    for name, array in want.items():
        np.testing.assert_allclose(got[name], array, atol=1e-5)
