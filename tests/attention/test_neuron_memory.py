"""Memory that a feed-forward block takes once it is found: some bytes a neuron, not some objects."""

from __future__ import annotations

import tracemalloc

import onnx

from onnxheadprune.attention.sites import neurons
from onnxheadprune.operators import view_of
from tests.graph_text import model_of

NEURONS, BYTES = 500, 200
"""The most bytes for each further neuron: pointers and numbers. A Python set per neuron took 900."""


def stack(blocks: int) -> onnx.ModelProto:
    """Feed-forward blocks one after the other."""
    weights = [f"float[4, {NEURONS}] up{at}, float[{NEURONS}, 4] down{at}" for at in range(blocks)]
    nodes = [
        f"u{at} = MatMul(x{at}, up{at}) r{at} = Relu(u{at})"
        f" d{at} = MatMul(r{at}, down{at}) x{at + 1} = Add(x{at}, d{at})"
        for at in range(blocks)
    ]
    return model_of(
        f"""<ir_version: 9, opset_import: ["": 17]>
        stack (float[b, s, 4] x0) => (float[b, s, 4] x{blocks}) <{", ".join(weights)}> {{ {" ".join(nodes)} }}"""
    )


def peak(blocks: int) -> int:
    """Return the most bytes that finding the blocks takes."""
    view = view_of(stack(blocks))
    tracemalloc.start()
    try:
        assert len(neurons.found(view, ()).sites) == blocks
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_blocks_share_the_sets_of_their_neurons() -> None:
    peak(1)
    few, many = peak(2), peak(4)
    assert (many - few) / (2 * NEURONS) < BYTES
