"""A model with one permanent exit, without the nodes after it and those that only the decision needed."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from onnx import ModelProto, ValueInfoProto

from onnxheadprune.attention.exits.decisions import ContradictionError, Decision, Settled, settled
from onnxheadprune.attention.exits.find import Exit, Exits, exits_of
from onnxheadprune.attention.exits.running import running
from onnxheadprune.attention.sites.find import Analysis, analysis_of
from onnxheadprune.attention.sites.site import Site
from onnxheadprune.edit import apply
from onnxheadprune.edit.decided_conditions import DecidedModel, decided
from onnxheadprune.edit.model_records import EXITS_ENTRY, EXITS_KEY, ExitState, RecordedExit
from onnxheadprune.edit.plan import ExitCut, IoChange, PrunePlan
from onnxheadprune.edit.records import HEADS, RecordedUnits, units_entry
from onnxheadprune.errors import RefusedError
from onnxheadprune.model.analysis_errors import analysing
from onnxheadprune.model.bodies import nodes_in
from onnxheadprune.model.graph.view import Node, Value
from onnxheadprune.model.load import LoadedModel
from onnxheadprune.model.storage.tensors import stored_size


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
    known = [kind.UNITS for kind, find in analysis.sites.others.items() if find().failure is None]
    for units in (HEADS, *known):
        entries = _recorded(units, analysis, left, facts)
        if units == HEADS or any(not entry.left for entry in entries):
            apply.set_metadata(model, units_entry(units).key, units_entry(units).text(tuple(entries)))
    apply.set_metadata(model, EXITS_KEY, EXITS_ENTRY.text(_states(exits, taken, analysis, facts)))
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
        change = IoChange("input", info.name, None, _spelled(info), "gone")
        changes[change] = f"input {info.name}: removed, since only removed nodes read it"
    for name, answer in left.constant.items():
        change = IoChange("output", name, None, "computed", f"always {str(answer).lower()}")
        changes[change] = f"output {name}: always {str(answer).lower()} now"
    return changes


def _spelled(info: ValueInfoProto) -> str:
    """The declared shape: "[batch, 3]"."""
    dims = (
        dim.dim_param or (str(dim.dim_value) if dim.HasField("dim_value") else "?")
        for dim in info.type.tensor_type.shape.dim
    )
    return f"[{', '.join(dims)}]"


def _names(site: Site, left: DecidedModel, facts: Settled) -> tuple[str, ...]:
    """Return the names that identify a site in the remaining model; empty if it is removed."""
    made = _made(left.model)
    names = (left.names.get(value, value.name) for value in site.marks if not _is_passed_over(value, facts))
    return tuple(dict.fromkeys(name for name in names if name in made))


def _is_passed_over(value: Value, facts: Settled) -> bool:
    """Return whether a value lies in a body that never runs."""
    return any(facts.choices.get(owner, scope) is not scope for owner, scope in value.scope.owners)


def _made(model: ModelProto) -> set[str]:
    """Names of all outputs of nodes, in all bodies."""
    return {name for node in nodes_in(model.graph.node) for name in node.output}


def _recorded(units: str, analysis: Analysis, left: DecidedModel, facts: Settled) -> list[RecordedUnits]:
    """The record of all sites of one kind in the original; those after the exit count as removed."""
    # What is gone is not recognised by a name that now means something else.
    made = _made(left.model)
    entries = [entry for entry in units_entry(units).read(analysis.view.model) if not entry.left]
    for site in analysis.sites.of(units):
        names, entry = _names(site, left, facts), site.recorded()
        if names:
            entries.append(replace(entry, projections=names))
        else:
            kept = tuple(name for name in entry.projections if name not in made)
            entries.append(replace(entry, removed=tuple(range(entry.num_units)), projections=kept))
    return sorted(entries, key=lambda entry: entry.number)


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
