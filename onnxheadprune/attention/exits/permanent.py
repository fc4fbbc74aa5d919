"""The early exits of a model, conditions that decide whether further layers run, and the model with a permanent one.

An exit is an If with layers in one body and none in the other, so that the second one leads to
outputs without further layers; or a Loop over layers with a stop condition that its body computes. Layers are attention
sites; in bodies without any, feed-forward blocks. Where an exit is permanent, the nodes after it are gone, and those
that only the decision needed.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from onnx import ModelProto

from onnxheadprune.attention.exits.decisions import (
    GOING_OUT,
    ContradictionError,
    Decision,
    Layers,
    Settled,
    given_by,
    going_in,
    inside,
    layers_of,
    running,
    settled,
)
from onnxheadprune.attention.sites.all_sites import Sites
from onnxheadprune.attention.sites.find import Analysis, analysis_of
from onnxheadprune.attention.sites.site import Site
from onnxheadprune.display.spelling import many
from onnxheadprune.edit.bodies import BRANCHES, DecidedModel, decided
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
from onnxheadprune.model.graph.operator import is_a
from onnxheadprune.model.graph.view import GraphView, Node, Scope, Value
from onnxheadprune.model.load import LoadedModel
from onnxheadprune.model.storage.tensors import stored_size
from onnxheadprune.settings.units import KINDS

MOST_LISTED = 256
"""Exits of one Loop that are listed one by one; a Loop that may run more often has one entry for all of them."""


@dataclass(frozen=True, eq=False)
class Exit:
    """One early exit."""

    number: int  # in the order in which exits are reached, counted from 1; always the number in the original
    node: Node  # the If or Loop that decides
    condition: str  # the name of the value that it decides by
    before: tuple[Decision, ...]  # the decisions to get here: every earlier exit was not taken
    leaves: Decision  # the decision that takes this exit
    endless: bool = False  # whether any larger number of iterations is an exit too, with the next numbers

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """All decisions where this exit is taken."""
        return (*self.before, self.leaves)

    @property
    def name(self) -> str:
        """The name of the deciding node: that of its first output."""
        return self.node.results[0].name


@dataclass(frozen=True)
class RefusedExit:
    """A Loop over layers that may end early and cannot be fixed to a number of iterations, with the reason."""

    node: str
    reason: str


@dataclass(frozen=True, eq=False)
class Exits:
    """The exits of a model."""

    model: str  # its name
    exits: tuple[Exit, ...]  # in the order of their numbers
    refused: tuple[RefusedExit, ...] = ()  # Loops that end early and cannot be fixed
    record: tuple[RecordedExit, ...] = ()  # earlier changes to the exits of the original
    # the decisions that take no exit; empty where a Loop has no maximal number of iterations
    onward: tuple[Decision, ...] = ()

    def at(self, number: int) -> Exit:
        """The exit with a number."""
        for item in self.exits:
            if item.number == number:
                return item
            if item.endless and number > item.number and item.leaves.turns is not None:
                turns, most = item.leaves.turns + number - item.number, _most_turns(item.node)
                if most is not None and turns >= most:
                    raise RefusedError(
                        f"{self.model} has no exit {number}: {item.node.label} ends after {most} turns"
                    )
                return Exit(number, item.node, item.condition, item.before, Decision(item.node, turns=turns))
        raise RefusedError(f"{self.model} has no exit {number}: {self._there()}")

    def _there(self) -> str:
        taken = [str(item.number) for item in self.record if item.state == "taken"]
        before = f"exit {', '.join(taken)} was made permanent before" if taken else ""
        if not self.exits:
            reasons = "; ".join(f"{item.node}: {item.reason}" for item in self.refused)
            none = "no If or Loop decides whether further layers run"
            return before or (f"what ends early cannot be fixed ({reasons})" if reasons else none)
        numbers = ", ".join(f"{item.number}{' and more' if item.endless else ''}" for item in self.exits)
        there = f"there {'is' if len(self.exits) == 1 else 'are'} {many(len(self.exits), 'exit')} ({numbers})"
        return f"{there}; {before}" if before else there


def exits_of(view: GraphView, sites: Sites) -> Exits:
    """The exits of a model."""
    record = record_of(view.model).exits
    candidates = sorted((node for node in view.nodes if is_a(node, "If") or is_a(node, "Loop")), key=_place)
    if not candidates:
        return Exits(sites.model, (), record=record)
    search = _Search(view, sites, candidates)
    for node in candidates:
        search.look(node)
    # Behind one that stands for any number nothing can be numbered.
    found = sorted(search.found, key=lambda item: item.endless)
    onward = () if any(item.endless for item in found) else tuple(search.onward.values())
    return Exits(sites.model, tuple(_numbered(found, record)), tuple(search.refused), record, onward)


def _numbered(found: Sequence[Exit], record: Sequence[RecordedExit]) -> list[Exit]:
    """The exits with their numbers in the original; exits that the record lacks get the next numbers."""
    known = {(entry.node, entry.turns): entry.number for entry in record}
    free = itertools.count(max((entry.number for entry in record), default=0) + 1)
    numbers = [known.get((item.name, item.leaves.turns)) for item in found]
    made = [
        replace(item, number=next(free) if number is None else number)
        for item, number in zip(found, numbers, strict=True)
    ]
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
        self.refused: list[RefusedExit] = []

    def look(self, node: Node) -> None:
        """Collect the exits, in execution order."""
        owners = list(node.scope.owners)[::-1]
        if not all(self._goes_on(owner, body) for owner, body in owners):
            return
        earlier = [other for other in self.onward if self._depends(node, other)]
        before = tuple(
            self.onward[other] for other in dict.fromkeys([*(owner for owner, _ in owners), *earlier])
        )
        if is_a(node, "Loop"):
            self._look_at_loop(node, before)
        else:
            self._look_at_choice(node, before)

    def _goes_on(self, owner: Node, body: Scope) -> bool:
        onward = self.onward.get(owner)
        return onward is not None and onward.turns is None and owner.bodies[BRANCHES[onward.answer]] is body

    def _depends(self, node: Node, other: Node) -> bool:
        return bool(self.behind[node] >> self.positions[other] & 1)

    def _look_at_choice(self, node: Node, before: tuple[Decision, ...]) -> None:
        for layers in self.kinds:
            held = {answer: inside(layers, node.bodies[BRANCHES[answer]]) for answer in (True, False)}
            if all(held.values()):
                return
            if any(held.values()):
                onward = Decision(node, answer=bool(held[True]))
                leaves = Decision(node, answer=not onward.answer)
                if node.inputs[0] is not None and self._is_last(layers, before, leaves):
                    self.onward[node] = onward
                    self._add(node, node.inputs[0].name, before, leaves)
                return

    def _look_at_loop(self, node: Node, before: tuple[Decision, ...]) -> None:
        (body,) = node.bodies.values()
        layers = next((kind for kind in self.kinds if inside(kind, body)), None)
        going = given_by(node.bodies.values(), GOING_OUT)[0]
        if layers is None or going is None or going.scope is not body or _is_always(going, going_in(node)):
            return
        if not self._is_last(layers, before, Decision(node, turns=1)):
            return
        reason = _why_not_fixed(node, going)
        if reason is not None:
            self.refused.append(RefusedExit(node.label, reason))
            return
        limit = _most_turns(node)
        many_turns = limit is None or limit > MOST_LISTED
        # After the last iteration the Loop ends anyway, so exits are at earlier iterations.
        for turns in range(1, 2 if many_turns or limit is None else limit):
            self._add(node, going.name, before, Decision(node, turns=turns), endless=many_turns)
        if limit is not None and limit > 1:
            self.onward[node] = Decision(node, turns=limit)

    def _add(
        self,
        node: Node,
        condition: str,
        before: tuple[Decision, ...],
        leaves: Decision,
        *,
        endless: bool = False,
    ) -> None:
        self.found.append(Exit(len(self.found) + 1, node, condition, before, leaves, endless))

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


def _is_always(going: Value, condition: Value | None) -> bool:
    """Return whether a Loop's body never ends it: the condition is passed through, or is a constant."""
    value = going
    while (
        value.producer is not None
        and is_a(value.producer, "Identity")
        and value.producer.inputs[0] is not None
    ):
        value = value.producer.inputs[0]
    return value is condition or value.is_constant


