"""Early exits: conditions that decide whether further layers run, and the model with a permanent one.

An exit is an If with layers in one body and none in the other, so that the second one leads to outputs without further
layers. Layers are attention sites; in bodies without any, feed-forward blocks. Where an exit is permanent, the nodes
after it are gone, and those that only the decision needed.

The forced original is what a model with a permanent exit is compared with. All branches stay in its graph; only the
inputs of conditions are replaced. So it shares no code with the removal of branches.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from onnxheadprune.attention.masking import graph_of
from onnxheadprune.attention.sites.all_sites import Sites
from onnxheadprune.attention.sites.find import Analysis, analysis_of
from onnxheadprune.attention.sites.site import Site
from onnxheadprune.display.spelling import many
from onnxheadprune.edit import nodes
from onnxheadprune.edit.bodies import BRANCHES, DecidedModel, decided
from onnxheadprune.edit.edits import MARK
from onnxheadprune.edit.plan import ExitCut, IoChange, PrunePlan
from onnxheadprune.edit.records import (
    HEADS,
    ExitState,
    RecordedExit,
    RecordedUnits,
    record_of,
    write_record,
)
from onnxheadprune.errors import RefusedError
from onnxheadprune.model.analysis_errors import analysing
from onnxheadprune.model.bodies import nodes_in
from onnxheadprune.model.graph.elements import number_of
from onnxheadprune.model.graph.operator import is_a
from onnxheadprune.model.graph.view import GraphView, Node, Scope, Value
from onnxheadprune.model.graph.walks import reachable
from onnxheadprune.model.load import LoadedModel
from onnxheadprune.model.messages import copied
from onnxheadprune.model.storage.tensors import stored_size
from onnxheadprune.settings.units import KINDS

FORCED = f"{MARK}_forced"


@dataclass(frozen=True, eq=False)
class Decision:
    """An If with its fixed condition."""

    node: Node
    answer: bool


@dataclass(frozen=True, eq=False)
class Settled:
    """The consequences of decisions."""

    known: Mapping[Value, bool]  # conditions with a known answer, including fixed ones
    choices: Mapping[Node, Scope]  # the body that runs, per If whose condition is known


class ContradictionError(Exception):
    """Two decisions fix one condition at different answers."""


def _held(decisions: Iterable[Decision]) -> dict[Value, bool]:
    """The values that decisions hold: conditions, and what they are the same as or the opposite of."""
    found: dict[Value, bool] = {}
    for decision in decisions:
        condition = decision.node.input(0)
        for value, answer in () if condition is None else _sources(condition, decision.answer):
            if found.setdefault(value, answer) != answer:
                raise ContradictionError
    return found


def _sources(condition: Value, answer: bool) -> Iterator[tuple[Value, bool]]:
    """A condition and the values that it depends on alone, each with the implied answer."""
    value: Value | None = condition
    while value is not None:
        yield value, answer
        node = value.producer
        if node is None or node.bodies or len(node.inputs) != 1:
            return
        answers = {given: _computed(node, [given]) for given in (True, False)}
        fitting = [given for given, made in answers.items() if made is answer]
        if len(fitting) != 1:
            return
        value, answer = node.inputs[0], fitting[0]


def settled(view: GraphView, decisions: Iterable[Decision]) -> Settled:
    """Return the consequences of decisions."""
    known = _held(decisions)
    fixed = frozenset(known)
    choices: dict[Node, Scope] = {}
    if not known:
        return Settled(known, choices)
    for node in view.nodes:
        if is_a(node, "If"):
            answers = _of_choice(node, known, choices)
        elif node.bodies:
            continue
        else:
            answer = _computed(node, [None if value is None else known.get(value) for value in node.inputs])
            answers = [answer] * (1 if answer is not None else 0)
        for value, answer in zip(node.outputs, answers, strict=False):
            if value is not None and answer is not None and value not in fixed:
                known[value] = answer
    return Settled(known, choices)


def _of_choice(node: Node, known: Mapping[Value, bool], choices: dict[Node, Scope]) -> list[bool | None]:
    """Return the known outputs of an If, and record which body runs."""
    condition = node.inputs[0]
    answer = None if condition is None else known.get(condition)
    bodies = list(node.bodies.values())
    if answer is not None:
        choices[node] = node.bodies[BRANCHES[answer]]
        bodies = [choices[node]]
    found: list[bool | None] = []
    for index in range(len(node.outputs)):
        answers = {None if value is None else known.get(value) for value in given_by(bodies, index)}
        found.append(answers.pop() if len(answers) == 1 else None)
    return found


def given_by(bodies: Iterable[Scope], index: int) -> list[Value | None]:
    """Return the value of one output of each body."""
    return [body.lookup(body.proto.output[index].name) for body in bodies]


def _computed(node: Node, numbers: list[bool | None]) -> bool | None:
    """Return a node's output for known conditions, None where it is unknown or no condition."""
    if all(number is None for number in numbers):
        return None
    if is_a(node, "Identity"):
        return numbers[0]
    if is_a(node, "Cast"):
        source = node.input(0)
        plain = node.attribute("to") == TensorProto.BOOL
        return numbers[0] if plain and source is not None and source.elem_type == TensorProto.BOOL else None
    if any(value is not None and value.elem_type not in _LOGIC for value in node.inputs):
        return None
    made = number_of(node, [None if number is None else float(number) for number in numbers])
    return None if made is None else bool(made)


