"""The reverse sweep: from positions that projections no longer read to everything unused upstream.

Nodes are visited in reverse topological order, each once, and only those that liveness reaches. A value
keeps the union of what its consumers ask for; a consumer that was never visited asks for all of it.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence

from onnxheadprune.errors import RefusedError
from onnxheadprune.liveness.answers import Answer
from onnxheadprune.liveness.carriers import carrier_outputs, leads_out, only_passed_on, outlet
from onnxheadprune.liveness.consumers import selecting_answer
from onnxheadprune.liveness.domain import MASKS, Domain
from onnxheadprune.liveness.live import DEAD, FULL, Live
from onnxheadprune.liveness.refusals import Refusal
from onnxheadprune.liveness.rule_calls import ask
from onnxheadprune.liveness.settling import settle
from onnxheadprune.liveness.sweep_result import Seed, Sweep, observes
from onnxheadprune.liveness.unread_positions import beside_unread, read_of
from onnxheadprune.model.graph.operator import VIEWS, WRITES_INTO
from onnxheadprune.model.graph.view import Node, Use, Value

_MAX_VIEWS = 8
"""Views in a row that are looked through for what is picked from them."""


def sweep(
    seeds: Sequence[Seed],
    narrowable: frozenset[Value] = frozenset(),
    domain: Domain = MASKS,
    handed: Mapping[Value, Live] | None = None,
    answers: Mapping[Node, Answer] | None = None,
) -> Sweep:
    """Propagate `seeds` upstream.

    Args:
        narrowable: graph inputs and outputs that may be narrowed; all others stay whole.
        handed: what callers need of graph outputs that may be narrowed, where the graph itself reads a part of them.
        answers: fixed answers of nodes that work the same with fewer positions, instead of their rules.
    """
    return _Sweeper(narrowable, domain, handed or {}, answers or {}).run(seeds)


class _Sweeper:
    def __init__(
        self,
        narrowable: frozenset[Value],
        domain: Domain,
        handed: Mapping[Value, Live],
        answers: Mapping[Node, Answer],
    ) -> None:
        self.narrowable = narrowable
        self.handed = handed
        self.domain = domain
        self.given = answers
        self.result = Sweep()
        self.looking = 0
        self.heap: list[tuple[int, Node]] = []
        self.queued: set[int] = set()
        self.most: dict[tuple[int, int], Live] = {}

    def run(self, seeds: Sequence[Seed]) -> Sweep:
        self.most = self._bounds(seeds)
        for seed in seeds:
            bound = self.most.get((seed.node.index, seed.index), seed.live)
            self._ask(seed.node, seed.index, bound, frozenset({seed.site}))
        while self.heap:
            self._visit(heapq.heappop(self.heap)[1])
        for value in self.result.reached:
            if value not in self.result.kept:
                self.result.kept[value] = FULL if self._is_fixed_input(value) else self._demand(value)
        if self.domain.cuts:
            settle(self.result, self.narrowable)
        return self.result

    def _bounds(self, seeds: Sequence[Seed]) -> dict[tuple[int, int], Live]:
        """The most that a node needs of an input by all seeds, independent of its rule.

        A layer may read units of one site and compute units of another: its weight loses rows and columns.
        """
        found: dict[tuple[int, int], Live] = {}
        for seed in seeds if self.domain.cuts else ():
            key = (seed.node.index, seed.index)
            found[key] = found[key] & seed.live if key in found else seed.live
        return found

    def _ask(self, node: Node, index: int, live: Live, sites: frozenset[str]) -> None:
        """Record a node's demand on one input, and continue with its producer."""
        value, key = node.input(index), (node.index, index)
        known = self.result.edges.get(key)
        if key in self.most:
            # Not united with what was noted for the seed: that was no reader's demand.
            live, known = live & self.most[key], None
        if value is None or (known is None and self.domain.says_nothing(live)):
            return
        self.result.edges[key] = live if known is None else self.domain.united(known, live)
        self._reach(value, sites)
        self._note(node, sites)

    def _reach(self, value: Value, sites: frozenset[str]) -> None:
        self.result.reached[value] = None
        producer = value.producer
        if producer is None or value.holds_tensor:
            return
        self._note(producer, sites)
        if producer.index not in self.queued:
            self.queued.add(producer.index)
            heapq.heappush(self.heap, (-producer.index, producer))

    def _note(self, node: Node, sites: frozenset[str]) -> None:
        self.result.asked[node] = self.result.asked.get(node, frozenset()) | sites

    def _visit(self, node: Node) -> None:
        """Ask the rule of a node whose consumers have all been visited."""
        lives = tuple(FULL if output is None else self._demand(output) for output in node.outputs)
        if node in self.given:
            self._take(node, lives, self.given[node])
            return
        if all(self.domain.says_nothing(live) for live in lives):
            self._keep(node, lives)
            return
        if all(live.is_dead for live in lives):
            self._keep(node, lives)
            self._ask_all(node, dict.fromkeys(range(len(node.inputs)), DEAD))
            return
        answer = ask(node, lives, self.domain)
        if isinstance(answer, Refusal):
            self.result.refusals[node] = answer
            self._keep(node, [self.domain.refused(live) for live in lives])
            return
        self._keep(node, answer.kept or lives)
        self.result.answers[node] = answer
        self._ask_all(node, self.domain.passed(node, answer.inputs))
        for value, live in answer.bodies.items():
            self.result.body_outputs[value] = live
            self._reach(value, self.result.asked[node])

    def _take(self, node: Node, lives: Sequence[Live], answer: Answer) -> None:
        """Record the answer for a node."""
        kept = answer.kept or tuple(lives)
        if not all(have.covers(live) for have, live in zip(kept, lives, strict=True)):
            raise RefusedError(f"more than what is left of {node.out.name} is needed behind {node.label}")
        self._keep(node, kept)
        self.result.answers[node] = answer
        self._ask_all(node, answer.inputs)

    def _ask_all(self, node: Node, inputs: Mapping[int, Live]) -> None:
        for index, live in inputs.items():
            self._ask(node, index, live, self.result.asked[node])

    def _keep(self, node: Node, lives: Sequence[Live]) -> None:
        for output, live in zip(node.outputs, lives, strict=True):
            if output is not None:
                self.result.kept[output] = live

    def _demand(self, value: Value) -> Live:
        """Return the part of a value that its readers need."""
        total = self.result.body_outputs.get(value)
        if self._is_fixed_output(value):
            return FULL if total is None else total
        self._look_through_views(value)
        for use in value.consumers:
            live = self._edge_demand(use)
            if live is None:
                continue
            total = live if total is None else self.domain.united(total, live)
            if self.domain.says_nothing(total):
                return FULL
        if total is None:
            return DEAD
        if total.is_dead:
            return FULL if self._is_handed_out(value) else DEAD
        if self.domain.cuts and value.producer is not None and value.producer in WRITES_INTO:
            total = self.domain.united(total, self._handed_out(value))
        if not self.domain.cuts:
            return total
        return beside_unread(value, self.domain.narrowed(total))

    def _handed_out(self, value: Value) -> Live:
        """Return the callers' demand on a value that other nodes wrote into before.

        Of a cache of all layers each layer reads its own rows, but the next call reads all of them.
        """
        if value.is_graph_output:
            return DEAD if read_of(value).is_full else self.handed.get(value, FULL)
        picked = any(selecting_answer(use) is not None for use in value.consumers)
        return FULL if picked and any(item in self.narrowable for item in carrier_outputs(value)) else DEAD

    def _is_handed_out(self, value: Value) -> bool:
        """Return whether a value is an input or output of the model, itself or through carriers.

        A value that would become empty stays unchanged.
        """
        if not self.domain.cuts or not self.narrowable:
            return False
        ends = [value, *carrier_outputs(value)]
        return any(end.is_graph_output and end in self.narrowable for end in ends) or value in self.narrowable

    def _is_fixed_input(self, value: Value) -> bool:
        """Return whether a value is an input that must not be narrowed."""
        # No node makes it and no dense tensor holds it: an input, or a tensor that is stored as sparse.
        fed = value.producer is None and not value.holds_tensor
        return self.domain.cuts and fed and value not in self.narrowable

    def _is_fixed_output(self, value: Value) -> bool:
        """Return whether a value is an output that must not be narrowed."""
        if not self.domain.cuts or not value.is_graph_output or value in self.narrowable:
            return False
        # An output of an `If` branch may become a graph output that may be narrowed.
        output = outlet(value)
        return output is None or not leads_out(output, self.narrowable)

    def _edge_demand(self, use: Use) -> Live | None:
        """Return a consumer's demand, None for none."""
        known = self.result.edges.get((use.node.index, use.input_index))
        if known is not None:
            return known
        if not self.domain.cuts or observes(use, self.result) or only_passed_on(use.node, self.narrowable):
            return None
        answer = selecting_answer(use)
        return FULL if answer is None else answer.inputs.get(use.input_index, FULL)

    def _look_through_views(self, value: Value) -> None:
        """Visit views of a value that only lead to picks, which need less than all of it."""
        producer = value.producer
        if not self.domain.cuts or producer is None or value.is_constant or self.looking == _MAX_VIEWS:
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


def _is_view(node: Node) -> bool:
    """Return whether a node only re-arranges its first input, by constants alone."""
    return node in VIEWS and all(other is None or other.is_constant for other in node.inputs[1:])
