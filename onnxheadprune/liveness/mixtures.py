"""Mixtures of experts in one operator: which axis of which input carries which neurons.

A mixture that is written out shows its neurons in values between its maps. A fused one has them inside, so that nothing
but its weights tells of them: one layout per operator says where in these the neurons of every expert lie. All experts
are stored in one tensor each, so that they are equally wide.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from onnxheadprune.liveness.live import Live
from onnxheadprune.model.graph.tables import Table
from onnxheadprune.model.graph.view import Node

Mask = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.int64]
EXPERTS = 0
"""The axis of every stored input that has a position per expert."""


class Order(enum.Enum):
    """In which order an axis has the positions of neurons."""

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
        order: what lies where along it.
        packed: positions in one element of the tensor: levels of a byte, or of a block with one scale.
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
        """The elements of neurons that are alive, [experts, width]."""
        positions = alive[:, self.order.positions(alive.shape[1])]
        whole = np.pad(positions, ((0, 0), (0, -positions.shape[1] % self.packed)))
        elements = whole.reshape(len(alive), -1, self.packed)
        return Live.over((EXPERTS, self.axis), np.asarray(elements.any(axis=2)))

    def spread(self, alive: Mask, rank: int) -> Mask:
        """A mask over the input: what is live, with an axis of size 1 for each of the others.

        Args:
            alive: which neurons are, [experts, width].
            rank: axes of the input.
        """
        sizes = {EXPERTS: len(alive), self.axis: len(self.owners(alive.shape[1]))}
        array = self.live(alive).aligned(sorted(sizes), [sizes[axis] for axis in sorted(sizes)])
        return np.asarray(array != 0).reshape([sizes.get(axis, 1) for axis in range(rank)])


@dataclass(frozen=True)
class Mixture:
    """The places of the neurons of a fused mixture of experts.

    Attributes:
        experts: how many there are.
        width: neurons of each.
        chosen: experts that a token goes through.
        read: per input index of activations that it reads.
        inputs: per input index the axis that carries neurons.
        silent: the input in which zeros silence neurons: the last map's weights, or their scales.
        made: inputs in which zeros silence them where they are made: the first map's weights or scales, and its bias.
            Every activation that these operators know gives zero for zero.
        last: the weights of the last map.
        bias: the bias of the last map, None without one.
        zero: the input with the level that means zero, None where a number does.
        bits: of one level of the last map's weights, None where these are numbers.
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

    def together(self) -> Iterator[tuple[int, ...]]:
        """Neurons of one expert that can only go together, because an element holds them all."""
        for axis in self.inputs.values():
            yield from (neurons for neurons in axis.owners(self.width) if len(neurons) > 1)


Reader: TypeAlias = Callable[[Node], Mixture | None]
MIXTURES: Table[Reader] = Table("mixtures")
"""What reads the layout of a fused mixture of experts."""
mixture_reader = MIXTURES.register


def is_mixture(node: Node) -> bool:
    """Return whether the operator is a fused mixture of experts."""
    return MIXTURES.of(node) is not None


def mixture_of(node: Node) -> Mixture | None:
    """The layout of a fused mixture of experts; None for any other node, or where shapes are missing or do not fit."""
    reader = MIXTURES.of(node)
    found = None if reader is None else reader(node)
    return found if found is not None and all(_fits(node, found, index) for index in found.inputs) else None


def _fits(node: Node, found: Mixture, index: int) -> bool:
    """Whether an input has as many elements for each expert's neurons as these take, as far as its shape is known."""
    shape, axis = node.shape(index), found.inputs[index]
    if shape is None:
        return True
    taken = -(-len(axis.order.positions(found.width)) // axis.packed)
    return len(shape) > axis.axis and (shape[EXPERTS], shape[axis.axis]) == (found.experts, taken)
