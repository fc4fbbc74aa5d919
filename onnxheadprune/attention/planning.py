"""Planning: from named heads to an immutable list of edits."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from onnx import ModelProto

from onnxheadprune.attention.analysis import Analysis, analysis_of
from onnxheadprune.attention.block_cuts import block_cuts, block_records
from onnxheadprune.attention.caches import CacheCut, cache_cut
from onnxheadprune.attention.contract import AS_IT_IS, Contract
from onnxheadprune.attention.exits.leave import leaving
from onnxheadprune.attention.heads import HeadSpec
from onnxheadprune.attention.layers import layers_kept
from onnxheadprune.attention.sites.generation import why_uneven
from onnxheadprune.attention.sites.site import Sites
from onnxheadprune.attention.sites.unit import Projection, Site
from onnxheadprune.attention.sites.whole import detached, goes_whole, going_whole, half_dead
from onnxheadprune.attention.units import names_all, resolve_units
from onnxheadprune.edit.edits import Edit, SetMetadata
from onnxheadprune.edit.fingerprint import fingerprint
from onnxheadprune.edit.fresh_names import with_fresh_names
from onnxheadprune.edit.plan import (
    IoChange,
    LeftOutNode,
    PlannedEdit,
    PrunePlan,
    RenamedIo,
)
from onnxheadprune.edit.records import (
    CACHES_KEY,
    REMOVED_KEY,
    RecordedSite,
    caches_record,
    caches_text,
    pruning_text,
)
from onnxheadprune.edit.removed import elements_removed
from onnxheadprune.edit.site_cuts import SiteCut
from onnxheadprune.errors import RefusedError
from onnxheadprune.liveness.blocks import is_packed
from onnxheadprune.liveness.cleanup import settled
from onnxheadprune.liveness.interface import Interface
from onnxheadprune.liveness.live import Live
from onnxheadprune.liveness.realize import realize
from onnxheadprune.liveness.sweep import sweep
from onnxheadprune.liveness.swept import Sweep
from onnxheadprune.model.graph.collecting import paused
from onnxheadprune.model.graph.view import GraphView, Node, Value
from onnxheadprune.model.load import ModelLike, model_name, open_structure
from onnxheadprune.model.soundness import analysing


@dataclasses.dataclass(frozen=True, eq=False)
class Planning:
    """A plan together with the analysis it came from, for those who need more than the edits.

    Attributes:
        plan: the edits.
        view: the model as it was analysed.
        sites: its sites.
        heads: units to remove per site index, as *present* indices; heads, or what else a site has.
        io: what the cut leaves of graph inputs and outputs.
    """

    plan: PrunePlan
    view: GraphView
    sites: Sites
    heads: Mapping[int, tuple[int, ...]]
    io: Interface

    @property
    def concerned(self) -> tuple[Site, ...]:
        """All attention sites, and those of other kinds that lose units."""
        return self.sites.concerned(self.heads)

    @property
    def touched(self) -> tuple[Site, ...]:
        """The sites that lose units, of all kinds."""
        return self.sites.losing(self.heads)


def plan_pruning(
    model: ModelLike,
    heads: HeadSpec,
    *,
    exit: int | None = None,  # noqa: A002 the option's own name; nothing here leaves the interpreter
    keep_cache_shape: bool = False,
    allow_io_change: bool = False,
    renumber_cache: bool = False,
) -> PrunePlan:
    """What removing `heads` changes in a model. The model itself is not touched.

    Args:
        model: a path, a `ModelProto`, a `gs.Graph` or an `onnx_ir.Model`.
        heads: a head spec ("0:1,3 5:0-3"), a mapping `{0: [1, 3]}` or the path of a JSON file.
        exit: the early exit that is made permanent first, by its number; None for none.
        keep_cache_shape: keep the shapes of past/present inputs and outputs, at the price of an edge gather.
        allow_io_change: also narrow graph inputs and outputs that are no cache, where they carry heads.
        renumber_cache: drop the cache of attention that goes as a whole, and close the gap in the names of the others.

    Raises:
        UsageError: if the spec or the path is wrong.
        RefusedError: if the heads cannot be removed exactly, or there is no such exit.
        ModelError: if the model cannot be read.
    """
    loaded = open_structure(model)
    contract = Contract(keep_cache_shape, allow_io_change, renumber_cache)
    if exit is None:
        return analyse(loaded.proto, heads, model_name(model), contract).plan
    left = leaving(loaded, (exit,))
    return left.on(analyse(left.model.proto, heads, model_name(model), contract).plan)


def analyse(
    model: ModelProto,
    heads: HeadSpec,
    name: str,
    contract: Contract = AS_IT_IS,
) -> Planning:
    """Like `plan_pruning`, and keeps the analysis."""
    with analysing(model, name):
        return planned(analysis_of(model, name), heads, contract)


def planned(analysis: Analysis, heads: HeadSpec, contract: Contract = AS_IT_IS) -> Planning:
    """What removing heads changes in a model that is analysed already.

    Args:
        analysis: of the model.
        heads: a head spec.
        contract: what may happen to inputs and outputs.

    Raises:
        HeadPruneError: as `plan_pruning` does.
    """
    with paused(), analysing(analysis.model, analysis.name):
        return _planned(analysis, heads, contract)


def _planned(analysis: Analysis, heads: HeadSpec, contract: Contract) -> Planning:
    view, sites = analysis.view, analysis.sites
    chosen = resolve_units(heads, sites)
    present = {site.index: site.present(chosen[site.index]) for site in sites.losing(chosen)}
    _require_apart(sites.losing(present), present)
    uneven = None if contract.keep_cache_shape else why_uneven(sites, present)
    if uneven is not None:
        raise RefusedError(uneven)
    caches = _caches(view, sites, present, contract)
    swept, edits = _swept_edits(view, sites, present, contract, caches)
    cuts = _cuts(sites, chosen, present)
    edits[SetMetadata(REMOVED_KEY, pruning_text(_recorded(cuts, sites)))] = frozenset()
    blocks = block_cuts(view, sites, chosen)
    edits |= dict.fromkeys(block_records(blocks, view, sites), frozenset())
    edits |= dict.fromkeys(layers_kept(sites, going_whole(sites, present)), frozenset())
    if caches.sites:
        went = (*caches_record(view.model), *caches.sites)
        edits[SetMetadata(CACHES_KEY, caches_text(went))] = frozenset()
    io = Interface(_narrowed_io(swept), caches.names)
    interface = [_io_changes(view, name, live) for name, live in sorted(io.live.items())]
    renamed = caches.changes(view)
    plan = PrunePlan(
        analysis.name,
        fingerprint(analysis.model),
        cuts,
        _planned_edits(view, edits),
        (*(_io_sentence(changes) for changes in interface), *map(_renamed_sentence, renamed)),
        elements_removed(view, edits),
        _left_out(sites) if names_all(heads) else (),
        tuple(change for changes in interface for change in changes),
        blocks,
        renamed,
        notes=(caches.idle,) if caches.idle else (),
    )
    return Planning(plan, view, sites, present, io)


def _swept_edits(
    view: GraphView,
    sites: Sites,
    heads: Mapping[int, tuple[int, ...]],
    contract: Contract,
    caches: CacheCut,
) -> tuple[Sweep, dict[Edit, frozenset[str]]]:
    """What is live without the heads, and the edits that follow, each with the sites behind it.

    Raises:
        RefusedError: if a site cannot go as a whole.
    """
    swept = _sweep(view, sites, heads, contract)
    edits = _edits(view, sites, heads, swept, caches)
    if not half_dead(swept, edits):
        return swept, edits | caches.closing(view, edits)
    # A shape of what vanishes is used elsewhere: what computes it stays as it is, and is only not summed up.
    swept = _sweep(view, sites, heads, contract, emptied=False)
    edits = _edits(view, sites, heads, swept, caches)
    wide = [site for site in going_whole(sites, heads) if any(item.sums_more for item in site.projections)]
    if wide and half_dead(swept, edits):
        raise RefusedError(
            f"{wide[0].label} cannot be removed as a whole: the shape of its context is used elsewhere; leave at"
            f" least one {wide[0].UNIT}"
        )
    return swept, edits | caches.closing(view, edits)


def _caches(
    view: GraphView, sites: Sites, heads: Mapping[int, tuple[int, ...]], contract: Contract
) -> CacheCut:
    """What becomes of the caches of sites that go as a whole."""
    if not contract.renumber_cache:
        return CacheCut()
    return cache_cut(view, sites, going_whole(sites, heads), contract.renumbered_sites)


def _require_apart(sites: Sequence[Site], units: Mapping[int, tuple[int, ...]]) -> None:
    """Refuses what two sites that share a projection cannot lose together.

    Raises:
        RefusedError: if the projection would sum over nothing, or is packed so that only one site at a time can be cut.
    """
    shared: dict[Node, list[tuple[Site, Projection]]] = {}
    for site in sites:
        for projection in site.projections:
            shared.setdefault(projection.node, []).append((site, projection))
    for node, readers in shared.items():
        if len(readers) < 2:
            continue
        names = " and ".join(site.label for site, _ in readers)
        if is_packed(node):
            raise RefusedError(
                f"{node.label} packs the weights of {names} in blocks; cut one, then the other"
            )
        alive = [projection.live_without(units[site.index]) for site, projection in readers]
        if not np.logical_and.reduce(alive).any():
            raise RefusedError(
                f"{node.label} would have nothing left to sum up of {names}; leave one unit of these"
            )


def _planned_edits(view: GraphView, edits: Mapping[Edit, frozenset[str]]) -> tuple[PlannedEdit, ...]:
    """Edits under names that the model does not use yet, with the names of their sites in order."""
    renamed = with_fresh_names(view, list(edits))
    sites = [tuple(sorted(names)) for names in edits.values()]
    return tuple(PlannedEdit(edit, names) for edit, names in zip(renamed, sites, strict=True))


def _narrowed_io(swept: Sweep) -> dict[str, Live]:
    """What is live of each graph input and output that gets narrower."""
    return {
        value.name: live
        for value, live in swept.narrowed()
        if value.scope.parent is None
        and (value.is_graph_input or value.is_graph_output)
        and not value.holds_tensor
    }


def _left_out(sites: Sites) -> tuple[LeftOutNode, ...]:
    """What attends and is no site."""
    return tuple(
        LeftOutNode(item.node, item.reason.sentence) for item in (*sites.near_misses, *sites.no_heads)
    )


def _edits(
    view: GraphView,
    sites: Sites,
    heads: Mapping[int, tuple[int, ...]],
    swept: Sweep,
    caches: CacheCut,
) -> dict[Edit, frozenset[str]]:
    """All edits of a sweep, those on the projections, and what dies with them."""
    edits = dict(realize(view, swept).edits)
    edits |= detached(sites, heads)
    edits |= caches.opening(_narrowed_io(swept))
    for site in sites.losing(heads):
        left = [item for item in site.projections if not item.is_emptied_by(heads[site.index])]
        own = [edit for item in left for edit in item.edits(heads[site.index])]
        edits |= dict.fromkeys(own, frozenset({site.name}))
    return settled(view, edits)


def _sweep(
    view: GraphView,
    sites: Sites,
    heads: Mapping[int, tuple[int, ...]],
    contract: Contract,
    emptied: bool = True,
) -> Sweep:
    chosen = sites.losing(heads)
    seeds = [seed for site in chosen for seed in site.seeds(heads[site.index], emptied)]
    for site in chosen:
        if site.maps and not contract.allow_io_change and not goes_whole(site, heads):
            names = ", ".join(sorted(value.name for value in site.maps))
            raise RefusedError(
                f"{site.label} cannot lose heads while the model hands out a map per head"
                f" ({names}); --allow-io-change narrows that output"
            )
    free: set[Value] = set()
    if not contract.keep_cache_shape:
        # A site that goes as a whole leaves its cache as it was: nothing of its model contract changes.
        partly = [site for site in chosen if not goes_whole(site, heads)]
        free.update(*(site.free for site in partly))
    if contract.allow_io_change:
        free.update(v for v in view.main.values.values() if v.is_graph_input or v.is_graph_output)
    return sweep(seeds, frozenset(free))


def _cuts(
    sites: Sites,
    chosen: Mapping[int, tuple[int, ...]],
    present: Mapping[int, tuple[int, ...]],
) -> tuple[SiteCut, ...]:
    known = {site.index for site in sites}
    cuts = [
        SiteCut(
            site.index,
            site.name,
            site.original_num_heads,
            site.original_kv_num_heads,
            chosen.get(site.index, ()),
            site.removed,
            sum(1 for group in site.groups if set(group) <= set(present.get(site.index, ()))),
        )
        for site in sites
    ]
    # Sites that an earlier pruning removed as a whole are no longer in the graph, only in its record.
    cuts += [
        SiteCut(entry.index, entry.name, entry.num_heads, entry.kv_num_heads, (), entry.removed)
        for entry in sites.record
        if entry.index not in known
    ]
    return tuple(sorted(cuts, key=lambda cut: cut.index))


def _recorded(cuts: Sequence[SiteCut], sites: Sites) -> list[RecordedSite]:
    """What the pruned model says about itself: this cut and all before it, sites known by their first names."""
    names = {site.index: site.projection_names for site in sites}
    names |= {entry.index: entry.projections for entry in sites.record if entry.projections}
    return [
        RecordedSite(
            number=cut.index,
            name=cut.name,
            num_units=cut.num_heads,
            removed=tuple(sorted({*cut.removed, *cut.removed_before})),
            projections=names.get(cut.index, ()),
            kv_num_heads=cut.kv_num_heads,
        )
        for cut in cuts
    ]


def _io_changes(view: GraphView, name: str, live: Live) -> tuple[IoChange, ...]:
    value = view.main.values[name]
    assert value.shape is not None
    role = "input" if value.is_graph_input else "output"
    changes = []
    for axis in live.axes:
        before = value.shape[axis]
        changes.append(IoChange(role, name, axis, _told(before), _told(live.narrow(before, axis))))
    return tuple(changes)


def _told(size: object) -> int | str:
    return size if isinstance(size, int) else str(size)


def _io_sentence(changes: Sequence[IoChange]) -> str:
    told = [f"{change.before} -> {change.after} on axis {change.axis}" for change in changes]
    return f"{changes[0].role} {changes[0].name}: {', '.join(told)}"


def _renamed_sentence(change: RenamedIo) -> str:
    what = "goes" if change.after is None else f"is called {change.after}"
    return f"{change.role} {change.name}: {what}"


def require_something(plan: PrunePlan) -> None:
    """Refuses a plan that removes nothing.

    Raises:
        RefusedError: if no unit goes.
    """
    if not plan.changes_something:
        raise RefusedError("no heads were named, so there is nothing to remove")


__all__ = ["Planning", "analyse", "plan_pruning", "planned", "require_something"]
