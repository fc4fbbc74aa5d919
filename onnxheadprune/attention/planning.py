"""Planning: from named heads to an immutable list of edits."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from onnx import ModelProto

from onnxheadprune.attention.cut_edits import (
    Bypass,
    Cut,
    caches_of,
    loses_all,
    require_apart,
)
from onnxheadprune.attention.io_changes import AS_IT_IS, Contract, lost_content, rewired
from onnxheadprune.attention.sites.all_sites import Sites
from onnxheadprune.attention.sites.caches import comes_or_goes
from onnxheadprune.attention.sites.find import Analysis, analysis_of
from onnxheadprune.attention.sites.site import Site
from onnxheadprune.attention.specs import HeadSpec, names_all, resolve_units
from onnxheadprune.display.spelling import spelled as spelled_units
from onnxheadprune.edit.edits import DropNode, DropTensor, Edit, SetRecord, SliceTensor
from onnxheadprune.edit.plan import (
    IoChange,
    LeftOutNode,
    PlannedEdit,
    PrunePlan,
    Role,
    SiteCut,
    fingerprint,
)
from onnxheadprune.edit.records import HEADS, RecordedUnits, record_of
from onnxheadprune.edit.renaming import with_fresh_names
from onnxheadprune.errors import RefusedError
from onnxheadprune.liveness.interface import Interface
from onnxheadprune.liveness.live import FULL, Live
from onnxheadprune.liveness.sweep_result import Sweep
from onnxheadprune.model.analysis_errors import analysing
from onnxheadprune.model.bodies import is_constant
from onnxheadprune.model.graph.view import GraphView, Use, Value
from onnxheadprune.model.load import LoadedModel, ModelLike, model_name, open_structure
from onnxheadprune.settings.units import HEAD, LAYER, UnitKind, key_of


@dataclasses.dataclass(frozen=True, eq=False)
class Planning:
    """A plan together with the analysis it came from, for those who need more than the edits."""

    plan: PrunePlan  # the edits
    view: GraphView  # the model as it was analysed
    sites: Sites
    # units to remove per site index, as *present* indices, without those of sites in removed layers
    heads: Mapping[int, tuple[int, ...]]
    io: Interface  # what the cut leaves of graph inputs and outputs
    silent: tuple[Use, ...] = ()  # reads of contexts that may end what outputs depend on

    @property
    def concerned(self) -> tuple[Site, ...]:
        """All attention sites, and those of other kinds that lose units."""
        return self.sites.concerned(self.heads)

    @property
    def parts(self) -> tuple[str, ...]:
        """The removed parts in the notation of specs: ("attn.0:1,3", "ffn.1", "layer.3")."""
        return tuple(
            site.tag
            if len(units := self.heads[site.index]) == site.num_units
            else f"{site.tag}:{spelled_units(site.original(units))}"
            for site in self.touched
        )

    @property
    def touched(self) -> tuple[Site, ...]:
        """The sites that lose units, of all kinds."""
        return self.sites.losing(self.heads)


def plan_of(model: ModelLike, heads: HeadSpec, contract: Contract, exit_: int | None = None) -> PrunePlan:
    """Plan the removal of units from a model, which is not changed.

    Args:
        exit_: the early exit that is made permanent first, by its number; None for none.
    """
    loaded = open_structure(model)
    if exit_ is None:
        return analyse(loaded.proto, heads, model_name(model), contract).plan
    from onnxheadprune.attention.exits import leaving

    left = leaving(loaded, (exit_,))
    return left.on(analyse(left.model.proto, heads, model_name(model), contract).plan)


def analyse(
    model: ModelProto,
    heads: HeadSpec,
    name: str,
    contract: Contract = AS_IT_IS,
) -> Planning:
    """Like `plan_of`, and keeps the analysis."""
    return planned(analysis_of(model, name), heads, contract)


def planned(analysis: Analysis, heads: HeadSpec, contract: Contract = AS_IT_IS) -> Planning:
    """Plan the removal of heads from a model that is analysed already."""
    with analysing(analysis.model, analysis.name):
        return _planned(analysis, heads, contract)


def _planned(analysis: Analysis, heads: HeadSpec, contract: Contract) -> Planning:
    view, sites = analysis.view, analysis.sites
    chosen = resolve_units(heads, sites)
    bypass = Bypass.of(view, sites.losing(chosen))
    # What lies in a removed layer is removed with it.
    within = [site for site in (sites.known if bypass.layers else ()) if bypass.covers(site)]
    chosen |= {site.index: site.original(range(site.num_units)) for site in within}
    present = {site.index: site.present(chosen[site.index]) for site in sites.losing(chosen)}
    cut = {index: units for index, units in present.items() if index not in {site.index for site in within}}
    require_apart(sites.losing(cut), cut)
    caches = caches_of(view, sites, present, contract)
    work = Cut(view, sites, cut, contract, caches, bypass)
    swept, edits = work.edits()
    dead = [site for site in _vanishing(sites, swept) if not loses_all(site, present)]
    gone = [site for site in dead if not chosen.get(site.index)]
    # What an output depends on through named units alone may go; but not with units that nobody named, other than the
    # ranks of products inside of attentions.
    apart = [site for site in dead if site.is_branch or site.only_named is None]
    whole = [] if apart else [site for site in sites.losing(cut) if loses_all(site, cut)]
    silent = tuple(Use(item.node, item.activation[0]) for site in whole for item in site.projections)
    after = rewired(view.model, edits)
    lost = [*lost_content(view, after)]
    for output, name in lost_content(view, after, silent) if lost else ():
        raise RefusedError(
            f"the cut would leave output {output} without input {name}: every path from one to the other leads through"
            " what is removed with it; remove less"
        )
    shifted = {site.KIND for site in gone}
    if any(loses_all(site, present) for site in sites.losing(present)):
        # Layers keep their numbers, whatever is left of them.
        shifted.add(LAYER)
    cuts = planned_cuts(view, sites, chosen, present, shifted)
    records = tuple(site_records(cuts, view, sites, gone, bypass.names(edits)))
    edits[SetRecord(records, work.agreed(swept))] = frozenset()
    io_live = ((value, live) for value, live in swept.narrowed() if comes_or_goes(value))
    narrowed = {value.name: live for value, live in io_live if not value.holds_tensor}
    io = Interface(narrowed, caches.names)
    interface = [_io_changes(view, name, live) for name, live in sorted(io.live.items())]
    sentences = [
        f"{changes[0].role} {changes[0].name}: "
        + ", ".join(f"{change.before} -> {change.after} on axis {change.axis}" for change in changes)
        for changes in interface
    ]
    renamed = caches.changes(view)
    for change in renamed:
        what = "goes" if change.after is None else f"is called {change.after}"
        sentences.append(f"{change.role} {change.name}: {what}")
    left_out = (*sites.near_misses, *sites.no_heads) if names_all(heads) else ()
    named = with_fresh_names(view, edits)
    plan = PrunePlan(
        model=analysis.name,
        fingerprint=fingerprint(analysis.model),
        cuts=tuple(cut for cut in cuts if cut.units == HEADS),
        edits=tuple(PlannedEdit(edit, tuple(sorted(owners))) for edit, owners in named.items()),
        io_changes=tuple(sentences),
        elements_removed=elements_removed(view, edits),
        left_out=tuple(LeftOutNode(item.node, item.reason.sentence) for item in left_out),
        interface=tuple(change for changes in interface for change in changes),
        blocks=tuple(cut for cut in cuts if cut.units != HEADS),
        renamed=renamed,
        notes=(
            *([caches.idle] if caches.idle else []),
            *bypass.kept(),
            *(
                f"the cache of {site.label} keeps all its heads: {site.io_refusal.sentence}"
                for site in sites.losing(cut)
                if site.io_refusal and contract.cache != "keep"
            ),
            *(
                f"a part of each removed head of {site.label} is still computed: {why}"
                for site in sites
                if site.index in cut and not loses_all(site, cut) and (why := site.left_in(swept)) is not None
            ),
            *(f"{site.label} is removed, too: nothing reads its output any more" for site in dead),
            *map(str, sites.failed),
            *(f"output {output} no longer depends on input {name}" for output, name in lost),
        ),
    )
    return Planning(plan, view, sites, cut, io, silent)


def _io_changes(view: GraphView, name: str, live: Live) -> tuple[IoChange, ...]:
    """The changes of one graph input or output, axis by axis."""
    value = view.main.values[name]
    assert value.shape is not None
    role: Role = "input" if value.is_graph_input else "output"
    changes = []
    for axis in live.axes:
        before = value.shape[axis]
        after = live.narrow(before, axis)
        # Rows of layers that keep other heads each stay as many.
        if after != before:
            sizes = (size if isinstance(size, int) else str(size) for size in (before, after))
            changes.append(IoChange(role, name, axis, *sizes))
    return tuple(changes)


def _vanishing(sites: Sites, swept: Sweep) -> list[Site]:
    """Return the sites that nothing reads any more, which vanish."""
    if not any(live.is_dead for live in swept.kept.values()):
        return []  # without a look for sites of other kinds
    return [
        site
        for site in sites.known
        if site.marks and all(swept.kept.get(value, FULL).is_dead for value in site.marks)
    ]


def planned_on(plan: PrunePlan, loaded: LoadedModel) -> LoadedModel:
    """The model that the edits of a plan are for: with the exits and the vocabulary that the plan gives it first."""
    if plan.exit is not None:
        from onnxheadprune.attention.exits import leaving

        loaded = leaving(loaded, plan.exit.numbers).model
    if plan.vocabulary is not None:
        from onnxheadprune.attention.vocabulary.trim import trimming

        tokens = plan.vocabulary.tokens
        loaded = trimming(loaded, tokens.kept, tokens.inputs, tokens.rows, tokens.outputs).model
    return loaded


def require_something(plan: PrunePlan) -> None:
    """Refuse a plan that removes nothing."""
    if not plan.changes_something:
        raise RefusedError("nothing to remove: no units were named or could be chosen")


def planned_cuts(
    view: GraphView,
    sites: Sites,
    chosen: Mapping[int, tuple[int, ...]],
    present: Mapping[int, tuple[int, ...]],
    shifted: Collection[UnitKind],
) -> tuple[SiteCut, ...]:
    """The cuts of all sites, those included that are in the graph no longer.

    Sites of another kind than heads are there once one of them loses units or has lost some before.

    Args:
        chosen: the units that are removed per site index, as indices of the original.
        present: the same as indices of the model.
        shifted: kinds whose sites would be found under other numbers after the cut.
    """
    cuts: list[SiteCut] = []
    for kind in (HEAD, *sites.others):
        before = record_of(view.model).of(kind.units)
        if kind in sites.others and kind not in shifted and not any(map(kind.owns, chosen)) and not before:
            continue
        some = {site.number: site for site in sites.of(kind.units)}
        entries = [site.recorded() for site in some.values()]
        entries += [entry for entry in before if entry.number not in some]
        for entry in sorted(entries, key=lambda entry: entry.number):
            index, site = kind.first + entry.number, some.get(entry.number)
            gone = set(present.get(index, ())) if entry.kv_num_heads else set[int]()
            cut = SiteCut(
                number=entry.number,
                name=entry.name,
                num_units=entry.num_units,
                removed=chosen.get(index, ()),
                removed_before=entry.removed,
                key=key_of(index) if site is None else site.key,
                kind=(kind.units, kind.title),
                kv_num_heads=entry.kv_num_heads,
                kv_removed=sum(1 for group in (site.groups if site else ()) if gone.issuperset(group)),
            )
            cuts.append(cut)
    return tuple(cuts)


def site_records(
    cuts: Sequence[SiteCut],
    view: GraphView,
    sites: Sites,
    vanishing: Collection[Site] = (),
    moved: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[tuple[str, tuple[RecordedUnits, ...]]]:
    """Yield the record of the sites of each kind after this cut and all before it, sites known by their first names.

    Args:
        vanishing: those that vanish with others, of which an attention site is not looked for again.
        moved: the values that are read in place of others, as where nothing is added to a stream any more.
    """
    absent = {site.number for site in vanishing if site in sites.sites}
    for units in dict.fromkeys((HEADS, *(cut.units for cut in cuts))):
        record = record_of(view.model).of(units)
        known = {entry.number: entry for entry in record}
        known |= {site.number: site.recorded() for site in sites.of(units)}
        # Names are those of the original.
        known |= {entry.number: entry for entry in record if entry.projections}
        own = (cut for cut in cuts if cut.units == units and not (units == HEADS and cut.number in absent))
        yield (
            units,
            tuple(
                _entry(known[cut.number], tuple(sorted({*cut.removed, *cut.removed_before})), moved)
                for cut in own
            ),
        )


def _entry(entry: RecordedUnits, removed: tuple[int, ...], moved: Mapping[str, str]) -> RecordedUnits:
    """The entry with its removed units; the states of a layer have the names that they get, removed ones none."""
    entry = replace(entry, removed=removed)
    if not entry.states:
        return entry
    pairs = ((moved.get(front, front), moved.get(behind, behind)) for front, behind in entry.states)
    # Between equal states nothing is left.
    states = tuple((front, behind) for front, behind in pairs if front != behind and not removed)
    return replace(entry, states=states, projections=tuple(dict.fromkeys(behind for _, behind in states)))


def elements_removed(view: GraphView, edits: Iterable[Edit]) -> int:
    """Elements that are cut off stored tensors, and those of tensors that vanish as a whole.

    Seen from every tensor that results: of a weight that layers share and cut differently, each copy loses its own.
    Target shapes, bounds and single numbers are no weights.
    """
    scopes = {scope.ref: scope for scope in view.scopes}
    removed, copied, vanished = 0, set[Value](), list[Value]()
    for edit in edits:
        match edit:
            case SliceTensor():
                value = scopes[edit.scope].values[edit.name]
                size, selection = _size(value), edit.selection
                removed += size - size // math.prod(selection.sizes) * math.prod(selection.kept)
                copied.update([value] if edit.target != edit.name else [])
            case DropTensor(scope, name):
                vanished.append(scopes[scope].values[name])
            case DropNode(node) if is_constant(view.by_ref[node]):
                vanished.append(view.by_ref[node].out)
    weights = (value for value in vanished if value.shape and value.elements is None)
    return removed + sum(_size(value) for value in weights if value not in copied)


def _size(value: Value) -> int:
    return 0 if value.tensor is None else math.prod(value.tensor.dims)