_LOGIC = (TensorProto.BOOL, TensorProto.UNDEFINED)


def forced(view: GraphView, decisions: Iterable[Decision]) -> ModelProto:
    """A copy of a model with conditions fixed at an answer, independent of computed values."""
    made = copied(view.model)
    for position, (value, answer) in enumerate(_held(decisions).items()):
        array = np.full((1,) if value.shape == (1,) else (), answer)
        made.graph.initializer.append(numpy_helper.from_array(array, f"{FORCED}{position}"))
        _hold(made, value, f"{FORCED}{position}")
    return made


def otherwise(decisions: Sequence[Decision]) -> tuple[Decision, ...]:
    """The same with the last decision reversed."""
    *before, last = decisions
    return (*before, Decision(last.node, not last.answer))


def _hold(model: ModelProto, value: Value, name: str) -> None:
    """Replace a value by a constant for all readers."""
    for use in value.consumers:
        _proto(model, use.node).input[use.input_index] = name
    node = value.producer
    if node is None or not value.is_graph_output:
        return
    # What a graph or a body gives out keeps its name; what was computed gets another one.
    _proto(model, node).output[value.output_index] = f"{value.name}/{FORCED}"
    graph_of(model, node).node.append(nodes.as_proto(nodes.new("", "Identity", (name,), value.name)))


def _proto(model: ModelProto, node: Node) -> NodeProto:
    found: NodeProto = graph_of(model, node).node[node.position]
    return found


Layers = tuple[Node, ...]
"""The projections of all sites of one kind: a layer runs where they run."""


def layers_of(sites: Iterable[Site]) -> Layers:
    """The nodes that stand for the layers of these sites."""
    return tuple(projection.node for site in sites for projection in site.projections)


def inside(layers: Layers, body: Scope) -> int:
    """Return the number of layers in a body, including nested bodies."""
    return sum(1 for node in layers if body in node.scope.around)


def running(view: GraphView, settled: Settled) -> set[Node]:
    """The nodes that the outputs of a model need, where some conditions are known.

    Args:
        settled: the known conditions; of an If with a known condition only one body runs.
    """

    def needed(value: Value | None) -> Iterator[Value | None]:
        node = None if value is None or value in settled.known else value.producer
        if value is None or node is None:
            return
        chosen = settled.choices.get(node)
        if chosen is not None:
            yield from given_by([chosen], value.output_index)
            return
        yield from node.inputs
        for body in node.bodies.values():
            yield from (body.lookup(info.name) for info in body.proto.output)

    outputs = [view.main.lookup(info.name) for info in view.main.proto.output]
    values = (value for value in reachable(outputs, needed) if value not in settled.known)
    return {value.producer for value in values if value is not None and value.producer is not None}


@dataclass(frozen=True, eq=False)
class Exit:
    """One early exit."""

    number: int  # in the order in which exits are reached, counted from 1; always the number in the original
    node: Node  # the If that decides
    condition: str  # the name of the value that it decides by
    before: tuple[Decision, ...]  # the decisions to get here: every earlier exit was not taken
    leaves: Decision  # the decision that takes this exit

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """All decisions where this exit is taken."""
        return (*self.before, self.leaves)

    @property
    def name(self) -> str:
        """The name of the deciding node: that of its first output."""
        return self.node.results[0].name


