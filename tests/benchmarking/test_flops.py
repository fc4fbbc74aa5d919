"""Operations counted against arithmetic done by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from onnxheadprune.benchmarking.flops import Flops, attention_nodes, concrete_view
from onnxheadprune.model.load import open_model
from onnxheadprune.operators import view_of
from onnxheadprune.runtime.feeds.generate import FeedMaker, Sizes
from tests.graph_builder import GraphBuilder
from tests.graphs import toys
from tests.graphs.mixtures import EXPERTS, HIDDEN, TOKENS, WIDTH, Mixture, tokens


def counted(model: Any, feed: dict[str, Any]) -> int:
    found = Flops.of(concrete_view(model, feed))
    assert not found.uncounted
    return found.total


def floats(*shape: int) -> Any:
    return np.zeros(shape, dtype=np.float32)


def one_node(
    op_type: str, weights: dict[str, tuple[int, ...]], rank: int, domain: str = "", **attributes: Any
) -> Any:
    toy = GraphBuilder()
    names = ["x", *(toy.weight(name, *shape) for name, shape in weights.items())]
    toy.nodes.append(helper.make_node(op_type, names, ["y"], op_type, domain=domain, **attributes))
    dims = [f"d{axis}" for axis in range(rank)]
    model = toy.model([toy.info("x", dims)], [toy.info("y", None)])
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return model


@pytest.mark.parametrize(
    ("op_type", "weights", "shape", "attributes", "expected"),
    [
        ("MatMul", {"w": (6, 5)}, (2, 3, 6), {}, 2 * 2 * 3 * 6 * 5),
        ("Gemm", {"w": (5, 6)}, (4, 6), {"transB": 1}, 2 * 4 * 6 * 5),
        ("Gemm", {"w": (6, 5)}, (6, 4), {"transA": 1}, 2 * 4 * 6 * 5),
        ("Einsum", {"w": (6, 2, 5)}, (3, 4, 6), {"equation": "bsd,dhk->bhsk"}, 2 * 3 * 4 * 6 * 2 * 5),
        ("Conv", {"w": (8, 2, 3, 3)}, (1, 4, 10, 10), {"group": 2}, 2 * 8 * 8 * 8 * 2 * 9),
        ("ConvTranspose", {"w": (4, 8, 3, 3)}, (1, 4, 10, 10), {}, 2 * 4 * 100 * 8 * 9),
        ("Relu", {}, (2, 3), {}, 0),
    ],
)
def test_by_hand(
    op_type: str, weights: dict[str, Any], shape: tuple[int, ...], attributes: dict[str, Any], expected: int
) -> None:
    assert counted(one_node(op_type, weights, len(shape), **attributes), {"x": floats(*shape)}) == expected


def test_packed_fused_attention() -> None:
    """Projection to Q, K and V of 24, then scores and context of 4 heads of 6."""
    model = one_node("Attention", {"w": (10, 72), "b": (72,)}, 3, "com.microsoft", num_heads=4)
    batch, length = 2, 7
    projection, core = 2 * batch * length * 10 * 72, 2 * batch * 4 * length * length * (6 + 6)
    assert counted(model, {"x": floats(batch, length, 10)}) == projection + core


def test_grouped_attention_with_a_cache() -> None:
    toy = GraphBuilder()
    kinds = {"q": ["b", "s", 24], "k": ["b", "s", 12], "v": ["b", "s", 12]}
    kinds |= {"pk": ["b", 2, "p", 6], "pv": ["b", 2, "p", 6]}
    inputs = [toy.info(name, shape) for name, shape in kinds.items()]
    for name, value in (("lengths", [8]), ("total", 9)):
        toy.constant(name, np.array(value, dtype=np.int32))
    toy.nodes.append(
        helper.make_node(
            "GroupQueryAttention",
            [*kinds, "lengths", "total"],
            ["y", "present_k", "present_v"],
            "core",
            domain="com.microsoft",
            num_heads=4,
            kv_num_heads=2,
        )
    )
    model = toy.model(inputs, [toy.info("y", None)])
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    feed = {"q": floats(1, 1, 24), "k": floats(1, 1, 12), "v": floats(1, 1, 12)}
    feed |= {"pk": floats(1, 2, 8, 6), "pv": floats(1, 2, 8, 6)}
    assert counted(model, feed) == 2 * 4 * 1 * 9 * (6 + 6)


def test_a_mixture_costs_its_router_and_the_experts_that_are_chosen() -> None:
    """Two of them, with three maps each, for every token."""
    router, maps = 2 * TOKENS * HIDDEN * EXPERTS, 2 * TOKENS * 2 * 3 * HIDDEN * WIDTH
    model = Mixture(activation="swiglu", fused=1).model()
    assert counted(model, {"x": tokens()}) == router + maps


def test_attention_block_and_its_share() -> None:
    model = toys.attention()
    batch, length, hidden, width = 2, 5, toys.HIDDEN, toys.HEADS * toys.HEAD_SIZE
    view = concrete_view(model, {"x": floats(batch, length, hidden)})
    found = Flops.of(view, attention_nodes(model))
    projections = 4 * 2 * batch * length * hidden * width
    core = 2 * 2 * batch * length * length * width
    assert found.total == projections + core
    assert found.attention_share == 1.0


def test_all_exports_of_one_network_cost_the_same(tiny: Path) -> None:
    totals = set()
    for path in sorted(tiny.glob("bert-*.onnx")):
        model = open_model(path).proto
        feed = FeedMaker(view_of(model)).sized(Sizes(2, 0, 8, 1, distinct=False))
        flops = Flops.of(concrete_view(model, feed), attention_nodes(model))
        totals.add((flops.total, flops.attention))
    assert len(totals) == 1


def test_the_taken_branch_counts() -> None:
    toy = GraphBuilder()
    small, large = (toy.weight(name, 6, columns) for name, columns in (("small", 1), ("large", 6)))

    def branch(name: str, weight: str) -> Any:
        node = helper.make_node("MatMul", ["x", weight], [f"{name}_y"])
        return helper.make_graph([node], name, [], [toy.info(f"{name}_y", None)])

    toy.node("If", ["flag"], "y", then_branch=branch("then", small), else_branch=branch("else", large))
    flag = helper.make_tensor_value_info("flag", TensorProto.BOOL, [])
    model = toy.model([toy.info("x", ["b", 6]), flag], [toy.info("y", None)])
    for value, columns in ((True, 1), (False, 6)):
        assert counted(model, {"x": floats(3, 6), "flag": np.array(value)}) == 2 * 3 * 6 * columns


def test_what_is_not_known_is_named() -> None:
    model = one_node("SparseAttention", {"w": (6, 5)}, 2, "com.microsoft")
    found = Flops.of(concrete_view(model, {"x": floats(3, 6)}))
    assert found.uncounted == ("SparseAttention (SparseAttention)",)
