"""Branches that vanish together and are added to each other, or one after the other."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from onnxheadprune.attention.masking import masked_reference
from onnxheadprune.attention.planning import analyse
from onnxheadprune.edit.apply import apply_plan
from tests.attention.block_graph import Net
from tests.attention.blueprint import PLAIN
from tests.attention.net_parts import WIDTH, B, D, H, S
from tests.liveness.one_node import run


def _attention(net: Net, x: Any, tag: str, bias: bool) -> Any:
    def heads(name: str, *order: int) -> Any:
        flat = net.op("MatMul", x, net.weight(f"{name}{tag}", WIDTH, H * D))
        return net.op("Transpose", net.op("Reshape", flat, net.ints(0, 0, H, D)), perm=list(order))

    weights = net.op("Softmax", net.op("MatMul", heads("q", 0, 2, 1, 3), heads("k", 0, 2, 3, 1)), axis=-1)
    context = net.op("Transpose", net.op("MatMul", weights, heads("v", 0, 2, 1, 3)), perm=[0, 2, 1, 3])
    merged = net.op("Reshape", context, net.ints(0, 0, H * D))
    made = net.op("MatMul", merged, net.weight(f"o{tag}", H * D, WIDTH))
    return net.op("Add", made, net.weight(f"bias{tag}", WIDTH)) if bias else made


@pytest.mark.each_choice
@pytest.mark.parametrize("bias", [False, True], ids=("plain", "bias"))
@pytest.mark.parametrize("order", ["beside", "stream first", "after each other", "alone"])
def test_branches_meet(order: str, bias: bool) -> None:
    """Whichever of three branches go, what is left is the masked original."""
    net = Net(PLAIN)
    x = net.input("x", (B, S, WIDTH), "bs-")
    first, second, third = (_attention(net, x, tag, bias) for tag in "abc")
    if order == "beside":
        y = net.op("Add", x, net.op("Add", net.op("Add", first, second), third))
    elif order == "stream first":
        y = net.op("Add", net.op("Add", net.op("Add", x, first), second), third)
    elif order == "alone":
        y = net.op("Add", net.op("Add", first, second), third)
    else:
        stream = net.op("Add", net.op("Add", x, first), second)
        y = net.op("Add", stream, _attention(net, stream, "d", bias))
    model = net.export([net.op("Relu", y)])
    count = 3
    for whole in itertools.product((False, True), repeat=count):
        gone = {site: list(range(H)) for site in range(count) if whole[site]}
        if not gone:
            continue
        planning = analyse(model, gone, "meeting")
        want = run(masked_reference(planning.view, planning.sites, planning.heads), net.feed)
        got = run(apply_plan(planning.plan, model), net.feed)
        for name, array in want.items():
            assert got[name].shape == array.shape
            np.testing.assert_allclose(got[name], array, atol=1e-5)
