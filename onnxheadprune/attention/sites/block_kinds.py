"""The kind of a block: two linear layers that only channel-wise operators join."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from onnxheadprune.attention.sites.kinds import CONVOLUTION, FEED_FORWARD, LOW_RANK, MLP
from onnxheadprune.attention.sites.maps import weight_contraction
from onnxheadprune.attention.sites.products import is_weight
from onnxheadprune.attention.sites.streams import Streams
from onnxheadprune.liveness.contraction import CONVOLUTIONS
from onnxheadprune.model.graph.view import Node, Value


def block_kind(
    makers: Sequence[Node], ends: Sequence[Node], between: Iterable[Node], bends: bool, streams: Streams
) -> str:
    """The kind of a block."""
    layers = [*makers, *ends]
    convolves = any(CONVOLUTIONS.of(node) is not None for node in layers)
    windows = convolves and any(_spans_positions(node) for node in (*layers, *between))
    if bends and not windows and streams.returning(ends, _read(makers)) is not None:
        return FEED_FORWARD
    if convolves:
        return CONVOLUTION
    return MLP if bends else LOW_RANK


def _spans_positions(node: Node) -> bool:
    """Return whether a node is a convolution with a window of more than one position."""
    kernel = CONVOLUTIONS.of(node)
    shape = None if kernel is None else node.shape(kernel.weight)
    return shape is not None and any(size != 1 for size in shape[2:])


def _read(makers: Iterable[Node]) -> list[Value]:
    """Return what some linear layers read."""
    found = [(node, weight_contraction(node, is_weight)) for node in makers]
    read = [node.inputs[weighed[1]] for node, weighed in found if weighed is not None]
    return [value for value in read if value is not None]
