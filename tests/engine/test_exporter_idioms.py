"""How exporters compute shapes around attention: heads have to be found behind it."""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxheadprune.masking import masked_reference
from onnxheadprune.pruning import analyse
from onnxheadprune.sites.find import find_sites
from onnxheadprune.surgery import apply_plan
from tests.engine.block_graph import Net
from tests.engine.one_node import run
from tests.engine.test_plan import PLAIN
from tests.engine.test_refused_graphs import WIDTH, B, D, H, S


def test_a_batch_of_heads_is_the_larger_of_two_batches() -> None:
    """tf2onnx writes an einsum as `[b * H, s, d]` products and takes the result's shape from both operands."""
    net = Net(PLAIN)
    x = net.input("x", (B, S, WIDTH), "b--")

    def heads(name: str, *order: int) -> Any:
        flat = net.op("MatMul", x, net.weight(name, WIDTH, H * D))
        return net.op("Transpose", net.op("Reshape", flat, net.ints(-1, S, H, D)), perm=list(order))

    def folded(data: Any) -> tuple[Any, Any]:
        shape = net.op("Shape", data)
        batch = net.op("Gather", shape, net.ints(0, 1))
        tail = net.op("Gather", shape, net.ints(3))
        return net.op(
            "Reshape", data, net.op("Concat", net.op("ReduceProd", batch), net.ints(-1), tail, axis=0)
        ), batch

    (q, one), (k, other) = folded(heads("q", 0, 2, 1, 3)), folded(heads("k", 0, 2, 3, 1))
    back = net.op("Concat", net.op("Max", one, other), net.ints(S, S), axis=0)
    weights = net.op("Softmax", net.op("Reshape", net.op("MatMul", q, k), back), axis=-1)
    context = net.op("Transpose", net.op("MatMul", weights, heads("v", 0, 2, 1, 3)), perm=[0, 2, 1, 3])
    merged = net.op("Reshape", context, net.ints(-1, S, H * D))
    flat = net.op(
        "Gemm", net.op("Reshape", merged, net.ints(-1, H * D)), net.weight("o", H * D, WIDTH), beta=0.0
    )
    model = net.export([flat])
    assert [site.num_heads for site in find_sites(model)] == [H]
    for gone in ([1], [0, 2], list(range(H))):
        planning = analyse(model, {0: gone}, "einsum")
        want = run(masked_reference(planning.view, planning.sites, planning.heads), net.feed)
        got = run(apply_plan(planning.plan, model), net.feed)
        for name, array in want.items():
            np.testing.assert_allclose(got[name], array, atol=1e-5)
