"""The newest attention operators, which no runtime has kernels for yet: compared in onnx's reference evaluator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper
from onnx.reference import ReferenceEvaluator

from onnxheadprune import RefusedError, apply_plan, inspect, plan_pruning
from onnxheadprune.attention.io_changes import Contract
from onnxheadprune.attention.planning import analyse
from tests.graph_builder import GraphBuilder
from tests.liveness.masks import Array

B, S, H, K, D, HIDDEN = 2, 3, 4, 2, 4, 6
GONE = (0, 1)
"""The heads of the first group."""
PREVIEW = "ai.onnx.preview"


def heads(toy: GraphBuilder, name: str, count: int, apart: bool) -> str:
    made = toy.node("MatMul", ["x", toy.weight(f"{name}.weight", HIDDEN, count * D)], f"{name}_flat")
    if not apart:
        return made
    split = toy.node(
        "Reshape", [made, toy.constant(f"{name}_shape", np.array([0, 0, count, D]))], f"{name}_split"
    )
    return toy.node("Transpose", [split], f"{name}_heads", perm=[0, 2, 1, 3])


def finish(
    toy: GraphBuilder, context: str, apart: bool, silent: Sequence[int], outputs: Sequence[Any] = ()
) -> ModelProto:
    """A mask at the core, the merge and the projection."""
    if silent:
        mask = np.ones((H, D), np.float32)
        mask[list(silent)] = 0
        shaped = mask[:, None, :] if apart else mask.reshape(-1)
        context = toy.node("Mul", [context, toy.constant("mask", shaped)], "silenced")
    if apart:
        turned = toy.node("Transpose", [context], "turned", perm=[0, 2, 1, 3])
        context = toy.node("Reshape", [turned, toy.constant("merge", np.array([0, 0, H * D]))], "merged")
    toy.node("MatMul", [context, toy.weight("o.weight", H * D, HIDDEN)], "y")
    info = [B, S, HIDDEN]
    model = toy.model([toy.info("x", info)], [toy.info("y", info), *outputs], opset=27)
    model.opset_import.append(helper.make_opsetid(PREVIEW, 1))
    model.ir_version = 13
    return model


def linear(silent: Sequence[int] = ()) -> ModelProto:
    toy = GraphBuilder()
    inputs = [heads(toy, name, count, False) for name, count in (("q", H), ("k", K), ("v", K))]
    rate = toy.node("MatMul", ["x", toy.weight("beta.weight", HIDDEN, K)], "rate")
    decay = toy.node("Neg", [toy.node("Sigmoid", [heads(toy, "decay", K, False)], "gate")], "decay")
    toy.nodes.append(
        helper.make_node(
            "LinearAttention", [*inputs, "", decay, rate], ["context", "state"], q_num_heads=H, kv_num_heads=K
        )
    )
    return finish(toy, "context", False, silent)


def flexible(silent: Sequence[int] = (), **bodies: Any) -> ModelProto:
    toy = GraphBuilder()
    inputs = [heads(toy, name, count, True) for name, count in (("q", H), ("k", K), ("v", K))]
    toy.nodes.append(
        helper.make_node("FlexAttention", inputs, ["context"], domain=PREVIEW, name="flex", **bodies)
    )
    return finish(toy, "context", True, silent)


def with_maps(silent: Sequence[int] = ()) -> ModelProto:
    toy = GraphBuilder()
    inputs = [heads(toy, name, count, True) for name, count in (("q", H), ("k", K), ("v", K))]
    toy.nodes.append(helper.make_node("Attention", inputs, ["context", "", "", "maps"], name="attend"))
    return finish(toy, "context", True, silent, [toy.info("maps", [B, H, S, S])])


def doubled() -> Any:
    info = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [B, H, S, S]) for name in ("scores", "more")
    ]
    return helper.make_graph(
        [helper.make_node("Add", ["scores", "scores"], ["more"])], "body", info[:1], info[1:]
    )


def outputs(model: ModelProto) -> list[Array]:
    feed = {"x": np.random.default_rng(1).standard_normal((B, S, HIDDEN)).astype(np.float32)}
    return [np.asarray(array) for array in ReferenceEvaluator(model).run(None, feed)]


def defined(op_type: str, version: int, domain: str = "") -> bool:
    """Whether this onnx knows an operator; the oldest one that is allowed does not."""
    return bool(onnx.defs.has(op_type, version, domain))


@pytest.mark.parametrize(
    "build",
    [
        pytest.param(
            linear, marks=pytest.mark.skipif(not defined("LinearAttention", 27), reason="older onnx")
        ),
        pytest.param(
            flexible, marks=pytest.mark.skipif(not defined("FlexAttention", 1, PREVIEW), reason="older onnx")
        ),
    ],
)
def test_whole_groups_go(build: Any) -> None:
    model = build()
    (site,) = inspect(model)
    assert (site.num_heads, site.kv_num_heads, site.head_size) == (H, K, D)
    plan = plan_pruning(model, heads={0: GONE})
    assert not plan.edge_gathers
    (want,), (whole,), (got,) = outputs(build(GONE)), outputs(model), outputs(apply_plan(plan, model))
    np.testing.assert_allclose(got, want, atol=1e-5)
    assert not np.allclose(whole, want, atol=1e-3)


def test_a_subgraph_that_sees_all_heads_is_a_near_miss() -> None:
    sites = inspect(flexible(score_mod=doubled()))
    (miss,) = sites.near_misses
    assert not sites and not sites.no_heads
    assert miss.reason.node == miss.node


def test_maps_that_leave_the_model_are_narrowed_with_consent() -> None:
    model = with_maps()
    with pytest.raises(RefusedError, match="allow_io_change=True narrows that output"):
        plan_pruning(model, heads={0: GONE})
    planning = analyse(model, {0: GONE}, "maps", Contract(allow_io_change=True))
    assert set(planning.io.live) == {"maps"}
    (want, maps), (got, narrowed) = outputs(with_maps(GONE)), outputs(apply_plan(planning.plan, model))
    np.testing.assert_allclose(got, want, atol=1e-5)
    np.testing.assert_allclose(narrowed, maps[:, 2:], atol=1e-5)
