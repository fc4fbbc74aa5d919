"""Heads are numbered as the core has them where no projection reads all of them."""

from __future__ import annotations

import pytest
from onnx import numpy_helper

from onnxheadprune.attention.planning import analyse
from onnxheadprune.attention.sites.find import inspect
from onnxheadprune.edit.apply import apply_plan
from tests.attention.block_graph import Net
from tests.attention.blueprint import PLAIN
from tests.attention.net_parts import WIDTH, B, D, H, S, context_of, merged, projected
from tests.liveness.one_node import check_equal, run

HALF = H * D // 2


@pytest.mark.each_choice
@pytest.mark.parametrize("head", range(H))
@pytest.mark.parametrize("first", ["front", "back"])
def test_heads_of_two_projections_that_share_them_out(first: str, head: int) -> None:
    """Zeros in the rows of this very head of the weight that reads it are what a cut of this number gives."""
    net = Net(PLAIN)
    context = merged(net, context_of(net, net.input("x", (B, S, WIDTH), "bs-")))
    halves = {"front": (0, HALF), "back": (HALF, 2 * HALF)}
    order = ["front", "back"] if first == "front" else ["back", "front"]
    outputs = [
        projected(net, net.op("Slice", context, net.ints(start), net.ints(stop), net.ints(2)), HALF)
        for start, stop in (halves[name] for name in order)
    ]
    model = net.export(outputs)
    (site,) = inspect(model)
    assert site.num_heads == H

    silent = type(model)()
    silent.CopyFrom(model)
    reader = site.projections[order.index("front" if head < H // 2 else "back")]
    weight = next(item for item in silent.graph.initializer if item.name == reader.node.proto.input[1])
    rows = numpy_helper.to_array(weight).copy()
    start = head % (H // 2) * D
    rows[start : start + D] = 0.0
    weight.CopyFrom(numpy_helper.from_array(rows, weight.name))

    got = run(apply_plan(analyse(model, {0: [head]}, "the model").plan, model), net.feed)
    check_equal(got, run(silent, net.feed))
