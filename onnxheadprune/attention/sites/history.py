"""The sites of a model and what its record says of them: index, name and heads in the original.

A site is recognised by the names of what its projections give, which no cut changes, and its heads must be as many as
the record leaves it. Where names say nothing (older records, and models that another tool has rewritten), sites and
entries of the record are matched by their order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from onnxheadprune.attention.sites.site import AttentionSite
from onnxheadprune.attention.sites.unit import Site
from onnxheadprune.edit.records import REMOVED_KEY, RecordedSite, RecordedUnits, units_key
from onnxheadprune.errors import ModelError


def with_history(sites: Sequence[AttentionSite], record: Sequence[RecordedSite]) -> list[AttentionSite]:
    """Original indices, names and head numbers, from the record of earlier pruning.

    Args:
        sites: as they are found, numbered in graph order.
        record: what earlier pruning wrote, nothing for a model that was not pruned.

    Returns:
        The sites in order of their index in the original. Sites that the record does not know, because the version
        that wrote it did not find them, are numbered behind those that it knows.

    Raises:
        ModelError: if the record does not fit the sites.
    """
    if not record:
        return list(sites)
    alive = [entry for entry in record if entry.heads_left]
    matches = recognised(sites, alive)
    rest = [entry for entry in alive if entry not in matches.values()]
    others = [site for site in sites if site.index not in matches]
    if rest and len(rest) == len(others):
        matches |= {site.index: entry for site, entry in zip(others, rest, strict=True)}
        rest, others = [], []
    fits = all(site.num_heads == matches[site.index].heads_left for site in sites if site.index in matches)
    if rest or not fits or (others and not all(entry.projections for entry in record)):
        raise ModelError(
            f"the record of an earlier pruning ({REMOVED_KEY} in the metadata) does not fit the"
            f" {len(sites)} attention sites of this model; was it changed since?"
        )
    behind = max(entry.index for entry in record) + 1
    found = [_original(site, matches[site.index]) for site in sites if site.index in matches]
    found += [replace(site, index=behind + position) for position, site in enumerate(others)]
    return sorted(found, key=lambda site: site.index)


def units_with_history(sites: Sequence[Site], record: Sequence[RecordedUnits]) -> list[Site]:
    """Original numbers, names and units of sites of one kind, from the record of earlier pruning.

    Sites that no name tells (a quantizer calls what its products give otherwise) are those that are left of the record,
    in its order, if they are as many and as wide as it says; else they are new.

    Args:
        sites: as they are found, numbered in graph order.
        record: what earlier pruning wrote, nothing for a model that lost no units of this kind.

    Raises:
        ModelError: if the record does not fit the blocks.
    """
    if not record:
        return list(sites)
    owners = {name: entry for entry in record for name in entry.projections}
    named = [next((owners[name] for name in site.projection_names if name in owners), None) for site in sites]
    rest = [entry for entry in record if entry.left and entry not in named]
    others = [site for site, entry in zip(sites, named, strict=True) if entry is None]
    alike = [entry.left for entry in rest] == [site.num_units for site in others]
    in_order = dict(zip((site.index for site in others), rest, strict=True)) if alike else {}
    behind = max(entry.number for entry in record) + 1
    found: list[Site] = []
    for site, own in zip(sites, named, strict=True):
        entry = own or in_order.get(site.index)
        if entry is None:
            found.append(replace(site, index=site.FROM + behind))
            behind += 1
        elif entry.left == site.num_units:
            known = replace(site, index=site.FROM + entry.number, name=entry.name)
            found.append(replace(known, removed=entry.removed, original_num_units=entry.num_units))
        else:
            raise ModelError(
                f"the record of an earlier pruning ({units_key(site.UNITS)} in the metadata) says that"
                f" {entry.name} has {entry.left} {site.UNITS}, and it has {site.num_units}; was the model changed"
                " since?"
            )
    return sorted(found, key=lambda site: site.number)


def recognised(sites: Sequence[AttentionSite], entries: Sequence[RecordedSite]) -> dict[int, RecordedSite]:
    """The entries of a record by the index of the site that each speaks of, as far as names tell.

    Args:
        sites: of the model, or of its original.
        entries: of the record. One that names projections of two sites, or is named by two, speaks of none.
    """
    owners: dict[str, RecordedSite] = {}
    for entry in entries:
        owners |= dict.fromkeys(entry.projections, entry)
    found: dict[int, RecordedSite] = {}
    for site in sites:
        named = {owners[name].index: owners[name] for name in site.projection_names if name in owners}
        if len(named) == 1:
            found[site.index] = next(iter(named.values()))
    times = Counter(entry.index for entry in found.values())
    return {index: entry for index, entry in found.items() if times[entry.index] == 1}


def _original(site: AttentionSite, entry: RecordedSite) -> AttentionSite:
    return replace(
        site,
        index=entry.index,
        name=entry.name,
        removed=entry.removed,
        original_num_units=entry.num_heads,
        original_kv_num_heads=entry.kv_num_heads,
    )
