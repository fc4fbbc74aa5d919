"""Attention maps that are weights: a synthesizer's, and maps of tokens that follow an attention."""

from __future__ import annotations

from typing import Any

import pytest

from onnxheadprune.attention.sites.find import find_sites
from tests.engine.block_graph import Net
from tests.engine.blueprint import STATIC
from tests.engine.cuts import check_cut
from tests.engine.net_parts import WIDTH, B, D, H, S


def _exact(net: Net, context: Any, head_size: int | None, *sets: list[int]) -> None:
    """The projected context [B, H, S, D] is one site, and pruned equals masked."""
    merged = net.op("Reshape", net.op("Transpose", context, perm=[0, 2, 1, 3]), net.ints(0, 0, H * D))
    model = net.export([net.op("MatMul", merged, net.weight("o", H * D, WIDTH))])
    sites = find_sites(model)
    assert not sites.near_misses
    (site,) = sites
    assert site.removable
    assert (site.num_heads, site.kv_num_heads, site.head_size, site.v_head_size) == (H, H, head_size, D)
    for gone in (*sets, list(range(H))):
        check_cut(model, net.feed, gone)


def _heads(net: Net, x: Any, name: str, count: int, *order: int) -> Any:
    flat = net.op("MatMul", x, net.weight(name, WIDTH, count * D))
    return net.op("Transpose", net.op("Reshape", flat, net.ints(0, 0, count, D)), perm=list(order))


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
    _exact(net, context, None, [1], [0, 2])


def test_a_stored_map_after_attention() -> None:
    """A map of tokens between an attention and its projection: the heads are those of the attention."""
    net = Net(STATIC)
    x = net.input("x", (B, S, WIDTH), "b--")
    q, k = _heads(net, x, "q", H, 0, 2, 1, 3), _heads(net, x, "k", H, 0, 2, 3, 1)
    weights = net.op("Softmax", net.op("MatMul", q, k), axis=-1)
    context = net.op("MatMul", weights, _heads(net, x, "v", H, 0, 2, 1, 3))
    _exact(net, net.op("MatMul", net.weight("maps", H, S, S), context), D, [1], [0, 2])


def test_one_stored_map_is_no_head() -> None:
    """A mixer's map of tokens, the same for all channels, tells no heads apart."""
    net = Net(STATIC)
    x = net.input("x", (B, S, WIDTH), "b--")
    v = _heads(net, x, "v", H, 0, 2, 1, 3)
    mixed = net.op("MatMul", net.weight("map", S, S), v)
    merged = net.op("Reshape", net.op("Transpose", mixed, perm=[0, 2, 1, 3]), net.ints(0, 0, H * D))
    assert not len(find_sites(net.export([net.op("MatMul", merged, net.weight("o", H * D, WIDTH))])))
