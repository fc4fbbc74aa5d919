"""Each product of attention weights and values is in one list: a site, a near miss, or no heads to tell."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper

from onnxheadprune import inspect, plan_pruning
from onnxheadprune.attention.sites.attention_near_misses import attention_products
from onnxheadprune.edit.plan import PrunePlan
from onnxheadprune.operators import view_of
from tests.attention.toy_parts import HIDDEN, WIDTH, D, H, attended, merged, operands, projected, softmax
from tests.graph_builder import GraphBuilder

Made = Callable[[GraphBuilder], str]


def sigmoid(toy: GraphBuilder, scores: str) -> str:
    return toy.node("Sigmoid", [scores], f"{scores}_weights")


def hard_swish(toy: GraphBuilder, scores: str) -> str:
    return toy.node("HardSwish", [scores], f"{scores}_weights")


def spelled_out(toy: GraphBuilder, scores: str) -> str:
    powers = toy.node("Exp", [scores], f"{scores}_powers")
    total = toy.node("ReduceSum", [powers, toy.constant(f"{scores}_last", np.array([-1]))], f"{scores}_total")
    return toy.node("Div", [powers, total], f"{scores}_weights")


def masked_and_quantized(toy: GraphBuilder, scores: str) -> str:
    weights = softmax(toy, scores)
    scale, zero = toy.constant("p_scale", np.float32(0.01)), toy.constant("p_zero", np.uint8(0))
    rounded = toy.node(
        "DequantizeLinear", [toy.node("QuantizeLinear", [weights, scale, zero], "p"), scale, zero], "pf"
    )
    return toy.node(
        "Where", [toy.constant("seen", np.array(True)), rounded, toy.constant("none", np.float32(0))], "pm"
    )


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


@pytest.mark.parametrize("spell", [softmax, sigmoid, hard_swish, spelled_out, masked_and_quantized])
def test_a_context_without_a_projection_is_a_near_miss(spell: Callable[[GraphBuilder, str], str]) -> None:
    toy = GraphBuilder()
    found, missed, without = lists(model(toy, merged(toy, attended(toy, spell))))
    assert (found, without) == (0, [])
    assert ["no output projection" in sentence for sentence in missed] == [True]


@pytest.mark.parametrize("spell", [softmax, sigmoid, spelled_out, masked_and_quantized])
def test_a_site_is_in_no_other_list(spell: Callable[[GraphBuilder, str], str]) -> None:
    toy = GraphBuilder()
    assert lists(model(toy, projected(toy, attended(toy, spell)))) == (1, [], [])


def test_an_unknown_operator_is_named() -> None:
    toy = GraphBuilder()
    odd = toy.node("Scramble", [merged(toy, attended(toy, softmax))], "odd", domain="custom")
    _, missed, _ = lists(model(toy, toy.node("MatMul", [odd, toy.weight("o", WIDTH, HIDDEN)], "y")))
    assert ["Scramble" in sentence for sentence in missed] == [True]


@pytest.mark.parametrize(
    ("op_type", "domain", "why"),
    [
        ("LongformerAttention", "com.microsoft", "not supported"),
        ("PagedAttention", "com.microsoft", "not supported"),
        ("FlashAttention", "custom", "not supported"),
        ("MultiHeadAttention", "com.microsoft", "no output projection"),
    ],
)
def test_a_fused_operator_is_a_near_miss(op_type: str, domain: str, why: str) -> None:
    toy = GraphBuilder()
    flat = [toy.node("MatMul", ["x", toy.weight(n, HIDDEN, WIDTH)], f"{n}_flat") for n in "qkv"]
    toy.node(op_type, flat, "context", domain=domain, num_heads=H)
    found, missed, without = lists(model(toy, toy.node("Identity", ["context"], "y")))
    assert (found, without) == (0, [])
    assert [why in sentence for sentence in missed] == [True]


def test_one_map_for_all_channels_has_no_heads_to_tell() -> None:
    toy = GraphBuilder()
    rows = {n: toy.node("MatMul", ["x", toy.weight(n, HIDDEN, D)], f"{n}_flat") for n in "qkv"}
    keys = toy.node("Transpose", [rows["k"]], "keys", perm=[0, 2, 1])
    weights = softmax(toy, toy.node("MatMul", [rows["q"], keys], "scores"))
    found, missed, without = lists(model(toy, toy.node("MatMul", [weights, rows["v"]], "y")))
    assert (found, missed, len(without)) == (0, [], 1)


def test_unknown_shapes_hide_nothing() -> None:
    toy = GraphBuilder()
    _, missed, _ = lists(_after_unknown(toy))
    assert len(missed) == 1 and "not known" in missed[0]


def _after_unknown(toy: GraphBuilder) -> ModelProto:
    """Everything behind an operator whose output has no shape."""
    odd = toy.node("Scramble", ["x"], "odd", domain="custom")
    rows = {n: toy.node("MatMul", [odd, toy.weight(n, HIDDEN, D)], f"{n}_flat") for n in "qkv"}
    scores = toy.node(
        "MatMul", [rows["q"], toy.node("Transpose", [rows["k"]], "keys", perm=[0, 2, 1])], "scores"
    )
    context = toy.node("MatMul", [softmax(toy, scores), rows["v"]], "context")
    return model(toy, toy.node("MatMul", [context, toy.weight("o", D, HIDDEN)], "y"))


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
    assert ["no output projection" in item.reason for item in plan.left_out] == [True]
    assert plan.to_dict()["left_out"][0]["node"] == plan.left_out[0].node
    assert PrunePlan.from_dict(plan.to_dict()).left_out == plan.left_out
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


def test_what_stops_the_trace_is_the_reason() -> None:
    """Heads in reverse, by a Slice that runs backwards."""
    toy = GraphBuilder()
    bounds = [
        toy.constant(name, np.array([at])) for name, at in (("s", -1), ("e", -(2**62)), ("a", 1), ("t", -1))
    ]
    reverse = toy.node("Slice", [attended(toy, softmax), *bounds], "reverse")
    _, missed, _ = lists(model(toy, projected(toy, reverse)))
    assert ["Slice re-arranges" in sentence for sentence in missed] == [True]


@pytest.mark.parametrize("op_type", ["Abs", "Relu", "Exp"])
def test_statistics_over_all_heads_are_seen_behind_any_element_wise_operator(op_type: str) -> None:
    def shared(toy: GraphBuilder, scores: str) -> str:
        prepared = toy.node(op_type, [scores], "prepared")
        total = toy.node("ReduceSum", [prepared, toy.constant("heads", np.array([1]))], "total")
        return toy.node("Div", [scores, total], "weights")

    toy = GraphBuilder()
    (site,) = inspect(model(toy, projected(toy, attended(toy, shared))))
    assert site.reason is not None and "statistics over all heads" in site.reason.sentence


def _scattered(toy: GraphBuilder) -> str:
    """As Informer: contexts of some queries are scattered among averages, at places that are computed."""
    context = attended(toy, softmax)
    averages = toy.node("CumSum", ["v_heads", toy.constant("over_tokens", np.array(2))], "averages")
    places = toy.node("Cast", [context], "places", to=TensorProto.INT64)
    return projected(toy, toy.node("ScatterND", [averages, places, context], "scattered"))


def test_what_stops_the_heads_is_named() -> None:
    toy = GraphBuilder()
    found, (missed,), _ = lists(model(toy, _scattered(toy)))
    assert found == 0 and "no output projection" not in missed
    assert (
        "cannot be followed through ScatterND_scattered" in missed and "fixed sizes would not help" in missed
    )


def test_who_looks_at_the_shape_stops_nothing() -> None:
    """As `attention_past_state` of ONNX Runtime: the context is an output, and its shape another one."""
    toy = GraphBuilder()
    context = merged(toy, attended(toy, softmax))
    toy.node("Shape", [context], "sizes")
    _, (missed,), _ = lists(model(toy, context, "sizes"))
    assert "no output projection" in missed and "rule" not in missed


def test_a_map_per_head_is_not_one_map_for_all_channels() -> None:
    """As Fastformer: each head pools with weights of its own, and one linear layer treats all heads alike."""
    toy = GraphBuilder()
    queries, _, _ = operands(toy)
    scores = toy.node("MatMul", [queries, toy.weight("pool", D, 1)], "scores")
    weights = toy.node("Softmax", [scores], "weights", axis=2)
    rows = toy.node("Transpose", [weights], "rows", perm=[0, 1, 3, 2])
    pooled = toy.node("MatMul", [rows, queries], "pooled")
    spread = toy.node("Mul", [pooled, "v_heads"], "spread")
    _, missed, without = lists(model(toy, toy.node("MatMul", [spread, toy.weight("alike", D, D)], "y")))
    assert without == [] and len(missed) == 1
    assert "a map per head" in missed[0] and "treats all heads alike" in missed[0]


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
    assert found or ["iteration" in sentence for sentence in missed] == [True]
