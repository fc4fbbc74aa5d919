"""Layouts of fused operators: which axis of which input carries which heads, or which neurons.

A decomposed graph shows its heads in shapes; a fused attention states them in attributes. A fused
mixture of experts has its neurons inside, so they are only visible in its weights, which are stored in one
tensor for all experts, so that the experts are equally wide. Liveness and site detection read the same layouts.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from onnxheadprune.liveness.live import Live
from onnxheadprune.model.graph.dims import known_size
from onnxheadprune.model.graph.view import Node
from onnxheadprune.model.tensors import Mask


class Heads(enum.Enum):
    """The kind of heads along an axis, or counted by an attribute."""

    QUERY = "query"
    KEY_VALUE = "key/value"


@dataclass(frozen=True)
class Run:
    """All heads of one kind, one after the other along an axis.

    Attributes:
        heads: which heads.
        width: positions per head.
    """

    heads: Heads
    width: int


@dataclass(frozen=True)
class HeadAxis:
    """An axis that carries heads.

    Attributes:
        axis: its number.
        runs: its runs, in order: packed queries, keys and values are three runs.
    """

    axis: int
    runs: tuple[Run, ...]

    @classmethod
    def queries(cls, axis: int, *widths: int) -> HeadAxis:
        """An axis along which every query head has some positions, in as many runs as there are widths."""
        return cls(axis, tuple(Run(Heads.QUERY, width) for width in widths))

    @classmethod
    def key_values(cls, axis: int, width: int) -> HeadAxis:
        """An axis along which every key/value head has some positions."""
        return cls(axis, (Run(Heads.KEY_VALUE, width),))


@dataclass(frozen=True)
class FusedLayout:
    """The positions of the heads of a fused attention node.

    Attributes:
        num_heads, kv_num_heads: query and key/value heads.
        head_size: width of a query or key head, None if the shapes are unknown.
        v_head_size: width of a context head.
        out_axes: the axis or the two axes (heads, head size) of the output.
        inputs: per input index the axis that carries heads.
        caches: output indices of present keys and values, with their head axis.
        attributes: names of attributes that hold counts, and what they count.
        widths: name of the attribute that lists the widths of Q, K and V, if it is set.
        memory: input indices of keys, values and their past.
        maps: output indices of attention maps, one per query head, with their head axis.
    """

    num_heads: int
    kv_num_heads: int
    head_size: int | None
    v_head_size: int
    out_axes: tuple[int, ...]
    inputs: dict[int, HeadAxis]
    caches: dict[int, int]
    attributes: dict[str, Heads]
    widths: str | None = None
    memory: tuple[int, ...] = ()
    maps: dict[int, int] = field(default_factory=dict)

    @property
    def group(self) -> int:
        """Query heads per KV head; neighbours share."""
        return self.num_heads // self.kv_num_heads


def layout_of(node: Node) -> FusedLayout | None:
    """The layout of a fused attention node; None for any other node, or where shapes are missing."""
    read = node.operator.layout
    found: FusedLayout | None = None if read is None else read(node)
    return found


def is_fused(node: Node) -> bool:
    """Return whether the operator is a fused attention whose layout is known."""
    return node.operator.layout is not None


def given(node: Node, indices: Iterable[int], axis: int) -> dict[int, int]:
    """Those of the given outputs that the node has, with their head axis."""
    return {i: axis for i in indices if i < len(node.outputs) and node.outputs[i] is not None}


def per_head(node: Node, index: int, axis: int, heads: int) -> dict[int, HeadAxis]:
    """An input with a position per query head on an axis, or a broadcast one (then nothing).

    One of unknown size may have heads there, so that no live set of some heads fits it.

    Args:
        axis: counted from the end where an input may have fewer axes.
    """
    value, shape = node.input(index), node.shape(index)
    if value is None or heads == 1 or (shape is not None and not -len(shape) <= axis < len(shape)):
        return {}
    if known_size(shape, axis) == 1:
        return {}
    return {index: HeadAxis.queries(axis if shape is None else axis % len(shape), 1)}


Numbers = npt.NDArray[np.int64]
EXPERTS = 0
"""The axis of every stored input that has a position per expert."""


class Order(enum.Enum):
    """The order of the positions of neurons along an axis."""

    ONCE = "one position each"
    PAIRS = "gate and value of a neuron side by side"
    HALVES = "all gates, then all values"

    def positions(self, width: int) -> Numbers:
        """The neuron of each position, if an expert has `width` neurons.

        >>> Order.PAIRS.positions(3), Order.HALVES.positions(2)
        (array([0, 0, 1, 1, 2, 2]), array([0, 1, 0, 1]))
        """
        neurons = np.arange(width)
        if self is Order.ONCE:
            return neurons
        return np.repeat(neurons, 2) if self is Order.PAIRS else np.tile(neurons, 2)


@dataclass(frozen=True)
class NeuronAxis:
    """An axis of a stored input that carries the neurons of each expert.

    Attributes:
        axis: its number.
        order: the order of positions along it.
        packed: positions per element of the tensor: quantized values in a byte, or in a block with one scale.
    """

    axis: int
    order: Order = Order.ONCE
    packed: int = 1

    def owners(self, width: int) -> list[tuple[int, ...]]:
        """The neurons of each element along the axis, if an expert has `width` neurons.

        >>> NeuronAxis(1, Order.PAIRS, 2).owners(3), NeuronAxis(2, packed=2).owners(3)
        ([(0,), (1,), (2,)], [(0, 1), (2,)])
        """
        positions = self.order.positions(width)
        return [
            tuple(dict.fromkeys(positions[first : first + self.packed].tolist()))
            for first in range(0, len(positions), self.packed)
        ]

    def live(self, alive: Mask) -> Live:
        """The elements of live neurons, [experts, width]."""
        positions = alive[:, self.order.positions(alive.shape[1])]
        whole = np.pad(positions, ((0, 0), (0, -positions.shape[1] % self.packed)))
        elements = whole.reshape(len(alive), -1, self.packed)
        return Live.over((EXPERTS, self.axis), np.asarray(elements.any(axis=2)))

    def spread(self, alive: Mask, rank: int) -> Mask:
        """The live mask over the input, with size 1 on all other axes.

        Args:
            alive: live neurons, [experts, width].
            rank: axes of the input.
        """
        sizes = {EXPERTS: len(alive), self.axis: len(self.owners(alive.shape[1]))}
        array = self.live(alive).aligned(sorted(sizes), [sizes[axis] for axis in sorted(sizes)])
        return np.asarray(array != 0).reshape([sizes.get(axis, 1) for axis in range(rank)])


@dataclass(frozen=True)
class Mixture:
    """The positions of the neurons of a fused mixture of experts.

    Attributes:
        experts: the number of experts.
        width: neurons of each.
        chosen: experts per token.
        read: per input index of activations.
        inputs: per input index the axis that carries neurons.
        silent: the input in which zeros silence neurons: the last layer's weights, or their scales.
        made: inputs in which zeros silence neurons in the first layer: its weights or scales, and its bias.
            Every activation function of these operators maps zero to zero.
        last: the weights of the last layer.
        bias: the bias of the last layer, None without one.
        zero: the input with the zero point, None where it is a number.
        bits: bits per quantized weight of the last layer, None for floats.
        maps: products of a token with the weights of one expert.
        why_not: why nothing can be cut, None if it can.
    """

    experts: int
    width: int
    chosen: int
    read: tuple[int, ...]
    inputs: Mapping[int, NeuronAxis]
    silent: int
    made: tuple[int, ...]
    last: int
    bias: int | None
    zero: int | None
    bits: int | None
    maps: int
    why_not: str | None = None

    @property
    def products(self) -> int:
        """The multiply-adds that each channel of a token takes part in."""
        return self.chosen * self.width * self.maps

    def together(self) -> Iterator[tuple[int, ...]]:
        """Neurons of one expert that can only go together, because an element holds them all."""
        for axis in self.inputs.values():
            yield from (neurons for neurons in axis.owners(self.width) if len(neurons) > 1)


def is_mixture(node: Node) -> bool:
    """Return whether the operator is a fused mixture of experts."""
    return node.operator.mixture is not None


def mixture_of(node: Node) -> Mixture | None:
    """The layout of a fused mixture of experts; None for any other node, or where shapes are missing or do not fit."""
    read = node.operator.mixture
    found: Mixture | None = None if read is None else read(node)
    return found if found is not None and all(_fits(node, found, index) for index in found.inputs) else None


def _fits(node: Node, found: Mixture, index: int) -> bool:
    """Return whether an input's size fits the neurons of each expert, as far as its shape is known."""
    shape, axis = node.shape(index), found.inputs[index]
    if shape is None:
        return True
    taken = -(-len(axis.order.positions(found.width)) // axis.packed)
    return len(shape) > axis.axis and (shape[EXPERTS], shape[axis.axis]) == (found.experts, taken)
