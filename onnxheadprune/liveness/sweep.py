"""The reverse sweep: from what projections no longer read to everything that dies upstream.

Nodes are visited in reverse topological order, each once, and only those that liveness reaches. A value
keeps the union of what its consumers ask for; a consumer that was never visited asks for all of it.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import or_

from onnxheadprune.liveness.contraction import CONVOLUTIONS, contraction_of
from onnxheadprune.liveness.live import DEAD, FULL, Live, fits, spread
from onnxheadprune.liveness.observers import carried, leads_out, looks_only, only_passed_on, passes_on
from onnxheadprune.liveness.refusal import Reason, Refusal
from onnxheadprune.liveness.registry import Answer, inexpressible, refuse, rule_for, unknown_shape
from onnxheadprune.liveness.relaxing import relaxed, source_of
from onnxheadprune.liveness.unread import beside_unread, selecting_answer
from onnxheadprune.model.graph.facts import (
    CHOOSES,
    MAKES_CHUNKS,
    RESHAPES,
    VIEWS,
)
from onnxheadprune.model.graph.view import Node, Use, Value

MAX_VIEWS = 4
"""Views in a row that are looked through for what is picked from them."""


@dataclass(frozen=True)
class Seed:
    """A first demand: input `index` of `node` needs only `live`, because `site` says so."""

    node: Node
    index: int
    live: Live
    site: str


@dataclass
class Sweep:
    """What a sweep found.

    Attributes:
        edges: live indices per edge `(node index, input index)`; edges not listed are fully live.
        kept: what each reached value keeps.
        answers: the rule answers of visited nodes whose outputs are narrowed.
        refusals: where liveness stopped.
        asked: which sites reached a node.
        reached: values on narrowed edges, in the order they were met.
    """

    edges: dict[tuple[int, int], Live] = field(default_factory=dict)
    kept: dict[Value, Live] = field(default_factory=dict)
    answers: dict[Node, Answer] = field(default_factory=dict)
    refusals: dict[Node, Refusal] = field(default_factory=dict)
    asked: dict[Node, frozenset[str]] = field(default_factory=dict)
    reached: dict[Value, None] = field(default_factory=dict)
    body_outputs: dict[Value, Live] = field(default_factory=dict)

    def edge(self, use: Use) -> Live:
        """What one consumer needs."""
        return self.edges.get((use.node.index, use.input_index), FULL)

    def narrowed(self) -> Iterable[tuple[Value, Live]]:
        """Reached values that keep less than everything."""
        return ((value, live) for value, live in self.kept.items() if not live.is_full)


def sweep(
    seeds: Sequence[Seed],
    free: frozenset[Value] = frozenset(),
    labels: int = 0,
    through: Node | None = None,
) -> Sweep:
    """Propagates `seeds` upstream.

    Args:
        seeds: the first demands.
        free: graph inputs and outputs that may be narrowed; all others stay whole.
        labels: the bits of all labels there are, if the demands are sets of labels instead of masks: other
            consumers are ignored then, nothing has to be dense.
        through: a node that is taken to pass its first input on, whatever its rule says: what would die without it?

    Returns:
        The liveness of everything reached. No model is changed.
    """
    return _Sweeper(free, labels, through).run(seeds)


class _Sweeper:
    def __init__(self, free: frozenset[Value], labels: int, through: Node | None) -> None:
        self.free = free
        self.labels = labels
        self.through = through
        self.result = Sweep()
        self.looking = 0
        self.heap: list[tuple[int, Node]] = []
        self.queued: set[int] = set()

    def run(self, seeds: Sequence[Seed]) -> Sweep:
        for seed in seeds:
            self._ask(seed.node, seed.index, seed.live, frozenset({seed.site}))
        while self.heap:
            self._visit(heapq.heappop(self.heap)[1])
        for value in self.result.reached:
            if value not in self.result.kept:
                fixed = value.is_graph_input and not value.holds_tensor and value not in self.free
                self.result.kept[value] = FULL if fixed and not self.labels else self._demand(value)
                if value.holds_tensor and not self.labels:
                    self._leave_unread(value)
        if not self.labels:
            self._relax()
            for value, live in list(self.result.narrowed()):
                self._pass_on(value, live)
        return self.result

    def _leave_unread(self, value: Value) -> None:
        """A stored tensor is cut to what its readers ask for: that is all but heads where they can pick from it."""
        kept = self.result.kept[value]
        edges = {use: self.result.edge(use) for use in value.consumers if not looks_only(use)}
        asked = reduce(or_, edges.values(), DEAD)
        if kept == asked.as_mask().dense_closure():
            return
        picking = [self._picking(use) for use in edges]
        if all(answer is not None and answer.accepts(kept) for answer in picking):
            self.result.edges |= {(use.node.index, use.input_index): kept for use in edges}

    def _relax(self) -> None:
        """Views of shared values hand on what these keep, where all who read them can pick from it."""
        result = self.result
        for node in sorted(result.answers, key=lambda node: node.index):
            value = source_of(node)
            have = FULL if value is None else result.kept.get(value, FULL)
            if value is None or result.edges.get((node.index, 0), FULL) in (have, DEAD):
                continue
            for view, (reads, hands_on, answer) in (relaxed(node, have, self._picking) or {}).items():
                result.edges[(view.index, 0)] = reads
                result.kept[view.out] = hands_on
                result.answers[view] = answer

    def _picking(self, use: Use) -> Answer | None:
        answer = self.result.answers.get(use.node)
        if answer is None:
            return selecting_answer(use)
        return answer if use.input_index in answer.selects else None

    def _ask(self, node: Node, index: int, live: Live, sites: frozenset[str]) -> None:
        value = node.input(index)
        key = (node.index, index)
        if value is None or (self._says_nothing(live) and key not in self.result.edges):
            return
        self.result.edges[key] = live if key not in self.result.edges else self.result.edges[key] | live
        self._reach(value, sites)
        self.result.asked[node] = self.result.asked.get(node, frozenset()) | sites

    def _reach(self, value: Value, sites: frozenset[str]) -> None:
        self.result.reached[value] = None
        producer = value.producer
        if producer is None or value.holds_tensor:
            return
        self.result.asked[producer] = self.result.asked.get(producer, frozenset()) | sites
        if producer.index not in self.queued:
            self.queued.add(producer.index)
            heapq.heappush(self.heap, (-producer.index, producer))

    def _visit(self, node: Node) -> None:
        lives = tuple(FULL if output is None else self._demand(output) for output in node.outputs)
        if all(self._says_nothing(live) for live in lives):
            self._keep(node, lives)
            return
        if all(live.is_dead for live in lives):
            self._keep(node, lives)
            self._ask_all(node, dict.fromkeys(range(len(node.inputs)), DEAD))
            return
        answer = Answer({0: lives[0]}) if node is self.through else self._answer(node, lives)
        if isinstance(answer, Refusal):
            self.result.refusals[node] = answer
            self._keep(node, lives if self.labels else (FULL,) * len(lives))
            return
        self._keep(node, answer.kept or lives)
        self.result.answers[node] = answer
        self._ask_all(node, self._beyond(node, answer.inputs))
        for value, live in answer.bodies.items():
            self.result.body_outputs[value] = live
            self._reach(value, self.result.asked[node])

    def _beyond(self, node: Node, inputs: Mapping[int, Live]) -> Mapping[int, Live]:
        """Labels end at weights: what is multiplied with them, or convolved in groups, is no longer one head's own."""
        if not self.labels:
            return inputs
        stored = CONVOLUTIONS.of(node)
        weight = None if stored is None else node.input(stored[0])
        if weight is not None and weight.is_constant:
            return {index: live for index, live in inputs.items() if index > 0}
        product = contraction_of(node)
        weights = [] if product is None else [i for i in product.indices if _is_stored(node.input(i))]
        return {index: live for index, live in inputs.items() if live.axes or not weights or index in weights}

    def _ask_all(self, node: Node, inputs: Mapping[int, Live]) -> None:
        for index, live in inputs.items():
            self._ask(node, index, live, self.result.asked[node])

    def _says_nothing(self, live: Live) -> bool:
        """Whether everything is live, for the same reason: a value of one head alone still carries its label."""
        return live.is_full and (live.array.dtype.kind == "b" or live.array == self.labels)

    def _keep(self, node: Node, lives: Sequence[Live]) -> None:
        for output, live in zip(node.outputs, lives, strict=True):
            if output is not None:
                self.result.kept[output] = live

    def _answer(self, node: Node, lives: Sequence[Live]) -> Answer | Refusal:
        """The rule's answer, checked: every mask must be readable on its input, and dense."""
        entry = rule_for(node)
        if entry is None:
            return refuse(
                node, Reason.NO_RULE, f"there is no rule for {node.domain or 'ai.onnx'}.{node.op_type}"
            )
        if any(
            not fits(live, output.shape) for live, output in zip(lives, node.outputs, strict=True) if output
        ):
            return unknown_shape(node)
        if not self.labels and not entry.ragged and not all(live.is_product for live in lives):
            return inexpressible(node)
        answer = entry.function(node, lives)
        if isinstance(answer, Refusal):
            return answer
        inputs: dict[int, Live] = {}
        for index, live in answer.inputs.items():
            value = node.input(index)
            if value is None:
                continue
            checked = admissible(live, value)
            if checked is None:
                return unknown_shape(node) if value.shape is None else inexpressible(node)
            live = checked
            if not self.labels and not _is_sequence(value) and live.dense_shape() is None:
                return _covering(node, live) or inexpressible(node)
            inputs[index] = live
        return Answer(inputs, answer.rewrite, answer.selects, answer.accepts, answer.kept, answer.bodies)

    def _demand(self, value: Value) -> Live:
        total: Live | None = None
        if value.is_graph_output and value not in self.free and not self.labels and not self._leaves(value):
            return self.result.body_outputs.get(value, FULL)
        if value in self.result.body_outputs:
            total = self.result.body_outputs[value]
        self._look_through_views(value)
        for use in value.consumers:
            live = self._edge_demand(use)
            if live is None:
                continue
            total = live if total is None else total | live
            if self._says_nothing(total):
                return FULL
        if total is None:
            return DEAD
        if self.labels or _is_sequence(value):
            return total
        return beside_unread(value, total.as_mask().dense_closure())

    def _look_through_views(self, value: Value) -> None:
        """Visits views of a value that lead to nothing but picks: these need less than all of it."""
        producer = value.producer
        if self.labels or producer is None or value.is_constant or self.looking == MAX_VIEWS:
            return
        self.looking += 1
        for use in value.consumers:
            view = use.node
            if view.index in self.queued or not _is_view(view) or use.input_index or view.out.is_graph_output:
                continue
            live = self._demand(view.out)
            if live.is_full or live.is_dead:
                continue
            self.queued.add(view.index)
            self.result.asked[view] = self.result.asked.get(producer, frozenset())
            self._visit(view)
        self.looking -= 1

    def _leaves(self, value: Value) -> bool:
        """Whether an output of an `If` branch only becomes a graph output that may be narrowed."""
        owner, names = value.scope.owner, [info.name for info in value.scope.proto.output]
        if owner is None or owner not in CHOOSES or value.name not in names:
            return False
        output = owner.outputs[names.index(value.name)]
        return output is not None and leads_out(output, self.free)

    def _pass_on(self, value: Value, live: Live) -> None:
        """Tells the values that only carry a narrowed one on what is left of them."""
        for use in value.consumers:
            passive = (
                use.node.index,
                use.input_index,
            ) not in self.result.edges and passes_on(use.node)
            if passive and use.node.out not in self.result.kept and only_passed_on(use.node, self.free):
                through = carried(use.node, live)
                if through is not None:
                    self.result.kept[use.node.out] = through
                    self._pass_on(use.node.out, through)
        if value.is_graph_output and self._leaves(value):
            names = [info.name for info in value.scope.proto.output]
            assert value.scope.owner is not None
            output = value.scope.owner.outputs[names.index(value.name)]
            if output is not None and output not in self.result.kept:
                self.result.kept[output] = live
                self._pass_on(output, live)

    def _edge_demand(self, use: Use) -> Live | None:
        """What a consumer asks for, None for nothing at all."""
        key = (use.node.index, use.input_index)
        if key in self.result.edges:
            return self.result.edges[key]
        if self.labels or observes(use, self.result) or only_passed_on(use.node, self.free):
            return None
        return _unvisited_demand(use)


