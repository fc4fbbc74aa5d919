"""The cut of each site in a plan and in the record of the pruned model: this cut, and those before it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from onnxheadprune.attention.sites.all_sites import Sites
from onnxheadprune.attention.sites.site import Site
from onnxheadprune.edit.edits import SetMetadata
from onnxheadprune.edit.records import HEADS, RecordedUnits, units_entry
from onnxheadprune.edit.site_cuts import BlockCut, SiteCut, UnitsCut
from onnxheadprune.model.graph.view import GraphView


def planned_head_cuts(
    view: GraphView,
    sites: Sites,
    chosen: Mapping[int, tuple[int, ...]],
    present: Mapping[int, tuple[int, ...]],
) -> tuple[SiteCut, ...]:
    """The cuts of all attention sites.

    Args:
        chosen: the units that are removed per site index, as indices of the original.
    """
    cuts = []
    for site in sites:
        gone = set(present.get(site.index, ()))
        cut = SiteCut(
            **_cut(site, chosen),
            kv_num_heads=site.original_kv_num_heads,
            kv_removed=sum(1 for group in site.groups if gone.issuperset(group)),
        )
        cuts.append(cut)
    earlier = _gone_before(units_entry(HEADS).read(view.model), sites)
    cuts += [SiteCut(**_cut_before(entry), kv_num_heads=entry.kv_num_heads) for entry in earlier]
    return tuple(sorted(cuts, key=lambda cut: cut.number))


def planned_block_cuts(
    view: GraphView,
    sites: Sites,
    chosen: Mapping[int, tuple[int, ...]],
    shifted: Collection[type[Site]] = (),
) -> tuple[BlockCut, ...]:
    """The cuts of all sites of each other kind, once one of them loses units or has lost some before.

    Args:
        chosen: the units that are removed per site index, as indices of the original.
        shifted: kinds whose sites would be found under other numbers after the cut.
    """
    found: list[BlockCut] = []
    for kind in sites.others:
        record, names = units_entry(kind.UNITS).read(view.model), (kind.UNITS, kind.TITLE)
        if not record and kind not in shifted and not any(map(kind.owns, chosen)):
            continue
        some = sites.of(kind.UNITS)
        cuts = [BlockCut(**_cut(site, chosen), kind=names, key=site.key) for site in some]
        cuts += [
            BlockCut(**_cut_before(entry), kind=names, key=f"{kind.KEY}{entry.number}")
            for entry in _gone_before(record, some)
        ]
        found += sorted(cuts, key=lambda cut: cut.number)
    return tuple(found)


def _cut(site: Site, chosen: Mapping[int, tuple[int, ...]]) -> dict[str, Any]:
    return {
        "number": site.number,
        "name": site.name,
        "num_units": site.original_num_units,
        "removed": chosen.get(site.index, ()),
        "removed_before": site.removed,
    }


def _gone_before(record: Iterable[RecordedUnits], sites: Iterable[Site]) -> Iterator[RecordedUnits]:
    """Yield the entries of sites that are in the graph no longer: an earlier cut removed them as a whole."""
    known = {site.number for site in sites}
    return (entry for entry in record if entry.number not in known)


def _cut_before(entry: RecordedUnits) -> dict[str, Any]:
    return {
        "number": entry.number,
        "name": entry.name,
        "num_units": entry.num_units,
        "removed": (),
        "removed_before": entry.removed,
    }


def site_records(
    cuts: Sequence[SiteCut],
    blocks: Sequence[BlockCut],
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
    every: tuple[UnitsCut, ...] = (*cuts, *blocks)
    for units in dict.fromkeys((HEADS, *(cut.units for cut in blocks))):
        record = units_entry(units).read(view.model)
        known = {entry.number: entry for entry in record}
        known |= {site.number: site.recorded() for site in sites.of(units)}
        # Names are those of the original.
        known |= {entry.number: entry for entry in record if entry.projections}
        own = (cut for cut in every if cut.units == units and not (units == HEADS and cut.number in absent))
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
