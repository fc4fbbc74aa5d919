"""The way of a router's scores through the graph: from its linear layer to the weights of the experts it chooses.

Two things travel forward. *Scores* have an axis with a position per expert: logits, probabilities, one-hot
masks. *Numbers* are integers that name experts: what a TopK over that axis outputs. Where scores of different
experts meet (a Softmax, a TopK, a sum) and where numbers pick from an axis of experts, the removal of an
expert makes that axis shorter, and the operators compute the same of what is left: an expert with the score
minus infinity is never chosen and weighs nothing. All other inputs follow through the rules of the operators.
An operator that may do anything else with scores or numbers ends the walk with its reason.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from onnxheadprune.attention.sites.routing import (
    COUNTED,
    Meeting,
    Picks,
    Routing,
    compared,
    compared_with_one,
    one_hot,
    ranked,
)
from onnxheadprune.attention.sites.routing_values import (
    MATRIX,
    NEVER,
    NOTHING,
    PICKS,
    ExpertScores,
    Part,
    axis_of,
    behind,
    in_order,
    is_moved,
    number_behind,
    onward,
    picked_apart,
)
from onnxheadprune.liveness.consumers import looks_only, sizes_only
from onnxheadprune.liveness.domain import MASKS
from onnxheadprune.liveness.index_notation import Notation, contraction_of
from onnxheadprune.liveness.layouts import EXPERTS, mixture_of
from onnxheadprune.liveness.live import FULL, Live
from onnxheadprune.liveness.refusals import Reason, Refusal
from onnxheadprune.liveness.rule_calls import ask
from onnxheadprune.model.graph.operator import (
    DECIDED_BY_LARGEST,
    REDUCES,
    WEIGHS,
    WRITES_INTO,
    Choice,
    is_a,
)
from onnxheadprune.model.graph.reductions import reduced_axes
from onnxheadprune.model.graph.scalars import uniform
from onnxheadprune.model.graph.view import Node, Value


def routing_of(router: Node, live: Live, experts: int) -> Routing:
    """Follow the scores that a linear layer computes."""
    found = _Walk(Routing(router, live, experts)).run()
    # Where an expert has several scores, no single one of them sends tokens to it.
    return found if in_order(live, experts) else replace(found, picks=[])


class _Walk:
    def __init__(self, found: Routing) -> None:
        self.found = found
        self.scores: dict[Value, ExpertScores] = {}
        self.numbers: set[Value] = set()
        self.parts: dict[Value, Part] = {}
        self.bounds: list[Picks] = []
        self.heap: list[tuple[int, Node]] = []
        self.queued: set[int] = set()

    def run(self) -> Routing:
        self._score(self.found.router.out, ExpertScores(self.found.live, NEVER))
        while self.heap:
            node = heapq.heappop(self.heap)[1]
            refusal = self._step(node)
            if refusal is not None:
                self.found.stop = self.found.stop or refusal
        if not self.found.picks and self.bounds:
            # Nothing reads numbers: scores are compared with that of the last one chosen.
            self.found.picks.append(self.bounds[0])
            self.found.chosen = self.bounds[0].highest
        return self.found

    def _score(self, value: Value | None, scores: ExpertScores) -> None:
        if value is not None:
            self.scores[value] = scores
            self.found.scored.add(value)
            self._reach(value, "scores")

    def _number(self, value: Value | None) -> None:
        if value is not None:
            self.numbers.add(value)
            self._reach(value, "numbers")

    def _part(self, value: Value | None, part: Part) -> None:
        if value is not None:
            self.parts[value] = part
            self.found.scored.add(value)
            self._reach(value, "what one of the experts gives, instead")

    def _reach(self, value: Value, what: str) -> None:
        if value.is_graph_output:
            self.found.stop = self.found.stop or Refusal(
                Reason.INEXPRESSIBLE,
                self.found.router.label,
                value.name,
                f"{value.name} hands out {what} of experts",
            )
        for use in value.consumers:
            if not sizes_only(use) and use.node.index not in self.queued:
                self.queued.add(use.node.index)
                heapq.heappush(self.heap, (use.node.index, use.node))

    def _step(self, node: Node) -> Refusal | None:
        """Follow scores and numbers through a node; a refusal where that is not known."""
        inputs = list(enumerate(node.inputs))
        scored = {index: self.scores[value] for index, value in inputs if value in self.scores}
        named = [index for index, value in inputs if value in self.numbers]
        parts = {index: self.parts[value] for index, value in inputs if value in self.parts}
        if parts:
            return self._of_one_expert(node, parts, bool(scored or named))
        if mixture_of(node) is not None:
            return self._operator(node, scored, named)
        if named:
            return self._named(node, scored, named)
        index, scores = next(iter(scored.items()))
        choice = node.choice
        if choice is not None and index == 0:
            return self._choice(node, scores, choice)
        if node in WEIGHS and index == 0:
            return self._weighed(node, scores)
        if node in REDUCES and index == 0:
            return self._reduced(node, scores)
        apart = picked_apart(node, scores) if index == 0 else None
        if apart:
            for value, expert in apart.items():
                self._part(value, Part(frozenset([expert])))
            return None
        shape = node.shape(0) or ()
        if node in PICKS and index == 0 and shape and axis_of(node, len(shape)) in scores.live.axes:
            return self._refused(node, "picks scores by numbers that are none of this router's choice")
        if node in WRITES_INTO and self._added_up(node, scored):
            return None
        if is_a(node, "NonZero"):
            return self._refused(
                node,
                "lists the experts that any token is sent to, and what follows depends on how many these are",
            )
        if contraction_of(node) is not None:
            return self._product(node, scored)
        return self._carry(node, scored)

    def _of_one_expert(self, node: Node, parts: Mapping[int, Part], mixed: bool) -> Refusal | None:
        """A node that reads what belongs to one expert."""
        made = None if mixed else onward(node, parts)
        if made is None and not mixed and self._side_by_side(node, parts):
            return None
        if made is None or (made[1] and node.out.is_graph_output):
            return self._refused(node, "reads what one expert gives in a way that no rule knows")
        part, ends = made
        self.found.ends += ends
        if part is not None and len(part.experts) < self.found.experts:
            for value in node.outputs:
                self._part(value, part)
        return None

    def _side_by_side(self, node: Node, parts: Mapping[int, Part]) -> bool:
        """Follow what single experts give where it is joined: along that axis experts lie again."""
        shape = node.out.shape
        if not is_a(node, "Concat") or not shape or len(parts) < len(node.inputs):
            return False
        axis, labels = axis_of(node, len(shape)), list[int]()
        for index, part in parts.items():
            size = (node.shape(index) or (None,) * len(shape))[axis]
            if not isinstance(size, int) or len(part.experts) > 1 or part.rows or part.out != NOTHING:
                return False
            labels += [*part.experts] * size
        self._score(node.out, ExpertScores(Live.over((axis,), np.asarray(labels) + 1), NOTHING))
        return True

    def _refused(self, node: Node, why: str) -> Refusal:
        return Refusal(Reason.INEXPRESSIBLE, node.label, node.out.name, f"{node.label} {why}")

    def _meet(self, node: Node, index: int, live: Live, chooses: bool = False, moved: bool = False) -> None:
        self.found.meetings.append(Meeting(node, index, live, chooses, moved))

    def _choice(self, node: Node, scores: ExpertScores, choice: Choice) -> Refusal | None:
        """A TopK or an ArgMax: with experts on its axis, it outputs their numbers."""
        axis, chosen = choice.axis, choice.count
        if axis not in scores.live.axes:
            return self._carry(node, {0: scores})
        if not choice.highest:
            return self._refused(node, "chooses the lowest scores")
        if chosen is None:
            return self._refused(node, "chooses a number of experts that is computed when the model runs")
        self._meet(node, 0, scores.live, chooses=True, moved=scores.out is None)
        numbers, is_whole = node.outputs[-1], in_order(scores.live, self.found.experts)
        ranks = [_ranks(value, axis, chosen) for value in node.outputs if value is not None and value.is_read]
        if is_whole and max(ranks, default=0) < chosen and node.input(COUNTED) is not None:
            self.found.numbers.append(ranked(node, chosen, self.found.experts))
            chosen = max(ranks, default=1)
        self.found.least.append((scores.live, axis, chosen))
        if numbers is None or not numbers.is_read:
            if is_whole and node.inputs[0] is not None:
                self.bounds.append(Picks(node.inputs[0], axis, chosen))
            return None
        if not is_whole:
            return self._refused(node, "numbers experts within groups")
        self.found.chosen += _ranks(numbers, axis, chosen)
        self.found.picks.append(Picks(numbers, axis))
        self._number(numbers)
        return None

    def _weighed(self, node: Node, scores: ExpertScores) -> Refusal | None:
        """A Softmax over experts: one that is out weighs nothing."""
        rank = len(node.out.shape or ())
        first = node.attribute("axis", -1 if node.opset >= 13 else 1) % max(rank, 1)
        mixed = {first} if node.opset >= 13 else set(range(first, rank))
        if mixed.isdisjoint(scores.live.axes):
            return self._carry(node, {0: scores})
        if not mixed.issuperset(scores.live.axes):
            return self._refused(node, "compares the scores of experts of one group")
        self._meet(node, 0, scores.live, chooses=True, moved=scores.out is None)
        self._pass(node, scores.live, {0: scores.live})
        self._score(node.out, ExpertScores(scores.live, NOTHING if is_a(node, "Softmax") else None))
        return None

    def _pass(self, node: Node, live: Live, inputs: Mapping[int, Live]) -> None:
        self.found.through[node] = (live, inputs)

    def _reduced(self, node: Node, scores: ExpertScores) -> Refusal | None:
        """A reduction over experts: the largest score, or a sum in which one that is out adds nothing."""
        reduced = reduced_axes(node)
        if reduced is None:
            return self._refused(node, "reduces axes that are not known")
        if set(scores.live.axes).isdisjoint(reduced):
            return self._carry(node, {0: scores})
        largest = node in DECIDED_BY_LARGEST
        if not largest and not (is_a(node, "ReduceSum", "ReduceL1") and scores.out == NOTHING):
            return self._refused(
                node, "reduces the scores of all experts to a number that each has a part in"
            )
        self._meet(node, 0, scores.live, chooses=largest, moved=scores.out is None)
        return None

    def _product(self, node: Node, scored: Mapping[int, ExpertScores]) -> Refusal | None:
        """A product of matrices: a sum over experts in which one that is out adds nothing."""
        product = contraction_of(node)
        if product is None or not all(index in product.indices for index in scored):
            return self._refused(node, "reads scores of experts in a way that no rule knows")
        numbers = {index: item.out for index, item in scored.items()}
        for index, scores in scored.items():
            letters = [product.axes_of(index)[axis] for axis in scores.live.axes]
            if not all(letter in product.contracted for letter in letters):
                outside = [product.out_axes.index(letter) for letter in letters if letter in product.out_axes]
                if len(outside) != len(letters):
                    return self._refused(node, "sums scores of a part of the experts")
                live = scores.live.renumbered(dict(zip(scores.live.axes, outside, strict=True)))
                self._score(node.out, ExpertScores(live, number_behind(node, numbers)))
                continue
            if not self._sums_nothing(product, scored, letters):
                return self._refused(node, "sums scores that are not zero where an expert is out")
            for other in product.indices:
                own = product.axes_of(other)
                if not any(letter in own for letter in letters):
                    continue  # a third operand without the experts' axis
                if not all(letter in own for letter in letters):
                    return self._refused(node, "sums scores of a part of the experts")
                axes = [own.index(letter) for letter in letters]
                sizes = [(node.shape(other) or ())[axis] for axis in axes]
                if tuple(sizes) != scores.live.array.shape:
                    return self._refused(
                        node, "sums scores with weights that are packed in blocks of experts"
                    )
                live = scores.live.renumbered(dict(zip(scores.live.axes, axes, strict=True)))
                self._meet(node, other, live)
        return None

    def _sums_nothing(
        self, product: Notation, scored: Mapping[int, ExpertScores], letters: Sequence[str | None]
    ) -> bool:
        """Return whether one of the operands with these axes, whose positions are the same experts, is zero there."""
        along = {
            index: [product.axes_of(index)[axis] for axis in item.live.axes] for index, item in scored.items()
        }
        same = [scored[index] for index, own in along.items() if own == letters]
        alike = all(np.array_equal(item.live.array, same[0].live.array) for item in same)
        return alike and any(item.out == NOTHING for item in same)

    def _carry(self, node: Node, scored: Mapping[int, ExpertScores]) -> Refusal | None:
        """An operator that leaves the axis of experts as it is, as its rule proves."""
        found = [behind(node, index, scores.live) for index, scores in scored.items()]
        live = found[0]
        if live is None or any(other != live for other in found):
            return self._refused(node, "reads scores of experts in a way that no rule knows")
        out = number_behind(node, {index: item.out for index, item in scored.items()})
        numbers = node.outputs[-1] if node.choice is not None else None
        for value in node.outputs:
            self._score(value, ExpertScores(live, None if value is numbers else out))
        return None

    def _operator(
        self, node: Node, scored: Mapping[int, ExpertScores], named: Sequence[int]
    ) -> Refusal | None:
        """A mixture in one operator: it chooses, and holds all experts along the first axis of what is stored."""
        layout = mixture_of(node)
        assert layout is not None
        last = len(node.shape(layout.read[1]) or ()) - 1
        reads = set(layout.read[1:])
        if named or set(scored) != reads or any(item.live.axes != (last,) for item in scored.values()):
            return self._refused(node, "reads something else than the scores of its experts")
        stored = [i for i, value in enumerate(node.inputs) if value is not None and i not in layout.read]
        if any((node.shape(index) or [None])[EXPERTS] != self.found.experts for index in stored):
            return self._refused(node, "has inputs that are not stored by expert")
        for index, scores in scored.items():
            self._meet(node, index, scores.live, chooses=True, moved=scores.out is None)
        live = Live.numbered(EXPERTS, self.found.experts)
        for index in stored:
            self._meet(node, index, live)
        chosen_by = node.inputs[layout.read[1]]
        assert chosen_by is not None
        self.found.picks.append(Picks(chosen_by, last, layout.chosen))
        self.found.chosen += layout.chosen
        self.found.least.append((live, EXPERTS, layout.chosen))
        self.found.picked.append(node)
        return None

    def _added_up(self, node: Node, scored: Mapping[int, ExpertScores]) -> bool:
        """Values of experts that are added at places which belong to the same experts: a sum over these."""
        is_sum = node.attribute("reduction", b"none") in (b"add", "add")
        if not is_sum or scored.keys() != {1, 2} or scored[2].out != NOTHING:
            return False
        if scored[1].live != scored[2].live:
            return False
        for index, item in scored.items():
            self._meet(node, index, item.live)
        return True

    def _named(self, node: Node, scored: Mapping[int, ExpertScores], named: Sequence[int]) -> Refusal | None:
        """A node that reads numbers of experts."""
        if not scored and is_moved(node, named):
            self._narrow(node)
            for value in node.outputs:
                self._number(value)
            return None
        if node in PICKS and list(named) == [1]:
            return self._picked(node, scored)
        if node in WRITES_INTO and 1 in node.roles.rows and list(named) == [1]:
            return self._written(node, scored)
        hot = one_hot(node, self.found.experts) if not scored else None
        if hot is None and not scored and len(named) == 1:
            hot = compared(node, named[0], self.found.experts)
            single = compared_with_one(node, named[0], self.found.experts)
            if single is not None:
                self.found.numbers.append(single[0])
                self._part(node.out, Part(frozenset([single[1]])))
                return None
        if hot is None:
            return self._refused(node, "reads the numbers of experts in a way that no rule knows")
        numbers, scores = hot
        self.found.numbers.append(numbers)
        self._pass(node, scores.live, {})
        self._score(node.out, scores)
        return None

    def _narrow(self, node: Node) -> None:
        """Count only those of the chosen that a slice leaves, where nothing else reads the others."""
        for place, item in enumerate(self.found.picks):
            if not is_a(node, "Slice") or item.value is not node.inputs[0] or len(item.value.consumers) > 1:
                continue
            before, after = (value.shape and value.shape[item.axis] for value in (item.value, node.out))
            if isinstance(before, int) and isinstance(after, int):
                self.found.picks[place] = replace(item, value=node.out)

    def _picked(self, node: Node, scored: Mapping[int, ExpertScores]) -> Refusal | None:
        """Numbers that pick from an axis of experts: of stored weights, or of scores."""
        shape = node.shape(0)
        axis = axis_of(node, len(shape or (0,)))
        if is_a(node, "GatherND") and ((node.shape(1) or (0,))[-1] != 1 or node.attribute("batch_dims", 0)):
            return self._refused(node, "picks by the numbers of experts and others at once")
        experts = self.found.experts
        if not shape or shape[axis] != experts or (scored and scored[0].live.axes != (axis,)):
            return self._refused(node, "picks by the numbers of experts from something else than experts")
        self._meet(node, 0, Live.numbered(axis, experts))
        if not scored and len(shape) > MATRIX:
            self.found.picked.append(node)
        return None

    def _written(self, node: Node, scored: Mapping[int, ExpertScores]) -> Refusal | None:
        """Numbers that say where something is written: the weights of the chosen, beside nothing for all others."""
        shape = node.shape(0)
        axis = axis_of(node, len(shape or (0,)))
        fits = bool(shape) and (shape or ())[axis] == self.found.experts and 2 not in scored
        live = Live.numbered(axis, self.found.experts)
        if not fits or (scored and scored[0].live != live):
            return self._refused(node, "writes by the numbers of experts into something else than experts")
        self._pass(node, live, {0: live})
        out = scored[0].out if scored else uniform(node.input(0))
        self._score(node.out, ExpertScores(live, out))
        return None


def _ranks(value: Value, axis: int, listed: int) -> int:
    """The number of listed experts that are read, from the best one on."""
    most = 0
    for use in value.consumers:
        answer = ask(use.node, [FULL for _ in use.node.outputs], MASKS)
        if not looks_only(use):
            read = FULL if isinstance(answer, Refusal) else answer.inputs.get(use.input_index, FULL)
            read = read.only([axis])
            places = np.flatnonzero(read.mask) if read.axes else np.arange(listed)
            most = max(most, int(places.max(initial=-1)) + 1)
    return listed if value.is_graph_output else most
