"""The check that a projection reads nothing but heads: the channels of a head depend on that head alone.

The condition: silencing a head at its core and silencing it at the projection's input give the same model. Other
readers of the head are found by a trial removal (`held.py`). This is the other half: nothing may be left in
the head's channels once the head is silent at its core. Factors of the head vanish with it; terms added to
it remain, unless they belong to the head: a stored vector (a bias after the core, the bias of a normalisation), which
is the same for all inputs, its queries, keys or values once more (convolved, pooled), which weights of the head
compute and nothing else reads, or its attention weights once more (with relative positions for values). A residual
stream belongs to no head.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from functools import cached_property

import numpy as np

from onnxheadprune.attention.sites.evidence import without_blind
from onnxheadprune.attention.sites.grouping import Block
from onnxheadprune.attention.sites.products import is_product, is_weight
from onnxheadprune.liveness.consumers import content_uses
from onnxheadprune.liveness.contraction import contraction_of
from onnxheadprune.liveness.domain import POSITIONS
from onnxheadprune.liveness.layouts import is_fused
from onnxheadprune.liveness.live import Live
from onnxheadprune.liveness.refusals import Reason, Refusal
from onnxheadprune.liveness.rule_calls import ask_about, has_rule
from onnxheadprune.liveness.sweep_result import Sweep
from onnxheadprune.model.graph.facts import DIVIDES, MULTIPLIES, MULTIPLIES_QUANTIZED, OBSERVES
from onnxheadprune.model.graph.tables import roles_of
from onnxheadprune.model.graph.view import Node, Value
from onnxheadprune.model.graph.walks import reachable

MULTIPLIES_ANY = MULTIPLIES | MULTIPLIES_QUANTIZED
MAX_VALUES = 512
"""Values that are looked at; what lies between a context and its projection are some ten."""
MAX_UPSTREAM = 2**12
"""Values between a core and its weights: masks and the inverse of a matrix are computed by hundreds of nodes."""


def foreign(
    block: Block, trial: Sweep, removed: Sequence[int], probability_nodes: frozenset[Node]
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
        self, cores: frozenset[Node], probability_nodes: frozenset[Node], trial: Sweep, gone: frozenset[int]
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
        walk = reachable(starts, above, MAX_UPSTREAM)
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
        if node in DIVIDES and 0 in found:
            return found[0]
        return next((item for item in found.values() if item is not None), None)

    def _dies(self, value: Value, live: Live) -> bool:
        """Return whether the labelled positions are unused once the heads are removed."""
        needs = [self.trial.edge(use) for use in content_uses(value)]
        return not value.is_graph_output and all((need & self._gone(live)).is_dead for need in needs)

    def _gone(self, live: Live) -> Live:
        """The positions that belong to the heads."""
        return Live.over(live.axes, np.isin(live.array, list(self.gone)), live.runs)

    def _is_of_cores(self, value: Value) -> bool:
        """Return whether a value depends on contexts and constants alone."""

        def is_known(item: Value) -> bool:
            return item.is_constant or item.producer in self.cores or _is_shape(item)

        def above(item: Value) -> list[Value]:
            return [] if is_known(item) else item.sources

        for number, item in enumerate(reachable([value], above)):
            ends = item.producer is None or contraction_of(item.producer) is not None
            if not is_known(item) and (ends or number > MAX_VALUES):
                return False
        return True


def is_picked(node: Node) -> bool:
    """Return whether an operator chooses by computed values."""
    reads = roles_of(node).contents
    return reads is not None and any(
        value is not None and not value.is_constant and index not in reads
        for index, value in enumerate(node.inputs)
    )


def _is_shape(value: Value) -> bool:
    return value.producer is not None and value.producer in OBSERVES


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
    contents = roles_of(node).contents
    for index, labels in answer.inputs.items():
        source = node.input(index)
        if source is None or source.is_constant or (contents is not None and index not in contents):
            continue
        if not labels.axes and contraction_of(node) is not None:
            return None
        found[index] = (source, labels)
    return found
