"""Tokens are not heads: an axis enumerates heads only if live labels differ along it, and weights tell it apart."""

from __future__ import annotations

from typing import Any

import pytest

from onnxheadprune.attention.planning import analyse
from onnxheadprune.attention.sites.find import inspect
from onnxheadprune.liveness.refusals import Reason
from tests.attention.block_graph import Net
from tests.attention.cuts import check_exact
from tests.attention.net_parts import WIDTH, D, H, context_of, merged, projected
from tests.attention.token_readers import (
    DYNAMIC,
    FIXED,
    READS,
    B,
    S,
    rows,
)
from tests.graph_text import model_of

GONE = ([1], [0, 2], list(range(H)))


def check(net: Net, outputs: list[Any], size: int = D) -> None:
    """One site of H heads, and every cut equals the masked original."""
    model = net.export(outputs)
    (site,) = inspect(model)
    assert site.removable
    assert (site.kind, site.num_heads, site.kv_num_heads, site.v_head_size) == ("mha", H, H, size)
    for gone in GONE:
        planning = analyse(model, {0: gone}, "tokens")
        assert [gather.value for gather in planning.plan.edge_gathers] == []
        check_exact(planning, model, net.feed)


@pytest.mark.each_choice
@pytest.mark.parametrize("how", READS)
@pytest.mark.parametrize("size", [D, 1], ids=["wide", "one channel"])
def test_positions_that_are_cut_are_no_evidence(how: str, size: int) -> None:
    net = Net(FIXED)
    x = net.input("x", (B, S, WIDTH), "---")
    data = READS[how](net, context_of(net, x, size), H * size)
    check(net, [projected(net, data, H * size)], size)


@pytest.mark.each_choice
@pytest.mark.parametrize("overlap", [0, 2])
@pytest.mark.parametrize("letters", ["---", "b--", "bs-"])
def test_two_projections_read_tokens_apart(overlap: int, letters: str) -> None:
    """Joint attention (SD3, Flux): text and picture attend together and are projected by weights of their own."""
    net = Net(DYNAMIC)
    x = net.input("x", (2, S, WIDTH), letters)
    flat = merged(net, context_of(net, x))
    bounds = ((0, 4 + overlap), (4, S))
    check(net, [net.op("Add", rows(net, x, *b), projected(net, rows(net, flat, *b))) for b in bounds])


def test_one_of_two_pictures_is_read() -> None:
    """The batch of a fixed export is no head axis, either."""
    net = Net(FIXED)
    x = net.input("x", (2, S, WIDTH), "b--")
    made = projected(net, rows(net, merged(net, context_of(net, x)), 0, 1, 0))
    check(net, [net.op("Add", rows(net, x, 0, 1, 0), made)])


@pytest.mark.parametrize("spelled", ["Flatten", "Reshape", "Gemm"])
def test_all_tokens_are_summed_over(spelled: str) -> None:
    """A projection of all tokens at once: every token has channels of its own, heads still are the heads."""
    net = Net(FIXED)
    x = net.input("x", (2, S, WIDTH), "b--")
    flat = merged(net, context_of(net, x))
    joined = (
        net.op("Reshape", flat, net.ints(0, S * H * D)) if spelled == "Reshape" else net.op("Flatten", flat)
    )
    weight = net.weight("o", S * H * D, WIDTH)
    check(net, [net.op("Gemm" if spelled == "Gemm" else "MatMul", joined, weight)])


@pytest.mark.parametrize("size", [D, 1], ids=["wide", "one channel"])
def test_some_tokens_are_summed_over(size: int) -> None:
    net = Net(FIXED)
    x = net.input("x", (2, S, WIDTH), "b--")
    flat = net.op("Flatten", rows(net, merged(net, context_of(net, x, size), H * size), 2, 7), axis=1)
    check(net, [net.op("MatMul", flat, net.weight("o", 5 * H * size, WIDTH))], size)


@pytest.mark.parametrize("tokens", [S, 8], ids=["odd", "a multiple of the heads"])
def test_a_merge_without_transpose_has_no_heads(tokens: int) -> None:
    """Each head fills all channels, of other tokens: at the projection nothing is one head's."""
    net = Net(FIXED)
    x = net.input("x", (B, tokens, WIDTH), "---")
    data = net.op("Reshape", context_of(net, x), net.ints(0, tokens, H * D))
    sites = inspect(net.export([projected(net, data)]))
    assert [site.num_heads for site in sites] == []
    (miss,) = sites.near_misses
    assert miss.reason.reason is Reason.NO_PROJECTION and "no weights of single heads" in str(miss.reason)


