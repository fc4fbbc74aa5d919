"""Cores, the products that compute heads, and traces: the cores that labels reach, and the nodes that stop labels."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from onnxheadprune.liveness.layouts import layout_of
from onnxheadprune.liveness.live import Live, Runs
from onnxheadprune.liveness.refusals import Refusal
from onnxheadprune.model.graph.view import Node
from onnxheadprune.model.tensors import Array

Heads: TypeAlias = tuple[frozenset[int], ...]
"""For each position of the head axes, the labels found there."""
Classes = Mapping[int, tuple[frozenset[int], int]]
"""For each new label the old ones that it stands for, and its position among the channels that a layer sums."""
Channels: TypeAlias = tuple[frozenset[int], Hashable]
"""Labels, and by which channels of the layers that mix them a position contributes to them."""


@dataclass(frozen=True, eq=False)
class Core:
    """A product reached by labels."""

    node: Node  # the product, or a fused attention node
    heads: Heads  # the labels at each position of the head axes
    head_axes: tuple[int, ...]  # axes of the core's output that enumerate heads
    # the number of head positions along each: of a symbolic axis, those of one period
    head_sizes: tuple[int, ...]
    feature_axes: tuple[int, ...]  # axes of the core's output that lie within a head
    # the number of distinct positions of a head that are not features: tokens that are summed over too
    tokens: int = 1
    runs: Runs = ()  # for head axes along which a head is a run of positions, the number of positions
    # for each position the channels of layers on the way to the labels; empty without such a layer
    channels: tuple[frozenset[Channels], ...] = ()
    layers: frozenset[Node] = frozenset()  # these layers, which keep an axis of heads

    @property
    def axes(self) -> tuple[tuple[int, ...], tuple[int, ...], Runs]:
        """The head axes of its output, and the axes within a head."""
        return self.head_axes, self.feature_axes, self.runs

    def labelled(self, labels: Array, width: int | None = None) -> Live:
        """Return labels of the head positions, or of each of `width` features of them, as a live set."""
        layout = layout_of(self.node)
        if layout is not None and not self.feature_axes:
            # Heads and their features lie in one axis.
            return Live.over(self.head_axes, np.repeat(labels, layout.v_head_size))
        features = () if width is None else (width,)
        axes = (*self.head_axes, *self.feature_axes[: len(features)])
        return Live.over(axes, labels.reshape((*self.head_sizes, *features)), self.runs)


def is_alike(cores: Iterable[Core]) -> bool:
    """Return whether all labelled positions have the same set of labels."""
    return len({labels for core in cores for labels in core.heads if labels}) == 1


@dataclass(frozen=True)
class Trace:
    """The result of tracing one axis upstream."""

    cores: tuple[Core, ...] = ()  # products with heads and features along it
    refusals: tuple[Refusal, ...] = ()  # of operators that labels could not pass
    blocked: tuple[Node, ...] = ()  # nodes at which labels stopped
    shared: bool = False  # whether it leads through a layer that all heads share
    # nodes whose rules say of no position of what they read which position of what they make reads it
    lost: tuple[Node, ...] = ()

    def __or__(self, other: Trace) -> Trace:
        return Trace(
            (*self.cores, *(core for core in other.cores if core not in self.cores)),
            (*self.refusals, *(item for item in other.refusals if item not in self.refusals)),
            (*self.blocked, *(item for item in other.blocked if item not in self.blocked)),
            self.shared or other.shared,
            (*self.lost, *(item for item in other.lost if item not in self.lost)),
        )

    @property
    def is_alike(self) -> bool:
        """True if the trace reaches cores but does not distinguish heads."""
        return is_alike(self.cores)

    def told_apart(self, layer: Node | None, classes: Classes | None) -> Trace:
        """The same with every label of what a layer reads replaced by the labels that it represents."""
        if layer is None or classes is None or not self.cores:
            return self
        return replace(self, cores=tuple(_told_apart(core, layer, classes) for core in self.cores))


def _told_apart(core: Core, layer: Node, classes: Classes) -> Core:
    known: dict[frozenset[int], Channels] = {}

    def behind(labels: frozenset[int]) -> Channels:
        if labels not in known:
            sets = {classes[label][0] for label in labels}
            own = sets.pop() if len(sets) == 1 else frozenset().union(*sets)
            known[labels] = own, frozenset(classes[label][1] for label in labels)
        return known[labels]

    def channel(labels: frozenset[int], before: Hashable) -> Channels:
        own, positions = behind(labels)
        return own, (before, positions)

    read = core.channels or tuple(frozenset((frozenset({item}), 0) for item in head) for head in core.heads)
    channels = tuple(frozenset(made for item in head if (made := channel(*item))[0]) for head in read)
    heads = tuple(frozenset().union(*(labels for labels, _ in head)) for head in channels)
    return replace(core, heads=heads, channels=channels, layers=core.layers | {layer})


MAX_UPSTREAM = 2**12
"""Nodes between a core and the weights above it."""
MAX_VIEWS = 16
