"""Sizes and parts of the blocks that tests build node by node on a `Net`."""

from __future__ import annotations

from typing import Any

from tests.graphs.net import Net

B, S, H, D, WIDTH = 2, 3, 4, 2, 7
"""Batch, sequence, heads, head size, and a model width that is no multiple of a head size."""


def split(net: Net, x: Any, name: str, *order: int, heads: int = H, size: int = D) -> Any:
    """[B, S, WIDTH] -> a linear layer's output, as the axes of [B, S, heads, size] in some order."""
    flat = net.op("MatMul", x, net.weight(name, WIDTH, heads * size))
    return net.op("Transpose", net.op("Reshape", flat, net.ints(0, 0, heads, size)), perm=list(order))


def context_of(net: Net, x: Any, size: int = D, heads: int = H) -> Any:
    """[B, S, WIDTH] -> the context [B, heads, S, size]."""
    q, k, v = (
        split(net, x, name, *order, heads=heads, size=size)
        for name, order in (("q", (0, 2, 1, 3)), ("k", (0, 2, 3, 1)), ("v", (0, 2, 1, 3)))
    )
    return net.op("MatMul", net.op("Softmax", net.op("MatMul", q, k), axis=-1), v)


def merged(net: Net, context: Any, width: int = H * D) -> Any:
    return net.op("Reshape", net.op("Transpose", context, perm=[0, 2, 1, 3]), net.ints(0, 0, width))


def projected(net: Net, data: Any, rows: int = H * D) -> Any:
    return net.op("MatMul", data, net.weight("o", rows, WIDTH))


def talk(net: Net, maps: Any) -> Any:
    """Mixes [b, H, s, t] across heads."""
    last = net.op("Transpose", maps, perm=[0, 2, 3, 1])
    return net.op("Transpose", net.op("MatMul", last, net.weight("talk", H, H)), perm=[0, 3, 1, 2])
