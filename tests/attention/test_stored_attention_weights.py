"""Attention maps that are weights: a synthesizer's, and maps of tokens that follow an attention."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper, numpy_helper

from onnxheadprune.attention.sites.find import inspect
from tests.attention.block_graph import Net
from tests.attention.blueprint import STATIC
from tests.attention.cuts import check_cut
from tests.attention.net_parts import WIDTH, B, D, H, S, split


def _exact(net: Net, context: Any, *sets: list[int]) -> None:
    """The projected context [B, H, S, D] is one site, and pruned equals masked."""
    merged = net.op("Reshape", net.op("Transpose", context, perm=[0, 2, 1, 3]), net.ints(0, 0, H * D))
    model = net.export([net.op("MatMul", merged, net.weight("o", H * D, WIDTH))])
    sites = inspect(model)
    assert not sites.near_misses
    (site,) = sites
    assert site.removable
    assert (site.num_heads, site.kv_num_heads, site.head_size, site.v_head_size) == (H, H, D, D)
    for gone in (*sets, list(range(H))):
        check_cut(model, net.feed, gone)


def _heads(net: Net, x: Any, name: str, count: int, *order: int) -> Any:
    return split(net, x, name, *order, heads=count)


@pytest.mark.parametrize("spelled", ["MatMul", "Softmax", "Einsum"])
def test_a_stored_map_per_head(spelled: str) -> None:
    """A random synthesizer: the values of every head are mixed by a map of its own, whatever the tokens are."""
    net = Net(STATIC)
    v = _heads(net, net.input("x", (B, S, WIDTH), "b--"), "v", H, 0, 2, 1, 3)
    maps = net.weight("maps", H, S, S)
    if spelled == "Einsum":
        context = net.op("Einsum", maps, v, equation="hij,bhjd->bhid")
    else:
        weights = net.op("Softmax", maps, axis=-1) if spelled == "Softmax" else maps
        context = net.op("MatMul", weights, v)
    _exact(net, context, [1], [0, 2])


@pytest.mark.parametrize("spelled", ["MatMul", "Einsum"])
def test_stored_values_per_head(spelled: str) -> None:
    """Tokens of the model's own (PegasusX's global ones): a fixed batch makes their keys and values weights.

    A softmax over both kinds is split again, and both contexts are added.
    """
    net = Net(STATIC)
    x = net.input("x", (B, S, WIDTH), "b--")
    q, k = _heads(net, x, "q", H, 0, 2, 1, 3), _heads(net, x, "k", H, 0, 2, 3, 1)
    keys, values = net.weight("keys", B, H, D, 2), net.weight("values", B, H, 2, D)
    scores = net.op("Concat", net.op("MatMul", q, keys), net.op("MatMul", q, k), axis=-1)
    weights = net.op("Softmax", net.op("Add", scores, net.input("mask", (B, 1, 1, 2 + S), "b---")), axis=-1)
    own = net.op("Slice", weights, net.ints(0), net.ints(2), net.ints(3))
    read = net.op("Slice", weights, net.ints(2), net.ints(2 + S), net.ints(3))
    equation = {"equation": "bhij,bhjd->bhid"} if spelled == "Einsum" else {}
    first = net.op(spelled, own, values, **equation)
    second = net.op(spelled, read, _heads(net, x, "v", H, 0, 2, 1, 3), **equation)
    _exact(net, net.op("Add", first, second), [1], [0, 2])


def test_a_stored_map_after_attention() -> None:
    """A map of tokens between an attention and its projection: the heads are those of the attention."""
    net = Net(STATIC)
    x = net.input("x", (B, S, WIDTH), "b--")
    q, k = _heads(net, x, "q", H, 0, 2, 1, 3), _heads(net, x, "k", H, 0, 2, 3, 1)
    weights = net.op("Softmax", net.op("MatMul", q, k), axis=-1)
    context = net.op("MatMul", weights, _heads(net, x, "v", H, 0, 2, 1, 3))
    _exact(net, net.op("MatMul", net.weight("maps", H, S, S), context), [1], [0, 2])


def test_one_stored_map_is_no_head() -> None:
    """A mixer's map of tokens, the same for all channels, tells no heads apart."""
    net = Net(STATIC)
    x = net.input("x", (B, S, WIDTH), "b--")
    v = _heads(net, x, "v", H, 0, 2, 1, 3)
    mixed = net.op("MatMul", net.weight("map", S, S), v)
    merged = net.op("Reshape", net.op("Transpose", mixed, perm=[0, 2, 1, 3]), net.ints(0, 0, H * D))
    assert not len(inspect(net.export([net.op("MatMul", merged, net.weight("o", H * D, WIDTH))])))


def test_a_number_of_heads_that_a_stored_weight_tells() -> None:
    """The Shape of a weight that is cut keeps giving the original's number to those who compute with it."""
    net = Net(STATIC)
    x = net.input("x", (B, S, WIDTH), "b--")
    weight = net.weight("q", WIDTH, H * D)
    flat = net.op("MatMul", x, weight)
    q = net.op("Transpose", net.op("Reshape", flat, net.ints(0, 0, H, D)), perm=[0, 2, 1, 3])
    width = net.op("Cast", net.op("Gather", net.op("Shape", weight), net.ints(1)), to=1)
    scores = net.op("Div", net.op("MatMul", q, _heads(net, x, "k", H, 0, 2, 3, 1)), width)
    weights = net.op("Softmax", scores, axis=-1)
    context = net.op("MatMul", weights, _heads(net, x, "v", H, 0, 2, 1, 3))
    _exact(net, context, [1], [0, 2])


@pytest.mark.parametrize("position", range(4))
def test_a_sparse_weight_is_gathered_from(position: int) -> None:
    """It is no input and no dense tensor: nothing can be cut off it, and nothing may rely on that."""
    net = Net(STATIC)
    x = net.input("x", (B, S, WIDTH), "b--")
    q, k = _heads(net, x, "q", H, 0, 2, 1, 3), _heads(net, x, "k", H, 0, 2, 3, 1)
    weights = net.op("Softmax", net.op("MatMul", q, k), axis=-1)
    context = net.op("MatMul", weights, _heads(net, x, "v", H, 0, 2, 1, 3))
    merged = net.op("Reshape", net.op("Transpose", context, perm=[0, 2, 1, 3]), net.ints(0, 0, H * D))
    model = net.export([net.op("MatMul", merged, net.weight("o", H * D, WIDTH))])
    products = [node.input[1] for node in model.graph.node if node.op_type == "MatMul"]
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    dense = stored[[weight for weight in products if weight in stored][position]]
    array = numpy_helper.to_array(dense)
    values = numpy_helper.from_array(array.reshape(-1), dense.name)
    places = numpy_helper.from_array(np.arange(array.size), "places")
    model.graph.initializer.remove(dense)
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, list(array.shape)))
    check_cut(model, net.feed, [1], gathers=1)
