"""Measured costs of the steps of some sites, whatever orders their units."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from onnxheadprune.choosing.activations.contexts import inputs_of, seen, with_enough
from onnxheadprune.choosing.activations.moments import Moments
from onnxheadprune.choosing.curves import measured_paths
from onnxheadprune.choosing.effort import Effort, Work, positions_per_sample
from onnxheadprune.choosing.folds import look_at
from onnxheadprune.choosing.scoring.moves import AnySite, Step, or_reason, readable
from onnxheadprune.choosing.scoring.moves import Paths as Ways
from onnxheadprune.data.drift import Evidence
from onnxheadprune.model.graph.view import GraphView
from onnxheadprune.runtime.progress import Progress, reported
from onnxheadprune.runtime.workers import algebra_threads, algebra_workers


@dataclass(frozen=True, eq=False)
class Measured:
    """Steps with measured costs."""

    steps: Mapping[int, tuple[Step, ...]]  # per site index
    length: float  # positions of a sample
    skipped: dict[str, str]  # why a site has none, by its label


def measured_steps(
    view: GraphView,
    sites: Sequence[AnySite],
    ways: Callable[[AnySite, Sequence[Moments]], Ways],
    evidence: Evidence,
    progress: Progress,
) -> Measured:
    """Measure what steps of some sites cost: of each its ways, made from the moments of what it reads."""
    data, work = evidence.data, Work(view)
    widest = max(map(inputs_of, sites))
    with algebra_threads(widest):
        looked = look_at(view, sites, evidence, work, progress)
        moments = looked.moments
        sites, few = with_enough(seen(sites, moments, data.source), moments.counts, looked.data)
        found = algebra_workers(widest).each(or_reason(lambda site: ways(site, moments[site.index])), sites)
        each = reported(found, "ordering what to remove, site by site", len(sites), progress)
        paths, unread = readable(sites, each)
        sites = tuple(site for site in sites if site.index in paths)
        length = positions_per_sample(moments, looked.data)
        how = Effort.of(work, sites, paths, data.count, length)
        steps = measured_paths(view, sites, paths, looked.folds, evidence, how, progress)
    return Measured(steps, length, moments.skipped | few | unread)
