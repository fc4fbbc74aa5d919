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
from typing import Final

import numpy as np
from onnx import TensorProto

from onnxheadprune.attention.sites.routing import (
    End,
    ExpertScores,
    Meeting,
    Part,
    Picks,
    Routing,
    compared,
    one_hot,
)
from onnxheadprune.attention.sites.zeros import (
    EMPTY,
    NEVER,
    NOTHING,
    PICKS,
    follows,
    kept_by,
    number_behind,
)
from onnxheadprune.liveness.carriers import labels_behind
from onnxheadprune.liveness.consumers import sizes_only
from onnxheadprune.liveness.domain import MASKS
from onnxheadprune.liveness.index_notation import contraction_of
from onnxheadprune.liveness.layouts import EXPERTS, mixture_of
from onnxheadprune.liveness.live import DEAD, FULL, Live
from onnxheadprune.liveness.refusals import Reason, Refusal
from onnxheadprune.liveness.rule_calls import ask
from onnxheadprune.model.graph.elements import uniform
from onnxheadprune.model.graph.operator import (
    DECIDED_BY_LARGEST,
    REDUCES,
    VIEWS,
    WEIGHS,
    WRITES_INTO,
    Choice,
    is_a,
    kind,
)
from onnxheadprune.model.graph.view import Node, Value

INTEGERS = (TensorProto.INT32, TensorProto.INT64)
MOVES: Final = VIEWS | kind("Flatten", "Cast", "Expand", "Tile", "Slice", "Split", "Concat")
"""Operators after which numbers of experts are the same numbers."""
MATRIX = 2
"""Axes of a matrix; experts of matrices have one more."""


def routing_of(router: Node, live: Live, experts: int) -> Routing:
    """Follow the scores that a linear layer computes."""
    return _Walk(Routing(router, live, experts)).run()


