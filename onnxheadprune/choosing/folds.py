"""Samples that a choice looks at, and others that it measures cuts on.

A cut is measured with its remaining weights refitted. On samples that this trial refit has seen, every cut looks
cheaper than it is, and by how much differs from layer to layer: costs of different sites would not compare. So trial
refits are fitted to one part of the data and measured on the rest, or with little data to each half and measured on
the other (cross-fitting; Chernozhukov et al. 2018, 1608.00060).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from onnxheadprune.attention.sites.site import Site
from onnxheadprune.choosing.activations.contexts import SiteMoments, context_moments, inputs_of
from onnxheadprune.choosing.effort import Work, samples_to_measure
from onnxheadprune.data.calibration import Calibration
from onnxheadprune.data.drift import Evidence
from onnxheadprune.model.graph.view import GraphView
from onnxheadprune.runtime.progress import Progress, part_of

MOST_APART = 0.25
"""Share of the data that moments can do without; to measure cuts on more, each half is fitted to and measured on."""


@dataclass(frozen=True, eq=False)
class Fold:
    """Samples to measure cuts on."""

    moments: SiteMoments  # what the trial refits of these cuts are fitted to
    data: Calibration  # the samples


@dataclass(frozen=True, eq=False)
class Looked:
    """The samples and moments that a selection is based on."""

    data: Calibration  # the samples that `moments` were taken on
    moments: SiteMoments  # of all sites that can be read; they order the units of a site
    folds: tuple[Fold, ...]  # what cuts are measured on


def look_at(
    view: GraphView,
    sites: Sequence[Site],
    evidence: Evidence,
    work: Work,
    progress: Progress,
) -> Looked:
    """Take the moments of what sites read, apart from what their cuts are measured on.

    Few samples, of which no part has as many positions as a projection has inputs, are all used for both.
    """
    data, count = evidence.data, samples_to_measure(len(sites))
    widest = max(map(inputs_of, sites))

    crossed = count > MOST_APART * data.count
    learned, judged = data.split(0.5) if crossed else data.split_samples(count)
    parts = 2 if crossed and judged is not learned else 1

    def moments_of(part: Calibration, number: int = 0) -> SiteMoments:
        told = part_of(progress, number, max(parts, number + 1))
        return context_moments(view, sites, part, evidence.provider, told)

    looked = work.to_look_at(learned, widest)
    moments = moments_of(looked)
    short = _short(sites, moments)
    if judged is learned or not (crossed or short):
        return Looked(looked, moments, (Fold(moments, judged),))
    others = moments_of(judged, 1)
    both = _merged(moments, others)
    if not crossed and not any(moment.count for index in short for moment in both.get(index, ())):
        # What no sample reaches prevents nothing.
        return Looked(looked, moments, (Fold(moments, judged),))
    if short or _short(sites, others):
        return Looked(data, both, (Fold(both, data),))
    return Looked(data, both, (Fold(moments, judged), Fold(others, learned)))


def _short(sites: Sequence[Site], moments: SiteMoments) -> set[int]:
    """Return the indices of sites with fewer positions than inputs."""
    counts = moments.counts
    return {site.index for site in sites if counts.get(site.index, math.inf) < inputs_of(site)}


def _merged(one: SiteMoments, other: SiteMoments) -> SiteMoments:
    """Return the moments of two parts of the data, of the sites that both could read."""
    both = {
        index: tuple(mine.merged(theirs).aside() for mine, theirs in zip(found, other[index], strict=True))
        for index, found in one.items()
        if index in other
    }
    return SiteMoments(both, one.skipped | other.skipped)
