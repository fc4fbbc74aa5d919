"""Original numbers, names and units of sites, from the record of earlier pruning."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from onnxheadprune.attention.sites.site import Site
from onnxheadprune.edit.records import RecordedUnits, units_entry
from onnxheadprune.errors import ModelError
from onnxheadprune.model.spelling import many

AnySite = TypeVar("AnySite", bound=Site)


def with_history(
    sites: Sequence[AnySite], record: Sequence[RecordedUnits], units: str, *, complete: bool = False
) -> list[AnySite]:
    """Original numbers, names and units of sites of one kind, from the record of earlier pruning.

    A site is recognised by the output names of its projections, which no cut changes, and its number of units must
    match the record. Where another tool such as a quantizer changed the names, sites and entries of the record are
    matched by their order, if their numbers and sizes are equal. Where `complete`, every site that the record leaves
    units must be there; a feed-forward block may be hidden by another tool's changes.

    The sites in order of their number in the original. Sites that the record does not know, because the version that
    wrote it did not find them, are numbered after those that it knows.
    """
    if not record:
        return list(sites)
    matches = recognised(sites, record)
    rest = [entry for entry in record if entry.left and entry not in matches.values()]
    others = [site for site in sites if site.index not in matches]
    if [entry.left for entry in rest] == [site.num_units for site in others]:
        matches |= {site.index: entry for site, entry in zip(others, rest, strict=True)}
        rest, others = [], []
    told = f"the record of an earlier pruning ({units_entry(units).key} in the metadata)"
    if complete and (rest or (others and not all(entry.projections for entry in record))):
        raise ModelError(
            f"{told} does not fit the {many(len(sites), 'site')} of this model; was it changed since?"
        )
    behind = max(entry.number for entry in record) + 1
    found = [replace(site, index=site.FROM + behind + place) for place, site in enumerate(others)]
    for site in sites:
        entry = matches.get(site.index)
        if entry is None:
            continue
        if entry.left != site.num_units:
            raise ModelError(
                f"{told} says that {entry.name} has {entry.left} {site.UNITS}, and it has {site.num_units}; was the"
                " model changed since?"
            )
        found.append(site.with_record(entry))
    return sorted(found, key=lambda site: site.number)


def recognised(sites: Sequence[Site], entries: Sequence[RecordedUnits]) -> dict[int, RecordedUnits]:
    """The entries of a record by the index of their site, matched by names."""
    owners: dict[str, RecordedUnits] = {}
    for entry in entries:
        owners |= dict.fromkeys(entry.projections, entry)
    found: dict[int, RecordedUnits] = {}
    for site in sites:
        named = {owners[name].number: owners[name] for name in site.projection_names if name in owners}
        if len(named) == 1:
            found[site.index] = next(iter(named.values()))
    times = Counter(entry.number for entry in found.values())
    return {index: entry for index, entry in found.items() if times[entry.number] == 1}
