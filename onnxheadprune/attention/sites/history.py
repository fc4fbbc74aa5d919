"""The sites of a model and what its record says of them: number, name and units in the original.

A site is recognised by the names of what its projections give, which no cut changes, and its units must be as many as
the record leaves it. Where names say nothing (older records, and models that another tool has rewritten: a quantizer
calls what its products give otherwise), sites and entries of the record are matched by their order, if they are as many
and as wide as each other. That is one law for all kinds of units.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from onnxheadprune.attention.sites.site import AttentionSite
from onnxheadprune.attention.sites.unit import Site
from onnxheadprune.edit.records import RecordedSite, RecordedUnits
from onnxheadprune.errors import ModelError
from onnxheadprune.model.spelling import many

Found = TypeVar("Found", bound=Site)
Entry = TypeVar("Entry", bound=RecordedUnits)


def with_history(
    sites: Sequence[Found], record: Sequence[RecordedUnits], key: str, *, complete: bool = False
) -> list[Found]:
    """Original numbers, names and units of sites of one kind, from the record of earlier pruning.

    Args:
        sites: as they are found, numbered in graph order.
        record: what earlier pruning wrote, nothing for a model that lost no units of this kind.
        key: of that in the metadata.
        complete: whether every site that the record leaves units must be there, and one without a name is refused
            rather than new, as it is with heads. A feed-forward block may be hidden by what rewrote the model.

    Returns:
        The sites in order of their number in the original. Sites that the record does not know, because the version
        that wrote it did not find them, are numbered behind those that it knows.

    Raises:
        ModelError: if the record does not fit the sites.
    """
    if not record:
        return list(sites)
    matches = recognised(sites, record)
    rest = [entry for entry in record if entry.left and entry not in matches.values()]
    others = [site for site in sites if site.index not in matches]
    if [entry.left for entry in rest] == [site.num_units for site in others]:
        matches |= {site.index: entry for site, entry in zip(others, rest, strict=True)}
        rest, others = [], []
    told = f"the record of an earlier pruning ({key} in the metadata)"
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
        found.append(_original(site, entry))
    return sorted(found, key=lambda site: site.number)


def recognised(sites: Sequence[Site], entries: Sequence[Entry]) -> dict[int, Entry]:
    """The entries of a record by the index of the site that each speaks of, as far as names tell.

    Args:
        sites: of one kind, of the model or of its original.
        entries: of the record. One that names projections of two sites, or is named by two, speaks of none.
    """
    owners: dict[str, Entry] = {}
    for entry in entries:
        owners |= dict.fromkeys(entry.projections, entry)
    found: dict[int, Entry] = {}
    for site in sites:
        named = {owners[name].number: owners[name] for name in site.projection_names if name in owners}
        if len(named) == 1:
            found[site.index] = next(iter(named.values()))
    times = Counter(entry.number for entry in found.values())
    return {index: entry for index, entry in found.items() if times[entry.number] == 1}


def _original(site: Found, entry: RecordedUnits) -> Found:
    """A site as the record knows it."""
    known = replace(
        site,
        index=site.FROM + entry.number,
        name=entry.name,
        removed=entry.removed,
        original_num_units=entry.num_units,
    )
    if isinstance(known, AttentionSite) and isinstance(entry, RecordedSite):
        return replace(known, original_kv_num_heads=entry.kv_num_heads)
    return known