@dataclass(frozen=True, eq=False)
class Exits:
    """The exits of a model."""

    model: str  # its name
    exits: tuple[Exit, ...]  # in the order of their numbers
    record: tuple[RecordedExit, ...] = ()  # earlier changes to the exits of the original
    onward: tuple[Decision, ...] = ()  # the decisions that take no exit
    loops: tuple[str, ...] = ()  # Loops over layers, which are no exits

    def at(self, number: int) -> Exit:
        """The exit with a number."""
        for item in self.exits:
            if item.number == number:
                return item
        raise RefusedError(f"{self.model} has no exit {number}: {self._there()}")

    def _there(self) -> str:
        taken = [str(item.number) for item in self.record if item.state == "taken"]
        before = f"exit {', '.join(taken)} was made permanent before" if taken else ""
        if not self.exits:
            looping = "".join(f"; {loop} repeats layers, and its end is no exit" for loop in self.loops)
            return before or f"no If decides whether further layers run{looping}"
        numbers = ", ".join(str(item.number) for item in self.exits)
        there = f"there {'is' if len(self.exits) == 1 else 'are'} {many(len(self.exits), 'exit')} ({numbers})"
        return f"{there}; {before}" if before else there


def exits_of(view: GraphView, sites: Sites) -> Exits:
    """The exits of a model."""
    record = record_of(view.model).exits
    candidates = sorted((node for node in view.nodes if is_a(node, "If")), key=_place)
    search = _Search(view, sites, candidates)
    for node in candidates:
        search.look(node)
    owners = dict.fromkeys(owner for kind in search.kinds for node in kind for owner, _ in node.scope.owners)
    loops = tuple(owner.label for owner in owners if is_a(owner, "Loop"))
    return Exits(
        sites.model, tuple(_numbered(search.found, record)), record, tuple(search.onward.values()), loops
    )


def _numbered(found: Sequence[Exit], record: Sequence[RecordedExit]) -> list[Exit]:
    """The exits with their numbers in the original; exits that the record lacks get the next numbers."""
    known = {entry.node: entry.number for entry in record}
    free = itertools.count(max((entry.number for entry in record), default=0) + 1)
    made = [replace(item, number=known[item.name] if item.name in known else next(free)) for item in found]
    return sorted(made, key=lambda item: item.number)


def _place(node: Node) -> list[tuple[int, str]]:
    """Sort nodes of all scopes in the order in which they are reached: an If before what is in its bodies."""
    return [(int(number), body) for number, body in re.findall(r"\[(\d+)\](?:\.(\w+))?", node.ref)]


class _Search:
    def __init__(self, view: GraphView, sites: Sites, candidates: Sequence[Node]) -> None:
        self.view = view
        self.kinds = [layers_of(sites.of(kind.units)) for kind in KINDS if kind.in_layers]
        self.positions = {node: position for position, node in enumerate(candidates)}
        self.behind = _reached_from(view, candidates)
        self.onward: dict[Node, Decision] = {}
        self.found: list[Exit] = []

    def look(self, node: Node) -> None:
        """Collect the exits, in execution order."""
        owners = list(node.scope.owners)[::-1]
        if not all(self._goes_on(owner, body) for owner, body in owners):
            return
        earlier = [other for other in self.onward if self._depends(node, other)]
        before = tuple(
            self.onward[other] for other in dict.fromkeys([*(owner for owner, _ in owners), *earlier])
        )
        for layers in self.kinds:
            held = {answer: inside(layers, node.bodies[BRANCHES[answer]]) for answer in (True, False)}
            if all(held.values()):
                return
            if any(held.values()):
                onward = Decision(node, bool(held[True]))
                leaves = Decision(node, not onward.answer)
                if node.inputs[0] is not None and self._is_last(layers, before, leaves):
                    self.onward[node] = onward
                    self.found.append(Exit(len(self.found) + 1, node, node.inputs[0].name, before, leaves))
                return

    def _goes_on(self, owner: Node, body: Scope) -> bool:
        onward = self.onward.get(owner)
        return onward is not None and owner.bodies[BRANCHES[onward.answer]] is body

    def _depends(self, node: Node, other: Node) -> bool:
        return bool(self.behind[node] >> self.positions[other] & 1)

    def _is_last(self, layers: Layers, before: tuple[Decision, ...], leaves: Decision) -> bool:
        """Return whether the outputs depend on a node's decision, and no further layer runs after it."""
        try:
            left = running(self.view, settled(self.view, (*before, leaves)))
            reached = running(self.view, settled(self.view, before))
        except ContradictionError:
            return False
        if leaves.node not in reached:
            return False
        return not any(node in left and self._depends(node, leaves.node) for node in layers)


