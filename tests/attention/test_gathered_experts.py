"""Experts that a router picks from one stored tensor: a neuron goes from all of them.

`experts.weight[chosen]` and a product of matrices per token, as transformers exports a mixture. The oracle has zeros in
the last maps and knows nothing of sites.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import ModelProto, numpy_helper, parser

from onnxheadprune import apply_plan, inspect, plan_pruning
from tests.graphs.blueprint import PLAIN
from tests.graphs.net import Net
from tests.liveness.one_node import run

TOKENS, WIDTH, HIDDEN, EXPERTS = 5, 8, 12, 4


def _int64(net: Net, name: str, number: int, *shape: int) -> Any:
    return net.stored(name, np.full(shape, number, dtype=np.int64))


def _chosen(net: Net, tokens: Any) -> Any:
    """The number of the best expert for each token, [tokens]."""
    scores = net.op("MatMul", tokens, net.weight("router", WIDTH, EXPERTS))
    return net.op("ArgMax", scores, axis=1, keepdims=0)


def _picked(net: Net, stem: str, choice: Any, *shape: int) -> Any:
    return net.op("Gather", net.weight(stem, EXPERTS, *shape), choice, axis=0)


def _mixture(other_choice: bool = False) -> tuple[ModelProto, Net]:
    """`x + W2[e] relu(W1[e] x + b1[e])`, of tokens [tokens, width].

    Args:
        other_choice: whether the rows that are added are picked by something else than the weights.
    """
    net = Net(PLAIN)
    x = net.input("x", (TOKENS, WIDTH), "--")
    choice = _chosen(net, x)
    column = net.op("Unsqueeze", x, _int64(net, "axes", 2, 1))
    made = net.op("MatMul", _picked(net, "up", choice, HIDDEN, WIDTH), column)
    flat = net.op("Squeeze", made, _int64(net, "axes", 2, 1))
    rows = _picked(net, "bias", _chosen(net, x) if other_choice else choice, HIDDEN)
    hidden = net.op("Unsqueeze", net.op("Relu", net.op("Add", flat, rows)), _int64(net, "axes", 2, 1))
    back = net.op("MatMul", _picked(net, "down", choice, WIDTH, HIDDEN), hidden)
    summed = net.op("Add", net.op("Squeeze", back, _int64(net, "axes", 2, 1)), x)
    return net.export([summed]), net


def _zeroed(model: ModelProto, gone: list[int], axis: int = 2) -> ModelProto:
    made = ModelProto()
    made.CopyFrom(model)
    for tensor in made.graph.initializer:
        if tensor.name.startswith("down"):
            array = numpy_helper.to_array(tensor).copy()
            np.moveaxis(array, axis, 0)[gone] = 0
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return made


def test_neurons_of_picked_experts_go_from_every_expert() -> None:
    model, net = _mixture()
    (block,) = inspect(model).neurons
    assert (block.num_units, block.reason) == (HIDDEN, None)
    gone = [0, 5, 6, 11]
    plan = plan_pruning(model, heads={"ffn.0": gone})
    assert plan.edge_gathers == ()
    cut = apply_plan(plan, model)
    shapes = {tensor.name.rpartition("_")[0]: list(tensor.dims) for tensor in cut.graph.initializer}
    assert shapes["up"] == [EXPERTS, HIDDEN - 4, WIDTH] and shapes["down"] == [EXPERTS, WIDTH, HIDDEN - 4]
    assert shapes["bias"] == [EXPERTS, HIDDEN - 4]
    (name, got), *_ = run(cut, net.feed).items()
    np.testing.assert_allclose(got, run(_zeroed(model, gone), net.feed)[name], atol=1e-5)
    assert np.abs(got - run(_zeroed(model, [1, 5, 6, 11]), net.feed)[name]).max() > 1e-3


def test_rows_that_something_else_picks_are_an_embedding() -> None:
    """A second router picks the biases of the hidden layer: they are added like embeddings, so it has no neurons."""
    model, _ = _mixture(other_choice=True)
    assert inspect(model).neurons == ()


def test_data_leaves_picked_experts_alone() -> None:
    """A choice by data needs the map that sums neurons up, and there is one for each token."""
    (block,) = inspect(_mixture()[0]).neurons
    assert block.removable and "a router chooses" in str(block.only_named)


def _unrolled(numbers: str) -> ModelProto:
    """Two experts, one after the other, of three that are stacked; `first_one` and `second_one` are their numbers."""
    each = "".join(
        f"""
  u{at} = Gather <axis = 0> (up, {at}_one)
  made{at} = MatMul (x, u{at})
  h{at} = Relu (made{at})
  d{at} = Gather <axis = 0> (down, {at}_one)
  y{at} = MatMul (h{at}, d{at})
"""
        for at in ("first", "second")
    )
    model = parser.parse_model(f"""
<ir_version: 9, opset_import: ["" : 18]>
unrolled (float[5, 4] x, int64[2] hit) => (float[5, 4] out) <int64 zero = {{0}}, int64 one = {{1}}>
{{ first_one = Gather <axis = 0> ({numbers}, zero)
  second_one = Gather <axis = 0> ({numbers}, one)
{each}
  both = Add (yfirst, ysecond)
  out = Add (x, both) }}""")
    random = np.random.default_rng(0)
    stored = {"up": (3, 4, 6), "down": (3, 6, 4)}
    arrays = {name: random.standard_normal(shape).astype(np.float32) for name, shape in stored.items()}
    arrays["known"] = np.array([2, 0])
    for name, array in arrays.items():
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    for number, node in enumerate(model.graph.node):
        node.name = f"unrolled/{node.op_type}_{number}"
    return model


FEED = {"x": np.random.default_rng(1).standard_normal((5, 4)).astype(np.float32), "hit": np.array([1, 2])}


def test_experts_that_an_unrolled_loop_picks_are_one_block() -> None:
    """Each iteration reads the tables at a computed place: cut for one of them alone, they would be copied."""
    model, gone = _unrolled("hit"), [1, 4]
    (block,) = inspect(model).neurons
    assert (block.num_units, block.reason, block.params) == (6, None, 3 * 6 * 8)
    plan = plan_pruning(model, heads={"ffn.0": gone})
    cut = apply_plan(plan, model)
    shapes = {tensor.name: list(tensor.dims) for tensor in cut.graph.initializer if len(tensor.dims) > 1}
    assert plan.edge_gathers == () and shapes == {"up": [3, 4, 4], "down": [3, 4, 4]}
    np.testing.assert_allclose(
        run(cut, FEED)["out"], run(_zeroed(model, gone, axis=1), FEED)["out"], atol=1e-5
    )


def test_the_share_of_a_slice_is_the_slice() -> None:
    """Blocks that read known places of a table own what lies there, and not the whole table each."""
    blocks = inspect(_unrolled("known")).neurons
    assert [block.params for block in blocks] == [6 * 8, 6 * 8]