def test_queries_of_a_group_in_a_row_with_one_token() -> None:
    """[B, K, G, D] when one token is decoded at a time: the rows have weights of their own, so they are heads."""
    net = Net(FIXED)
    x, y = net.input("x", (B, 1, WIDTH), "---"), net.input("y", (B, S, WIDTH), "---")
    kv, ratio = 2, H // 2
    q = net.op("Reshape", net.op("MatMul", x, net.weight("q", WIDTH, H * D)), net.ints(B, kv, ratio, D))

    def split(name: str, *order: int) -> Any:
        flat = net.op("MatMul", y, net.weight(name, WIDTH, kv * D))
        return net.op("Transpose", net.op("Reshape", flat, net.ints(0, 0, kv, D)), perm=list(order))

    weights = net.op("Softmax", net.op("MatMul", q, split("k", 0, 2, 3, 1)), axis=-1)
    data = net.op("Reshape", net.op("MatMul", weights, split("v", 0, 2, 1, 3)), net.ints(0, 1, H * D))
    (site,) = inspect(net.export([projected(net, data)]))
    assert (site.kind, site.num_heads, site.kv_num_heads, site.v_head_size) == ("gqa", H, kv, D)


def test_one_of_several_streams_is_read() -> None:
    """Hyper-connections (FT-Transformer): streams are mixed by what they hold, and no attention weighs them."""
    net = Net(FIXED)
    streams = net.input("x", (B, S, H, WIDTH), "----")
    gate = net.op("Tanh", net.op("MatMul", streams, net.weight("gate", WIDTH, H + 1)))
    mixed = net.op("Einsum", gate, streams, equation="bsij,bsiw->bsjw")
    first = net.op("Gather", net.op("Gather", mixed, net.ints(0), axis=2), net.ints(0), axis=1)
    assert not len(inspect(net.export([projected(net, first, WIDTH)])))


def test_streams_that_are_mixed_twice_have_no_heads() -> None:
    """The streams come from a product themselves, and the views of a mix have an axis of size 1."""
    net = Net(FIXED)
    streams = net.input("x", (B, S, H, WIDTH), "----")
    for round_ in range(2):
        gate = net.op("Tanh", net.op("MatMul", streams, net.weight(f"gate{round_}", WIDTH, H)))
        apart = net.op("Unsqueeze", gate, net.ints(3))
        mixed = net.op("Einsum", apart, streams, equation="bsicj,bsiw->bscjw")
        streams = net.op(
            "Squeeze", net.op("MatMul", mixed, net.weight(f"layer{round_}", WIDTH, WIDTH)), net.ints(2)
        )
        gate = net.op(
            "Unsqueeze", net.op("Tanh", net.op("MatMul", streams, net.weight("more", WIDTH, H))), net.ints(3)
        )
        streams = net.op(
            "Squeeze", net.op("Einsum", gate, streams, equation="bsicj,bsiw->bscjw"), net.ints(2)
        )
    total = net.op("ReduceSum", streams, net.ints(2), keepdims=0)
    first = net.op("Gather", total, net.ints(0), axis=1)
    assert not len(inspect(net.export([projected(net, first, WIDTH)])))


def test_codes_of_positions_are_no_attention() -> None:
    """RT-DETR multiplies positions by frequencies, both counted from shapes, and joins their sines and cosines."""
    model = model_of(
        """<ir_version: 9, opset_import: ["" : 17]> g (float[b, s, 16] x) => (float[b, s, 3] y)
    <float[16, 3] w, int64 i0 = {0}, int64 i1 = {1}, int64 i2 = {2}, int64 i4 = {4}, int64[1] first = {0},
     int64[1] last = {1}> {
      sizes = Shape(x)  s = Gather(sizes, i1)  places = Range(i0, s, i1)  p = Cast<to = 1>(places)
      p2 = Unsqueeze(p, last)  width = Gather(sizes, i2)  count = Div(width, i4)
      rates = Range(i0, count, i1)  r = Cast<to = 1>(rates)  r2 = Unsqueeze(r, first)
      angles = MatMul(p2, r2)  sine = Sin(angles)  cosine = Cos(angles)  half = Div(p2, p2)
      angles2 = MatMul(half, r2)  sine2 = Sin(angles2)  cosine2 = Cos(angles2)
      code = Concat<axis = 1>(sine, cosine, sine2, cosine2)
      sum = Add(x, code)  y = MatMul(sum, w)
    }"""
    )
    assert not len(inspect(model))
