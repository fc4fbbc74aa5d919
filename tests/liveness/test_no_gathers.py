"""Where a value is picked from, repeated or written into, no gather is needed at run time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from onnxheadprune.attention.sites.find import inspect
from tests.attention.block_graph import Net
from tests.attention.blueprint import PLAIN
from tests.attention.cuts import check_cut
from tests.attention.net_parts import WIDTH, B, D, H, S, split

K, R = 2, 2
"""Key/value heads, and query heads of each."""


def _exact(net: Net, output: Any, *sets: list[int]) -> None:
    model = net.export([output])
    (site,) = inspect(model)
    assert (site.num_heads, site.reason) == (H, None)
    for gone in sets:
        check_cut(model, net.feed, gone)


def _heads(net: Net, x: Any, name: str, count: int) -> Any:
    """`[b, count, s, D]`."""
    return split(net, x, name, 0, 2, 1, 3, heads=count)


def _finished(net: Net, context: Any) -> Any:
    merged = net.op("Reshape", net.op("Transpose", context, perm=[0, 2, 1, 3]), net.ints(0, 0, H * D))
    return net.op("MatMul", merged, net.weight("o", H * D, WIDTH))


def _attended(net: Net, q: Any, k: Any, v: Any) -> Any:
    scores = net.op("MatMul", q, net.op("Transpose", k, perm=[0, 1, 3, 2]))
    return _finished(net, net.op("MatMul", net.op("Softmax", scores, axis=-1), v))


def _started() -> tuple[Net, Any]:
    net = Net(PLAIN)
    return net, net.input("x", (B, S, WIDTH), "bs-")


def gathered(net: Net, kept: Any) -> Any:
    """torch.export's indexing with a list: GatherND of numbers on the first axis."""
    owners = net.stored("owners", np.repeat(np.arange(K), R).reshape(-1, 1))
    first = net.op("Transpose", kept, perm=[1, 0, 2, 3])
    return net.op("Transpose", net.op("GatherND", first, owners), perm=[1, 0, 2, 3])


def stacked(net: Net, kept: Any) -> Any:
    """TorchScript's stack: one Unsqueeze for every copy."""
    copies = [net.op("Unsqueeze", kept, net.ints(2)) for _ in range(R)]
    length = net.piece(net.op("Shape", kept), 2)
    target = net.op("Concat", net.ints(0), net.ints(H), length, net.ints(D), axis=0)
    return net.op("Reshape", net.op("Concat", *copies, axis=2), target)


@pytest.mark.parametrize("repeat", [gathered, stacked])
def test_shared_heads_repeated_by_other_means(repeat: Callable[[Net, Any], Any]) -> None:
    """Query heads of each group go at other places; any copy of the shared head serves those that are left."""
    net, x = _started()
    k, v = (repeat(net, _heads(net, x, name, K)) for name in "kv")
    _exact(net, _attended(net, _heads(net, x, "q", H), k, v), [0, 1], [0, 2], [1, 2], [0, 3])


@pytest.mark.parametrize("product", ["MatMul", "Einsum"])
def test_groups_of_queries_on_an_axis_of_their_own(product: str) -> None:
    """`[b, K, R, s, D]` against `[b, K, 1, t, D]`: which queries are left may differ between the groups."""
    net, x = _started()
    q = net.op("Reshape", _heads(net, x, "q", H), net.ints(0, K, R, -1, D))
    k, v = (_heads(net, x, name, K) for name in "kv")
    if product == "MatMul":
        k, v = (net.op("Unsqueeze", value, net.ints(2)) for value in (k, v))
        weights = net.op(
            "Softmax", net.op("MatMul", q, net.op("Transpose", k, perm=[0, 1, 2, 4, 3])), axis=-1
        )
        context = net.op("MatMul", weights, v)
    else:
        scores = net.op("Einsum", q, k, equation="bkrsd,bktd->bkrst")
        context = net.op("Einsum", net.op("Softmax", scores, axis=-1), v, equation="bkrst,bktd->bkrsd")
    length = net.piece(net.op("Shape", x), 1)
    target = net.op("Concat", net.ints(0), net.ints(H), length, net.ints(D), axis=0)
    _exact(net, _finished(net, net.op("Reshape", context, target)), [0, 1], [0, 2], [1, 2], [0, 3])


def test_views_of_a_packed_value_that_are_picked_from() -> None:
    """A Transpose of its own for each of three picks: the numbers they pick move, nothing is gathered."""
    net, x = _started()
    packed = net.op("MatMul", x, net.weight("qkv", WIDTH, H * 3 * D))
    packed = net.op("Reshape", packed, net.ints(0, 0, H, 3, D))

    def part(number: int) -> Any:
        first = net.op("Transpose", packed, perm=[3, 0, 2, 1, 4])
        return net.op("Gather", first, net.stored("number", np.array(number)), axis=0)

    _exact(net, _attended(net, part(0), part(1), part(2)), [1], [0, 2])


