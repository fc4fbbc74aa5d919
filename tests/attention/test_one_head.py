"""One head is a head: values that are projected and weights that are a product, whichever owns the channels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from onnxheadprune import apply_plan, inspect, plan_pruning
from tests import toys_layers
from tests.attention.block_graph import Net
from tests.attention.blueprint import PLAIN
from tests.attention.cuts import check_cut
from tests.attention.one_head_parts import (
    WIDTH,
    B,
    D,
    S,
    linear,
    of_channels,
    of_channels_turned,
    of_tokens,
    projected,
    split,
)
from tests.graph_text import model_of


@pytest.mark.each_choice
@pytest.mark.parametrize("plan", [PLAIN, replace(PLAIN, symbolic=False, opset=21)], ids=["dynamic", "fixed"])
@pytest.mark.parametrize(
    ("attend", "heads"),
    [*((made, n) for made in (of_channels, of_channels_turned, of_tokens) for n in (1, 2)), (linear, 2)],
)
def test_as_many_heads_as_there_are(attend: Callable[[Net, Any, int], Any], heads: int, plan: Any) -> None:
    net = Net(plan)
    x = net.input("x", (B, S, WIDTH), "bs-")
    model = net.export([net.op("Add", attend(net, x, heads), x)])
    sites = inspect(model)
    assert [(site.num_heads, site.reason) for site in sites] == [(heads, None)]
    assert [(site.head_size, site.v_head_size) for site in sites] == [(D, D)]
    assert not sites.near_misses and not sites.no_heads
    for gone in range(heads):
        check_cut(model, net.feed, [gone])
    check_cut(model, net.feed, list(range(heads)))


def test_maps_that_weights_mix_have_the_head_size_of_their_values() -> None:
    """Re-attention (DeepViT, CaiT): behind the mix nothing tells what the scores of a head sum over."""
    net = Net(PLAIN)
    x = net.input("x", (B, S, WIDTH), "bs-")
    scores = net.op("MatMul", split(net, x, "q", 2, 0, 2, 1, 3), split(net, x, "k", 2, 0, 2, 3, 1))
    weights = net.op("Softmax", scores, axis=-1)
    mixed = net.op("Einsum", weights, net.weight("mix", 2, 2), equation="bhij,hg->bgij")
    made = projected(net, net.op("MatMul", mixed, split(net, x, "v", 2, 0, 2, 1, 3)), 2, 0, 2, 1, 3)
    (site,) = inspect(net.export([made]))
    assert (site.num_heads, site.head_size, site.v_head_size, site.removable) == (2, D, D, False)


def test_a_summary_that_one_head_reads_is_in_one_list() -> None:
    """Linear attention with one head: nothing tells its products from gates that mix streams."""
    net = Net(PLAIN)
    x = net.input("x", (B, S, WIDTH), "bs-")
    sites = inspect(net.export([linear(net, x, 1)]))
    assert (len(sites), len(sites.near_misses), len(sites.no_heads)) == (0, 0, 2)


KEYS = "kf = MatMul(x, wk)  vf = MatMul(x, wv)"
PACKED = "kv = MatMul(x, wkv)  kf, vf = Split<axis = 2>(kv, widths)"


@pytest.mark.parametrize("keys", [KEYS, PACKED], ids=["apart", "packed"])
@pytest.mark.parametrize("queries", [5, 1])
def test_one_head_may_have_queries_that_are_stored(queries: int, keys: str) -> None:
    """A Perceiver's latents are stored: scores are a product of weights and keys. One query for all tokens pools."""
    model = model_of(
        f"""<ir_version: 9, opset_import: ["" : 17]>
    g (float[b, s, 6] x) => (float[b, {queries}, 6] y)
    <float[{queries}, 4] q, float[6, 4] wk, float[6, 4] wv, float[6, 8] wkv, float[4, 6] o,
     int64[2] widths = {{4, 4}}> {{
      {keys}  k = Transpose<perm = [0, 2, 1]>(kf)  s = MatMul(q, k)  m = Softmax<axis = -1>(s)
      c = MatMul(m, vf)  y = MatMul(c, o)
    }}"""
    )
    sites = inspect(model)
    assert (len(sites), len(sites.near_misses), len(sites.no_heads)) == (
        (1, 0, 0) if queries > 1 else (0, 0, 1)
    )
    if queries > 1:
        assert (sites[0].num_heads, sites[0].removable, sites.neurons) == (1, True, ())
        check_cut(model, {"x": np.ones((B, S, 6), np.float32)}, [0])


def test_the_size_of_a_head_does_not_depend_on_how_many_are_left() -> None:
    """What the layers of a last head read, such as their norm, belongs to no head."""
    model = toys_layers.decoder(norms="pre")
    before = inspect(model)[0]
    sizes = [(before.params / before.num_heads, before.flops_per_token / before.num_heads)]
    for gone in range(before.num_heads - 1):
        model = apply_plan(plan_pruning(model, heads={0: [gone]}), model)
        (site, *_) = inspect(model)
        sizes.append((site.params / site.num_heads, site.flops_per_token / site.num_heads))
    assert site.num_heads == 1 and len(set(sizes)) == 1