def _most_turns(node: Node) -> int | None:
    """Return the largest number of iterations of a Loop, None if it is unbounded."""
    limit = node.literal(0)
    if limit is None:
        return None
    # Exporters spell "no end" as the largest number that there is.
    turns = int(limit.reshape(-1)[0])
    return None if turns >= 2**31 else turns


def _why_not_fixed(node: Node, going: Value) -> str | None:
    """Return why a Loop cannot be fixed to a number of iterations, None if it can."""
    if node.input(0) is not None and node.literal(0) is None:
        return "how often it runs at most is computed at run time, so a fixed number may be more than that"
    (body,) = node.bodies.values()
    given = [info.name for info in body.proto.output]
    if going.consumers or given.count(going.name) > 1:
        return f"its body reads {going.name}, which says whether it goes on, for something else, too"
    return None


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
    left = decided(analysis.view, facts.known, facts.choices, facts.turns)
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
        state = "taken" if item.number in numbers else _state(item, taken, facts, reached)
        entries.append(RecordedExit(item.number, item.name, item.leaves.turns, state))
    return tuple(sorted(entries, key=lambda entry: entry.number))


def _state(item: Exit, taken: Sequence[Exit], facts: Settled, reached: Collection[Node]) -> ExitState:
    """Return the state of an exit that is not taken."""
    held = [decision for other in taken for decision in other.decisions if decision.node is item.node]
    if held:
        turns, limit = item.leaves.turns, held[0].turns
        return "behind" if turns is not None and limit is not None and turns > limit else "passed"
    return "left" if item.node in reached and item.node not in facts.choices else "behind"
