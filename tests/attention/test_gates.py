"""Gates that read the residual stream as heads: what mixes heads there keeps nothing of them alive."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onnxheadprune.attention.planning import analyse
from onnxheadprune.attention.sites.find import inspect
from onnxheadprune.liveness.refusals import Reason
from tests.attention.block_graph import Net
from tests.attention.blueprint import PLAIN
from tests.attention.cuts import check_exact
from tests.attention.net_parts import B, D, H, S

WIDTH = H * D


def _gated(source: str) -> tuple[Net, Any]:
    """Attention whose scores are scaled by a quantized product of `source`, seen as heads (WavLM after int8)."""
    net = Net(PLAIN)
    x = net.input("x", (B, S, WIDTH), "bs-")
    flat = {name: net.op("MatMul", x, net.weight(name, WIDTH, WIDTH)) for name in "qkv"}

    def heads(data: Any, *order: int) -> Any:
        return net.op("Transpose", net.op("Reshape", data, net.ints(0, 0, H, D)), perm=list(order))

    seen = heads(x if source == "stream" else flat["q"], 0, 2, 1, 3)
    quantized, scale, zero = net.op("DynamicQuantizeLinear", seen, outputs=3)
    weight = net.stored("gate", net.rng.integers(-100, 100, (D, 1)).astype(np.int8))
    product = net.op("Cast", net.op("MatMulInteger", quantized, weight, zero), to=1)
    gate = net.op("Sigmoid", net.op("Mul", product, net.op("Mul", scale, net.weight("step", 1))))
    scores = net.op("Mul", net.op("MatMul", heads(flat["q"], 0, 2, 1, 3), heads(flat["k"], 0, 2, 3, 1)), gate)
    context = net.op("MatMul", net.op("Softmax", scores, axis=-1), heads(flat["v"], 0, 2, 1, 3))
    merged = net.op("Reshape", net.op("Transpose", context, perm=[0, 2, 1, 3]), net.ints(0, 0, WIDTH))
    return net, net.op("MatMul", merged, net.weight("o", WIDTH, WIDTH))


@pytest.mark.parametrize("gone", [[1], [0, 2]])
def test_a_quantized_gate_on_the_stream_is_no_obstacle(gone: list[int]) -> None:
    """The range is that of the stream, which stays whole; a gather behind it picks the heads that are left."""
    net, output = _gated("stream")
    model = net.export([output])
    (site,) = inspect(model)
    assert site.reason is None
    planning = analyse(model, {0: gone}, "gate")
    (gather,) = planning.plan.edge_gathers
    assert "DynamicQuantizeLinear" in gather.reason
    check_exact(planning, model, net.feed)


def test_a_quantized_gate_on_the_queries_is_one() -> None:
    """The range is taken over all queries: those of removed heads would have to stay for its sake."""
    net, output = _gated("queries")
    (site,) = inspect(net.export([output]))
    assert site.reason is not None
    assert site.reason.reason is Reason.COUPLED
