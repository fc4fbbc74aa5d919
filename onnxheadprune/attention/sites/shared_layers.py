"""Linear layers that treat every head alike and keep the axis of heads: labels go on through them, up to the core.

The projection sums over heads. A layer that all heads share, between the core and the projection, sums within each of
them. It looks like the projection of one head, so that it takes two questions: does what it sums over lead to a core
without telling its heads apart, and does another axis of what it reads tell them apart?
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeAlias

import numpy as np

from onnxheadprune.attention.sites.core import Core, Trace
from onnxheadprune.attention.sites.evidence import MAX_TOLD_APART, are_channels, told_apart
from onnxheadprune.attention.sites.maps import MAX_CONTRACTED, Summed, summed
from onnxheadprune.attention.sites.products import core_product, is_product, makes_maps, upstream
from onnxheadprune.liveness.contraction import Contraction
from onnxheadprune.liveness.layouts import is_fused
from onnxheadprune.model.graph.dims import Shape, divisor
from onnxheadprune.model.graph.view import Node, Value

MAX_UPSTREAM = 48
"""Nodes between a core and a layer that its heads share: normalisations and activations, written out."""


Follows: TypeAlias = Callable[[Value, tuple[int, ...], tuple[int, ...]], Trace]
"""`Tracer.trace`: follows axes, of the given sizes, of a value."""


class SharedLayers:
    """The layers of one model that heads share.

    Args:
        trace: follows axes upstream.
    """

    def __init__(self, trace: Follows) -> None:
        self._trace = trace
        self._known: dict[Node, frozenset[int]] = {}

    def axes(self, node: Node) -> frozenset[int]:
        """The axes along which heads lie in what a layer reads and computes for each of them; none for other nodes."""
        if node not in self._known:
            read = summed(node)
            self._known[node] = frozenset(() if read is None else self._found(read))
        return self._known[node]

    def _found(self, read: Summed) -> Iterator[int]:
        if not self._is_behind_heads(read.value):
            return
        own = self._trace(read.value, read.activation[1], read.sizes)
        if not own.is_alike:
            return
        for axis, dim in enumerate(read.value.shape or ()):
            size = divisor(dim)
            axes, sizes = (axis, *read.activation[1]), (size, *read.sizes)
            if axis in read.activation[1] or size < 2 or math.prod(sizes) > MAX_CONTRACTED:
                continue
            if are_heads(self._trace(read.value, axes, sizes).cores, size):
                yield axis

    def _is_behind_heads(self, value: Value) -> bool:
        """Return whether the nearest product upstream has several heads; other shared layers may lie in between."""

        def sums(node: Node) -> bool:
            return _is_core(node) or (summed(node) is not None and not self.axes(node))

        return any(map(_is_core, upstream(value, MAX_UPSTREAM, sums)))


def _is_core(node: Node) -> bool:
    return is_fused(node) or is_product(node) is not None


def are_heads(cores: Sequence[Core], size: int) -> bool:
    """Return whether the positions of an axis that leads to cores are heads, not tokens or samples.

    Either each has a core of its own, or weights upstream of the cores tell them apart.
    """
    reached = [labels for core in cores for labels in core.heads if labels]
    if len(set(reached)) < 2:
        return False
    if all(len(core.heads) == 1 for core in cores):
        return len(cores) == size
    return all(map(_tells_apart, cores))


def _tells_apart(core: Core) -> bool:
    if is_fused(core.node):
        return True
    shape, product = core.node.out.shape, core_product(core.node)
    if shape is None or product is None:
        return False
    for axis in _varying(core, shape):
        size, run = divisor(shape[axis]), dict(core.runs).get(axis, 1)
        if not 1 < size <= MAX_TOLD_APART:
            continue
        in_batch = product.out_axes[axis] in product.batch
        if in_batch and len(set(told_apart(core.node, axis, size, run) or ())) > 1:
            return True
        # Stacked outputs of several layers are heads if they read the same; tokens and registers do not.
        if (in_batch or _lies_along_maps(core, product, axis)) and are_channels(core.node, axis, size, run):
            return True
    return False


def _varying(core: Core, shape: Shape) -> Sequence[int]:
    """Return the head axes of a core along which labels differ; where one head is read, those of its tokens do."""
    sizes = [divisor(shape[axis]) for axis in core.head_axes]
    if math.prod(sizes) != len(core.heads):
        return core.head_axes
    places = np.arange(len(core.heads)).reshape(sizes)

    def differ(positions: Iterable[int]) -> bool:
        return len({core.heads[position] for position in positions} - {frozenset()}) > 1

    return [
        axis
        for along, axis in enumerate(core.head_axes)
        if any(map(differ, np.moveaxis(places, along, -1).reshape(-1, sizes[along])))
    ]


def _lies_along_maps(core: Core, product: Contraction, axis: int) -> bool:
    """Return whether an axis enumerates attention maps, or their rows: the values lack it."""
    (maps,) = product.owners(product.out_axes[axis])
    own = [letter for letter in product.out_axes if product.owners(letter) == (maps,)]
    values = product.owners(product.out_axes[core.feature_axes[0]])
    # One axis is that of the rows: channels that attend to channels.
    return (
        len(own) > 1
        and makes_maps(core.node, maps)
        and not any(makes_maps(core.node, index) for index in values)
    )
