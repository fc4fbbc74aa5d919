"""What the way in which weights are stored says of units: which only go together, and whether any can go."""

from __future__ import annotations

from collections.abc import Iterable

from onnxheadprune.attention.sites.grouping import Partition
from onnxheadprune.attention.sites.unit import Projection, Site
from onnxheadprune.attention.sites.zeros import why_zero_is_lost
from onnxheadprune.liveness.refusal import Reason, Refusal


def units_together(projections: Iterable[Projection], count: int) -> tuple[tuple[int, ...], ...]:
    """Units that only go together because a projection packs them in one block, each of the others alone.

    Args:
        projections: of a site.
        count: how many units it has.
    """
    found: Partition[int] = Partition()
    for unit in range(count):
        found.root(unit)
    for item in projections:
        for members in item.packed_together():
            found.join(members)
    return tuple(sorted(tuple(sorted(members)) for members in found.sets()))


def why_not_cut(site: Site) -> Refusal | None:
    """Why the projections of a site cannot lose units as they are stored, None if they can."""
    units = site.units if len(site.units) > 1 else ((0,),)
    for item in site.projections:
        packed = item.why_not_cut(units)
        if packed is not None:
            return _refused(Reason.OPAQUE_WEIGHTS, item, packed)
    for item in site.projections:
        lost = why_zero_is_lost(item)
        if lost is not None:
            return _refused(Reason.COUPLED, item, lost)
    return None


def _refused(reason: Reason, projection: Projection, sentence: str) -> Refusal:
    return Refusal(reason, projection.node.label, projection.node.out.name, sentence)
