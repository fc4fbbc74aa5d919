"""From liveness to edits: the changes that make the graph compute only live elements."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from onnxheadprune.edit.edits import MARK, Edit, SetDim, SetInput, SliceTensor
from onnxheadprune.errors import ModelError, RefusedError
from onnxheadprune.liveness.answers import Answer
from onnxheadprune.liveness.consumers import selecting_answer
from onnxheadprune.liveness.live import FULL, Live
from onnxheadprune.liveness.shapes import freeze_observers
from onnxheadprune.liveness.sweep_result import Sweep, observes
from onnxheadprune.model.graph.operator import is_a
from onnxheadprune.model.graph.view import GraphView, Node, Use, Value
from onnxheadprune.model.tensors import Selection, spell_ranges

NOBODY: frozenset[str] = frozenset()


@dataclass
class Realization:
    """Edits with the sites that caused each, in a deterministic order without repetition."""

    edits: dict[Edit, frozenset[str]] = field(default_factory=dict)

    def add(self, edit: Edit, sites: frozenset[str]) -> None:
        """Add an edit; equal edits are one edit."""
        self.edits[edit] = self.edits.get(edit, NOBODY) | sites


def realize(view: GraphView, sweep: Sweep) -> Realization:
    """All edits for a finished sweep."""
    return _Realizer(view, sweep).run()


class _Realizer:
    def __init__(self, view: GraphView, sweep: Sweep) -> None:
        self.view = view
        self.sweep = sweep
        self.out = Realization()
        self.available: dict[tuple[int, int], Live] = {}

    def run(self) -> Realization:
        for value in sorted(self.sweep.reached, key=_order):
            if value.holds_tensor:
                self._tensor(value)
            else:
                self._computed(value)
        for value, live in sorted(self.sweep.narrowed(), key=lambda pair: _order(pair[0])):
            if value.holds_tensor:
                continue
            sites = self._sites(value)
            for edit in freeze_observers(value, live, self.sweep.kept):
                self.out.add(edit, sites)
            self._declare(value, live, sites)
            if value.producer is not None and not live.is_dead:
                self._branches(value, value.producer, live)
        # After the frozen shapes: a node may stand right after the Shape whose elements its own literals replace.
        for node in sorted(self.sweep.answers, key=lambda node: node.index):
            self._rewrite(node, self.sweep.answers[node])
        return self.out

    def _branches(self, value: Value, node: Node, live: Live) -> None:
        """Narrow the branch outputs of each narrowed output of an `If`."""
        for body in node.bodies.values() if is_a(node, "If") else ():
            inner = body.values.get(body.proto.output[value.output_index].name)
            sites = self.sweep.asked.get(node, NOBODY) | (NOBODY if inner is None else self._sites(inner))
            # Stored data that a branch outputs is whole until it is cut here.
            computed = inner is not None and not inner.holds_tensor
            have = self.sweep.kept.get(inner, FULL) if inner is not None and computed else FULL
            if have == live:
                continue
            if inner is None or (inner.holds_tensor and inner.consumers) or inner.shape is None:
                raise RefusedError(
                    f"a branch of {node.label} outputs more of {value.name} than can be narrowed"
                )
            if inner.holds_tensor:
                self.out.add(SliceTensor(body.ref, inner.name, _select(live, inner), inner.name), sites)
            else:
                from onnxheadprune.liveness.edge_gathers import output_gather

                for edit in output_gather(inner, have, live, self._why(inner)):
                    self.out.add(edit, sites)
            self._declare(inner, live, sites)

    def _sites(self, value: Value) -> frozenset[str]:
        sites: frozenset[str] = frozenset()
        for use in value.consumers:
            sites |= self.sweep.asked.get(use.node, NOBODY)
        return sites

    def _demands(self, value: Value) -> Iterator[tuple[Use, Live, Answer | None]]:
        """Each consumer with its demand, and its answer if it picks elements itself."""
        for use in value.consumers:
            if observes(use, self.sweep):
                continue
            visited = self.sweep.answers.get(use.node)
            if (use.node.index, use.input_index) in self.sweep.edges:
                selects = visited is not None and use.input_index in visited.selects
                yield use, self.sweep.edge(use).as_mask(), visited if selects else None
                continue
            picking = selecting_answer(use) if visited is None else None
            yield use, FULL if picking is None else picking.inputs[use.input_index], picking

    def _tensor(self, value: Value) -> None:
        """Stored data: cut in place where all consumers agree, else one copy per different need."""
        groups: dict[Hashable, list[tuple[Use, Live]]] = {}
        for use, asked, picking in self._demands(value):
            # A fully live Slice of stored data reads it as it is.
            live = FULL if picking is not None and use.node not in self.sweep.answers else asked
            groups.setdefault(live.key, []).append((use, live))
        narrowed = [uses for uses in groups.values() if not uses[0][1].is_full and not uses[0][1].is_dead]
        whole = value.is_graph_output or any(uses[0][1].is_full for uses in groups.values())
        # Copies are made before the original is cut: the cut in place comes last.
        for number, uses in reversed(list(enumerate(narrowed))):
            live = uses[0][1]
            in_place = not whole and number == 0
            target = value.name if in_place else f"{value.name}/{MARK}_{number}"
            sites = frozenset().union(*(self.sweep.asked.get(use.node, NOBODY) for use, _ in uses))
            self.out.add(SliceTensor(value.scope.ref, value.name, _select(live, value), target), sites)
            for use, _ in uses:
                self.available[(use.node.index, use.input_index)] = live
                if not in_place:
                    self.out.add(SetInput(use.node.ref, use.input_index, target), sites)
            if in_place:
                for edit in freeze_observers(value, live, self.sweep.kept):
                    self.out.add(edit, sites)
                self._declare(value, live, sites)

    def _computed(self, value: Value) -> None:
        have = self.sweep.kept.get(value, FULL)
        for use, wanted, picking in self._demands(value):
            key = (use.node.index, use.input_index)
            self.available[key] = have
            sites = self.sweep.asked.get(use.node, NOBODY)
            if picking is not None and picking.accepts(have):
                if use.node not in self.sweep.answers and picking.rewrite is not None and not have.is_full:
                    for edit in picking.rewrite({use.input_index: have}):
                        self.out.add(edit, self._sites(value))
                continue
            if wanted == have or wanted.is_dead:
                continue
            # Rows of unknown length that a reader picks by itself need no gather.
            beside = wanted.only([axis for axis in wanted.axes if wanted.repeat(axis) == 1]) & have
            wanted = beside if picking is not None and picking.accepts(beside) else wanted
            self.available[key] = wanted
            if picking is not None and use.node not in self.sweep.answers and picking.rewrite is not None:
                for edit in picking.rewrite({use.input_index: wanted}):
                    self.out.add(edit, sites)
            from onnxheadprune.liveness.edge_gathers import edge_gather

            reason = self._why(value)
            for edit in edge_gather(use, value, have, wanted, reason):
                self.out.add(edit, sites)

    def _why(self, value: Value) -> str:
        refusal = None if value.producer is None else self.sweep.refusals.get(value.producer)
        if refusal is not None:
            return refusal.sentence
        if value.is_graph_input:
            return f"{value.name} is a model input whose shape stays"
        if value.is_graph_output:
            return f"{value.name} is also a model output whose shape stays"
        have = self.sweep.kept.get(value, FULL)
        if all(wanted != have for _, wanted, _ in self._demands(value)):
            return f"{value.name} is computed once for consumers that need different parts of it"
        return f"{value.name} is shared with consumers that need more of it"

    def _rewrite(self, node: Node, answer: Answer) -> None:
        if answer.rewrite is None:
            return
        kept: Mapping[int, Live] = {
            index: self.available.get((node.index, index), FULL) for index in range(len(node.inputs))
        }
        for edit in answer.rewrite(kept):
            self.out.add(edit, self.sweep.asked[node])

    def _declare(self, value: Value, live: Live, sites: frozenset[str]) -> None:
        if value.shape is None or live.is_dead:
            return
        for ref in self._declaring(value):
            for axis in live.axes:
                dim = live.narrow(value.shape[axis], axis)
                self.out.add(SetDim(ref, value.name, axis, dim if isinstance(dim, int) else None), sites)

    def _declaring(self, value: Value) -> Iterator[str]:
        """Scopes that declare a value's shape: its own, and bodies that repeat it for what they read from outside."""
        for scope in self.view.scopes:
            if value.name in self.view.declared[scope.ref] and scope.lookup(value.name) is value:
                yield scope.ref


def _select(live: Live, value: Value) -> Selection:
    """The live part of a stored tensor.

    Raises:
        ModelError: if its readers count other elements than there are; onnx checks no body against tensors around it.
    """
    kept = live.dense_shape()
    assert kept is not None and value.shape is not None
    sizes = dict(enumerate(value.shape))
    if [sizes.get(axis) for axis in live.axes] != [*live.array.shape]:
        found, wanted = ([*numbers] for numbers in (value.shape, live.array.shape))
        raise ModelError(
            f"the model is not a valid ONNX model: {value.consumers[0].node.label} reads {wanted} elements along axes"
            f" {[*live.axes]} of {value.name}, whose shape is {found}"
        )
    flat = np.flatnonzero(live.mask.reshape(-1))
    return Selection(live.axes, tuple(live.array.shape), kept, spell_ranges(flat))


def _order(value: Value) -> tuple[int, int, str]:
    return (-1 if value.producer is None else value.producer.index, value.output_index, value.name)
