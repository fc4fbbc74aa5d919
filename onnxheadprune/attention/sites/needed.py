"""The law of a cut: nothing needs the outputs of removed units, and nothing else is in their channels.

A removed unit is a zero: a head without a context, a neuron that is always zero. Whatever else is computed of it, or
of all units together (attention maps that talk to each other, norms over all queries, gates that read all contexts),
follows from that zero. So it takes one question, asked of a sweep without the units: is what makes them needed still?

The other half: silencing a head at its core and at the projection's input give the same model. Nothing may be left in
the head's channels once it is silent at its core. Factors of the head vanish with it; terms added to
it remain, unless they belong to the head: a stored vector (a bias after the core, the bias of a normalisation), which
is the same for all inputs, its queries, keys or values once more (convolved, pooled), which weights of the head
compute and nothing else reads, or its attention weights once more (with relative positions for values). A residual
stream belongs to no head.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Container, Hashable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np

from onnxheadprune.attention.sites.caches import comes_or_goes
from onnxheadprune.attention.sites.grouping import Block
from onnxheadprune.attention.sites.products import (
    MAX_UPSTREAM,
    is_contraction,
    is_product,
    is_weight,
    upstream,
    weight_contraction,
    without_blind,
)
from onnxheadprune.attention.sites.site import Site
from onnxheadprune.liveness.carriers import labels_behind
from onnxheadprune.liveness.consumers import content_uses, looks_only
from onnxheadprune.liveness.domain import POSITIONS
from onnxheadprune.liveness.index_notation import contraction_of
from onnxheadprune.liveness.layouts import is_fused
from onnxheadprune.liveness.live import FULL, Live
from onnxheadprune.liveness.refusals import Reason, Refusal
from onnxheadprune.liveness.rule_calls import ask_about, has_rule
from onnxheadprune.liveness.sweep_result import Sweep, observes
from onnxheadprune.model.graph.operator import (
    CARRIERS,
    ELEMENTWISE,
    OBSERVES,
    SUMS_VALUES,
    WRITES_INTO,
    is_a,
    kind,
)
from onnxheadprune.model.graph.view import Node, Use, Value
from onnxheadprune.model.graph.walks import reachable

HANDS_ON = CARRIERS | WRITES_INTO | kind("Flatten", "Concat", "Slice", "Expand")
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
    passed = HANDS_ON | kind("DynamicQuantizeLinear")
    return not (trial.edge(use) & part).is_dead and (
        use.node not in passed or _is_needed(use.node.out, FULL, trial)
    )


def held_caches(site: Site, trial: Sweep, stays: Stay | None) -> Refusal | None:
    """Find the reader that needs all heads of one cache of a site while another cache could be narrowed.

    Keys and values of a head are removed together or not at all: callers have one number for both.
    """
    if stays is not None and site.io and any(value not in site.io for value in stays.ends):
        return stays.why
    left: dict[frozenset[int], dict[Value, frozenset[int]]] = {}
    for value, live in site.owners.items():
        if live.axes and not live.is_mask:
            left.setdefault(_owners(live, FULL), {})[value] = _owners(live, trial.kept.get(value, FULL))
    for caches in left.values():
        most = max(caches.values(), key=len)
        wide = [value for value, owners in caches.items() if owners == most]
        if len(wide) < len(caches):
            return reader_of_all(wide, trial, site.KIND.units)
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


MULTIPLIES_ANY = kind("Mul", "com.microsoft.QLinearMul")
MAX_VALUES = 512
"""Values that are looked at; what lies between a context and its projection are some ten."""
MAX_MAKERS = 2**12
"""Values between a core and its weights: masks and the inverse of a matrix are computed by hundreds of nodes."""


def foreign(
    block: Block, trial: Sweep, removed: Sequence[int], probability_nodes: Collection[Node]
) -> Refusal | None:
    """Return a value other than heads in the channels of a projection, None if there is none."""
    cores = frozenset(core.node for core in block.cores)
    for projection in block.projections:
        value = projection.node.inputs[projection.activation[0]]
        assert value is not None
        gone = np.flatnonzero(~projection.live_without(removed).reshape(-1)) + 1
        labels = np.arange(1, math.prod(projection.sizes) + 1).reshape(projection.sizes)
        search = _Search(cores, probability_nodes, trial, frozenset(gone.tolist()))
        found = search.foreign(value, Live.over(projection.activation[1], labels))
        if found is not None:
            sentence = (
                f"{projection.node.label} reads the context only after {found.name} was added to it, which stays when a"
                " head goes: the context has no output projection of its own"
            )
            return Refusal(Reason.NO_PROJECTION, block.cores[0].node.label, found.name, sentence)
    return None


class _Search:
    """One search upstream from the input of a projection.

    Attributes:
        cores: where it ends.
        probability_nodes: nodes between the score products and the cores.
        trial: what is needed once some heads are gone.
        gone: labels of the channels of those heads; all channels are labelled.
    """

    def __init__(
        self, cores: frozenset[Node], probability_nodes: Collection[Node], trial: Sweep, gone: frozenset[int]
    ) -> None:
        self.cores = cores
        self.probability_nodes = probability_nodes
        self.trial = trial
        self.gone = gone
        self.known: dict[tuple[Value, Hashable], Value | None] = {}

    @cached_property
    def makers(self) -> frozenset[Value]:
        """The outputs of the nearest linear layers upstream of the cores: queries, keys and values before views."""

        def is_made(value: Value) -> bool:
            node = value.producer
            return node is not None and contraction_of(node) is not None and is_product(node) is None

        def above(value: Value) -> list[Value]:
            ends = value.producer is None or value.is_constant or is_made(value)
            return [] if ends or value.producer is None else _operands(value.producer)

        starts = [value for node in self.cores for value in _operands(node)]
        walk = reachable(starts, above, MAX_MAKERS)
        return frozenset(value for value in walk if not value.is_constant and is_made(value))

    def foreign(self, value: Value, live: Live) -> Value | None:
        """A value that positions of the heads depend on and that belongs to no head, None if there is none."""
        key = value, live.key
        if key not in self.known:
            if len(self.known) > MAX_VALUES:
                return None
            self.known[key] = None
            self.known[key] = self._look(value, live)
        return self.known[key]

    def _look(self, value: Value, live: Live) -> Value | None:
        node = value.producer
        if value.is_constant or node in self.cores or self._gone(live).is_dead:
            return None
        if node is None:
            return value
        if not live.axes:
            # One number for all heads, as the mean of a normalisation: of the contexts alone, or of something else.
            return None if self._is_of_cores(value) else value
        if node in self.probability_nodes and self._dies(value, live):
            return None
        sources = _sources(node, value, live)
        if sources is None:
            made = not has_rule(node) or value in self.makers or is_product(node) is not None
            return None if made and self._dies(value, live) else value
        if not sources:
            # Rows of a table, picked by the inputs, or stored numbers that are only spread out.
            return value if is_picked(node) else None
        found = {index: self.foreign(source, labels) for index, (source, labels) in sources.items()}
        if node in MULTIPLIES_ANY and None in found.values():
            return None
        if is_a(node, "Div") and 0 in found:
            return found[0]
        return next((item for item in found.values() if item is not None), None)

    def _dies(self, value: Value, live: Live) -> bool:
        """Return whether the labelled positions are unused once the heads are removed.

        Where all readers of quantized values do without them, the common scale alone needs them.
        """
        pending, met = [(value, live)], set[tuple[Value, object]]()
        while pending:
            value, live = pending.pop()
            if (value, live.key) in met:
                continue
            met.add((value, live.key))
            if value.is_graph_output or len(met) > MAX_VALUES:
                return False
            for use in content_uses(value):
                if (self.trial.edge(use) & self._gone(live)).is_dead:
                    continue
                is_scaled = is_a(use.node, "DynamicQuantizeLinear")
                labels = live if is_scaled else labels_behind(use.node, use.input_index, live)
                if labels is None or use.node in self.cores:
                    return False
                pending.append((use.node.out, labels))
        return True

    def _gone(self, live: Live) -> Live:
        """The positions that belong to the heads."""
        return Live.over(live.axes, np.isin(live.array, list(self.gone)), live.repeats)

    def _is_of_cores(self, value: Value) -> bool:
        """Return whether a value depends on contexts and constants alone."""

        def is_known(item: Value) -> bool:
            node = item.producer
            return item.is_constant or node in self.cores or (node is not None and node in OBSERVES)

        def above(item: Value) -> list[Value]:
            return [] if is_known(item) else item.sources

        for number, item in enumerate(reachable([value], above)):
            ends = item.producer is None or contraction_of(item.producer) is not None
            if not is_known(item) and (ends or number > MAX_VALUES):
                return False
        return True


def is_picked(node: Node) -> bool:
    """Return whether an operator chooses by computed values."""
    reads = node.roles.contents
    return reads is not None and any(
        value is not None and not value.is_constant and index not in reads
        for index, value in enumerate(node.inputs)
    )


def _operands(node: Node) -> list[Value]:
    """Inputs of a node; none for a fused operator that contains the weights."""
    packed = is_fused(node) and (first := node.input(1)) is not None and is_weight(first)
    return [] if packed else node.sources


def _sources(node: Node, value: Value, live: Live) -> dict[int, tuple[Value, Live]] | None:
    """Return the input positions that labelled positions of a node's output depend on, by input index.

    None where the node computes them: weights, a product, or an unknown operator.
    """
    if not has_rule(node) or is_fused(node) or is_product(node) is not None:
        return None
    answer = ask_about(value, live, POSITIONS)
    if isinstance(answer, Refusal):
        seen = without_blind(live, live.axes)
        if seen.axes != live.axes:
            return _sources(node, value, seen)
        # A normalisation mixes positions but moves none.
        alike = {i: source for i, source in enumerate(node.inputs) if source and source.shape == value.shape}
        return {index: (source, live) for index, source in alike.items()} or None
    if answer.bodies:
        return {-1 - number: item for number, item in enumerate(answer.bodies.items())}
    found: dict[int, tuple[Value, Live]] = {}
    contents = node.roles.contents
    for index, labels in answer.inputs.items():
        source = node.input(index)
        if source is None or source.is_constant or (contents is not None and index not in contents):
            continue
        if not labels.axes and contraction_of(node) is not None:
            return None
        found[index] = (source, labels)
    return found
