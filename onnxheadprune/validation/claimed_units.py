"""What a pruned model says of its sites of other kinds than heads, as a spec for the original."""

from __future__ import annotations

from onnx import ModelProto

from onnxheadprune.attention.analysis import Analysis
from onnxheadprune.attention.sites.unit import Site
from onnxheadprune.edit.records import units_record
from onnxheadprune.errors import UsageError


def claimed_units(pruned: ModelProto, analysis: Analysis, names: tuple[str, str]) -> dict[str, list[int]]:
    """Units per site of the original that the pruned model's records have and the original's have not.

    Args:
        pruned: the pruned model.
        analysis: of the original.
        names: how to call the two.

    Raises:
        UsageError: if a record does not speak of the original's sites.
        ModelError: if one cannot be read.
    """
    spec: dict[str, list[int]] = {}
    for kind in analysis.sites.others:
        spec |= _claimed(kind, pruned, analysis, names)
    return spec


def _claimed(
    kind: type[Site], pruned: ModelProto, analysis: Analysis, names: tuple[str, str]
) -> dict[str, list[int]]:
    record = units_record(pruned, kind.UNITS)
    if not record:
        return {}
    # Sites that the original has lost as a whole are in its record alone.
    earlier = units_record(analysis.view.model, kind.UNITS)
    gone = {entry.number: entry.removed for entry in earlier if not entry.left}
    sites = {name: site for site in analysis.sites.of(kind.UNITS) for name in site.projection_names}
    spec: dict[str, list[int]] = {}
    for entry in record:
        site = next((sites[name] for name in entry.projections if name in sites), None)
        if site is None and entry.number in gone:
            continue
        called = kind.called(entry.number)
        if site is None or site.original_num_units != entry.num_units:
            there = "is missing" if site is None else f"has {site.original_num_units} {kind.UNITS}"
            raise UsageError(
                f"the record of {names[1]} speaks of {called} ({entry.name}) with {entry.num_units} {kind.UNITS},"
                f" which {there} in {names[0]}; the two do not belong together"
            )
        if not set(site.removed) <= set(entry.removed):
            raise UsageError(
                f"{names[0]} lacks {kind.UNITS} of {called} that {names[1]} still has; are the two swapped?"
            )
        units = sorted(set(entry.removed) - set(site.removed))
        if units:
            spec[site.key] = units
    return spec