def _reached_from(view: GraphView, starts: Sequence[Node]) -> Mapping[Node, int]:
    """The nodes among `starts` that each node depends on, as bits: bit `i` for `starts[i]`.

    A node depends on its inputs and those of its bodies, and nodes in a body on the inputs of its owner.
    """
    bits = {node: 1 << position for position, node in enumerate(starts)}
    values: dict[Value, int] = {}
    found: dict[Node, int] = {}

    def walk(scope: Scope, outside: int) -> int:
        """Collect all nodes of a scope; return the dependencies of its outputs and nodes together."""
        together = outside
        for value in scope.values.values():
            if value.is_graph_input:
                values[value] = outside
        for node in scope.nodes:
            read = 0
            for item in node.inputs:
                read |= values.get(item, 0) if item is not None else 0
            made = read
            for body in node.bodies.values():
                made |= walk(body, read)
            found[node] = made
            made |= bits.get(node, 0)
            for output in node.outputs:
                if output is not None:
                    values[output] = made
            together |= made
        return together

    walk(view.main, 0)
    return found


@dataclass(frozen=True, eq=False)
class Leaving:
    """A model with permanent exits, and its source."""

    model: LoadedModel  # the model; its metadata record what was removed
    cut: ExitCut  # its entry in a plan
    interface: Mapping[IoChange, str]  # removed inputs and constant outputs, each with a sentence
    gone: tuple[int, ...]  # indices of the attention sites after the exits
    # per stored tensor that was moved from a body to the main graph, its value in the body
    moved: Mapping[str, Value]
    original: Analysis  # the analysis of its source
    exits: Exits  # the exits of its source
    decisions: tuple[Decision, ...]  # the fixed conditions there

    @property
    def drops_inputs(self) -> bool:
        """True if inputs of the original are removed."""
        return any(change.role == "input" for change in self.interface)

    def on(self, plan: PrunePlan) -> PrunePlan:
        """Translate a plan for the model with the exits to one for the source."""
        return replace(
            plan,
            exit=self.cut,
            elements_removed=plan.elements_removed + self.cut.elements,
            interface=(*self.interface, *plan.interface),
            io_changes=(*self.interface.values(), *plan.io_changes),
        )


def leaving(loaded: LoadedModel, numbers: Sequence[int]) -> Leaving:
    """The model with permanent exits.

    Args:
        numbers: of the exits, at least one; more than one only where they do not stand after each other.
    """
    return leaving_from(loaded, analysis_of(loaded), numbers)


def leaving_from(loaded: LoadedModel, analysis: Analysis, numbers: Sequence[int]) -> Leaving:
    """The same for an analysed model."""
    with analysing(loaded.proto, loaded.name):
        return _leaving(loaded, analysis, numbers)


