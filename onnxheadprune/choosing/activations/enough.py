"""The sites that can be measured on some data: they can be read, and see as many positions as they have inputs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypeVar

from onnxheadprune.attention.sites.site import Site
from onnxheadprune.choosing.activations.contexts import context_moments
from onnxheadprune.choosing.activations.moments import Moments
from onnxheadprune.choosing.activations.parts import context_of, require_main
from onnxheadprune.data.calibration import Calibration
from onnxheadprune.errors import RefusedError, UsageError
from onnxheadprune.model.graph.view import GraphView
from onnxheadprune.model.spelling import many
from onnxheadprune.runtime import Provider

AnySite = TypeVar("AnySite", bound=Site)
INSTEAD = (
    "with what there is, name what to remove and add --refit: a stronger ridge is used then, or biases alone are"
    " adjusted"
)


def measurable(
    view: GraphView, sites: Sequence[AnySite], data: Calibration, provider: Provider, instead: str = INSTEAD
) -> tuple[tuple[AnySite, ...], dict[str, str]]:
    """The sites that can be measured on some data, asked before the first pass over it.

    Returns:
        The sites, and for the labels of the others why not.

    Raises:
        UsageError: if the data is too little for all of them.
        RefusedError: if no context can be read.
    """
    left: dict[str, str] = {}
    for site in sites:
        try:
            for projection in site.projections:
                require_main(context_of(projection))
        except RefusedError as error:
            left[site.label] = str(error)
    found = tuple(site for site in sites if site.label not in left)
    if not found:
        raise RefusedError(next(iter(left.values())))
    known = data.count if data.positions is None else data.positions
    if all(_inputs_of(site) <= known for site in found):
        return found, left
    # Some models make other positions of their inputs: patches, windows, latents. One batch tells.
    one = data.subset(1)
    moments = context_moments(view, found, one, provider, left=left)
    found = tuple(site for site in found if site.index in moments)
    part = one.count if one.positions is None else one.positions
    counts = {index: round(seen[0].count * known / max(part, 1)) for index, seen in moments.items()}
    # What this batch does not reach is asked again when all are read.
    reached = tuple(site for site in found if counts[site.index])
    enough = _with_enough(reached, counts, data, left, instead) if reached else ()
    return tuple(site for site in found if site in enough or site not in reached), left


def with_enough(
    sites: Sequence[AnySite],
    moments: Mapping[int, Sequence[Moments]],
    data: Calibration,
    left: dict[str, str],
    instead: str = INSTEAD,
) -> tuple[AnySite, ...]:
    """The sites that have seen enough positions.

    Args:
        sites: those that were read.
        moments: per site index.
        data: what they were taken on.
        left: gets the reason for each of the others, by label.
        instead: what is possible with less data.

    Raises:
        UsageError: if there is none.
    """
    counts = {site.index: min(item.count for item in moments[site.index]) for site in sites}
    return _with_enough(sites, counts, data, left, instead)


def _with_enough(
    sites: Sequence[AnySite], counts: Mapping[int, int], data: Calibration, left: dict[str, str], instead: str
) -> tuple[AnySite, ...]:
    short = [site for site in sites if counts[site.index] < _inputs_of(site)]
    for site in short:
        left[site.label] = missing(counts[site.index], _inputs_of(site), data)
    if len(short) == len(sites):
        nearest = min(sites, key=lambda site: _inputs_of(site) - counts[site.index])
        raise UsageError(f"{data.source}: {left[nearest.label]}; {instead}")
    return tuple(site for site in sites if site not in short)


def _inputs_of(site: Site) -> int:
    """Inputs of a site's widest projection: as many positions say something about each of its weights."""
    return max(math.prod(item.sizes) for item in site.projections)


def missing(positions: int, inputs: int, data: Calibration) -> str:
    """A sentence on how much data is missing, in the user's unit."""
    more = math.ceil((inputs - positions) * data.count / max(positions, 1))
    wanted = f"{many(more, f'more {data.unit}')} of this length {'is' if more == 1 else 'are'} needed"
    return (
        f"{many(data.count, data.unit)} with {many(positions, 'position')} are too few for linear layers with"
        f" {inputs:,} inputs: about {wanted}"
    )
