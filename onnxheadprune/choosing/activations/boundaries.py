"""The boundaries of a model's blocks, found by dataflow.

Work on a model comes in stages: a layer that is refitted, a site that is cut. The nodes before a stage are run
once; what they made and others still read *crosses* to the stage. Nothing is assumed about the graph: a residual
stream crosses, and so do masks, rotary tables, position biases and the states of an encoder.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from onnx import TensorProto

from onnxheadprune.choosing.activations.parts import require_main
from onnxheadprune.edit.submodel import submodel, values_read
from onnxheadprune.errors import InferenceError
from onnxheadprune.model.graph.view import GraphView, Node, Value
from onnxheadprune.model.graph.walks import reachable
from onnxheadprune.runtime import CPU, Provider, Session

NEVER = 2**31
"""A stage behind all others: the entry of a node that lies before none."""


@dataclass(frozen=True, eq=False)
class Stage:
    """One piece of work."""

    starts: tuple[Value, ...]  # values that are there when it begins
    changes: tuple[
        Node, ...
    ] = ()  # nodes that may compute something else from then on, in a variant of the model
    wants: tuple[Value, ...] = ()  # values that are read in it


class Boundaries:
    """The places between the blocks of a model.

    Attributes:
        crossing: for each stage, the element types of the values that cross to it, by name. Where one of them is no
            tensor, those of the stage before, and before all stages none: then work starts at the inputs.
        changed: names of all values that a change in some stage may alter.
    """

    def __init__(self, view: GraphView, stages: Sequence[Stage], outputs: Sequence[Value] = ()) -> None:
        """Find the places."""
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
                # What may still change lies after the stage in which it does.
                self._entry[node] = max(at, until.get(node, -1) + 1)
        self.changed = frozenset(value.name for node in until for value in node.results)
        found = [self._crossing(stages, outputs, at) for at in range(len(stages))]
        self.crossing, self._front = _usable(view, found)

    def front(self, stage: int) -> int:
        """Return the stage from whose place the work on a stage starts; -1 for the inputs."""
        return self._front[stage] if stage >= 0 else -1

    def changed_by(self, stage: Stage) -> frozenset[str]:
        """Names of the values that the changes of one stage may alter."""
        nodes = self._flow.downstream(stage.changes, ())
        return frozenset(value.name for node in nodes for value in node.results)

    def entering(self, start: Value | Node, end: Value) -> list[Value]:
        """The values that the nodes from a value, or a node, to another value read; the first among them."""
        first = [start] if isinstance(start, Node) else self._flow.users(start)
        behind = set(self._flow.downstream(first, ()))
        between = [node for node in self._flow.upstream([end]) if node in behind]
        found = {
            value: None
            for node in between
            for value in self._flow.reads(node)
            if value.producer not in behind
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
        known |= _types_of(view, tuple(unknown.values()))
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


def _types_of(view: GraphView, wanted: Sequence[Value]) -> dict[str, int]:
    """Element types of values that shape inference does not know, asked of ONNX Runtime; 0 of what is no tensor.

    Weights are declared as inputs, so that none has to be read.
    """
    heavy = [
        tensor.name
        for tensor in view.model.graph.initializer
        if tensor.data_location == TensorProto.EXTERNAL or len(tensor.raw_data) > 4096
    ]
    small = submodel(wanted, opened=heavy)
    try:
        session = Session(small, Provider(CPU, "types"), name="the model")
    except InferenceError:
        return {}
    return session.output_types()


class Flow:
    """The readers of values in the main graph, those inside of a body included."""

    def __init__(self, view: GraphView) -> None:
        """Look at all nodes of the main graph."""
        self._reads: dict[Node, tuple[Value, ...]] = {}
        self._users: dict[Value, list[Node]] = {}
        for node in view.main.nodes:
            self._reads[node] = tuple(value for value in values_read(node) if not value.is_constant)
            for value in self._reads[node]:
                self._users.setdefault(value, []).append(node)

    def reads(self, node: Node) -> Sequence[Value]:
        """The values that a node reads, but for constant ones."""
        return self._reads[node]

    def users(self, value: Value) -> Sequence[Node]:
        """The nodes that read a value."""
        return self._users.get(value, ())

    def upstream(self, values: Iterable[Value], known: Container[Node] = ()) -> Iterator[Node]:
        """The nodes that values depend on, but for constant ones and those that are known with all before them."""

        def makers(read: Iterable[Value]) -> list[Node]:
            found = [item.producer for item in read if item.producer is not None and not item.is_constant]
            return [node for node in found if node not in known]

        return reachable(makers(values), lambda node: makers(self._reads[node]))

    def downstream(self, nodes: Iterable[Node], known: Container[Node]) -> Iterator[Node]:
        """Nodes, and all that depend on them, but for those that are known with all after them."""

        def readers(node: Node) -> list[Node]:
            return [reader for value in node.results for reader in self.users(value) if reader not in known]

        return reachable([node for node in nodes if node not in known], readers)
