"""Cores, the products that compute heads, and the layers between a core and the projection that keep heads apart.

Some of these layers have weights of their own for each head, others treat every head alike. The projection sums over
heads. A layer that all heads share sums within each of them and looks like the projection of one head, so that it takes
two questions: does what it sums over lead to a core without telling its heads apart, and does another axis of what it
reads tell them apart?
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from onnxheadprune.attention.sites.products import (
    MAX_CONTRACTED,
    MAX_TOLD_APART,
    Summed,
    are_channels,
    core_product,
    is_product,
    is_weight,
    makes_maps,
    summed,
    told_apart,
    upstream,
    without_blind,
)
from onnxheadprune.liveness.domain import Labels
from onnxheadprune.liveness.index_notation import Notation, contraction_of, kernel_of
from onnxheadprune.liveness.layouts import is_fused, layout_of
from onnxheadprune.liveness.live import FULL, Live, Repeats
from onnxheadprune.liveness.refusals import Refusal
from onnxheadprune.liveness.rule_calls import ask
from onnxheadprune.model.graph.dims import Shape, divisor
from onnxheadprune.model.graph.view import Node, Value
from onnxheadprune.model.tensors import Array

Heads: TypeAlias = tuple[frozenset[int], ...]
"""For each position of the head axes, the labels found there."""
Classes = Mapping[int, frozenset[int]]
"""For each new label the old ones that it stands for."""


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
    repeats: Repeats = ()  # for head axes along which a head is a run of positions, the number of positions
    layers: frozenset[Node] = frozenset()  # layers on the way to the labels, which keep an axis of heads

    @property
    def axes(self) -> tuple[tuple[int, ...], tuple[int, ...], Repeats]:
        """The head axes of its output, and the axes within a head."""
        return self.head_axes, self.feature_axes, self.repeats

    @property
    def values(self) -> tuple[int, ...]:
        """The input with the values; none of a fused operator."""
        found = core_product(self.node)
        return () if found is None else found.owners(found.out_axes[self.feature_axes[0]])

    def labelled(self, labels: Array) -> Live:
        """Return labels of the head positions as a live set."""
        layout = layout_of(self.node)
        if layout is not None and not self.feature_axes:
            # Heads and their features lie in one axis.
            return Live.over(self.head_axes, np.repeat(labels, layout.v_head_size))
        return Live.over(self.head_axes, labels.reshape(self.head_sizes), self.repeats)


def is_alike(cores: Iterable[Core]) -> bool:
    """Return whether all labelled positions have the same set of labels."""
    return len({labels for core in cores for labels in core.heads if labels}) == 1


@dataclass(frozen=True)
class Trace:
    """The result of tracing one axis upstream."""

    cores: tuple[Core, ...] = ()  # products with heads and features along it
    of_maps: bool = False  # whether it leads to a product of activations that makes attention maps
    shared: bool = False  # whether it leads through a layer that all heads share

    def __or__(self, other: Trace) -> Trace:
        return Trace(
            (*self.cores, *(core for core in other.cores if core not in self.cores)),
            self.of_maps or other.of_maps,
            self.shared or other.shared,
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
    heads = tuple(frozenset().union(*{classes[label] for label in labels}) for labels in core.heads)
    return replace(core, heads=heads, layers=core.layers | {layer})


MAX_UPSTREAM = 2**12
"""Nodes between a core and the weights above it."""
MAX_VIEWS = 16


MAX_SHARED = 48
"""Nodes between a core and a layer that its heads share: normalisations and activations, written out."""


Follows: TypeAlias = Callable[[Value, tuple[int, ...], tuple[int, ...]], Trace]
"""`Tracer.trace`: follows axes, of the given sizes, of a value."""


class SharedLayers:
    """The layers of one model that heads share."""

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

        return any(map(_is_core, upstream(value, MAX_SHARED, sums)))


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
        size, run = divisor(shape[axis]), dict(core.repeats).get(axis, 1)
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


def _lies_along_maps(core: Core, product: Notation, axis: int) -> bool:
    """Return whether an axis enumerates attention maps, or their rows: the values lack it."""
    (maps,) = product.owners(product.out_axes[axis])
    own = [letter for letter in product.out_axes if product.owners(letter) == (maps,)]
    # One axis is that of the rows: channels that attend to channels.
    return (
        len(own) > 1
        and makes_maps(core.node, maps)
        and not any(makes_maps(core.node, index) for index in core.values)
    )


CHANNELS = 1
"""The axis of channels in what a convolution reads and makes."""
MAX_POSITIONS = 2**20
"""Positions of one head axis and one summed axis; more are no heads."""


def within_heads(
    node: Node, index: int, live: Live, shared: Container[int] = ()
) -> tuple[Live, Classes] | None:
    """Propagate labels through a node that mixes values within heads; None for any other node.

    Latent attention lifts each head's context by weights of its own before the output projection: of the
    labelled axes some enumerate heads in both operands, others lie in the weights alone. The summed axis
    takes the place of those. So it does where one layer serves all heads: these lie along axes that the weights lack.

    Args:
        shared: axes of that input along which heads lie that the node treats alike.
    """
    found, source = contraction_of(node), node.input(index)
    if found is None or source is None or source.shape is None or len(found.terms) != 2:
        return None
    own = [other for other in found.indices if other != index]
    stored = len(own) == 1 and (value := node.input(own[0])) is not None and is_weight(value)
    if not stored:
        return None
    # Positions that are cut off tell nothing; of heads with weights of their own the one that is left does.
    live = without_blind(live, [axis for axis in live.axes if found.out_axes[axis] not in found.batch])
    letters, labelled = found.axes_of(index), {found.out_axes[axis] for axis in live.axes}
    if not _lies_along(found, labelled, index, shared):
        return None
    summed = {axis: source.shape[axis] for axis, letter in enumerate(letters) if letter in found.contracted}
    heads = _label_sets(node, index, live)
    sizes = {axis: heads.period(axis) for axis in heads.axes}
    sizes |= {axis: size for axis, size in summed.items() if isinstance(size, int)}
    if not summed.keys() <= sizes.keys() or math.prod(sizes.values()) > MAX_POSITIONS:
        return None
    axes = sorted(sizes)
    # Heads first, wherever they lie: of two axes they are the slower one.
    order = sorted(axes, key=lambda axis: axis in summed)
    alike = (
        heads.aligned(axes, [sizes[axis] for axis in axes])
        .transpose([axes.index(axis) for axis in order])
        .reshape(-1)
    )
    fresh = np.arange(1, alike.size + 1).reshape([sizes[axis] for axis in order])
    told = {
        bits: frozenset(label for label in range(1, bits.bit_length() + 1) if bits & _bit(label))
        for bits in map(int, heads.array.reshape(-1))
    }
    classes = {label: told[int(bits)] for label, bits in enumerate(alike, 1)}
    return Live.over(order, fresh), classes


def within_groups(node: Node, index: int, live: Live) -> tuple[Live, Classes] | None:
    """Propagate labels through a convolution with groups, each of which sums within a head; None for any other node.

    Each channel that a group reads stands for the labels of all channels that the group makes.
    """
    kernel, groups = kernel_of(node), node.attribute("group", 1)
    weight = None if kernel is None else node.shape(kernel)
    live = without_blind(live, [axis for axis in live.axes if axis != CHANNELS])
    if weight is None or index != 0 or groups == 1 or live.axes != (CHANNELS,):
        return None
    made, read = weight[:2]
    if not isinstance(read, int) or made != live.period(CHANNELS):
        return None
    labels = [frozenset(group.tolist()) - {0} for group in live.array.reshape(groups, -1)]
    classes = {channel + 1: labels[channel // read] for channel in range(groups * read)}
    fresh = [channel if classes[channel] else 0 for channel in classes]
    return Live.over((CHANNELS,), np.array(fresh)), classes


def _lies_along(found: Notation, labelled: Set[str], index: int, shared: Container[int]) -> bool:
    """Return whether the labelled letters enumerate heads, also where only the weights have them."""
    alone = {letter for letter in labelled - found.batch if index in found.owners(letter)}
    if not shared:
        # Tokens that share their weights (a feed-forward block before a classifier of all tokens) are no heads.
        return bool(labelled & found.batch) and not alone
    axes = {letter: axis for axis, letter in enumerate(found.axes_of(index))}
    return not alone or any(axes.get(letter) in shared for letter in labelled)


def _label_sets(node: Node, index: int, live: Live) -> Live:
    """Apply the propagation rule to labels that are sets: label `n` is bit `n - 1`, no label is the empty set."""
    bits = np.array([_bit(int(label)) for label in live.array.reshape(-1)], dtype=object)
    answer = ask(node, [Live.over(live.axes, bits.reshape(live.array.shape), live.repeats)], Labels())
    found = FULL if isinstance(answer, Refusal) else answer.inputs.get(index, FULL)
    # What lies in the weights alone says of all of the other operand that everybody reads it.
    return Live((), np.asarray(np.bitwise_or.reduce(bits), dtype=object)) if found.is_mask else found


def _bit(label: int) -> int:
    return 0 if label == 0 else 1 << (label - 1)