def _covering(node: Node, live: Live) -> Answer | None:
    """The answer of a Reshape that hands on more than was asked for, where what was asked for is no block of its input.

    A relative shift cuts positions out of scores whose rows it has folded anew: those it keeps, the heads it need not.
    """
    closure, entry = live.as_mask().dense_closure(), rule_for(node)
    through = carried(node, closure) if node in RESHAPES else None
    if entry is None or closure.is_full or through is None or through.dense_shape() is None:
        return None
    answer = entry.function(node, [through])
    if isinstance(answer, Refusal) or answer.inputs.get(0) != closure:
        return None
    return Answer(answer.inputs, answer.rewrite, kept=(through,))


def _is_view(node: Node) -> bool:
    """Whether a node only re-arranges its first input, by constants alone."""
    return node in VIEWS and all(other is None or other.is_constant for other in node.inputs[1:])


def _is_stored(value: Value | None) -> bool:
    """Whether a value is stored, or computed from stored values alone."""
    return value is not None and value.is_constant


def _is_sequence(value: Value) -> bool:
    """A sequence's chunks may have different shapes, so nothing about it has to be dense."""
    return value.producer is not None and value.producer in MAKES_CHUNKS


def observes(use: Use, sweep: Sweep) -> bool:
    """Whether a consumer asks for no contents: it looks at the shape, or only passes the value on."""
    if (use.node.index, use.input_index) in sweep.edges:
        return False
    # A carrier that was refused, or that stays whole, is a consumer like any other.
    kept = sweep.kept.get(use.node.out, FULL) if passes_on(use.node) else FULL
    return looks_only(use) or (not kept.is_full and use.node not in sweep.answers)


def admissible(live: Live, value: Value) -> Live | None:
    """`live` spelled out on the concrete axes of `value`; None if it cannot be read on its shape."""
    if not live.axes:
        return live
    if value.shape is None or not fits(live, value.shape):
        return None
    return spread(live, value.shape)


def _unvisited_demand(use: Use) -> Live:
    answer = selecting_answer(use)
    return FULL if answer is None else answer.inputs.get(use.input_index, FULL)
