"""The law of a cut: nothing needs the outputs of removed units, or the cut is refused.

A removed unit is a zero: a head without a context, a neuron that is always zero. Whatever else is computed of it, or
of all units together (attention maps that talk to each other, norms over all queries, gates that read all contexts),
follows from that zero. So it takes one question, asked of a sweep without the units: is what makes them needed still?
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from onnxheadprune.attention.sites.caches import comes_or_goes
from onnxheadprune.attention.sites.grouping import Block
from onnxheadprune.attention.sites.products import (
    MAX_UPSTREAM,
    is_contraction,
    upstream,
    weight_contraction,
)
from onnxheadprune.attention.sites.site import Site
from onnxheadprune.liveness.consumers import looks_only
from onnxheadprune.liveness.live import FULL, Live
from onnxheadprune.liveness.refusals import Reason, Refusal
from onnxheadprune.liveness.sweep_result import Sweep, observes
from onnxheadprune.model.graph.facts import (
    CARRIERS,
    ELEMENTWISE,
    EXPANDS,
    FLATTENS,
    JOINS,
    MEASURES_SCALE,
    SLICES,
    SUMS_VALUES,
    WRITES_INTO,
)
from onnxheadprune.model.graph.view import Node, Use, Value
from onnxheadprune.model.graph.walks import reachable

HANDS_ON = CARRIERS | FLATTENS | JOINS | SLICES | EXPANDS | WRITES_INTO
"""Operators that pass a value on under other axes or another type."""


def needed_heads(block: Block, trial: Sweep, removed: Sequence[int]) -> Refusal | None:
    """Return a refusal naming the node that still needs contexts of removed heads, None if no node does."""
    gone = {place for head in removed for place in block.members[head]}
    for core in block.cores:
        dead = np.array([(core.node.index, position) in gone for position in range(len(core.heads))])
        if dead.any() and _is_needed(core.node.out, core.labelled(dead), trial):
            return reader_of_all([core.node.out], trial, "heads")
    return None


def needed_whole(makers: Iterable[Node], trial: Sweep, units: str) -> Refusal | None:
    """Return a refusal naming the node that needs the whole output of a maker, None if all outputs are narrower."""
    whole = next((maker.out for maker in makers if trial.kept.get(maker.out, FULL).is_full), None)
    return None if whole is None else reader_of_all([whole], trial, units)


def _is_needed(value: Value, part: Live, trial: Sweep) -> bool:
    """Return whether a part of a value is needed; an operator may have to make more than its readers need."""
    if (trial.kept.get(value, FULL) & part).is_dead:
        return False
    uses = (use for use in value.consumers if not observes(use, trial))
    return value.is_graph_output or any(_needs(use, part, trial) for use in uses)


def _needs(use: Use, part: Live, trial: Sweep) -> bool:
    """Return whether a reader needs a part of a value; nobody needs the scale of quantized values that nobody needs."""
    passed = HANDS_ON | MEASURES_SCALE
    return not (trial.edge(use) & part).is_dead and (
        use.node not in passed or _is_needed(use.node.out, FULL, trial)
    )


def held_caches(site: Site, trial: Sweep, stays: Stay | None) -> Refusal | None:
    """Find the reader that needs all heads of one cache of a site while another cache could be narrowed.

    Keys and values of a head are removed together or not at all: callers have one number for both.
    """
    if stays is not None and site.free and any(value not in site.free for value in stays.ends):
        return stays.why
    left: dict[frozenset[int], dict[Value, frozenset[int]]] = {}
    for value, live in site.lying.items():
        if live.axes and not live.is_mask:
            left.setdefault(_owners(live, FULL), {})[value] = _owners(live, trial.kept.get(value, FULL))
    for caches in left.values():
        most = max(caches.values(), key=len)
        wide = [value for value, owners in caches.items() if owners == most]
        if len(wide) < len(caches):
            return reader_of_all(wide, trial, site.UNITS)
    return None


def _owners(live: Live, kept: Live) -> frozenset[int]:
    """The sets of heads, as bits, that own a part of the kept positions of a value."""
    axes = sorted({*live.axes, *kept.axes})
    sizes = [math.lcm(live.period(axis), kept.period(axis)) for axis in axes]
    alive = live.aligned(axes, sizes)[kept.aligned(axes, sizes) != 0]
    return frozenset(int(bits) for bits in alive.reshape(-1)) - {0}


def reader_of_all(values: Sequence[Value], trial: Sweep, units: str) -> Refusal:
    """Name the nearest node below some values that needs all of them, and does not merely pass them on."""

    def onward(value: Value) -> list[Value]:
        uses = [use for use in value.consumers if trial.edge(use).is_full and _hands_on(use.node, trial)]
        return [output for use in uses for output in use.node.results]

    for value in reachable(values, onward):
        if value.is_graph_output and value.scope.parent is None:
            sentence = f"{value.name} is also an output of the model, with all {units}"
            return Refusal(Reason.NO_PROJECTION, value.name, value.name, sentence)
        for node in [use.node for use in value.consumers if trial.edge(use).is_full and not looks_only(use)]:
            if node in trial.refusals:
                return trial.refusals[node]
            if not _hands_on(node, trial):
                sentence = f"{node.label} needs {value.name} with all {units}"
                return Refusal(Reason.NO_PROJECTION, node.label, value.name, sentence)
    sentence = f"{values[0].name} is needed with all {units}"
    return Refusal(Reason.NO_PROJECTION, values[0].name, values[0].name, sentence)


def _hands_on(node: Node, trial: Sweep) -> bool:
    """Return whether a node needs all of its input only because its readers do; a sum begins a residual stream."""
    alike = node in ELEMENTWISE and (node not in SUMS_VALUES or len(node.computed) == 1)
    return node in HANDS_ON or alike or node in trial.asked


class Stay(NamedTuple):
    """A part of removed heads that is still computed."""

    value: Value  # the nearest value to their contexts that keeps all heads
    why: Refusal
    mixers: Container[Node]  # linear layers that mix attention maps of heads

    @property
    def ends(self) -> Iterator[Value]:
        """The inputs and outputs of the model that it is computed of other than by layers: caches, masks."""

        def above(value: Value) -> list[Value]:
            node = value.producer
            ends = node is None or (node not in self.mixers and weight_contraction(node) is not None)
            return [] if ends or node is None else node.sources

        return filter(comes_or_goes, reachable([self.value], above))


def still_computed(block: Block, trial: Sweep, mixers: Container[Node]) -> Stay | None:
    """Return the queries, keys or maps that are computed for all heads after the cut, None if none are.

    Heads whose attention maps are mixed, or whose queries are normalised together, lose their values alone.

    Args:
        mixers: linear layers that mix attention maps of heads.
    """

    def is_layer(node: Node) -> bool:
        return node not in cores and weight_contraction(node) is not None

    def above(node: Node) -> list[Node]:
        read = [] if is_layer(node) else _narrowed(node, trial)
        return [value.producer for value in read if value.producer is not None]

    cores = {core.node for core in block.cores}
    for node in reachable(cores, above):
        if node in mixers:
            sentence = f"{node.label} mixes the attention maps of all heads"
            return Stay(node.out, Refusal(Reason.COUPLED, node.label, node.out.name, sentence), mixers)
        for value in [] if is_layer(node) else _narrowed(node, trial):
            # Tables and masks are computed of no layer.
            if not any(map(is_contraction, upstream(value, MAX_UPSTREAM, is_contraction))):
                continue
            if value.producer in trial.refusals:
                return Stay(value, trial.refusals[value.producer], mixers)
            if trial.kept[value].is_full:
                return Stay(value, reader_of_all([value], trial, "heads"), mixers)
    return None


def _narrowed(node: Node, trial: Sweep) -> list[Value]:
    """The computed inputs of which a node needs a part."""
    edges = [(value, trial.edges.get((node.index, index), FULL)) for index, value in enumerate(node.inputs)]
    return [
        value for value, live in edges if value and not (value.is_constant or live.is_full or live.is_dead)
    ]
