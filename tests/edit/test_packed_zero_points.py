"""MatMulNBits with zero points of four bits, two in a byte, and with inputs in another order."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper

from onnxheadprune import plan_pruning
from onnxheadprune.attention.sites.find import inspect
from onnxheadprune.errors import RefusedError
from tests.attention.block_graph import Net
from tests.attention.blueprint import PLAIN
from tests.attention.cuts import check_cut
from tests.liveness.masks import Array
from tests.toys_nbits import BLOCK, packed

WIDTH, LENGTH, HEADS = 32, 3, 4


def model_with(
    *, zero_points: bool = False, order: bool = False, heads: int = HEADS
) -> tuple[ModelProto, dict[str, Array]]:
    """Heads of one block each; the output projection has zero points, or an order of its inputs."""
    net = Net(PLAIN)
    x = net.input("x", (2, LENGTH, WIDTH), "bs-")
    parts = []
    for name, perm in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])):
        flat = net.op("MatMul", x, net.weight(name, WIDTH, heads * BLOCK))
        parts.append(net.op("Transpose", net.op("Reshape", flat, net.ints(0, 0, heads, BLOCK)), perm=perm))
    weights = net.op("Softmax", net.op("MatMul", parts[0], parts[1]), axis=-1)
    back = net.op("Transpose", net.op("MatMul", weights, parts[2]), perm=[0, 2, 1, 3])
    merged = net.op("Reshape", back, net.ints(0, 0, heads * BLOCK))
    model = packed(net.export([net.op("MatMul", merged, net.weight("o", heads * BLOCK, WIDTH))]), 1)
    node = [item for item in model.graph.node if item.op_type == "MatMulNBits"][-1]
    if zero_points:
        # Levels from 7 to 9, so that a wrong one shows.
        levels = np.random.default_rng(0).integers(7, 10, (WIDTH, HEADS)).astype(np.uint8)
        bytes_ = levels[:, 0::2] | levels[:, 1::2] << 4
        model.graph.initializer.append(numpy_helper.from_array(bytes_.reshape(-1), "zeros"))
        node.input.append("zeros")
    if order:
        groups = np.arange(HEADS * BLOCK, dtype=np.int32) // BLOCK
        model.graph.initializer.append(numpy_helper.from_array(groups, "order"))
        node.input.extend(["", "order"])
    return model, net.feed


def test_heads_whose_zero_points_share_a_byte_go_together() -> None:
    model, feed = model_with(zero_points=True)
    (site,) = inspect(model)
    assert site.units == ((0, 1), (2, 3))
    check_cut(model, feed, [2, 3])
    with pytest.raises(
        RefusedError, match=r"share bytes of zero points of .* only go together; the nearest legal sets are"
    ):
        plan_pruning(model, heads="0:1")


def test_inputs_in_another_order_are_refused() -> None:
    model, _ = model_with(order=True)
    (site,) = inspect(model)
    assert site.reason is not None and "another order (g_idx)" in site.reason.sentence


@pytest.mark.parametrize(("heads", "gone"), [(5, [4]), (5, [0, 1, 2, 3]), (8, [4, 5, 6, 7])])
def test_zero_points_of_two_bits_lie_four_in_a_byte(heads: int, gone: list[int]) -> None:
    model, feed = model_with(heads=heads)
    node = [item for item in model.graph.node if item.op_type == "MatMulNBits"][-1]
    draw = np.random.default_rng(0)
    for tensor in model.graph.initializer:
        if tensor.name == node.input[1]:
            levels = draw.integers(0, 256, (WIDTH, heads, BLOCK // 4), dtype=np.uint8)
            tensor.CopyFrom(numpy_helper.from_array(levels, tensor.name))
    next(item for item in node.attribute if item.name == "bits").i = 2
    zeros = draw.integers(0, 256, (WIDTH, -(-heads // 4)), dtype=np.uint8)
    model.graph.initializer.append(numpy_helper.from_array(zeros, "zeros"))
    node.input.append("zeros")
    (site,) = inspect(model)
    assert site.units == tuple((*range(start, min(start + 4, heads)),) for start in range(0, heads, 4))
    check_cut(model, feed, gone)
