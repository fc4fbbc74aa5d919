"""What is multiplied with a context must not be made of other heads' contexts: silent heads would still speak there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from onnxheadprune.attention.sites.find import inspect
from onnxheadprune.liveness.refusals import Reason
from tests.attention.block_graph import Net
from tests.attention.blueprint import PLAIN
from tests.attention.cuts import check_cut
from tests.attention.net_parts import WIDTH, B, D, H, S, context_of, merged, projected

INNER = H * D


def _elementwise(net: Net, _: Any, context: Any) -> Any:
    """A gate for each channel, of all channels: x-transformers' output gate."""
    return net.op("MatMul", context, net.weight("g", INNER, INNER))


def _pooled(net: Net, _: Any, context: Any) -> Any:
    """Squeeze and excite: a gate of what all tokens are on average, through a bottleneck."""
    squeezed = net.op("ReduceMean", context, net.ints(1), keepdims=1)
    narrow = net.op("Relu", net.op("MatMul", squeezed, net.weight("squeeze", INNER, 4)))
    return net.op("MatMul", narrow, net.weight("excite", 4, INNER))


def _of_the_stream(net: Net, x: Any, _: Any) -> Any:
    """A gate of what the heads read themselves."""
    return net.op("MatMul", x, net.weight("g", WIDTH, INNER))


Gate = Callable[[Net, Any, Any], Any]


def _gated(gate: Gate) -> tuple[Net, Any]:
    net = Net(PLAIN)
    x = net.input("x", (B, S, WIDTH), "bs-")
    context = merged(net, context_of(net, x))
    return net, projected(net, net.op("Mul", context, net.op("Sigmoid", gate(net, x, context))))


@pytest.mark.parametrize("gate", [_elementwise, _pooled])
def test_a_gate_of_all_contexts_couples_the_heads(gate: Gate) -> None:
    """Zeros in the projection's columns and zeros at the core are different models here."""
    net, output = _gated(gate)
    (site,) = inspect(net.export([output]))
    assert site.reason is not None
    assert site.reason.reason is Reason.COUPLED
    # The gate is where heads meet; what it is computed by is named as well.
    assert "(Mul)" in site.reason.node and "joins the context of each head" in site.reason.sentence
    assert "computes of all heads" in site.reason.sentence


def test_a_gate_of_the_stream_does_not() -> None:
    """What a head is multiplied with goes with it."""
    net, output = _gated(_of_the_stream)
    check_cut(net.export([output]), net.feed, [1])


def test_two_projections_side_by_side_do_not() -> None:
    """Both sum up the heads, neither is on the way to the other."""
    net = Net(PLAIN)
    context = merged(net, context_of(net, net.input("x", (B, S, WIDTH), "bs-")))
    model = net.export([projected(net, context), projected(net, context)])
    check_cut(model, net.feed, [1])


def _added(net: Net, stream: Any, context: Any) -> Any:
    return net.op("Add", stream, context)


def _let_in(net: Net, stream: Any, context: Any) -> Any:
    """As much of the context and of the stream as both tell: D-FINE's gateway."""
    both = net.op("Concat", stream, context, axis=2)
    gates = [net.op("Sigmoid", net.op("MatMul", both, net.weight("g", 2 * INNER, INNER))) for _ in "ab"]
    return net.op("Add", net.op("Mul", gates[0], stream), net.op("Mul", gates[1], context))


def _then_normalized(net: Net, stream: Any, context: Any) -> Any:
    gains = (net.weight("gain", INNER), net.weight("offset", INNER))
    return net.op("LayerNormalization", _added(net, stream, context), *gains, axis=-1)


@pytest.mark.each_choice
@pytest.mark.parametrize("layers", [2, 3])
@pytest.mark.parametrize("joined", [_added, _let_in, _then_normalized])
def test_contexts_that_are_the_stream_have_no_projection(joined: Gate, layers: int) -> None:
    """Later layers read them through the stream, which is why none of them can go."""
    net = Net(PLAIN)
    stream = net.op("MatMul", net.input("x", (B, S, WIDTH), "bs-"), net.weight("embed", WIDTH, INNER))
    for _ in range(layers):
        narrow = net.op("MatMul", stream, net.weight("narrow", INNER, WIDTH))
        stream = joined(net, stream, merged(net, context_of(net, narrow)))
    for site in inspect(net.export([projected(net, stream)])):
        assert site.num_heads == H and site.reason is not None
        assert site.reason.reason is Reason.NO_PROJECTION
        assert site.reason.sentence.endswith("the context has no output projection of its own")
