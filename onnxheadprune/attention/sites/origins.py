"""Where the positions of a contracted axis are made: the maps with weights upstream, position by position.

A neuron is a position that a map with weights makes, that is changed by itself (an activation, a gate, a bias, a
depthwise convolution), and that the next map sums up. Labels travel upstream through the laws of the operators until
they lie on the free axis of a weight. Positions that go another way (a context of attention, a residual stream,
an embedding, an input of the model) are no neurons.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from onnxheadprune.attention.sites.fused import is_fused_core
from onnxheadprune.attention.sites.maps import is_residual, weight_contraction
from onnxheadprune.attention.sites.own import is_picked
from onnxheadprune.attention.sites.products import is_product, is_weight
from onnxheadprune.liveness.asking import ask_about
from onnxheadprune.liveness.domain import POSITIONS
from onnxheadprune.liveness.live import Live
from onnxheadprune.liveness.refusal import Reason, Refusal
from onnxheadprune.model.graph.view import Node, Value

MAX_STEPS = 512
"""Values on the way from one map to the next; an activation that is spelled out has some ten."""


@dataclass
class Origins:
    """What makes the positions of an axis.

    Attributes:
        makers: the labels of positions along the free axis of each map with weights, one row for each of its channels.
        strange: labels of positions that something else has a part in.
        rows: what chooses rows of stored tables, and the labels of positions that these have a part in.
        mixer: the first operator that mixes positions on the way, None without.
        mixing: why it does.
    """

    makers: dict[Node, list[frozenset[int]]] = field(default_factory=dict)
    strange: set[int] = field(default_factory=set)
    rows: list[tuple[Value | None, set[int]]] = field(default_factory=list)
    mixer: Node | None = None
    mixing: Refusal | None = None


def origins(value: Value, axes: tuple[int, ...], sizes: tuple[int, ...]) -> Origins:
    """What makes the positions of some axes of a value; they are labelled from 1 on, in row-major order.

    Args:
        value: what a projection reads.
        axes: that the projection sums over.
        sizes: their lengths.
    """
    found = Origins()
    labels = np.arange(1, math.prod(sizes) + 1).reshape(sizes)
    stack = [(value, Live.over(axes, labels))]
    seen: set[tuple[Value, tuple[int, ...], bytes]] = set()
    while stack:
        current, live = stack.pop()
        key = (current, live.axes, live.array.tobytes())
        if key in seen or current.is_constant or not live.axes:
            continue
        seen.add(key)
        upstream = None if len(seen) > MAX_STEPS else _step(current, live, found)
        if upstream is None:
            found.strange.update(_labels(live))
        else:
            stack += upstream
    chosen = {item for maker in found.makers for item in _choices(maker)}
    for choice, own in found.rows:
        if choice not in chosen:
            found.strange |= own
    return found


def _step(value: Value, live: Live, found: Origins) -> list[tuple[Value, Live]] | None:
    """Where labels go on from a value; nowhere if a map with weights makes them, None if something strange does."""
    node = value.producer
    if node is None or is_fused_core(node) or is_product(node) is not None:
        return None
    rows = _made_by_weights(node, live)
    if rows is not None:
        found.makers.setdefault(node, []).extend(rows)
        return []
    if found.mixer is not None and is_residual(node):
        # Behind a normalisation lies the residual stream, which is nobody's own.
        return None
    answer = ask_about(value, live, POSITIONS)
    if isinstance(answer, Refusal):
        source = node.input(0)
        if answer.reason is not Reason.COUPLED or source is None or source.shape != value.shape:
            return None
        if found.mixer is None:
            found.mixer, found.mixing = node, answer
        return [(source, live)]
    sources = [(node.input(index), labels) for index, labels in answer.inputs.items()]
    upstream = [(source, labels) for source, labels in sources if source is not None]
    if is_picked(node) and all(source.is_constant for source, labels in upstream if labels.axes):
        # Rows of a table that the inputs choose: an embedding, or the bias of the expert that a router has chosen.
        found.rows.append((node.input(1), set(_labels(live))))
        return []
    return upstream + list(answer.bodies.items())


def _made_by_weights(node: Node, live: Live) -> list[frozenset[int]] | None:
    """The labels of each channel that a map with weights makes, None where labels lie on none of its channels."""
    found = weight_contraction(node, is_weight)
    if found is None:
        return None
    contraction, _, weight = found
    own = [
        position
        for position, axis in enumerate(live.axes)
        if contraction.owners(contraction.out_axes[axis]) == (weight,)
    ]
    if not own:
        return None
    front = np.moveaxis(live.array, own, range(len(own)))
    channels = math.prod(front.shape[: len(own)])
    return [frozenset(row[row > 0].tolist()) for row in front.reshape(channels, -1)]


def _choices(maker: Node) -> Iterator[Value]:
    """What chooses the weights of a map, where a router does."""
    weighed = weight_contraction(maker, is_weight)
    value = None if weighed is None else maker.inputs[weighed[2]]
    while value is not None and not value.is_constant and value.producer is not None:
        choice = value.producer.input(1)
        if is_picked(value.producer) and choice is not None and not choice.is_constant:
            yield choice
        value = value.producer.input(0)


def _labels(live: Live) -> Iterator[int]:
    return iter(np.unique(live.array[live.array > 0]).tolist())