def _counting(net: Net, shape: Any, axis: int, first: int, width: int) -> Any:
    """Positions along one of four axes, expanded to the shape of what is written."""
    size = net.op("Squeeze", net.piece(shape, axis), net.ints(0))
    zero, one = (net.stored("number", np.array(number)) for number in (0, 1))
    count = net.op("Range", zero, size, one)
    if axis == 3:
        count = net.op("Slice", count, net.ints(first), net.ints(first + width), net.ints(0))
    count = net.op("Reshape", count, net.ints(-1, *(1 for _ in range(3 - axis))))
    pieces = [net.piece(shape, other) for other in range(3)]
    target = net.op("Concat", *pieces, net.ints(width), axis=0)
    return net.op("Unsqueeze", net.op("Expand", count, target), net.ints(-1))


@pytest.mark.slow
def test_a_slice_that_is_assigned() -> None:
    """`k[..., :n] = a`, as TorchScript writes it: every element is addressed, by counting along whole axes."""
    net, x = _started()
    q, k, v = (_heads(net, x, name, H) for name in "qkv")
    half = D // 2
    shape = net.op("Shape", k)
    zeros = net.op("ConstantOfShape", shape)
    for first, part in enumerate(net.op("Split", k, net.ints(half, half), outputs=2, axis=3)):
        indices = [_counting(net, net.op("Shape", zeros), axis, first * half, half) for axis in range(4)]
        zeros = net.op("ScatterND", zeros, net.op("Concat", *indices, axis=-1), part)
    _exact(net, _attended(net, q, zeros, v), [1], [0, 2])


def test_a_shape_that_is_seen_through_a_slice() -> None:
    """The Slice asks for no contents; what its Shape reports stays the original's number."""
    net = Net(replace(PLAIN, symbolic=False))
    x = net.input("x", (B, S, WIDTH), "b--")
    q, k, v = (_heads(net, x, name, H) for name in "qkv")
    seen = net.op("Shape", net.op("Slice", q, net.ints(0), net.ints(1), net.ints(3)))
    count = net.op("Cast", net.op("Gather", seen, net.ints(1)), to=1)
    _exact(net, _attended(net, net.op("Mul", q, count), k, v), [1], [0, 2])


def test_a_table_of_positions_that_is_resized() -> None:
    """BEiT resizes its biases to the image, one channel for each head: channels are not interpolated."""
    net = Net(replace(PLAIN, symbolic=False))
    x = net.input("x", (B, S, WIDTH), "b--")
    q, k, v = (_heads(net, x, name, H) for name in "qkv")
    side = net.op("Cast", net.piece(net.op("Shape", x), 1), to=1)
    side = net.op("Cast", net.op("Mul", side, net.op("Constant", value_float=1.0)), to=7)
    sizes = net.op("Concat", net.ints(1, H), side, side, axis=0)
    biases = net.op("Resize", net.weight("table", 1, H, 2, 2), "", "", sizes, mode="linear")
    scores = net.op("MatMul", q, net.op("Transpose", k, perm=[0, 1, 3, 2]))
    weights = net.op("Softmax", net.op("Add", scores, biases), axis=-1)
    _exact(net, _finished(net, net.op("MatMul", weights, v)), [1], [0, 2])


def test_a_relative_shift_of_known_length() -> None:
    """Parakeet pads, folds anew and cuts: the positions that go are no block before, but the heads are."""
    net = Net(replace(PLAIN, symbolic=False))
    x = net.input("x", (B, S, WIDTH), "b--")
    q, k, v = (_heads(net, x, name, H) for name in "qkv")
    distances = 2 * S - 1
    far = net.op("MatMul", q, net.weight("far", H, D, distances))
    far = net.op("Pad", far, net.ints(0, 0, 0, 1, 0, 0, 0, 0))
    far = net.op("Reshape", far, net.ints(0, 0, distances + 1, S))
    far = net.op("Slice", far, net.ints(1), net.ints(distances + 1), net.ints(2))
    far = net.op("Reshape", far, net.ints(0, 0, S, distances))
    near = net.op("Slice", far, net.ints(0), net.ints(S), net.ints(3))
    scores = net.op("MatMul", q, net.op("Transpose", k, perm=[0, 1, 3, 2]))
    weights = net.op("Softmax", net.op("Add", scores, near), axis=-1)
    _exact(net, _finished(net, net.op("MatMul", weights, v)), [1], [0, 2])
