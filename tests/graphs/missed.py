"""Rows of attention that is no site: a near miss with the node that hides the heads, or products without heads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from onnx import helper, numpy_helper

from tests.graphs.blueprint import PLAIN, STATIC
from tests.graphs.net import Graph, Net
from tests.graphs.parts import (
    HEADS,
    WIDTH,
    B,
    D,
    H,
    S,
    context_of,
    finished,
    heads_of,
    merged,
    projected,
    softmax,
    source,
    turned,
    unprojected,
)
from tests.graphs.table import Found, row

Make = Callable[..., Any]
AT18 = replace(PLAIN, opset=18)


def _spelled_out(net: Net, scores: Any) -> Any:
    powers = net.op("Exp", scores)
    return net.op("Div", powers, net.op("ReduceSum", powers, net.ints(-1)))


def _masked_and_quantized(net: Net, scores: Any) -> Any:
    scale, zero = net.number(0.01, np.float32), net.number(0, np.uint8)
    rounded = net.op("QuantizeLinear", softmax(net, scores), scale, zero)
    weights = net.op("DequantizeLinear", rounded, scale, zero)
    return net.op("Where", net.stored("seen", np.array(True)), weights, net.number(0, np.float32))


WEIGH: dict[str, Make] = {
    "softmax": softmax,
    "sigmoid": lambda net, scores: net.op("Sigmoid", scores),
    "hard swish": lambda net, scores: net.op("HardSwish", scores),
    "spelled out": _spelled_out,
    "masked and quantized": _masked_and_quantized,
}
for what, weigh in WEIGH.items():
    row(f"no projection, {what}", missed=[("no-projection", "")], plans=AT18)(
        lambda net, weigh=weigh: merged(net, context_of(net, source(net), weigh=weigh))
    )
    if what != "hard swish":
        row(f"a projection, {what}", HEADS, plans=AT18)(
            lambda net, weigh=weigh: finished(net, context_of(net, source(net), weigh=weigh))
        )


@row("a context that is also an output", unprojected())
def _(net: Net) -> Any:
    flat = merged(net, context_of(net, source(net)))
    return [projected(net, flat), flat]


for op_type, domain, why in (
    ("LongformerAttention", "com.microsoft", "no-rule"),
    ("PagedAttention", "com.microsoft", "no-rule"),
    ("FlashAttention", "custom", "no-rule"),
    ("MultiHeadAttention", "com.microsoft", "no-projection"),
):

    @row(f"{op_type} without a projection", missed=[(why, op_type)])
    def _(net: Net, op_type: str = op_type, domain: str = domain) -> Any:
        x = source(net)
        flat = [net.op("MatMul", x, net.weight(name, WIDTH, H * D)) for name in "qkv"]
        return net.op("Identity", net.op(op_type, *flat, domain=domain, num_heads=H))


@row("everything behind an unknown shape", missed=[("unknown-shape", "")])
def _(net: Net) -> Any:
    odd = net.op("Scramble", source(net), domain="custom")
    q, k, v = (net.op("MatMul", odd, net.weight(name, WIDTH, D)) for name in "qkv")
    context = net.op("MatMul", softmax(net, net.op("MatMul", q, net.op("Transpose", k, perm=[0, 2, 1]))), v)
    return projected(net, context, D)


@row("heads in reverse", missed=[("inexpressible", "")])
def _(net: Net) -> Any:
    context = context_of(net, source(net))
    bounds = [net.ints(number) for number in (-1, -(2**62), 1, -1)]
    return finished(net, net.op("Slice", context, *bounds))


@row("contexts that are scattered", missed=[("inexpressible", "")], plans=AT18)
def _(net: Net) -> Any:
    """As Informer: contexts of some queries are scattered among averages, at places that are computed."""
    x = source(net)
    q, k, v = heads_of(net, x, "q"), heads_of(net, x, "k"), heads_of(net, x, "v")
    context = net.op("MatMul", softmax(net, net.op("MatMul", q, turned(net, k))), v)
    averages = net.op("CumSum", v, net.number(2))
    return finished(net, net.op("ScatterND", averages, net.op("Cast", context, to=7), context))


@row("a map per head and one layer for all", missed=[("no-projection", "")])
def _(net: Net) -> Any:
    """As Fastformer: each head pools with weights of its own, and one linear layer treats all heads alike."""
    x = source(net)
    q, v = heads_of(net, x, "q"), heads_of(net, x, "v")
    weights = net.op("Softmax", net.op("MatMul", q, net.weight("pool", D, 1)), axis=2)
    pooled = net.op("MatMul", turned(net, weights), q)
    return net.op("MatMul", net.op("Mul", pooled, v), net.weight("alike", D, D))


@row("heads along an axis of another input's length", missed=[("inexpressible", "")])
def _(net: Net) -> Any:
    """`[heads * batch, S, D]` with the heads outside: pieces as long as another axis become columns."""
    x = source(net, "b--")

    def heads(name: str) -> Any:
        flat = net.op("MatMul", x, net.weight(name, WIDTH, H * D))
        return net.op("Concat", *(net.rows(flat, h * D, h * D + D, 2) for h in range(H)), axis=0)

    weights = softmax(net, net.op("MatMul", heads("q"), net.op("Transpose", heads("k"), perm=[0, 2, 1])))
    context = net.op("MatMul", weights, heads("v"))
    length = net.op("Shape", net.input("other", (B,), "p"), end=1)
    bounds = [net.op("Mul", length, net.ints(number)) for number in range(H + 1)]
    pieces = [net.rows(context, bounds[h], bounds[h + 1], 0) for h in range(H)]
    return projected(net, net.op("Concat", *pieces, axis=-1))


@row("sizes that some targets spell", missed=[("inexpressible", "")])
def _(net: Net) -> Any:
    """Keys folded with a literal batch, values with one of unknown length: which rows are whose is not known."""
    x = source(net)
    q, k, v = (
        net.op("Reshape", heads_of(net, x, name), target)
        for name, target in zip(
            "qkv", (net.ints(B * H, S, D), net.ints(B * H, S, D), net.ints(-1, S, D)), strict=True
        )
    )
    weights = softmax(net, net.op("MatMul", q, net.op("Transpose", k, perm=[0, 2, 1])))
    return finished(net, net.op("Reshape", net.op("MatMul", weights, v), net.ints(B, H, S, D)))


for position in range(4):

    @row(f"a sparse weight, {'qkvo'[position]}", Found(H), plans=STATIC, gathers=1, cuts=[{"0": [1]}])
    def _(net: Net, position: int = position) -> Graph:
        """It is no input and no dense tensor: nothing can be cut off it, and nothing may rely on that."""
        graph = net.drawn([finished(net, context_of(net, source(net, "b--")))])
        model = graph.model
        stored = {tensor.name: tensor for tensor in model.graph.initializer}
        products = [node.input[1] for node in model.graph.node if node.op_type == "MatMul"]
        dense = stored[[name for name in products if name in stored][position]]
        array = numpy_helper.to_array(dense)
        values = numpy_helper.from_array(array.reshape(-1), dense.name)
        places = numpy_helper.from_array(np.arange(array.size), "places")
        model.graph.initializer.remove(dense)
        model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, list(array.shape)))
        return graph
