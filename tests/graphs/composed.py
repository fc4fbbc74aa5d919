"""The parts of an attention block: projections to heads, rotary, KV repetition, scores, context."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.graphs.blueprint import Blueprint
from tests.graphs.net import Graph, Net, grouped


def build(plan: Blueprint) -> Graph:
    """The graph of a blueprint, with a site for each layer."""
    net = Net(plan)
    hidden = net.input("x", (plan.B, plan.S, plan.width), "bsw")
    shared = _shared(net)
    outputs = []
    for layer in range(plan.layers):
        context, presents = _attention(net, hidden, shared, layer)
        projected = net.linear(context, f"out{layer}", plan.H * plan.Dv, plan.width)
        hidden = net.op("Add", hidden, projected)
        outputs += presents
    return net.drawn([hidden, *outputs])


def _shared(net: Net) -> dict[str, Any]:
    """What all layers read: masks and rotary tables."""
    plan = net.plan
    shared: dict[str, Any] = {}
    if plan.mask == "batch":
        shared["mask"] = net.input("mask", (plan.B, 1, plan.S, plan.T), "b1st")
    elif plan.mask == "head":
        # A bias table per head, shared by all layers as in T5.
        shared["mask"] = net.constant("position_bias", net.random(1, plan.H, plan.S, plan.T))
    if plan.rotary == "written":
        shared["cos"], shared["sin"] = (net.input(name, (plan.S, plan.D), "sd") for name in ("cos", "sin"))
    elif plan.rotary != "none":
        shared["cos"], shared["sin"] = (net.weight(name, 9, plan.D // 2) for name in ("cos", "sin"))
        shared["ids"] = net.stored("ids", np.array([2]))
    return shared


def _heads(net: Net, data: Any, heads: int, size: int) -> Any:
    """[b, s, heads * size] -> [b, s, heads, size]."""
    return net.reshape(data, ("b", "s", heads, size))


def _qkv(net: Net, hidden: Any, layer: int) -> list[Any]:
    """Q, K and V as [b, s, heads, size]."""
    plan = net.plan
    H, K, D, Dv = plan.H, plan.K, plan.D, plan.Dv
    if plan.packing == "separate":
        sizes = (("q", H, D), ("k", K, D), ("v", K, Dv))
        return [_heads(net, net.linear(hidden, f"{n}{layer}", plan.width, h * d), h, d) for n, h, d in sizes]
    packed = net.linear(hidden, f"qkv{layer}", plan.width, (H + 2 * K) * D)
    if plan.packing == "interleaved":
        parts = net.reshape(packed, ("b", "s", H, 3, D))
        return _apart(net, parts, 3)
    if plan.unpack == "gather":
        return _apart(net, net.reshape(packed, ("b", "s", 3, H, D)), 2)
    widths = [H * D, K * D, K * D]
    pieces = _cut(net, packed, widths, 2)
    return [_heads(net, piece, heads, D) for piece, heads in zip(pieces, (H, K, K), strict=True)]


def _apart(net: Net, parts: Any, axis: int) -> list[Any]:
    if net.plan.unpack == "gather":
        index = [net.stored("third", np.array(i - 3 if i else 0)) for i in range(3)]
        return [net.op("Gather", parts, which, axis=axis) for which in index]
    return [net.op("Squeeze", piece, net.ints(axis)) for piece in _cut(net, parts, [1, 1, 1], axis)]


def _cut(net: Net, data: Any, widths: list[int], axis: int) -> list[Any]:
    if net.plan.unpack == "split":
        made: list[Any] = net.op("Split", data, net.ints(*widths), outputs=len(widths), axis=axis)
        return made
    bounds = np.cumsum([0, *widths])
    ends = [*bounds[1:-1], 2**63 - 1]
    return [
        net.op("Slice", data, net.ints(int(a)), net.ints(int(b)), net.ints(axis))
        for a, b in zip(bounds[:-1], ends, strict=True)
    ]


def _rotated(net: Net, data: Any, heads: int, shared: dict[str, Any]) -> Any:
    """[b, heads, s, size], rotate-half."""
    if net.plan.rotary == "heads":
        return _by_operator(net, data, 0, shared)
    if net.plan.rotary == "flat":
        rows = net.reshape(net.op("Transpose", data, perm=[0, 2, 1, 3]), ("b", "s", heads * net.plan.D))
        turned = _heads(net, _by_operator(net, rows, heads, shared), heads, net.plan.D)
        return net.op("Transpose", turned, perm=[0, 2, 1, 3])
    half = net.plan.D // 2
    first = net.op("Slice", data, net.ints(0), net.ints(half), net.ints(3))
    second = net.op("Slice", data, net.ints(half), net.ints(2**63 - 1), net.ints(3))
    turned = net.op("Concat", net.op("Neg", second), first, axis=-1)
    return net.op("Add", net.op("Mul", data, shared["cos"]), net.op("Mul", turned, shared["sin"]))


def _by_operator(net: Net, data: Any, heads: int, shared: dict[str, Any]) -> Any:
    operands = (data, shared["ids"], shared["cos"], shared["sin"])
    return net.op("RotaryEmbedding", *operands, domain="com.microsoft", num_heads=heads)


def _repeated(net: Net, data: Any, size: int) -> Any:
    """[b, K, t, size] -> [b, K * G, t, size]."""
    plan = net.plan
    if plan.G == 1:
        return data
    if plan.repeat == "gather":
        return net.op("Gather", data, net.ints(*np.repeat(np.arange(plan.K), plan.G).tolist()), axis=1)
    wide = net.op("Unsqueeze", data, net.ints(2))
    if plan.repeat == "tile":
        wide = net.op("Tile", wide, net.ints(1, 1, plan.G, 1, 1))
    else:
        shape = net.op("Shape", data)
        pieces = [net.piece(shape, 0), net.ints(plan.K, plan.G), net.piece(shape, 2), net.ints(size)]
        wide = net.op("Expand", wide, net.op("Concat", *pieces, axis=0))
    return net.op("Reshape", wide, net.ints(0, plan.H, -1, size))


def _attention(net: Net, hidden: Any, shared: dict[str, Any], layer: int) -> tuple[Any, list[Any]]:
    """The context as [b, s, H * Dv], and present keys and values."""
    plan = net.plan
    q, k, v = _qkv(net, hidden, layer)
    if plan.query_norm:
        deviation = net.op("Sqrt", net.op("Add", _mean(net, net.op("Mul", q, q)), _one(net)))
        q = net.op("Mul", net.op("Div", q, deviation), net.weight("norm", plan.D))
    if plan.layout == "bshd" and plan.rotary == "none":
        return _untransposed(net, q, k, v, shared, layer), []
    q, k, v = (net.op("Transpose", item, perm=[0, 2, 1, 3]) for item in (q, k, v))
    if plan.rotary != "none":
        q, k = _rotated(net, q, plan.H, shared), _rotated(net, k, plan.K, shared)
    presents = []
    if plan.past:
        pasts = [
            net.lie(
                net.input(f"past_{n}{layer}", (plan.B, plan.K, plan.past, d), "bkpd"),
                -3,
                grouped(plan.H, plan.K),
                str(layer),
            )
            for n, d in (("k", plan.D), ("v", plan.Dv))
        ]
        k, v = net.op("Concat", pasts[0], k, axis=2), net.op("Concat", pasts[1], v, axis=2)
        presents = [net.lie(item, -3, grouped(plan.H, plan.K), str(layer)) for item in (k, v)]
    k, v = _repeated(net, k, plan.D), _repeated(net, v, plan.Dv)
    if plan.scale == "query":
        q = net.op("Mul", q, net.weight("query_scale", plan.H, 1, 1))
    return _core(net, q, k, v, shared, layer), presents


def _mean(net: Net, data: Any) -> Any:
    if net.plan.opset >= 18:
        return net.op("ReduceMean", data, net.ints(-1), keepdims=1)
    return net.op("ReduceMean", data, axes=[-1], keepdims=1)


def _one(net: Net) -> Any:
    return net.stored("one", np.ones((), np.float32))


def _untransposed(net: Net, q: Any, k: Any, v: Any, shared: dict[str, Any], layer: int) -> Any:
    plan = net.plan
    scores = net.op("Einsum", q, k, equation="bshd,bthd->bhst")
    weights = _weights(net, scores, shared)
    context = net.mark(net.op("Einsum", weights, v, equation="bhst,bthd->bshd"), -2, plan.H, str(layer))
    if plan.scale != "none":
        context = net.op("Mul", context, net.weight("context_scale", plan.H, 1))
    return net.reshape(context, ("b", "s", plan.H * plan.Dv))


def _core(net: Net, q: Any, k: Any, v: Any, shared: dict[str, Any], layer: int) -> Any:
    """[b, H, s, D] heads -> [b, s, H * Dv]."""
    plan = net.plan
    if plan.layout == "merged":
        q, k, v = (_merge(net, item, size) for item, size in ((q, plan.D), (k, plan.D), (v, plan.Dv)))
    keys = net.op("Transpose", k, perm=[0, 2, 1] if plan.layout == "merged" else [0, 1, 3, 2])
    scores = net.op("MatMul", q, keys)
    if plan.layout == "merged" and plan.mask != "none":
        shape = net.op("Shape", scores)
        pieces = [net.ints(-1, plan.H), net.piece(shape, 1), net.piece(shape, 2)]
        apart = net.op("Reshape", scores, net.op("Concat", *pieces, axis=0))
        scores = net.op("Reshape", net.op("Add", apart, shared["mask"]), shape)
        weights = _activation(net, scores)
    else:
        weights = _weights(net, scores, shared)
    context = net.op("MatMul", weights, v)
    if plan.layout == "merged":
        pieces = [net.ints(-1, plan.H), net.piece(net.op("Shape", context), 1), net.ints(plan.Dv)]
        context = net.op("Reshape", context, net.op("Concat", *pieces, axis=0))
    net.mark(context, -3, plan.H, str(layer))
    if plan.scale == "context":
        context = net.op("Mul", context, net.weight("context_scale", plan.H, 1, 1))
    return net.reshape(net.op("Transpose", context, perm=[0, 2, 1, 3]), ("b", "s", plan.H * plan.Dv))


def _merge(net: Net, data: Any, size: int) -> Any:
    """[b, H, t, size] -> [b * H, t, size]."""
    first = -1 if net.plan.symbolic else net.plan.B * net.plan.H
    pieces = [net.ints(first), net.piece(net.op("Shape", data), 2), net.ints(size)]
    return net.op("Reshape", data, net.op("Concat", *pieces, axis=0))


def _weights(net: Net, scores: Any, shared: dict[str, Any]) -> Any:
    if "mask" in shared:
        scores = net.op("Add", scores, shared["mask"])
    return _activation(net, scores)


def _activation(net: Net, scores: Any) -> Any:
    return (
        net.op("Softmax", scores, axis=-1) if net.plan.normalize == "softmax" else net.op("Sigmoid", scores)
    )
