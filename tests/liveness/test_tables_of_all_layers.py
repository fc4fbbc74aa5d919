"""A stored tensor with a part for each layer: a cut in one layer moves the reads of the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest
from onnx import ModelProto

from onnxheadprune import apply_plan, plan_pruning
from tests.graph_builder import GraphBuilder
from tests.liveness.one_node import check_equal, run

LAYERS, H, D, WIDTH = 3, 4, 3, 6
Pick = Callable[[GraphBuilder, int], str]


def table(net: GraphBuilder, *shape: int) -> str:
    if not any(tensor.name == "table" for tensor in net.initializers):
        net.weight("table", *shape)
    return "table"


def sliced(net: GraphBuilder, layer: int) -> str:
    bounds = net.ints(layer * H), net.ints((layer + 1) * H), net.ints(0)
    return str(net.op("Slice", table(net, LAYERS * H), *bounds))


def from_the_end(net: GraphBuilder, layer: int) -> str:
    end = (layer + 1 - LAYERS) * H or np.iinfo(np.int64).max
    return str(
        net.op("Slice", table(net, LAYERS * H), net.ints((layer - LAYERS) * H), net.ints(end), net.ints(0))
    )


def gathered(net: GraphBuilder, layer: int) -> str:
    return str(net.op("Gather", table(net, LAYERS * H), net.ints(*range(layer * H, (layer + 1) * H))))


def row(net: GraphBuilder, layer: int) -> str:
    return str(net.op("Gather", table(net, LAYERS, H), net.constant(net.name("at"), np.int64(layer)), axis=0))


def column(net: GraphBuilder, layer: int) -> str:
    part = net.op("Slice", table(net, H, LAYERS), net.ints(layer), net.ints(layer + 1), net.ints(1))
    return str(net.op("Squeeze", part, net.ints(1)))


def turned(net: GraphBuilder, layer: int) -> str:
    whole = net.op("Transpose", table(net, H, LAYERS), perm=[1, 0])
    return str(net.op("Gather", whole, net.constant(net.name("at"), np.int64(layer)), axis=0))


def split(net: GraphBuilder, layer: int) -> str:
    if not layer:
        table(net, LAYERS * H)
        net.parts = net.op("Split", "table", net.ints(*[H] * LAYERS), outputs=LAYERS, axis=0)  # type: ignore[attr-defined]
    return str(net.parts[layer])  # type: ignore[attr-defined]


def reshaped(net: GraphBuilder, layer: int) -> str:
    whole = net.op("Reshape", table(net, LAYERS * H), net.ints(LAYERS, H))
    return str(net.op("Gather", whole, net.constant(net.name("at"), np.int64(layer)), axis=0))


PICKS: dict[str, Pick] = {
    "slice": sliced,
    "slice from the end": from_the_end,
    "gather": gathered,
    "row": row,
    "column": column,
    "transposed": turned,
    "split": split,
    "reshaped": reshaped,
}


def layers(pick: Pick, silent: Mapping[int, Sequence[int]] = {}) -> ModelProto:
    net = GraphBuilder()
    x = "x"
    for layer in range(LAYERS):

        def heads(name: str, read: str, order: Sequence[int], number: int = layer) -> str:
            flat = net.op("MatMul", read, net.weight(f"{name}{number}", WIDTH, H * D))
            return str(net.op("Transpose", net.op("Reshape", flat, net.ints(0, 0, H, D)), perm=list(order)))

        maps = net.op(
            "Softmax", net.op("MatMul", heads("q", x, (0, 2, 1, 3)), heads("k", x, (0, 2, 3, 1))), axis=-1
        )
        context = net.op("MatMul", maps, heads("v", x, (0, 2, 1, 3)))
        scaled = net.op("Mul", context, net.op("Reshape", pick(net, layer), net.ints(1, -1, 1, 1)))
        mask = np.ones((H, 1, 1), np.float32)
        mask[list(silent.get(layer, ()))] = 0
        left = net.op(
            "Transpose", net.op("Mul", scaled, net.constant(f"mask{layer}", mask)), perm=[0, 2, 1, 3]
        )
        merged = net.op("Reshape", left, net.ints(0, 0, H * D))
        made = net.op("MatMul", merged, net.weight(f"o{layer}", H * D, WIDTH))
        x = net.node("Add", [x, made], "y" if layer == LAYERS - 1 else f"x{layer}")
    return net.model([net.info("x", ["b", "s", WIDTH])], [net.info("y", ["b", "s", WIDTH])])


@pytest.mark.each_choice
@pytest.mark.parametrize(
    "heads", [{0: [0]}, {1: [1, 2]}, {2: [3]}, {0: [1], 2: [0, 3]}, {0: [0], 1: [0], 2: [0]}]
)
@pytest.mark.parametrize("pick", PICKS)
def test_a_cut_in_one_layer_moves_the_reads_of_the_others(pick: str, heads: dict[int, list[int]]) -> None:
    model = layers(PICKS[pick])
    feed = {"x": np.random.default_rng(0).standard_normal((2, 5, WIDTH)).astype(np.float32)}
    pruned = apply_plan(plan_pruning(model, heads=heads), model)
    check_equal(run(pruned, feed), run(layers(PICKS[pick], heads), feed))
