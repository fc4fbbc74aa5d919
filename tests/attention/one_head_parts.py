"""Attention with any number of heads, also one: over channels, over tokens, and linear."""

from __future__ import annotations

from typing import Any

from tests.graphs.net import Net

B, S, D, WIDTH = 2, 5, 3, 7


def split(net: Net, x: Any, name: str, heads: int, *order: int) -> Any:
    """[B, S, WIDTH] -> the axes of [B, S, heads, D] in some order."""
    flat = net.op("MatMul", x, net.weight(name, WIDTH, heads * D))
    return net.op("Transpose", net.op("Reshape", flat, net.ints(0, 0, heads, D)), perm=list(order))


def projected(net: Net, context: Any, heads: int, *order: int) -> Any:
    """Contexts with their axes in `order`, merged and projected."""
    merged = net.op("Reshape", net.op("Transpose", context, perm=list(order)), net.ints(0, 0, heads * D))
    return net.op("MatMul", merged, net.weight("o", heads * D, WIDTH))


def of_channels(net: Net, x: Any, heads: int) -> Any:
    """Channels attend to channels (XCiT, Restormer, Retinexformer): the map owns the channels of the context."""
    k, q = split(net, x, "k", heads, 0, 2, 3, 1), split(net, x, "q", heads, 0, 2, 1, 3)
    weights = net.op("Softmax", net.op("MatMul", k, q), axis=-1)
    values = net.op("Sigmoid", split(net, x, "v", heads, 0, 2, 3, 1))
    return projected(net, net.op("MatMul", weights, values), heads, 0, 3, 1, 2)


def of_channels_turned(net: Net, x: Any, heads: int) -> Any:
    """The same with the map on the right."""
    k, q = split(net, x, "k", heads, 0, 2, 3, 1), split(net, x, "q", heads, 0, 2, 1, 3)
    weights = net.op("Softmax", net.op("MatMul", k, q), axis=-2)
    return projected(net, net.op("MatMul", split(net, x, "v", heads, 0, 2, 1, 3), weights), heads, 0, 2, 1, 3)


def linear(net: Net, x: Any, heads: int) -> Any:
    """Queries read a summary of all keys and values."""
    k = net.op("Softmax", split(net, x, "k", heads, 0, 2, 3, 1), axis=-1)
    summary = net.op("MatMul", k, split(net, x, "v", heads, 0, 2, 1, 3))
    queries = net.op("Softmax", split(net, x, "q", heads, 0, 2, 1, 3), axis=-1)
    return projected(net, net.op("MatMul", queries, summary), heads, 0, 2, 1, 3)


def of_tokens(net: Net, x: Any, heads: int) -> Any:
    scores = net.op("MatMul", split(net, x, "q", heads, 0, 2, 1, 3), split(net, x, "k", heads, 0, 2, 3, 1))
    context = net.op("MatMul", net.op("Softmax", scores, axis=-1), split(net, x, "v", heads, 0, 2, 1, 3))
    return projected(net, context, heads, 0, 2, 1, 3)
