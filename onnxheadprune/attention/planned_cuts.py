"""The cut of each site in a plan and in the record of the pruned model: this cut, and those before it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from onnxheadprune.attention.sites.all_sites import Sites
from onnxheadprune.attention.sites.site import Site
from onnxheadprune.edit.edits import SetMetadata
from onnxheadprune.edit.records import HEADS, RecordedUnits, units_entry
from onnxheadprune.edit.site_cuts import SiteCut
from onnxheadprune.model.graph.view import GraphView


def planned_cuts(
    view: GraphView,
    sites: Sites,
    kind: type[Site],
    chosen: Mapping[int, tuple[int, ...]],
    present: Mapping[int, tuple[int, ...]] = MappingProxyType({}),
) -> tuple[SiteCut, ...]:
    """The cuts of all sites of a kind, those included that are in the graph no longer.

    Args:
        chosen: the units that are removed per site index, as indices of the original.
        present: the same as indices of the model.
    """
    found, names = [], (kind.UNITS, kind.TITLE)
    for site in (some := sites.of(kind.UNITS)):
        gone = set(present.get(site.index, ()))
        cut = SiteCut(
            number=site.number,
            name=site.name,
            num_units=site.original_num_units,
            removed=chosen.get(site.index, ()),
            removed_before=site.removed,
            key=site.key,
            kind=names,
            kv_num_heads=site.recorded().kv_num_heads,
            kv_removed=sum(1 for group in site.groups if gone.issuperset(group)) if gone else 0,
        )
        found.append(cut)
    known = {site.number for site in some}
    for entry in units_entry(kind.UNITS).read(view.model):
        if entry.number not in known:
            cut = SiteCut(
                number=entry.number,
                name=entry.name,
                num_units=entry.num_units,
                removed=(),
                removed_before=entry.removed,
                key=f"{kind.KEY}{entry.number}",
                kind=names,
                kv_num_heads=entry.kv_num_heads,
            )
            found.append(cut)
    return tuple(sorted(found, key=lambda cut: cut.number))


def planned_block_cuts(
    view: GraphView,
    sites: Sites,
    chosen: Mapping[int, tuple[int, ...]],
    shifted: Collection[type[Site]] = (),
) -> tuple[SiteCut, ...]:
    """The cuts of all sites of each other kind, once one of them loses units or has lost some before.

    Args:
        chosen: the units that are removed per site index, as indices of the original.
        shifted: kinds whose sites would be found under other numbers after the cut.
    """
    concerned = (
        kind
        for kind in sites.others
        if kind in shifted or any(map(kind.owns, chosen)) or units_entry(kind.UNITS).read(view.model)
    )
    return tuple(cut for kind in concerned for cut in planned_cuts(view, sites, kind, chosen))


def site_records(
    cuts: Sequence[SiteCut],
    view: GraphView,
    sites: Sites,
    vanishing: Collection[Site] = (),
    moved: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[SetMetadata]:
    """Yield the pruned model's record of its sites: this cut and all before it, sites known by their first names.

    Args:
        vanishing: those that vanish with others, of which an attention site is not looked for again.
        moved: the values that are read in place of others, as where nothing is added to a stream any more.
    """
    absent = {site.number for site in vanishing if site in sites.sites}
    for units in dict.fromkeys((HEADS, *(cut.units for cut in cuts))):
        record = units_entry(units).read(view.model)
        known = {entry.number: entry for entry in record}
        known |= {site.number: site.recorded() for site in sites.of(units)}
        # Names are those of the original.
        known |= {entry.number: entry for entry in record if entry.projections}
        own = (cut for cut in cuts if cut.units == units and not (units == HEADS and cut.number in absent))
        entries = tuple(
            _entry(known[cut.number], tuple(sorted({*cut.removed, *cut.removed_before})), moved)
            for cut in own
        )
        yield SetMetadata(units_entry(units).key, units_entry(units).text(entries))


def _entry(entry: RecordedUnits, removed: tuple[int, ...], moved: Mapping[str, str]) -> RecordedUnits:
    """The entry with its removed units; the states of a layer have the names that they get, removed ones none."""
    entry = replace(entry, removed=removed)
    if not entry.states:
        return entry
    pairs = ((moved.get(front, front), moved.get(behind, behind)) for front, behind in entry.states)
    # Between equal states nothing is left.
    states = tuple((front, behind) for front, behind in pairs if front != behind and not removed)
    return replace(entry, states=states, projections=tuple(dict.fromkeys(behind for _, behind in states)))
