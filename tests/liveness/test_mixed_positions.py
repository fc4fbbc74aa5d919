"""What mixes positions of a context and treats channels alike keeps the heads; what mixes heads does not."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto

from onnxheadprune.attention.sites.find import inspect
from onnxheadprune.liveness.live import Live
from onnxheadprune.liveness.refusals import Reason
from tests.attention.block_graph import Net
from tests.attention.blueprint import STATIC
from tests.attention.cuts import check_cut
from tests.attention.net_parts import WIDTH, D, H, context_of, merged, projected, split, talk

B, SIDE = 2, 4


def picture(net: Net, context: Any) -> Any:
    """[B, H, S, D] -> [B, H * D, SIDE, SIDE]"""
    return net.op("Reshape", net.op("Transpose", context, perm=[0, 1, 3, 2]), net.ints(B, H * D, SIDE, SIDE))


def average(net: Net, data: Any) -> Any:
    return net.op("AveragePool", data, kernel_shape=[2, 2], strides=[2, 2])


def average_of_all(net: Net, data: Any) -> Any:
    return net.op("GlobalAveragePool", data)


def mean_over_tokens(net: Net, data: Any) -> Any:
    return net.op("ReduceMean", data, net.ints(2, 3), keepdims=1)


def enlarged(net: Net, data: Any) -> Any:
    empty = net.weight("empty", 0)
    return net.op("Resize", data, empty, empty, net.ints(B, H * D, 6, 7), mode="linear")


def convolved_by_channel(net: Net, data: Any) -> Any:
    return net.op("Conv", data, net.weight("kernel", H * D, 1, 3, 3), group=H * D, pads=[1, 1, 1, 1])


def averaged_and_normed(net: Net, data: Any) -> Any:
    """BoTNet: a batch normalisation and a ReLU follow."""
    vectors = [net.weight(name, H * D) for name in ("gain", "shift", "mean")]
    variance = net.op("Abs", net.weight("variance", H * D))
    return net.op("Relu", net.op("BatchNormalization", average(net, data), *vectors, variance))


MIXERS: dict[str, Callable[[Net, Any], Any]] = {
    mixer.__name__: mixer
    for mixer in (
        average,
        average_of_all,
        mean_over_tokens,
        enlarged,
        convolved_by_channel,
        averaged_and_normed,
    )
}


@pytest.mark.parametrize("how", MIXERS)
def test_positions_are_mixed_before_the_projection(how: str) -> None:
    net = Net(STATIC)
    x = net.input("x", (B, SIDE * SIDE, WIDTH), "---")
    data = MIXERS[how](net, picture(net, context_of(net, x)))
    model = net.export([net.op("Conv", data, net.weight("o", WIDTH, H * D, 1, 1))])
    (site,) = inspect(model)
    assert (site.num_heads, site.kv_num_heads, site.v_head_size, site.reason) == (H, H, D, None)
    for gone in ([1], [0, 2], list(range(H))):
        check_cut(model, net.feed, gone)


def test_the_largest_of_some_positions_is_not_linear() -> None:
    net = Net(STATIC)
    x = net.input("x", (B, SIDE * SIDE, WIDTH), "---")
    data = net.op("MaxPool", picture(net, context_of(net, x)), kernel_shape=[2, 2], strides=[2, 2])
    sites = inspect(net.export([net.op("Conv", data, net.weight("o", WIDTH, H * D, 1, 1))]))
    assert not len(sites)
    assert [miss.reason.reason for miss in sites.near_misses] == [Reason.NO_RULE]


def test_nothing_is_joined_to_the_tokens() -> None:
    """Emformer: a slice of a slice that is empty, joined to the context."""
    net = Net(STATIC)
    x = net.input("x", (B, 6, WIDTH), "---")
    flat = merged(net, context_of(net, x))
    none = net.op("Slice", flat, net.ints(0), net.ints(0), net.ints(1))
    none = net.op("Slice", none, net.ints(0), net.ints(0), net.ints(1))
    model = net.export([projected(net, net.op("Concat", none, flat, axis=1))])
    (site,) = inspect(model)
    assert (site.num_heads, site.v_head_size, site.reason) == (H, D, None)
    check_cut(model, net.feed, [1])


def class_attention(mixed: str, batch: str) -> ModelProto:
    """CaiT: a class token, stored or as an input, asks the patches; maps may be mixed before and after the softmax."""
    net = Net(STATIC)
    x = net.input("x", (1, 9, WIDTH), "---")
    token = (
        net.weight("token", 1, 1, WIDTH) if batch == "stored" else net.input("token", (1, 1, WIDTH), "---")
    )

    def split(data: Any, name: str, *order: int) -> Any:
        flat = net.op("MatMul", data, net.weight(name, WIDTH, H * D))
        return net.op("Transpose", net.op("Reshape", flat, net.ints(0, 0, H, D)), perm=list(order))

    scores = net.op("MatMul", split(token, "q", 0, 2, 1, 3), split(x, "k", 0, 2, 3, 1))
    scores = talk(net, scores) if "before" in mixed else scores
    weights = net.op("Softmax", scores, axis=-1)
    weights = talk(net, weights) if "after" in mixed else weights
    context = net.op("MatMul", weights, split(x, "v", 0, 2, 1, 3))
    return net.export([projected(net, merged(net, context))])


@pytest.mark.parametrize("batch", ["stored", "computed"])
@pytest.mark.parametrize("mixed", ["before", "after", "before and after"])
def test_talking_heads_are_refused_whatever_the_queries_are(mixed: str, batch: str) -> None:
    (site,) = inspect(class_attention(mixed, batch))
    assert site.reason is not None
    assert site.reason.reason is Reason.COUPLED
    assert "talking heads" in site.reason.sentence


@pytest.mark.parametrize("batch", ["stored", "computed"])
def test_heads_that_do_not_talk_are_found_whatever_the_queries_are(batch: str) -> None:
    (site,) = inspect(class_attention("", batch))
    assert (site.num_heads, site.reason) == (H, None)


def test_a_regression_over_attention_maps_is_no_attention() -> None:
    """ESM's contact head reads the maps of all heads as features."""
    net = Net(STATIC)
    x = net.input("x", (1, 6, WIDTH), "---")

    heads = partial(split, net, x)
    maps = net.op("Softmax", net.op("MatMul", heads("q", 0, 2, 1, 3), heads("k", 0, 2, 3, 1)), axis=-1)
    inner = net.op("Slice", maps, net.ints(1, 1), net.ints(5, 5), net.ints(2, 3))
    both = net.op("Add", inner, net.op("Transpose", inner, perm=[0, 1, 3, 2]))
    features = net.op("Transpose", both, perm=[0, 2, 3, 1])
    model = net.export([net.op("Sigmoid", net.op("MatMul", features, net.weight("regression", H, 1)))])
    assert not len(inspect(model))


def test_an_axis_without_positions_needs_nothing() -> None:
    assert Live.over((0, 1), np.zeros((3, 0), dtype=np.int64)).is_dead
