"""The linear layers upstream that compute an axis, position by position: neurons, scores of experts, logits of tokens.

A neuron is an output channel of a linear layer that is changed elementwise (an activation, a gate, a bias, a
depthwise convolution), and that the next linear layer sums over. Labels travel upstream through the rules of the
operators until they lie on the free axis of a weight. Positions of other origin (a context of attention, a
residual stream, an embedding, an input of the model) are no neurons.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from onnxheadprune.attention.sites.attention_near_misses import sums_to_one
from onnxheadprune.attention.sites.needed import is_picked
from onnxheadprune.attention.sites.products import is_product, is_weight, weight_contraction
from onnxheadprune.attention.sites.stored_weights import as_set
from onnxheadprune.attention.sites.streams import Streams
from onnxheadprune.liveness.domain import Labels
from onnxheadprune.liveness.index_notation import Notation
from onnxheadprune.liveness.layouts import is_fused, layout_of
from onnxheadprune.liveness.live import Live
from onnxheadprune.liveness.refusals import Reason, Refusal
from onnxheadprune.liveness.rule_calls import ask_about
from onnxheadprune.model.graph.operator import (
    ACTIVATES,
    ACTIVATES_PRODUCTS,
    CARRIERS,
    EXTREMES,
    REDUCES,
    WEIGHS,
    kind,
)
from onnxheadprune.model.graph.view import Node, Value
from onnxheadprune.model.graph.walks import back_through
from onnxheadprune.settings.units import NEURON

MAX_STEPS = 2**12
"""Values on the way from one linear layer to the next: some ten, but for a layer that sums up what hundreds make."""
BENDS = ACTIVATES | EXTREMES | kind("Clip", "Pow", "Where")
"""Operators that make more of two linear layers than one."""
AVERAGED = kind("ReduceSum", "ReduceMean")
"""Reductions that are linear; the largest of several pieces (Maxout) is not."""
GATES = kind("Mul", "Div")
HANDS_ON = CARRIERS | kind("Dropout")
MAX_VIEWS = 8
"""Nodes between weights and the values that they weigh."""
NEURONS = Labels(units=NEURON.units)
"""Labels that number neurons."""


class Cause(enum.Enum):
    """A reason that labels end elsewhere than at a linear layer."""

    ATTENTION = "a product of activations"
    STREAM = "a residual stream"
    OPERATOR = "an operator that moves or mixes positions, or has no rule"
    SOURCE = "an input of the model, or rows of a table"


class Stop(NamedTuple):
    """A value at which labels stopped, and the cause."""

    value: Value  # the last value that they reached
    cause: Cause  # why they stopped
    refusal: Refusal | None = None  # the operator's refusal, None without


@dataclass
class Origins:
    """The layers that compute the positions of an axis."""

    # the labels of positions along the free axis of each linear layer, one row for each of its channels
    makers: dict[Node, list[frozenset[int]]] = field(default_factory=dict)
    foreign: set[int] = field(default_factory=set)  # labels of positions that also depend on something else
    stops: list[Stop] = field(default_factory=list)  # where those labels ended
    # the indices into stored tables, with the labels of positions that depend on the tables
    rows: list[tuple[Value, Value | None, set[int]]] = field(default_factory=list)
    path: list[tuple[Value, Live]] = field(default_factory=list)  # all visited values, with their labels
    bends: bool = False  # whether there is an activation or a gate on the way


def origins(value: Value, axes: tuple[int, ...], sizes: tuple[int, ...], streams: Streams) -> Origins:
    """Trace the positions of some axes of a value to their layers; labels count from 1, in row-major order."""
    return _Search(streams).run(value, axes, sizes)


class _Search:
    def __init__(self, streams: Streams) -> None:
        self.streams = streams
        self.found = Origins()

    def run(self, value: Value, axes: tuple[int, ...], sizes: tuple[int, ...]) -> Origins:
        """Propagate labels upstream, each value's labels once."""
        found = self.found
        labels = np.arange(1, math.prod(sizes) + 1).reshape(sizes)
        stack = [(value, Live.over(axes, labels))]
        seen: set[tuple[Value, Hashable]] = set()
        while stack:
            current, live = stack.pop()
            key = current, live.key
            if key in seen or current.is_constant or not live.axes:
                continue
            seen.add(key)
            found.path.append((current, live))
            upstream = self._step(current, live) if len(seen) <= MAX_STEPS else Stop(current, Cause.OPERATOR)
            if isinstance(upstream, Stop):
                found.foreign.update(_labels(live))
                found.stops.append(upstream)
            else:
                stack += upstream
        chosen = {item for maker in found.makers for item in _choices(maker)}
        for table, choice, own in found.rows:
            if choice not in chosen:
                found.foreign |= own
                found.stops.append(Stop(table, Cause.SOURCE))
        return found

    def _step(self, value: Value, live: Live) -> list[tuple[Value, Live]] | Stop:
        """The values to which labels continue from a value; none if a linear layer computes it."""
        node, found = value.producer, self.found
        if node is None:
            return Stop(value, Cause.SOURCE)
        if is_fused(node) or is_product(node) is not None or weighs_stored_values(node):
            return Stop(value, Cause.ATTENTION)
        made = self._made_by_weights(node, live)
        if made is not None:
            return made
        if self.streams.joins(node):
            # What lies after belongs to all layers.
            return Stop(value, Cause.STREAM)
        answer = ask_about(value, live, NEURONS)
        if isinstance(answer, Refusal):
            return self._mixed(value, live, answer)
        sources = [(node.input(index), labels) for index, labels in answer.inputs.items()]
        upstream = [(source, labels) for source, labels in sources if source is not None]
        if is_picked(node) and all(source.is_constant for source, labels in upstream if labels.axes):
            # Rows of a table that the inputs choose: an embedding, or the bias of the expert that a router has chosen.
            found.rows.append((value, node.input(1), set(_labels(live))))
            return []
        found.bends |= _bends(node, upstream)
        return upstream + list(answer.bodies.items())

    def _mixed(self, value: Value, live: Live, refusal: Refusal) -> list[tuple[Value, Live]] | Stop:
        """The values to which labels continue at an operator without a rule: a normalisation moves no position."""
        node = value.producer
        assert node is not None
        source = node.input(0)
        if refusal.reason is not Reason.COUPLED or source is None or source.shape != value.shape:
            return Stop(value, Cause.OPERATOR, refusal)
        self.found.bends |= node in WEIGHS
        return [(source, live)]

    def _made_by_weights(self, node: Node, live: Live) -> list[tuple[Value, Live]] | Stop | None:
        """Record the labels of a linear layer's output channels, one row each; None where labels are on other axes.

        A layer that all heads share also has labels on another axis, that of the heads.
        """
        found = weight_contraction(node, is_weight)
        if found is None:
            return None
        contraction, activation, weight = found
        own = [
            position
            for position, axis in enumerate(live.axes)
            if contraction.owners(contraction.out_axes[axis]) == (weight,)
        ]
        if not own:
            return None
        if len(own) < len(live.axes) and self._keeps_heads(node, contraction, activation, live):
            return Stop(node.out, Cause.ATTENTION)
        front = np.moveaxis(live.array, own, range(len(own)))
        channels = math.prod(front.shape[: len(own)])
        rows = [as_set({label for label in row if label > 0}) for row in front.reshape(channels, -1).tolist()]
        self.found.makers.setdefault(node, []).extend(rows)
        self.found.bends |= node in ACTIVATES_PRODUCTS
        return []

    def _keeps_heads(self, node: Node, contraction: Notation, activation: int, live: Live) -> bool:
        """Return whether labels lie along an axis of a layer's input that a product of activations computed."""
        source = node.inputs[activation]
        answer = ask_about(node.out, live, NEURONS)
        labels = None if isinstance(answer, Refusal) else answer.inputs.get(activation)
        if source is None or labels is None or not labels.axes:
            return False
        sizes = [dim if isinstance(dim, int) else 0 for dim in source.shape or ()]
        axes = tuple(axis for axis in labels.axes if sizes[axis])
        if not axes:
            return False
        behind = origins(source, axes, tuple(sizes[axis] for axis in axes), self.streams)
        ends = {stop.value for stop in behind.stops if stop.cause is Cause.ATTENTION}
        return any(value in ends and _lies_along_heads(value, labels) for value, labels in behind.path)


