"""Sizes and parts of attention blocks, written node by node on a `Net`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.graphs.net import Net
from tests.graphs.table import Found

B, S, H, D, WIDTH = 2, 3, 4, 2, 7
"""Batch, sequence, heads, head size, and a model width that is no multiple of a head size."""
HEADS = Found(H, size=D)
"""The site of a plain block."""
Step = Callable[[Net, Any], Any]


def coupled(node: str, heads: int = H) -> Found:
    """The site of a block whose heads are mixed at a node."""
    return Found(heads, reason=("coupled", node))


def unprojected(node: str = "", heads: int = H) -> Found:
    """The site of a block whose context has no projection of its own."""
    return Found(heads, reason=("no-projection", node))


def same(net: Net, data: Any) -> Any:
    return data


def source(net: Net, letters: str = "bs-", batch: int = B, length: int = S, width: int = WIDTH) -> str:
    """The input [B, S, WIDTH]."""
    return net.input("x", (batch, length, width), letters)


def split(net: Net, x: Any, name: str, *order: int, heads: int = H, size: int = D, width: int = WIDTH) -> Any:
    """[B, S, width] -> a linear layer's output, as the axes of [B, S, heads, size] in some order."""
    flat = net.op("MatMul", x, net.weight(name, width, heads * size))
    return net.op("Transpose", net.op("Reshape", flat, net.ints(0, 0, heads, size)), perm=list(order))


def heads_of(net: Net, x: Any, name: str, heads: int = H, size: int = D) -> Any:
    """[B, heads, S, size]."""
    return split(net, x, name, 0, 2, 1, 3, heads=heads, size=size)


def turned(net: Net, keys: Any) -> Any:
    return net.op("Transpose", keys, perm=[0, 1, 3, 2])


def softmax(net: Net, scores: Any) -> Any:
    return net.op("Softmax", scores, axis=-1)


def weighed(net: Net, q: Any, k: Any, v: Any, weigh: Step = softmax) -> Any:
    """Queries, transposed keys and values -> the context."""
    return net.op("MatMul", weigh(net, net.op("MatMul", q, k)), v)


def context_of(net: Net, x: Any, size: int = D, heads: int = H, weigh: Step = softmax, **more: Any) -> Any:
    """[B, S, WIDTH] -> the context [B, heads, S, size]."""
    q, k, v = (
        split(net, x, name, *order, heads=heads, size=size, **more)
        for name, order in (("q", (0, 2, 1, 3)), ("k", (0, 2, 3, 1)), ("v", (0, 2, 1, 3)))
    )
    return weighed(net, q, k, v, weigh)


def merged(net: Net, context: Any, heads: int = H, size: int = D, site: str = "0") -> Any:
    """The context [B, heads, S, size], whose heads are marked -> [B, S, heads * size]."""
    net.mark(context, -3, heads, site)
    back = net.op("Transpose", context, perm=[0, 2, 1, 3])
    return net.op("Reshape", back, net.ints(0, 0, heads * size))


def projected(net: Net, data: Any, rows: int = H * D, name: str = "o") -> Any:
    return net.op("MatMul", data, net.weight(name, rows, WIDTH))


def finished(net: Net, context: Any, heads: int = H, size: int = D, site: str = "0") -> Any:
    """The context, merged and projected."""
    return projected(net, merged(net, context, heads, size, site), heads * size)


@dataclass(frozen=True)
class Block:
    """A plain block and what happens on its way: to flat queries and values, scores, weights and the flat context."""

    query: Step = same
    value: Step = same
    scores: Step = same
    softmax_axis: int = -1
    weights: Step = same
    heads: Step = same
    context: Step = same
    letters: str = "bs-"
    residual: bool = False

    def __call__(self, net: Net) -> Any:
        x = source(net, self.letters)
        flat = [net.op("MatMul", x, net.weight(name, WIDTH, H * D)) for name in "qkv"]
        flat[0], flat[2] = self.query(net, flat[0]), self.value(net, flat[2])
        q, k, v = (
            net.op("Transpose", net.op("Reshape", f, net.ints(0, 0, H, D)), perm=[0, 2, 1, 3]) for f in flat
        )
        scores = self.scores(net, net.op("MatMul", q, turned(net, k)))
        weights = self.weights(net, net.op("Softmax", scores, axis=self.softmax_axis))
        context = self.heads(net, net.op("MatMul", weights, v))
        made = projected(net, self.context(net, merged(net, context)))
        return net.op("Add", x, made) if self.residual else made


def talk(net: Net, maps: Any) -> Any:
    """Mixes [b, H, s, t] across heads."""
    last = net.op("Transpose", maps, perm=[0, 2, 3, 1])
    return net.op("Transpose", net.op("MatMul", last, net.weight("talk", H, H)), perm=[0, 3, 1, 2])
