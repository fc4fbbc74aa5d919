"""What no output depends on needs nothing, and tells against nothing: left there by somebody who deleted an output."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper

from onnxheadprune import inspect, plan_pruning
from onnxheadprune.edit.apply import apply_plan
from tests.attention.toy_parts import HIDDEN, WIDTH, D, H, attended, projected, softmax
from tests.graph_builder import GraphBuilder


def relu(toy: GraphBuilder) -> str:
    return toy.node("Relu", ["turned"], "dead")


def turned_flat(toy: GraphBuilder) -> str:
    return toy.node("Reshape", ["context", toy.constant("flat", np.array([-1, 0, H * D]))], "dead")


def one_more_projection(toy: GraphBuilder) -> str:
    return toy.node("MatMul", ["merged", toy.weight("dead.weight", WIDTH, HIDDEN)], "dead")


def mean_of_maps(toy: GraphBuilder) -> str:
    mean = toy.node("ReduceMean", ["scores_weights"], "mean", axes=[1], keepdims=0)
    return toy.node("Sqrt", [mean], "dead")


def normed(toy: GraphBuilder) -> str:
    scale = toy.constant("gain", np.ones(WIDTH, np.float32))
    return toy.node("LayerNormalization", ["merged", scale], "dead", axis=-1)


def mixed_queries(toy: GraphBuilder) -> str:
    return toy.node("Softmax", ["q_heads"], "dead", axis=1)


def read_by_a_branch(toy: GraphBuilder) -> str:
    info = helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)
    bodies = {
        f"{name}_branch": helper.make_graph(
            [helper.make_node(op_type, ["context"], ["inner"])], name, [], [info]
        )
        for name, op_type in (("then", "Relu"), ("else", "Sigmoid"))
    }
    return toy.node("If", [toy.constant("yes", np.array(True))], "dead", **bodies)


def scaled_weight(toy: GraphBuilder) -> str:
    return toy.node("Mul", ["o.weight", toy.weight("grid", WIDTH, HIDDEN)], "dead")


DEAD = [
    relu,
    turned_flat,
    one_more_projection,
    mean_of_maps,
    normed,
    mixed_queries,
    read_by_a_branch,
    scaled_weight,
]


def toy_model(*dead: Callable[[GraphBuilder], str], silent: tuple[int, ...] = ()) -> ModelProto:
    toy = GraphBuilder()
    y = projected(toy, attended(toy, softmax))
    if silent:
        mask = np.ones((1, H, 1, 1), np.float32)
        mask[:, list(silent)] = 0
        at = next(i for i, node in enumerate(toy.nodes) if "turned" in node.output)
        toy.nodes[at].input[0] = "silenced"
        mul = helper.make_node("Mul", ["context", toy.constant("mask", mask)], ["silenced"])
        toy.nodes.insert(at, mul)
    for made in dead:
        name = made(toy)
        toy.node("Tanh", [name], f"{name}_too")
    info = toy.info("x", ["batch", "sequence", HIDDEN])
    return toy.model([info], [toy.info(y, ["batch", "sequence", HIDDEN])])


def outputs(model: ModelProto) -> np.ndarray:
    onnx.checker.check_model(model, full_check=True)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    x = np.random.default_rng(3).standard_normal((2, 5, HIDDEN)).astype(np.float32)
    (found,) = session.run(None, {"x": x})
    return np.asarray(found)


@pytest.mark.each_choice
@pytest.mark.parametrize("dead", DEAD)
@pytest.mark.parametrize("gone", [[1], [0, 2], [0, 1, 2]])
def test_a_dead_end_is_no_obstacle(dead: Callable[[GraphBuilder], str], gone: list[int]) -> None:
    model = toy_model(dead)
    (site,) = inspect(model)
    assert site.removable, site.reason
    pruned = apply_plan(plan_pruning(model, heads={0: gone}), model)
    np.testing.assert_allclose(outputs(pruned), outputs(toy_model(silent=tuple(gone))), atol=1e-5)


def test_what_a_cut_does_not_touch_stays() -> None:
    model = toy_model(lambda toy: toy.node("Exp", ["x"], "dead"), relu_of_stream)
    names = [node.name for node in apply_plan(plan_pruning(model, heads={0: [1]}), model).graph.node]
    assert {"Exp_dead", "Neg_kept"} <= set(names)


def relu_of_stream(toy: GraphBuilder) -> str:
    return toy.node("Neg", ["y"], "kept")


def test_attention_that_leads_nowhere_is_none() -> None:
    toy = GraphBuilder()
    projected(toy, attended(toy, softmax), "")
    attended(toy, softmax, "dead_")
    info = toy.info("x", ["batch", "sequence", HIDDEN])
    sites = inspect(toy.model([info], [toy.info("y", ["batch", "sequence", HIDDEN])]))
    assert (len(sites), sites.near_misses, sites.no_heads) == (1, (), ())
