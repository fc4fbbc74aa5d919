"""Each product of attention weights and values is in one list: a site, a near miss, or no heads to tell."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper

from onnxheadprune import RefusedError, inspect, plan_pruning
from onnxheadprune.attention.sites.attention_near_misses import attention_products
from onnxheadprune.operators import view_of
from tests.attention.toy_parts import HIDDEN, WIDTH, D, attended, merged, operands, projected, softmax
from tests.graph_builder import GraphBuilder
from tests.graphs.fused import generator

Made = Callable[[GraphBuilder], str]


def model(toy: GraphBuilder, *outputs: str) -> ModelProto:
    info = toy.info("x", ["batch", "sequence", HIDDEN])
    made = toy.model([info], [toy.info(name, None) for name in outputs], opset=18)
    made.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    made.opset_import.append(helper.make_opsetid("custom", 1))
    return made


def lists(found: ModelProto) -> tuple[int, list[str], list[str]]:
    """Sites, and the sentences of the other two lists; they are as many as there are products."""
    sites = inspect(found)
    missed, without = (
        [miss.reason.sentence for miss in group] for group in (sites.near_misses, sites.no_heads)
    )
    cores = {node.ref for site in sites for node in site.cores}
    products = {node.ref for node in attention_products(view_of(found))}
    assert len(products | cores) == len(cores) + len(missed) + len(without)
    return len(sites), missed, without


def test_bodies_are_looked_into() -> None:
    """A SequenceMap's body attends; it has no shapes."""
    toy = GraphBuilder()
    body = [
        helper.make_node("MatMul", ["item", "item_turned"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["weights"], axis=-1),
        helper.make_node("MatMul", ["weights", "item"], ["attended"]),
    ]
    turn = helper.make_node("Transpose", ["item"], ["item_turned"], perm=[0, 2, 1])
    items = helper.make_tensor_value_info("item", TensorProto.FLOAT, None)
    made = helper.make_tensor_value_info("attended", TensorProto.FLOAT, None)
    graph = helper.make_graph([turn, *body], "body", [items], [made])
    toy.node("SequenceConstruct", ["x"], "items")
    toy.node("SequenceMap", ["items"], "done", body=graph)
    toy.node("SequenceAt", ["done", toy.constant("first", np.array(0))], "y")
    found, missed, without = lists(model(toy, "y"))
    assert found == 0 and len(missed) + len(without) == 1


def test_a_star_says_what_it_leaves_out() -> None:
    toy = GraphBuilder()
    first = projected(toy, attended(toy, softmax))
    second = merged(toy, attended(toy, softmax, "other_"), "other_")
    found = model(toy, first, second)
    plan = plan_pruning(found, heads="*:0")
    assert ["cannot be followed to a linear layer" in item.reason for item in plan.left_out] == [True]
    assert plan.to_dict()["left_out"][0]["node"] == plan.left_out[0].node
    assert not plan_pruning(found, heads="0:0").left_out


def embedded(outputs: int) -> ModelProto:
    """EmbedLayerNormalization; the residual stream is its third output where it has three."""
    toy = GraphBuilder()
    ids = helper.make_tensor_value_info("ids", TensorProto.INT32, ["batch", "sequence"])
    tables: list[Any] = [toy.weight("words", 9, HIDDEN), toy.weight("places", 8, HIDDEN), ""]
    names = ["x", "lengths", "sum"][:outputs]
    scales = [toy.weight("gain", HIDDEN), toy.weight("shift", HIDDEN)]
    toy.nodes.append(
        helper.make_node(
            "EmbedLayerNormalization",
            ["ids", "", *tables, *scales],
            names,
            domain="com.microsoft",
            name="embed",
        )
    )
    toy.node("Add", [projected(toy, attended(toy, softmax)), names[-1]], "stream")
    toy.node("Identity", ["stream"], "x2")
    made = model(toy, "x2")
    del made.graph.input[:]
    made.graph.input.append(ids)
    return made


@pytest.mark.parametrize("outputs", [1, 3])
def test_the_sum_of_embeddings_has_a_shape(outputs: int) -> None:
    found = embedded(outputs)
    stream = next(value for value in view_of(found).values() if value.name == "stream")
    assert stream.shape is not None and stream.shape[-1] == HIDDEN
    assert lists(found) == (1, [], [])


def test_iterations_of_a_scan_may_be_heads() -> None:
    """Each iteration attends with the queries, keys and values of one head."""
    toy = GraphBuilder()
    queries, keys, values = operands(toy)
    first = [toy.node("Transpose", [name], f"{name}_first", perm=[1, 0, 2, 3]) for name in (queries, values)]
    turned = toy.node("Transpose", [keys], "keys_first", perm=[1, 0, 2, 3])
    body = [
        helper.make_node("MatMul", ["one_q", "one_k"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["weights"], axis=-1),
        helper.make_node("MatMul", ["weights", "one_v"], ["one_c"]),
    ]
    shapes = {"one_q": ["b", "s", D], "one_k": ["b", D, "s"], "one_v": ["b", "s", D], "one_c": ["b", "s", D]}
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    graph = helper.make_graph(body, "body", infos[:3], infos[3:])
    contexts = toy.node("Scan", [first[0], turned, first[1]], "contexts", body=graph, num_scan_inputs=3)
    back = toy.node("Transpose", [contexts], "back", perm=[1, 2, 0, 3])
    flat = toy.node("Reshape", [back, toy.constant("flat", np.array([0, 0, WIDTH]))], "flat_context")
    found, missed, without = lists(
        model(toy, toy.node("MatMul", [flat, toy.weight("o", WIDTH, HIDDEN)], "y"))
    )
    assert not any("one map for all channels" in sentence for sentence in without)
    assert found or ["they end at" in sentence and "Scan" in sentence for sentence in missed] == [True]


@pytest.mark.parametrize("op_type", ["GreedySearch", "BeamSearch", "Sampling"])
def test_decoders_of_generation_operators_are_pruned_before_they_are_put_in(op_type: str) -> None:
    """They have one number of heads for the caches of all layers."""
    with pytest.raises(
        RefusedError, match=f"{op_type}.*prune the decoder before it is put into the operator"
    ):
        inspect(generator(op_type))