class _Walk:
    def __init__(self, found: Routing) -> None:
        self.found = found
        # What each value is: scores, a value of one expert, or, where it is None, numbers of experts.
        self.known: dict[Value, ExpertScores | Part | None] = {}
        self.bounds: list[Picks] = []
        self.heap: list[tuple[int, Node]] = []
        self.queued: set[int] = set()

    def run(self) -> Routing:
        found = self.found
        self._reach(found.router.out, ExpertScores(found.live, NEVER))
        while self.heap:
            refusal = self._step(heapq.heappop(self.heap)[1])
            found.stop = found.stop or refusal
        found.scored = {value for value, what in self.known.items() if what is not None}
        # Where nothing reads numbers, scores are compared with that of the last one chosen.
        found.picks = found.picks or self.bounds[:1]
        found.chosen = sum(item.chosen for item in found.picks)
        if not _in_order(found.live, found.experts):
            # Where an expert has several scores, no single one of them sends tokens to it.
            found.picks = []
        return found

    def _reach(self, value: Value | None, what: ExpertScores | Part | None) -> None:
        """Follow a value that is read, or refuse an output."""
        if value is None:
            return
        self.known[value] = what
        if value.is_graph_output:
            numbers = "scores" if isinstance(what, ExpertScores) else "numbers"
            shown = "values of one of the experts" if isinstance(what, Part) else f"{numbers} of experts"
            told = f"{value.name} is a graph output with {shown}"
            label = self.found.router.label
            self.found.stop = self.found.stop or Refusal(Reason.INEXPRESSIBLE, label, value.name, told)
        for use in value.consumers:
            if not sizes_only(use) and use.node.index not in self.queued:
                self.queued.add(use.node.index)
                heapq.heappush(self.heap, (use.node.index, use.node))

    def _step(self, node: Node) -> Refusal | None:
        """Follow scores and numbers through a node; a refusal where that is not known."""
        read = {index: self.known[value] for index, value in enumerate(node.inputs) if value in self.known}
        scored = {index: what for index, what in read.items() if isinstance(what, ExpertScores)}
        parts = {index: what for index, what in read.items() if isinstance(what, Part)}
        named = [index for index, what in read.items() if what is None]
        if parts:
            return self._of_one_expert(node, parts, len(parts) < len(read))
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
        apart = _picked_apart(node, scores) if index == 0 else None
        if apart:
            for value, expert in apart.items():
                self._reach(value, Part(frozenset([expert])))
            return None
        places = node.literal(1) if is_a(node, "Gather") and index == 0 else None
        if places is not None and places.ndim == 1:
            axis = _axis_of(node, len(node.shape(0) or ()))
            if scores.live.axes == (axis,):
                # A cut leaves it behind scores that are written for more numbers than there are experts.
                self._reach(node.out, ExpertScores(Live.over((axis,), scores.live.array[places]), scores.out))
                return None
        if node in WRITES_INTO and self._added_up(node, scored):
            return None
        if contraction_of(node) is not None:
            return self._product(node, scored)
        return self._carry(node, scored)

    def _of_one_expert(self, node: Node, parts: Mapping[int, Part], mixed: bool) -> Refusal | None:
        """A node that reads what belongs to one expert, or adds what several output."""
        known = {index: part.out for index, part in parts.items()}
        sets = {part.experts for part in parts.values()}
        kept = {sets.pop(): kept_by(node, known)} if len(sets) == 1 else _summed(node, parts)
        refusal = self._refused(node, "reads what one expert gives in a way that no rule knows")
        if mixed or node.choice is not None or (any(kept.values()) and node.out.is_graph_output):
            return refusal
        if not kept:
            return None if self._side_by_side(node, parts) else refusal
        for experts, value in kept.items():
            if value is not None:
                indices = tuple(index for index, part in parts.items() if part.experts == experts)
                self.found.ends.append(End(experts, node, indices, value))
        every = frozenset[int]().union(*kept)
        if len(every) == self.found.experts or (len(kept) == 1 and any(kept.values())):
            return None
        out = number_behind(node, known)
        if out is None and (EMPTY in known.values() or not follows(node, known)):
            return refusal
        for output in node.outputs:
            self._reach(output, Part(every, out))
        return None

    def _side_by_side(self, node: Node, parts: Mapping[int, Part]) -> bool:
        """Follow what single experts give where it is joined: along that axis experts lie again."""
        shape = node.out.shape
        if not is_a(node, "Concat") or not shape or len(parts) < len(node.inputs):
            return False
        axis, labels = _axis_of(node, len(shape)), list[int]()
        for index, part in parts.items():
            size = (node.shape(index) or (None,) * len(shape))[axis]
            if not isinstance(size, int) or len(part.experts) > 1 or part.out != NOTHING:
                return False
            labels += [*part.experts] * size
        self._reach(node.out, ExpertScores(Live.over((axis,), np.asarray(labels) + 1), NOTHING))
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
        self.found.least.append((scores.live, axis, chosen))
        numbers, is_whole = node.outputs[-1], _in_order(scores.live, self.found.experts)
        if numbers is None or not numbers.is_read:
            if is_whole and node.inputs[0] is not None:
                self.bounds.append(Picks(node.inputs[0], axis, chosen, by_score=True))
            return None
        if not is_whole:
            return self._refused(node, "numbers experts within groups")
        self.found.picks.append(Picks(numbers, axis, chosen))
        self._reach(numbers, None)
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
        self._reach(node.out, ExpertScores(scores.live, NOTHING if is_a(node, "Softmax") else None))
        return None

    def _pass(self, node: Node, live: Live, inputs: Mapping[int, Live]) -> None:
        self.found.through[node] = (live, inputs)

    def _reduced(self, node: Node, scores: ExpertScores) -> Refusal | None:
        """A reduction over experts: the largest score, or a sum in which one that is out adds nothing."""
        reduced = node.reduced_axes
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
        product, (first, scores) = contraction_of(node), min(scored.items(), key=lambda item: item[0])
        if product is None or not all(index in product.indices for index in scored):
            return self._refused(node, "reads scores of experts in a way that no rule knows")
        letters = [product.axes_of(first)[axis] for axis in scores.live.axes]
        if product.contracted.isdisjoint(letters):
            return self._carry(node, scored)
        if all(item.out != NOTHING for item in scored.values()):
            return self._refused(node, "sums scores that are not zero where an expert is out")
        for index in product.indices:
            own, shape = product.axes_of(index), node.shape(index) or ()
            axes = [own.index(letter) for letter in letters if letter in own]
            if len(axes) < len(letters) or not product.contracted.issuperset(letters):
                return self._refused(node, "sums scores of a part of the experts")
            live = scores.live.renumbered(dict(zip(scores.live.axes, axes, strict=True)))
            alike = index not in scored or scored[index].live == live
            if not alike or [shape[axis] for axis in axes] != [*scores.live.array.shape]:
                return self._refused(node, "sums scores with weights that are packed in blocks of experts")
            self._meet(node, index, live)
        return None

    def _carry(self, node: Node, scored: Mapping[int, ExpertScores]) -> Refusal | None:
        """An operator that leaves the axis of experts as it is, as its rule proves."""
        found = [labels_behind(node, index, scores.live) for index, scores in scored.items()]
        live = found[0]
        if live is None or any(other != live for other in found):
            return self._refused(node, "reads scores of experts in a way that no rule knows")
        out = number_behind(node, {index: item.out for index, item in scored.items()})
        numbers = node.outputs[-1] if node.choice is not None else None
        for value in node.outputs:
            self._reach(value, ExpertScores(live, None if value is numbers else out))
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
        self.found.picks.append(Picks(chosen_by, last, layout.chosen, by_score=True))
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
        if not scored and _is_moved(node, named):
            self._narrow(node)
            for value in node.outputs:
                self._reach(value, None)
            return None
        if node in PICKS and named == [1]:
            return self._picked(node, scored)
        if node in WRITES_INTO and 1 in node.roles.rows and named == [1]:
            return self._written(node, scored)
        experts = self.found.experts
        hot = None if scored else one_hot(node, experts) or compared(node, named[0], experts)
        if hot is None or len(named) > 1:
            return self._refused(node, "reads the numbers of experts in a way that no rule knows")
        self.found.numbers.append(hot[0])
        if isinstance(hot[1], ExpertScores):
            self._pass(node, hot[1].live, {})
        self._reach(node.out, hot[1])
        return None

    def _narrow(self, node: Node) -> None:
        """Count only those of the chosen that a slice leaves, where nothing else reads the others."""
        for place, item in enumerate(self.found.picks):
            if not is_a(node, "Slice") or item.value is not node.inputs[0] or len(item.value.consumers) > 1:
                continue
            after = node.out.shape and node.out.shape[item.axis]
            if isinstance(after, int):
                chosen = min(item.chosen, after)
                self.found.picks[place] = replace(item, value=node.out, chosen=chosen)

    def _picked(self, node: Node, scored: Mapping[int, ExpertScores]) -> Refusal | None:
        """Numbers that pick from an axis of experts: of stored weights, or of scores."""
        shape = node.shape(0)
        axis = _axis_of(node, len(shape or (0,)))
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
        axis = _axis_of(node, len(shape or (0,)))
        fits = bool(shape) and (shape or ())[axis] == self.found.experts and 2 not in scored
        live = Live.numbered(axis, self.found.experts)
        if not fits or (scored and scored[0].live != live):
            return self._refused(node, "writes by the numbers of experts into something else than experts")
        self._pass(node, live, {0: live})
        out = scored[0].out if scored else uniform(node.input(0))
        self._reach(node.out, ExpertScores(live, out))
        return None


