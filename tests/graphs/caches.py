"""Rows whose inputs and outputs hold heads: caches follow the heads, other inputs keep their shape."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from tests.graphs.blueprint import PLAIN
from tests.graphs.composed import build
from tests.graphs.net import Cut, Graph, Net, Rows, each, grouped
from tests.graphs.parts import (
    HEADS,
    WIDTH,
    B,
    D,
    H,
    S,
    finished,
    heads_of,
    projected,
    softmax,
    source,
    split,
    talk,
    turned,
    weighed,
)
from tests.graphs.table import Found, row

PAST = 2
Make = Callable[..., Any]


# Inputs with an entry per head


def _block(net: Net, keys: Make, values: Make) -> Any:
    x = source(net)
    k, v = keys(heads_of(net, x, "k")), values(heads_of(net, x, "v"))
    return finished(net, weighed(net, heads_of(net, x, "q"), turned(net, k), v))


def _picked(shape: tuple[int, ...], letters: str, dtype: Any, pick: Make) -> Make:
    """Keys and values of the heads that an input lists, or scaled by it."""

    def write(net: Net) -> Any:
        given = net.input("h", shape, letters, dtype)
        if dtype is not None or pick is _each or pick is _cast:
            numbers = np.reshape(np.arange(H), [-1 if size == H else 1 for size in shape])
            net.feed["h"] = np.broadcast_to(numbers, shape).astype(dtype or np.float32).copy()
        if dtype is np.bool_:
            net.feed["h"][:] = True
        return _block(net, *[lambda data: pick(net, data, given)] * 2)

    return write


def _each(net: Net, data: Any, given: Any) -> Any:
    return net.op("Gather", data, given, axis=1)


def _cast(net: Net, data: Any, given: Any) -> Any:
    return net.op("Gather", data, net.op("Cast", given, to=7), axis=1)


def _elements(net: Net, data: Any, given: Any) -> Any:
    return net.op("GatherElements", data, given, axis=1)


def _scaled(net: Net, data: Any, given: Any) -> Any:
    return net.op("Mul", data, given)


def _whole_scale(net: Net, data: Any, given: Any) -> Any:
    return net.op("Mul", data, net.op("Cast", given, to=1))


def _where(net: Net, data: Any, given: Any) -> Any:
    return net.op("Where", given, data, net.number(0, np.float32))


KEPT: dict[str, Make] = {
    "head numbers": _picked((H,), "-", np.int64, _each),
    "head numbers of 32 bits": _picked((H,), "-", np.int32, _each),
    "head numbers as floats": _picked((H,), "-", None, _cast),
    "head numbers as bytes": _picked((H,), "-", np.uint8, _cast),
    "head numbers per sample": _picked((B, H, S, D), "b-s-", np.int64, _elements),
    "scales": _picked((H, 1, 1), "---", None, _scaled),
    "scales of samples": _picked((B, H, 1, 1), "b---", None, _scaled),
    "whole scales": _picked((H, 1, 1), "---", np.int64, _whole_scale),
    "truth values": _picked((H, 1, 1), "---", np.bool_, _where),
    "truth values of tokens": _picked((B, H, S, D), "b-s-", np.bool_, _where),
}
for what, write in KEPT.items():
    gathers = 1 if what in ("head numbers as floats", "head numbers as bytes", "whole scales") else 2
    axis = 0 if what.endswith(("numbers", "bits", "floats", "bytes")) else -3
    row(f"{what} are an input", HEADS, gathers=gathers, agreed={"h": axis})(write)


@row("a bias per head is an input of a fused operator", Found(H, size=D), gathers=1, agreed={"bias": 1})
def _(net: Net) -> Any:
    x = source(net, "---")
    flat = [net.op("MatMul", x, net.weight(name, WIDTH, H * D)) for name in "qkv"]
    bias = net.input("bias", (1, H, S, S), "----")
    context = net.op("MultiHeadAttention", *flat, "", "", bias, domain="com.microsoft", num_heads=H)
    net.mark(context, -1, [[head] for head in range(H) for _ in range(D)])
    return projected(net, context)


@row("values are an output", HEADS, gathers=1)
def _(net: Net) -> Any:
    x = source(net)
    v = net.op("MatMul", x, net.weight("v", WIDTH, H * D))
    values = net.op("Transpose", net.op("Reshape", v, net.ints(0, 0, H, D)), perm=[0, 2, 1, 3])
    return [finished(net, weighed(net, heads_of(net, x, "q"), split(net, x, "k", 0, 2, 3, 1), values)), v]


def _cached(net: Net, with_present: bool, batch: str = "b") -> Any:
    """A past of keys and values in one input."""
    past = net.lie(net.input("h", (B if batch == "b" else 1, H, PAST, D), f"{batch}-p-"), -3, H)
    parts: list[Any] = []

    def joined(data: Any) -> Any:
        wide = past
        if batch != "b":
            wide = net.op("Expand", past, net.op("Concat", net.length(data, 0), net.ints(1, 1, 1), axis=0))
        parts.append(net.op("Concat", wide, data, axis=2))
        return parts[-1]

    made = _block(net, joined, joined)
    return [made, net.lie(parts[1], -3, H)] if with_present else made


row("a past with its present", HEADS)(lambda net: _cached(net, True))


@row("a quantized past", HEADS)
def _(net: Net) -> Any:
    past = net.lie(net.input("h", (B, H, PAST, D), "b-p-", np.int8), -3, H)
    scale = net.number(0.01, np.float32)

    def joined(data: Any) -> Any:
        return net.op("Concat", net.op("DequantizeLinear", past, scale), data, axis=2)

    return _block(net, joined, joined)


# Keys and values that all heads share

ONE, FLAT, EXPANDED, PACKED = (
    "one head",
    "no axis of heads",
    "repeated for every head",
    "keys and values in one",
)
for form, past in itertools.product((ONE, FLAT, EXPANDED, PACKED), (True, False)):

    @row(f"a shared cache, {form}, {'past' if past else 'present'}", Found(H, 1, size=D))
    def _(net: Net, form: str = form, past: bool = past) -> Any:
        """A cache that all heads share keeps its shape as long as one head is left."""
        x, outputs = source(net), []
        axis = 1 if form in (FLAT, PACKED) else 2

        def cached(name: str, data: Any, size: int) -> Any:
            shape, letters = ((B, PAST, size), "bp-") if axis == 1 else ((B, 1, PAST, size), "b-p-")
            whole = data
            if past:
                whole = net.op("Concat", net.input(f"past_{name}", shape, letters), data, axis=axis)
            outputs.append(net.op("Identity", whole))
            return whole

        k, v = (net.op("MatMul", x, net.weight(name, WIDTH, D)) for name in "kv")
        if form == PACKED:
            both = cached("kv", net.op("Concat", k, v, axis=2), 2 * D)
            k, v = net.op("Split", both, net.ints(D, D), outputs=2, axis=2)
        else:
            apart = (k, v) if form == FLAT else (net.op("Unsqueeze", data, net.ints(1)) for data in (k, v))
            k, v = (cached(name, data, D) for name, data in zip("kv", apart, strict=True))
        if axis == 1:
            k, v = (net.op("Unsqueeze", data, net.ints(1)) for data in (k, v))
        if form == EXPANDED:
            k, v = (net.op("Expand", data, net.ints(1, H, 1, 1)) for data in (k, v))
        made = finished(net, weighed(net, heads_of(net, x, "q"), turned(net, k), v))
        return [net.op("Add", made, x), *outputs]


@row("states of an encoder are keys and values", Found(H, 1, size=D))
def _(net: Net) -> Any:
    """An input that all heads read, without an output of it, is no cache."""
    x = source(net)
    states = net.op("Unsqueeze", net.input("states", (B, 4, D), "bp-"), net.ints(1))
    made = finished(net, weighed(net, heads_of(net, x, "q"), turned(net, states), states))
    return net.op("Add", made, x)


# Caches that others read, that move on, that layers share


@row("keys that are normalised over all heads in front of their cache", HEADS, stays=True, gathers=1)
def _(net: Net) -> Any:
    """OLMo 2: behind the norm keys are those of heads, and leave the cache with their values."""
    x, presents = source(net), []
    for name in "kv":
        flat = net.op("MatMul", x, net.weight(name, WIDTH, H * D))
        if name == "k":
            flat = net.op("LayerNormalization", flat, net.weight("gain", H * D), axis=-1)
        heads = net.op("Transpose", net.op("Reshape", flat, net.ints(0, 0, H, D)), perm=[0, 2, 1, 3])
        past = net.lie(net.input(f"past_{name}", (B, H, PAST, D), "b-p-"), -3, H)
        presents.append(net.lie(net.op("Concat", past, heads, axis=2), -3, H))
    k, v = presents
    weights = softmax(net, net.op("MatMul", heads_of(net, x, "q"), turned(net, k)))
    return [finished(net, net.op("MatMul", weights, v)), *presents]


for where, kv in itertools.product(("before", "after"), (H, 2, 1)):

    @row(
        f"a cache of {kv} heads that talk {where} the softmax",
        Found(H, kv, size=D),
        stays=True,
    )
    def _(net: Net, where: str = where, kv: int = kv) -> Any:
        """The keys of all heads stay, so that the values do: callers have one number for both."""
        x, presents = source(net), []
        for name in "kv":
            past = net.input(f"past_{name}", (B, kv, PAST, D), "b-p-")
            presents.append(net.op("Concat", past, heads_of(net, x, name, kv), axis=2))
        each_ = net.ints(*(head * kv // H for head in range(H)))
        k, v = (net.op("Gather", data, each_, axis=1) for data in presents)
        scores = net.op("MatMul", heads_of(net, x, "q"), turned(net, k))
        weights = softmax(net, talk(net, scores) if where == "before" else scores)
        weights = talk(net, weights) if where == "after" else weights
        return [finished(net, net.op("MatMul", weights, v)), *presents]


for read in ("nobody", "keys", "values"):

    @row(
        f"{read} of all heads read the cache",
        Found(H, 2, size=D),
        gathers=0 if read == "nobody" else 2,
        cuts=[{"0": [0, 1]}, {"0": [2, 3]}],
    )
    def _(net: Net, read: str = read) -> Any:
        """Keys and values of a head leave a cache together, or neither does: Doge makes a mask of the values of all."""
        x, presents = source(net), {}
        for name in ("k", "v"):
            past = net.input(f"past_{name}", (B, 2, PAST, D), "b-p-")
            presents[name] = net.op("Concat", past, heads_of(net, x, name, 2), axis=2)
            if read == "nobody":
                for value in (past, presents[name]):
                    net.lie(value, -3, grouped(H, 2))

        def repeated(data: Any) -> Any:
            wide = net.op("Expand", net.op("Unsqueeze", data, net.ints(2)), net.ints(1, 1, 2, 1, 1))
            return net.op("Reshape", wide, net.ints(0, H, -1, D))

        scores = net.op("MatMul", heads_of(net, x, "q"), turned(net, repeated(presents["k"])))
        if read != "nobody":
            flat = net.op("Transpose", presents[read[0]], perm=[0, 2, 1, 3])
            flat = net.op("Reshape", flat, net.ints(0, 0, 2 * D))
            gate = net.op("Exp", net.op("MatMul", flat, net.weight("gate", 2 * D, 2)))
            gate = net.op("Unsqueeze", net.op("Transpose", gate, perm=[0, 2, 1]), net.ints(2))
            gate = net.op("Expand", net.op("Unsqueeze", gate, net.ints(2)), net.ints(1, 1, 2, 1, 1))
            scores = net.op("Add", scores, net.op("Reshape", gate, net.ints(0, H, 1, -1)))
        context = net.op("MatMul", softmax(net, scores), repeated(presents["v"]))
        return [net.op("Add", finished(net, context), x), *presents.values()]


for rolled in (False, True):

    @row(f"a window that moves on, {'rolled' if rolled else 'dropped'}", HEADS)
    def _(net: Net, rolled: bool = rolled) -> Any:
        """A window of the last tokens: the oldest is dropped unread, and past and present lose the same heads."""
        window, x, presents = 6, source(net, "b--", length=1), []

        def moved(name: str) -> Any:
            past = net.lie(net.input(f"past_{name}", (B, H, window, D), "b---"), -3, H)
            rest = net.rows(past, 1, 99, 2)
            if rolled:
                rest = net.rows(net.op("Concat", rest, net.rows(past, 0, 1, 2), axis=2), 0, window - 1, 2)
            presents.append(net.lie(net.op("Concat", rest, heads_of(net, x, name), axis=2), -3, H))
            return presents[-1]

        q = heads_of(net, x, "q")
        k, v = moved("k"), moved("v")
        return [finished(net, weighed(net, q, turned(net, k), v)), *presents]


def _stacked(net: Net, kinds_first: bool) -> Any:
    """One cache [layer, keys or values, batch, head, token, channel] for all layers, written row by row."""
    window = 6
    x = source(net, "---", length=1)
    cache = "cache"
    net.input(cache, (2, 2, B, H, window, D), "------")
    for layer in range(2):
        rows = []
        for kind, name in enumerate("kv"):
            old = net.op(
                "Gather", net.op("Gather", cache, net.number(layer), axis=0), net.number(kind), axis=0
            )
            new = net.op("Concat", net.rows(old, 1, 99, 2), heads_of(net, x, name), axis=2)
            place = net.stored("place", np.array([[[layer, kind]]]))
            cache = net.op("ScatterND", cache, place, net.op("Reshape", new, net.ints(1, 1, B, H, window, D)))
            rows.append(
                net.op("Gather", net.op("Gather", cache, net.number(layer), axis=0), net.number(kind), axis=0)
            )
        k, v = rows
        x = finished(net, weighed(net, heads_of(net, x, "q"), turned(net, k), v), site=str(layer))
    if kinds_first:
        return [x, net.op("Transpose", cache, perm=[1, 0, 2, 3, 4, 5])]
    net.lies.extend(Rows("0 1", name, -3, each(H)) for name in ("cache", cache))
    return [x, cache]


SHARED: list[Cut] = [
    {"0": [1], "1": [1]},
    {"0": [1], "1": [2]},
    {"0": [0, 3], "1": [1, 2]},
    {"0": [1], "1": [0, 2]},
]
row("a cache of all layers", HEADS, HEADS, cuts=SHARED, gathers=[0, 0, 0, 4])(
    lambda net: _stacked(net, False)
)
row("a cache of all layers, kinds first", HEADS, HEADS, cuts=SHARED[1:], gathers=4)(
    lambda net: _stacked(net, True)
)


# Blocks as exporters compose them


def composed(name: str, **parts: Any) -> None:
    plan = replace(PLAIN, layers=1, **parts)

    def write(net: Net) -> Graph:
        return build(plan)

    found = [Found(plan.H, plan.K, size=plan.D, v_size=plan.Dv)] * plan.layers
    row(name, *found, plans=plan)(write)


COMPOSED: dict[str, dict[str, Any]] = {
    "separate": {"layout": "bhsd", "gemm": True, "bias": False, "target": "zero", "opset": 13},
    "packed": {"packing": "packed", "unpack": "split", "rotary": "written", "past": 3, "mask": "batch"},
    "packed, sliced": {"packing": "packed", "unpack": "slice", "K": 2, "G": 2, "repeat": "gather", "past": 3},
    "packed, gathered": {"packing": "packed", "unpack": "gather", "query_norm": True, "opset": 21},
    "interleaved": {"packing": "interleaved", "unpack": "split", "layout": "merged", "mask": "none"},
    "interleaved, sliced": {
        "packing": "interleaved",
        "unpack": "slice",
        "gemm": True,
        "symbolic": False,
        "target": "constant",
    },
    "interleaved, gathered": {
        "packing": "interleaved",
        "unpack": "gather",
        "scale": "query",
        "normalize": "sigmoid",
    },
    "by einsum": {"layout": "bshd", "scale": "context", "mask": "none", "Dv": 3},
    "merged": {"layout": "merged", "mask": "head", "scale": "context", "target": "minus", "symbolic": False},
    "merged with a past": {
        "layout": "merged",
        "mask": "batch",
        "past": 3,
        "K": 1,
        "G": 3,
        "repeat": "tile",
        "symbolic": False,
        "target": "zero",
    },
    "grouped, expanded": {"K": 2, "G": 3, "repeat": "expand", "past": 3, "rotary": "written", "gemm": True},
    "grouped, tiled": {
        "K": 2,
        "G": 2,
        "repeat": "tile",
        "Dv": 3,
        "D": 4,
        "mask": "none",
        "target": "minus",
        "rotary": "flat",
    },
    "as large as the batch": {
        "B": 4,
        "S": 4,
        "symbolic": False,
        "target": "constant",
        "past": 3,
        "rotary": "heads",
    },
}
for what, parts in COMPOSED.items():
    composed(f"composed, {what}", **parts)
