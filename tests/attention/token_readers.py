"""Ways to read some of the tokens of a context before it is projected."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tests.attention.block_graph import Net
from tests.attention.blueprint import PLAIN, STATIC
from tests.attention.net_parts import merged

B, S = 1, 9
FIXED, DYNAMIC = STATIC, replace(PLAIN, target="zero", opset=21)


def rows(net: Net, data: Any, start: int, stop: int, axis: int = 1) -> Any:
    return net.op("Slice", data, net.ints(start), net.ints(stop), net.ints(axis))


def cut(net: Net, context: Any, width: int) -> Any:
    return rows(net, merged(net, context, width), 0, 6)


def cut_before_merging(net: Net, context: Any, width: int) -> Any:
    return merged(net, rows(net, context, 2, 8, 2), width)


def every_second(net: Net, context: Any, width: int) -> Any:
    return net.op("Slice", merged(net, context, width), net.ints(0), net.ints(S), net.ints(1), net.ints(2))


def picked(net: Net, context: Any, width: int) -> Any:
    return net.op("Gather", merged(net, context, width), net.ints(0, 4, 5), axis=1)


def one_token(net: Net, context: Any, width: int) -> Any:
    return net.op("Gather", merged(net, context, width), net.ints(3), axis=1)


def split_off(net: Net, context: Any, width: int) -> Any:
    return net.op("Split", merged(net, context, width), net.ints(4, 5), outputs=2, axis=1)[1]


def cut_and_padded(net: Net, context: Any, width: int) -> Any:
    return net.op("Pad", cut(net, context, width), net.ints(0, 0, 0, 0, 3, 0))


def padded_and_cut(net: Net, context: Any, width: int) -> Any:
    return rows(net, net.op("Pad", merged(net, context, width), net.ints(0, 1, 0, 0, 2, 0)), 1, 5)


def in_windows(net: Net, context: Any, width: int) -> Any:
    windows = net.op("Reshape", merged(net, context, width), net.ints(0, 3, 3, width))
    return net.op("Gather", windows, net.ints(0, 2), axis=1)


def averaged(net: Net, context: Any, width: int) -> Any:
    return net.op("ReduceMean", merged(net, context, width), net.ints(1), keepdims=1)


READS: dict[str, Callable[[Net, Any, int], Any]] = {
    reader.__name__: reader
    for reader in (
        cut,
        cut_before_merging,
        every_second,
        picked,
        one_token,
        split_off,
        cut_and_padded,
        padded_and_cut,
        in_windows,
        averaged,
    )
}