def _lies_along_heads(value: Value, live: Live) -> bool:
    """Return whether labels of an attention product's output differ along an axis that may enumerate heads."""
    node = value.producer
    if node is None:
        return False
    if is_fused(node):
        layout = layout_of(node)
        return layout is None or any(axis in layout.out_axes for axis in live.axes)
    found = is_product(node)
    return found is None or any(found.out_axes[axis] in found.batch for axis in live.axes)


def weighs_stored_values(node: Node) -> bool:
    """Return whether a node sums stored values of each head, with computed weights."""
    found = weight_contraction(node, is_weight)
    if found is None or not found[0].batch:
        return False
    return any(map(sums_to_one, back_through(node.inputs[found[1]], HANDS_ON, MAX_VIEWS)))


def _bends(node: Node, upstream: list[tuple[Value, Live]]) -> bool:
    """Return whether an operator is nonlinear: an activation, or a product of two neurons."""
    if node in BENDS or (node in REDUCES and node not in AVERAGED):
        return True
    labelled = [source for source, labels in upstream if labels.axes and not source.is_constant]
    return node in GATES and len(labelled) > 1


def _choices(maker: Node) -> Iterator[Value]:
    """Yield the indices that choose the weights of a linear layer, where a router does."""
    weighed = weight_contraction(maker, is_weight)
    value = None if weighed is None else maker.inputs[weighed[2]]
    while value is not None and not value.is_constant and value.producer is not None:
        choice = value.producer.input(1)
        if is_picked(value.producer) and choice is not None and not choice.is_constant:
            yield choice
        value = value.producer.input(0)


def _labels(live: Live) -> Iterator[int]:
    return iter(np.unique(live.array[live.array > 0]).tolist())