def _leaving(loaded: LoadedModel, analysis: Analysis, numbers: Sequence[int]) -> Leaving:
    exits = exits_of(analysis.view, analysis.sites)
    taken = [exits.at(number) for number in numbers]
    decisions = tuple({item.node: item for exit_ in taken for item in exit_.decisions}.values())
    try:
        facts = settled(analysis.view, decisions)
    except ContradictionError as error:
        listed = " and ".join(str(number) for number in numbers)
        raise RefusedError(f"exits {listed} of {loaded.name} cannot be taken together") from error
    left = decided(analysis.view, facts.known, facts.choices)
    model = left.model
    known = [kind.units for kind, find in analysis.sites.others.items() if find().failure is None]
    entries = {units: _recorded(units, analysis, left, facts) for units in (HEADS, *known)}
    lost = {
        units: sites
        for units, sites in entries.items()
        if units == HEADS or not all(item.left for item in sites)
    }
    record, states = record_of(model), _states(exits, taken, analysis, facts)
    write_record(model, replace(record, units=record.with_units(lost), exits=states))
    gone = [site for site in analysis.sites if not _names(site, left, facts)]
    cut = ExitCut(
        tuple(numbers),
        tuple(item.condition for item in taken),
        len(exits.exits),
        len(gone),
        sum(site.num_heads for site in gone),
        max(stored_size(loaded.proto).elements - stored_size(model).elements, 0),
    )
    moved = {name: value for value, name in left.names.items() if value.tensor is not None}
    behind = tuple(site.index for site in gone)
    return Leaving(loaded.changed(model), cut, _interface(left), behind, moved, analysis, exits, decisions)


def _interface(left: DecidedModel) -> dict[IoChange, str]:
    changes = {}
    for info in left.inputs:
        shape = (
            dim.dim_param or (str(dim.dim_value) if dim.HasField("dim_value") else "?")
            for dim in info.type.tensor_type.shape.dim
        )
        change = IoChange("input", info.name, None, f"[{', '.join(shape)}]", "gone")
        changes[change] = f"input {info.name}: removed, since only removed nodes read it"
    for name, answer in left.constant.items():
        change = IoChange("output", name, None, "computed", f"always {str(answer).lower()}")
        changes[change] = f"output {name}: always {str(answer).lower()} now"
    return changes


def _names(site: Site, left: DecidedModel, facts: Settled) -> tuple[str, ...]:
    """Return the names that identify a site in the remaining model; empty if it is removed."""
    made = _made(left.model)
    # Bodies that never run are passed over.
    run = (
        value
        for value in site.marks
        if all(facts.choices.get(owner, scope) is scope for owner, scope in value.scope.owners)
    )
    names = (left.names.get(value, value.name) for value in run)
    return tuple(dict.fromkeys(name for name in names if name in made))


def _name_now(value: Value, left: DecidedModel, facts: Settled) -> str:
    """Return the name of a value in the remaining model: that of what the body that runs computes for it."""
    body = None if value.producer is None else facts.choices.get(value.producer)
    chosen = None if body is None else given_by([body], value.output_index)[0]
    return left.names.get(value, value.name) if chosen is None else _name_now(chosen, left, facts)


def _made(model: ModelProto) -> set[str]:
    """Names of all outputs of nodes, in all bodies."""
    return {name for node in nodes_in(model.graph.node) for name in node.output}


def _recorded(
    units: str, analysis: Analysis, left: DecidedModel, facts: Settled
) -> tuple[RecordedUnits, ...]:
    """The record of all sites of one kind in the original; those after the exit count as removed."""
    # What is gone is not recognised by a name that now means something else.
    made = _made(left.model)
    entries = [entry for entry in record_of(analysis.view.model).of(units) if not entry.left]
    for site in analysis.sites.of(units):
        names, entry = _names(site, left, facts), site.recorded()
        if names:
            states = dict.fromkeys(
                (_name_now(item.front, left, facts), _name_now(item.behind, left, facts))
                for item in site.states
            )
            entries.append(replace(entry, projections=names, states=tuple(states)))
        else:
            kept = tuple(name for name in entry.projections if name not in made)
            entries.append(replace(entry, removed=tuple(range(entry.num_units)), projections=kept))
    return tuple(sorted(entries, key=lambda entry: entry.number))


def _states(
    exits: Exits, taken: Sequence[Exit], analysis: Analysis, facts: Settled
) -> tuple[RecordedExit, ...]:
    """Return the state of each exit of the original, including those removed before."""
    numbers = {item.number for item in taken}
    reached = running(analysis.view, facts)
    entries = [entry for entry in exits.record if entry.state != "left"]
    for item in (*taken, *(item for item in exits.exits if item.number not in numbers)):
        is_left = item.node in reached and item.node not in facts.choices
        state: ExitState = "taken" if item.number in numbers else "left" if is_left else "gone"
        entries.append(RecordedExit(item.number, item.name, state))
    return tuple(sorted(entries, key=lambda entry: entry.number))
