"""Cuts and records of attention sites."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from onnxheadprune.attention.sites.site import Sites
from onnxheadprune.edit.edits import SetMetadata
from onnxheadprune.edit.records import REMOVED_KEY, RecordedSite, pruning_text
from onnxheadprune.edit.site_cuts import SiteCut


def head_cuts(
    sites: Sites,
    chosen: Mapping[int, tuple[int, ...]],
    present: Mapping[int, tuple[int, ...]],
) -> tuple[SiteCut, ...]:
    """All attention sites; numbers stay those of the original.

    Args:
        sites: of the model.
        chosen: the units that go per site index, as indices of the original.
        present: the same as present indices.
    """
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


def head_record(cuts: Sequence[SiteCut], sites: Sites) -> SetMetadata:
    """What the pruned model says of these sites: this cut and all before it, sites known by their first names."""
    names = {site.index: site.projection_names for site in sites}
    names |= {entry.index: entry.projections for entry in sites.record if entry.projections}
    entries = [
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
    return SetMetadata(REMOVED_KEY, pruning_text(entries))
