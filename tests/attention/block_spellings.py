"""Spellings of a feed-forward block, and small graphs of blocks as text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from onnx import ModelProto

from onnxheadprune.model.spelling import read_ranges
from tests.graph_text import model_of
from tests.graphs.blueprint import PLAIN
from tests.graphs.net import Net

B, S, WIDTH, N = 2, 3, 8, 12
Make = Callable[[Net, Any], Any]


def up_layer(net: Net, x: Any, columns: int = N) -> Any:
    return net.op("Add", net.op("MatMul", x, net.weight("up", WIDTH, columns)), net.weight("b", columns))


def down_layer(net: Net, hidden: Any, rows: int = N) -> Any:
    return net.op("MatMul", hidden, net.weight("down", rows, WIDTH))


def relu(net: Net, x: Any) -> Any:
    return down_layer(net, net.op("Relu", up_layer(net, x)))


def spelled_gelu(net: Net, x: Any) -> Any:
    made = up_layer(net, x)
    half = net.op("Mul", made, _number(net, 0.5))
    return down_layer(
        net,
        net.op(
            "Mul",
            half,
            net.op("Add", net.op("Erf", net.op("Mul", made, _number(net, 0.7))), _number(net, 1.0)),
        ),
    )


def spelled_tanh_gelu(net: Net, x: Any) -> Any:
    """A value is added to a power of itself, which is no residual stream."""
    made = up_layer(net, x)
    cubed = net.op("Mul", net.op("Pow", made, _number(net, 3.0)), _number(net, 0.044715))
    bent = net.op("Tanh", net.op("Mul", net.op("Add", made, cubed), _number(net, 0.8)))
    return down_layer(net, net.op("Mul", made, net.op("Add", bent, _number(net, 1.0))))


def gated(net: Net, x: Any) -> Any:
    gate = net.op("MatMul", x, net.weight("gate", WIDTH, N))
    return down_layer(net, net.op("Mul", net.op("Mul", gate, net.op("Sigmoid", gate)), up_layer(net, x)))


def gated_in_one_map(net: Net, x: Any) -> Any:
    gate, made = net.op("Split", up_layer(net, x, 2 * N), net.ints(N, N), outputs=2, axis=-1)
    return down_layer(net, net.op("Mul", net.op("Sigmoid", gate), made))


def with_a_convolution(net: Net, x: Any) -> Any:
    turned = net.op("Transpose", up_layer(net, x), perm=[0, 2, 1])
    mixed = net.op("Conv", turned, net.weight("kernel", N, 1, 3), group=N, pads=[1, 1], kernel_shape=[3])
    return down_layer(net, net.op("Relu", net.op("Transpose", mixed, perm=[0, 2, 1])))


def of_convolutions(net: Net, x: Any) -> Any:
    turned = net.op("Transpose", x, perm=[0, 2, 1])
    made = net.op("Relu", net.op("Conv", turned, net.weight("up", N, WIDTH, 1), kernel_shape=[1]))
    back = net.op("Conv", made, net.weight("downs", WIDTH, N, 1), kernel_shape=[1])
    return net.op("Transpose", back, perm=[0, 2, 1])


def of_gemms(net: Net, x: Any) -> Any:
    flat = net.op("Reshape", x, net.ints(-1, WIDTH))
    made = net.op("Gemm", flat, net.weight("up", N, WIDTH), net.weight("b", N), transB=1)
    back = net.op(
        "Gemm", net.op("Tanh", made), net.weight("downs", WIDTH, N), net.weight("c", WIDTH), transB=1
    )
    return net.op("Reshape", back, net.op("Shape", x))


def of_pieces(net: Net, x: Any) -> Any:
    """Hidden units that come in two pieces, as parallel maps are joined."""
    left, right = (net.op("MatMul", x, net.weight(f"up{i}", WIDTH, N // 2)) for i in (0, 1))
    return down_layer(net, net.op("Relu", net.op("Concat", left, right, axis=-1)))


def _number(net: Net, number: float) -> Any:
    return net.stored("number", np.array(number, dtype=np.float32))


MAKERS: tuple[Make, ...] = (
    relu,
    spelled_gelu,
    spelled_tanh_gelu,
    gated,
    gated_in_one_map,
    with_a_convolution,
    of_convolutions,
    of_gemms,
    of_pieces,
)


def block_of(make: Make) -> tuple[ModelProto, Net]:
    net = Net(PLAIN)
    x = net.input("x", (B, S, WIDTH), "bs-")
    return net.export([net.op("Add", make(net, x), x)]), net


def text_model(body: str, ends: str, weights: str) -> ModelProto:
    """The graph that some nodes make of x, [2, 3, 8]."""
    return model_of(
        f'<ir_version: 9, opset_import: ["" : 17, "mine" : 1]> g (float[2, 3, 8] x) => (float[n, m, k] {ends})'
        f" <{weights}> {{ {body} }}"
    )


def positions(entry: Mapping[str, Any], owner: int) -> list[int]:
    """Where the columns of an owner lie, as the documentation says."""
    place = owner - entry["first"]
    if not 0 <= place < entry["count"]:
        return []
    if "indices" in entry:
        return list(read_ranges(entry["indices"][place], 10**6))
    first = entry["offset"] + place * entry["step"]
    return list(range(first, first + entry["size"]))
