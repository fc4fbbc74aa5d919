"""Dimensions that a graph computes are known only as far as the computation is followed."""

from __future__ import annotations

from onnxheadprune.model.graph import dims
from onnxheadprune.model.graph.dims import symbol
from onnxheadprune.operators import view_of
from tests.graphs.net import Net


def test_a_difference_of_dimensions_may_be_negative() -> None:
    """`max(length - 4, 0)` and `where(length - 4 == -1, 4, 0)` are decided by the length, not by the graph."""
    net = Net()
    x = net.input("x", (2, 3), "bs")
    less = net.op("Sub", net.length(x, 1), net.ints(4))
    larger = net.op("Max", less, net.ints(0))
    chosen = net.op("Where", net.op("Equal", less, net.ints(-1)), net.ints(4), net.ints(0))
    padded = [net.op("Pad", x, net.op("Concat", net.ints(0, 0, 0), end, axis=0)) for end in (larger, chosen)]
    found = {value.name: value.shape for value in view_of(net.export(padded)).values()}
    length = symbol("dim_s")
    for output, claim in zip(padded, (dims.add(length, dims.subtract(length, 4)), length), strict=True):
        shape = found[output]
        assert shape is not None and shape[0] == symbol("dim_b") and shape[1] != claim