def _summed(node: Node, parts: Mapping[int, Part]) -> dict[frozenset[int], Value | None]:
    """Return, for each operand of a sum that holds outputs of experts, the other operand; empty for other nodes."""
    alike = all(value is not None and value.shape == node.out.shape for value in node.inputs)
    if not is_a(node, "Add") or not alike or any(part.out != NOTHING for part in parts.values()):
        return {}
    return {part.experts: node.inputs[1 - index] for index, part in parts.items()}


def _axis_of(node: Node, rank: int) -> int:
    """The axis that a node works along."""
    return int(node.attribute("axis", 0)) % max(rank, 1)


def _in_order(live: Live, experts: int) -> bool:
    """Return whether positions are numbered as experts are."""
    return np.array_equal(live.array, np.arange(1, experts + 1))


def _is_moved(node: Node, named: Sequence[int]) -> bool:
    """Return whether numbers of experts are the same numbers after a node that reads them at some inputs."""
    if node not in MOVES:
        return False
    if is_a(node, "Cast") and node.out.elem_type not in INTEGERS:
        return False
    return len(named) == len(node.inputs) if is_a(node, "Concat") else named == [0]


def _picked_apart(node: Node, scores: ExpertScores) -> dict[Value, int] | None:
    """The outputs of a node that picks from an axis of experts, each with its only expert; None if that is not so."""
    if not is_a(node, "Gather", "Slice", "Split") or scores.out != NOTHING or len(scores.live.axes) != 1:
        return None
    (axis,), found = scores.live.axes, dict[Value, int]()
    for value in node.outputs:
        if value is None or not value.is_read:
            continue
        answer = ask(node, [FULL if other is value else DEAD for other in node.outputs], MASKS)
        picked = None if isinstance(answer, Refusal) else answer.inputs.get(0, FULL)
        if picked is None or picked.axes != (axis,):
            return None
        labels = scores.live.array[picked.mask]
        if len(labels) != 1:
            return None
        found[value] = int(labels[0]) - 1
    return found
