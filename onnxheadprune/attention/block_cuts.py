"""Cuts and records of sites of other kinds than heads."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from onnxheadprune.attention.sites.site import Sites
from onnxheadprune.attention.sites.unit import Site
from onnxheadprune.edit.edits import SetMetadata
from onnxheadprune.edit.records import RecordedUnits, units_key, units_record, units_text
from onnxheadprune.edit.site_cuts import BlockCut
from onnxheadprune.model.graph.view import GraphView


def block_cuts(
    view: GraphView,
    sites: Sites,
    chosen: Mapping[int, tuple[int, ...]],
    shifted: Collection[type[Site]] = (),
) -> tuple[BlockCut, ...]:
    """All sites of a kind, once one of them loses units or has lost some before; numbers stay those of the original.

    Args:
        view: the model.
        sites: its sites.
        chosen: the units that go per site index, as indices of the original.
        shifted: kinds of which sites vanish with units of others.
    """
    return tuple(cut for kind in sites.others for cut in _cuts(kind, view, sites, chosen, kind in shifted))


def _cuts(
    kind: type[Site],
    view: GraphView,
    sites: Sites,
    chosen: Mapping[int, tuple[int, ...]],
    shifted: bool,
) -> list[BlockCut]:
    earlier = units_record(view.model, kind.UNITS)
    if not earlier and not shifted and not any(map(kind.owns, chosen)):
        return []
    names = kind.UNITS, kind.TITLE
    cuts = [
        BlockCut(
            names,
            site.key,
            site.number,
            site.name,
            site.original_num_units,
            chosen.get(site.index, ()),
            site.removed,
        )
        for site in sites.of(kind.UNITS)
    ]
    # Sites that an earlier pruning removed as a whole are no longer in the graph, only in its record.
    known = {cut.number for cut in cuts}
    cuts += [
        BlockCut(
            names, f"{kind.KEY}{entry.number}", entry.number, entry.name, entry.num_units, (), entry.removed
        )
        for entry in earlier
        if entry.number not in known
    ]
    return sorted(cuts, key=lambda cut: cut.number)


def block_records(cuts: Sequence[BlockCut], view: GraphView, sites: Sites) -> list[SetMetadata]:
    """What the pruned model says of these sites: this cut and all before it, sites known by their first names."""
    return [
        SetMetadata(units_key(units), units_text(_recorded(units, cuts, view, sites), units))
        for units in dict.fromkeys(cut.units for cut in cuts)
    ]


def _recorded(units: str, cuts: Sequence[BlockCut], view: GraphView, sites: Sites) -> list[RecordedUnits]:
    names = {site.number: site.projection_names for site in sites.of(units)}
    names |= {entry.number: entry.projections for entry in units_record(view.model, units)}
    return [
        RecordedUnits(
            cut.number,
            cut.name,
            cut.num_units,
            tuple(sorted({*cut.removed, *cut.removed_before})),
            names[cut.number],
        )
        for cut in cuts
        if cut.units == units
    ]
