"""Routers that weigh heads against each other by the stream stay whole; the heads that are left pick their shares."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from onnxheadprune.attention.planning import analyse
from onnxheadprune.attention.sites.find import inspect
from onnxheadprune.liveness.refusals import Reason
from tests.attention.block_graph import Net
from tests.attention.blueprint import PLAIN
from tests.attention.cuts import check_exact
from tests.attention.net_parts import WIDTH, B, D, H, S, context_of, projected

Router = Callable[[Net, Any], Any]


def _softmax(net: Net, logits: Any) -> Any:
    return net.op("Softmax", logits, axis=-1)


def _divided(net: Net, logits: Any) -> Any:
    """A normalisation that is written out (mixture of heads, behind its choice of the best)."""
    weights = net.op("Sigmoid", logits)
    return net.op("Div", weights, net.op("ReduceSum", weights, net.ints(2), keepdims=1))


def _routed(router: Router, source: str) -> tuple[Net, Any]:
    """Heads that are weighed by what `router` makes of the stream, or of the contexts themselves."""
    net = Net(PLAIN)
    x = net.input("x", (B, S, WIDTH), "bs-")
    context = net.op("Transpose", context_of(net, x), perm=[0, 2, 1, 3])
    read, width = (
        (x, WIDTH) if source == "stream" else (net.op("Reshape", context, net.ints(0, 0, H * D)), H * D)
    )
    shares = router(net, net.op("MatMul", read, net.weight("router", width, H)))
    weighed = net.op("Mul", context, net.op("Unsqueeze", shares, net.ints(3)))
    return net, projected(net, net.op("Reshape", weighed, net.ints(0, 0, H * D)))


@pytest.mark.parametrize("router", [_softmax, _divided])
@pytest.mark.parametrize("gone", [[1], [0, 2], [0, 1, 2, 3]])
def test_a_router_on_the_stream_is_no_obstacle(router: Router, gone: list[int]) -> None:
    """The shares of the heads that are left are what they were."""
    net, output = _routed(router, "stream")
    model = net.export([output])
    planning = analyse(model, {0: gone}, "the router")
    assert len(planning.plan.edge_gathers) == (len(gone) < H)
    check_exact(planning, model, net.feed)


@pytest.mark.parametrize("router", [_softmax, _divided])
def test_a_router_on_the_contexts_is_one(router: Router) -> None:
    """What a head says decides there how loud the others are."""
    net, output = _routed(router, "contexts")
    (site,) = inspect(net.export([output]))
    assert site.reason is not None
    assert site.reason.reason is Reason.COUPLED
