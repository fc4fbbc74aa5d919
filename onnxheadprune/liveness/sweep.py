"""The reverse sweep: from positions that projections no longer read to everything unused upstream.

Nodes are visited in reverse topological order, each once, and only those that liveness reaches. A value
keeps the union of what its consumers ask for; a consumer that was never visited asks for all of it.

Positions that nobody reads in the original need not be cut from a value that loses heads: a relative shift cuts
positions out of scores whose rows it has folded anew; those it keeps, the heads it need not.

A sweep computes the least demands. It is completed then (`settle`): where a value keeps more for one reader, others
that pick from it (a Slice, a Gather) need no extra gather, and views and caches that only carry it keep the same.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from operator import or_

from onnxheadprune.errors import RefusedError
from onnxheadprune.liveness.answers import Answer
from onnxheadprune.liveness.carriers import (
    LOOKED_THROUGH,
    carried,
    carrier_outputs,
    leads_out,
    only_passed_on,
    outlet,
    passes_on,
)
from onnxheadprune.liveness.consumers import content_uses, looks_only, selecting_answer
from onnxheadprune.liveness.domain import MASKS, Domain
from onnxheadprune.liveness.live import DEAD, FULL, Live
from onnxheadprune.liveness.refusals import Refusal
from onnxheadprune.liveness.rule_calls import ask
from onnxheadprune.liveness.sweep_result import Seed, Sweep, observes
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


def beside_unread(value: Value, live: Live) -> Live:
    """`live` without the axes along which it only omits positions that are unread in the original.

    Args:
        live: the demand of its readers once heads are removed, as a mask.
    """
    if not live.axes or _is_shared_view(value):
        # Views of a packed value each read a part: what one of them leaves out, another one reads.
        return live
    read = read_of(value)
    for axis in read.axes:
        wider = live.only([other for other in live.axes if other != axis])
        if axis in live.axes and wider & read == live & read and wider.dense_shape() is not None:
            live = wider
    return live


def read_of(value: Value) -> Live:
    """Return the part of a value that consumers read in the original."""
    total: Live = DEAD
    for use in value.consumers:
        if looks_only(use):
            continue
        answer = selecting_answer(use)
        picked = FULL if answer is None else answer.inputs.get(use.input_index, FULL)
        if picked.is_full:
            return FULL
        total = total | picked
    return total


def _is_shared_view(value: Value) -> bool:
    """Return whether a value is a view of a value with other readers."""
    for _ in range(_MAX_VIEWS):
        node = value.producer
        if node is None or node not in LOOKED_THROUGH or node.inputs[0] is None:
            return False
        value = node.inputs[0]
        if len(content_uses(value)) > 1:
            return True
    return False


_MAX_RELAXED = 4
"""Views in a row that keep more."""


RelaxedViews = dict[Node, tuple[Live, Live, Answer]]
"""Per view: what it now reads, what it now hands on, and its answer to that."""


def _relaxed(
    node: Node, have: Live, picking: Callable[[Use], Answer | None], hops: int = _MAX_RELAXED
) -> RelaxedViews | None:
    """The views from `node` on that can take all of `have`; None if some reader after them cannot pick from that.

    Queries, keys and values are often views of one packed value (`Transpose`, then `Gather` number 1 of 3). Asked for
    precisely, each view would need a gather of its own, although the picking node can move its indices instead.
    """
    if hops == 0 or node not in LOOKED_THROUGH or node.out.is_graph_output:
        return None
    through = FULL if have.is_full else carried(node, have)
    if through is None:
        return None
    answer = ask(node, [through], MASKS)
    if isinstance(answer, Refusal) or answer.inputs.get(0) != have:
        return None
    found: RelaxedViews = {node: (have, through, answer)}
    for use in node.out.consumers:
        if looks_only(use):
            continue
        chosen = picking(use)
        if chosen is not None and chosen.accepts(through):
            continue
        behind = _relaxed(use.node, through, picking, hops - 1) if use.input_index == 0 else None
        if behind is None:
            return None
        found |= behind
    return found


def settle(result: Sweep, narrowable: frozenset[Value]) -> None:
    """Complete the result of a mask sweep."""
    for value in result.reached:
        if value.holds_tensor:
            _leave_unread(result, value)
    _relax(result)
    for value, live in list(result.narrowed()):
        _pass_on(result, narrowable, value, live)


def _leave_unread(result: Sweep, value: Value) -> None:
    """A stored tensor is cut to what its readers ask for: that is all but heads where they can pick from it."""
    kept = result.kept[value]
    edges = {use: result.edge(use) for use in content_uses(value)}
    asked = reduce(or_, edges.values(), DEAD)
    if kept == asked.as_mask().dense_closure():
        return
    picking = {use: answer for use in edges if (answer := _picking(result, use)) is not None}
    if len(picking) == len(edges) and all(answer.accepts(kept) for answer in picking.values()):
        result.edges |= {(use.node.index, use.input_index): kept for use in edges}
        # What picks from another part of it, without losing any, is moved as well.
        result.answers |= {use.node: answer for use, answer in picking.items()}
        sites = frozenset[str]().union(*(result.asked.get(use.node, frozenset()) for use in edges))
        result.asked |= {use.node: result.asked.get(use.node, sites) for use in edges}


def _relax(result: Sweep) -> None:
    """Let views of shared values keep the same parts, where all their readers can pick from it."""
    for node in sorted(result.answers, key=lambda node: node.index):
        value = node.inputs[0] if node.inputs and node in LOOKED_THROUGH else None
        if value is None or value.holds_tensor:
            continue
        have = result.kept.get(value, FULL)
        if result.edges.get((node.index, 0), FULL) in (have, DEAD):
            continue
        views = _relaxed(node, have, lambda use: _picking(result, use))
        for view, (reads, hands_on, answer) in (views or {}).items():
            result.edges[(view.index, 0)] = reads
            result.kept[view.out] = hands_on
            result.answers[view] = answer


def _picking(result: Sweep, use: Use) -> Answer | None:
    """The answer of a node that picks from this input, None for any other."""
    answer = result.answers.get(use.node)
    if answer is None:
        return selecting_answer(use)
    return answer if use.input_index in answer.selects else None


def _pass_on(result: Sweep, narrowable: frozenset[Value], value: Value, live: Live) -> None:
    """Propagate a narrowed value's kept part to the values that only carry it."""
    for use in value.consumers:
        if (use.node.index, use.input_index) in result.edges or not passes_on(use.node):
            continue
        if use.node.out not in result.kept and only_passed_on(use.node, narrowable):
            through = carried(use.node, live)
            if through is not None:
                result.kept[use.node.out] = through
                _pass_on(result, narrowable, use.node.out, through)
    output = outlet(value)
    if output is not None and output not in result.kept and leads_out(output, narrowable):
        result.kept[output] = live
        _pass_on(result, narrowable, output, live)
