"""The boundaries of a model's blocks: what enters each of them, found by dataflow.

Work on a model comes in stages: a map that is refitted, a site that is cut. The nodes in front of a stage are run
once; what they made and others still read *crosses* to the stage. Nothing is assumed about the graph: a residual
stream crosses, and so do masks, rotary tables, position biases and the states of an encoder.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from onnx import TensorProto

from onnxheadprune.choosing.activations.parts import reads, require_main, types_of
from onnxheadprune.model.graph.view import GraphView, Node, Value
from onnxheadprune.model.graph.walks import reachable

NEVER = 2**31
"""The entry of a node that lies in front of no stage."""


@dataclass(frozen=True, eq=False)
class Stage:
    """One piece of work.

    Attributes:
        starts: values that are there when it begins.
        changes: nodes that may compute something else from then on, in one of two models.
        wants: values that are read in it.
    """

    starts: tuple[Value, ...]
    changes: tuple[Node, ...] = ()
    wants: tuple[Value, ...] = ()


class Boundaries:
    """The places between the blocks of a model.

    Attributes:
        crossing: for each stage, the element types of the values that cross to it, by name. Where one of them is no
            tensor, those of the stage before, and in front of all stages none: then work starts at the inputs.
        changed: names of all values that a change in some stage may alter.
    """

    def __init__(self, view: GraphView, stages: Sequence[Stage], outputs: Sequence[Value] = ()) -> None:
        """Finds the places.

        Raises:
            RefusedError: if a value lives in the body of a control-flow operator.
        """
        for stage in stages:
            for value in (*stage.starts, *stage.wants):
                require_main(value)
        self._flow = Flow(view)
        wanted = [value for stage in stages for value in (*stage.starts, *stage.wants)]
        self._needed = frozenset(self._flow.upstream((*wanted, *outputs)))
        until: dict[Node, int] = {}
        for at in reversed(range(len(stages))):
            until |= dict.fromkeys(self._flow.downstream(stages[at].changes, until), at)
        self._entry: dict[Node, int] = {}
        for at, stage in enumerate(stages):
            for node in list(self._flow.upstream(stage.starts, self._entry)):
                # What may still change lies behind the stage in which it does.
                self._entry[node] = max(at, until.get(node, -1) + 1)
        self.changed = frozenset(value.name for node in until for value in node.results)
        found = [self._crossing(stages, outputs, at) for at in range(len(stages))]
        self.crossing, self._front = _usable(view, found)

    def is_done(self, node: Node, stage: int) -> bool:
        """Return whether a node lies in front of the place from which the work on a stage starts."""
        return self._front[stage] >= 0 and self._entry.get(node, NEVER) <= self._front[stage]

    def starts_alike(self, one: int, other: int) -> bool:
        """Return whether the work on two stages starts from the same place."""
        return self._front[one] == self._front[other]

    def changed_by(self, stage: Stage) -> frozenset[str]:
        """Names of the values that the changes of one stage may alter."""
        nodes = self._flow.downstream(stage.changes, ())
        return frozenset(value.name for node in nodes for value in node.results)

    def entering(self, start: Value, end: Value) -> list[Value]:
        """The values that the nodes between two values read beside the first."""
        behind = set(self._flow.downstream(self._flow.users(start), ()))
        between = [node for node in self._flow.upstream([end]) if node in behind]
        found = {
            value: None
            for node in between
            for value in self._flow.reads(node)
            if value is not start and value.producer not in behind
        }
        return sorted(found, key=lambda value: value.name)

    def _crossing(self, stages: Sequence[Stage], outputs: Sequence[Value], at: int) -> dict[str, Value]:
        wanted = {*outputs, *(value for stage in stages[at:] for value in stage.wants)}
        found: dict[str, Value] = {}
        for node, entry in self._entry.items():
            for value in node.outputs if entry <= at else ():
                if value is None or value.is_constant:
                    continue
                users = (user for user in self._flow.users(value) if user in self._needed)
                if value in wanted or any(self._entry.get(user, NEVER) > at for user in users):
                    found[value.name] = value
        return found


def _usable(
    view: GraphView, crossing: Sequence[Mapping[str, Value]]
) -> tuple[list[Mapping[str, int]], list[int]]:
    """The types of what crosses, and which place each stage can start from."""
    known = {value.name: value.elem_type for values in crossing for value in values.values()}
    unknown = {
        name: value
        for values in crossing
        for name, value in values.items()
        if value.elem_type == TensorProto.UNDEFINED
    }
    if unknown:
        known |= types_of(view, tuple(unknown.values()))
    found: list[Mapping[str, int]] = []
    fronts: list[int] = []
    for at, values in enumerate(crossing):
        if all(known[name] for name in values):
            found.append({name: known[name] for name in values})
            fronts.append(at)
        else:
            found.append(found[-1] if found else {})
            fronts.append(fronts[-1] if fronts else -1)
    return found, fronts


class Flow:
    """The readers of values in the main graph, those inside of a body included."""

    def __init__(self, view: GraphView) -> None:
        """Looks at all nodes of the main graph."""
        self._reads: dict[Node, tuple[Value, ...]] = {}
        self._users: dict[Value, list[Node]] = {}
        for node in view.main.nodes:
            self._reads[node] = tuple(value for value in reads(node) if not value.is_constant)
            for value in self._reads[node]:
                self._users.setdefault(value, []).append(node)

    def reads(self, node: Node) -> Sequence[Value]:
        """The values that a node reads, but for constant ones."""
        return self._reads[node]

    def users(self, value: Value) -> Sequence[Node]:
        """The nodes that read a value."""
        return self._users.get(value, ())

    def upstream(self, values: Iterable[Value], known: Container[Node] = ()) -> Iterator[Node]:
        """The nodes that values depend on, but for constant ones and those that are known with all in front of them."""

        def makers(read: Iterable[Value]) -> list[Node]:
            found = [item.producer for item in read if item.producer is not None and not item.is_constant]
            return [node for node in found if node not in known]

        return reachable(makers(values), lambda node: makers(self._reads[node]))

    def downstream(self, nodes: Iterable[Node], known: Container[Node]) -> Iterator[Node]:
        """Nodes, and all that depend on them, but for those that are known with all behind them."""

        def readers(node: Node) -> list[Node]:
            return [reader for value in node.results for reader in self.users(value) if reader not in known]

        return reachable([node for node in nodes if node not in known], readers)
