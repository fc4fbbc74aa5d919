"""Each product of attention weights and values is in one list: a site, a near miss, or no heads to tell."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper

from onnxheadprune import RefusedError, inspect, plan_pruning
from onnxheadprune.attention.sites.attention_near_misses import attention_products
from onnxheadprune.operators import view_of
from tests.graphs import parts
from tests.graphs.fused import generator
from tests.graphs.net import Net


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
    net = Net()
    parts.source(net)
    body = [
        helper.make_node("MatMul", ["item", "item_turned"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["weights"], axis=-1),
        helper.make_node("MatMul", ["weights", "item"], ["attended"]),
    ]
    turn = helper.make_node("Transpose", ["item"], ["item_turned"], perm=[0, 2, 1])
    items = helper.make_tensor_value_info("item", TensorProto.FLOAT, None)
    made = helper.make_tensor_value_info("attended", TensorProto.FLOAT, None)
    graph = helper.make_graph([turn, *body], "body", [items], [made])
    net.node("SequenceConstruct", ["x"], "items")
    net.node("SequenceMap", ["items"], "done", body=graph)
    net.node("SequenceAt", ["done", net.constant("first", np.array(0))], "y")
    found, missed, without = lists(net.export(["y"]))
    assert found == 0 and len(missed) + len(without) == 1


def test_a_star_says_what_it_leaves_out() -> None:
    net = Net()
    x = parts.source(net)
    first, second = parts.context_of(net, x), parts.context_of(net, x)
    found = net.export([parts.finished(net, first), parts.merged(net, second)])
    plan = plan_pruning(found, heads="*:0")
    assert ["cannot be followed to a linear layer" in item.reason for item in plan.left_out] == [True]
    assert plan.to_dict()["left_out"][0]["node"] == plan.left_out[0].node
    assert not plan_pruning(found, heads="0:0").left_out


@pytest.mark.parametrize("op_type", ["GreedySearch", "BeamSearch", "Sampling"])
def test_decoders_of_generation_operators_are_pruned_before_they_are_put_in(op_type: str) -> None:
    """They have one number of heads for the caches of all layers."""
    with pytest.raises(
        RefusedError, match=f"{op_type}.*prune the decoder before it is put into the operator"
    ):
        inspect(generator(op_type))
