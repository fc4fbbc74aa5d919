"""`select_heads`: from a wish to a legal set of heads, by way of the search space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

from onnxheadprune.attention.sites.attention_site import AttentionSite
from onnxheadprune.attention.sites.find import Analysis
from onnxheadprune.attention.sites.kinds import DEFAULT_UNITS
from onnxheadprune.choosing.activations.contexts import INSTEAD, measurable, seen, with_enough
from onnxheadprune.choosing.curves import measured_paths
from onnxheadprune.choosing.effort import Effort, Work, positions_per_sample
from onnxheadprune.choosing.folds import look_at
from onnxheadprune.choosing.joint import joint_space
from onnxheadprune.choosing.scoring.by_method import weight_scores
from onnxheadprune.choosing.scoring.moves import (
    Heads,
    Step,
    can_go_whole,
    merged,
    or_reason,
    path_by_worth,
    readable,
    ways_of,
)
from onnxheadprune.choosing.scoring.reconstruction import paths as reconstruction_paths
from onnxheadprune.choosing.scoring.scores import HeadScores
from onnxheadprune.choosing.space import (
    AFTER_REFIT,
    WITHOUT_DATA,
    Asked,
    SearchSpace,
    Space,
    foresee,
)
from onnxheadprune.choosing.wishes import Requirements
from onnxheadprune.data.drift import Evidence
from onnxheadprune.errors import RefusedError
from onnxheadprune.runtime.progress import Progress, reported, silent
from onnxheadprune.runtime.workers import algebra_threads, algebra_workers


@dataclass(frozen=True)
class Candidates:
    """The sites that paths are made for, and the heads that are on none of them."""

    sites: tuple[AttentionSite, ...]  # sites that may lose heads
    kept: Mapping[int, Heads]  # present heads per site index that stay


def search_space(
    analysis: Analysis,
    requirements: Requirements,
    evidence: Evidence | None = None,
    progress: Progress = silent,
    asked: Asked | None = None,
) -> Space:
    """Paths for all sites, with costs that compare across sites as well as the evidence allows.

    Args:
        evidence: what costs are measured on; None goes by given scores or by the weights.
        asked: what the space is for, tried before the first pass where some sites cannot be measured.
    """
    if requirements.units != DEFAULT_UNITS:
        return joint_space(analysis, requirements, evidence, progress, asked)
    sites = tuple(site for site in analysis.sites if site.removable)
    if not sites:
        why = f": {analysis.sites[0].reason}" if len(analysis.sites) else "; no attention site was found"
        raise RefusedError(f"no site of {analysis.name} can lose heads{why}")
    protected = requirements.protected(sites)
    kept = {site.index: site.still_there(protected.get(site.index, ())) for site in sites}
    left: dict[str, str] = {}
    total = sum(site.num_heads for site in analysis.sites)

    def spaced(costs: Mapping[int, tuple[Step, ...]], basis: str, constant: Mapping[str, str]) -> SearchSpace:
        # What cannot be measured, or no sample has run, stays unchanged.
        every = {site.index: costs.get(site.index, ()) for site in sites}
        if requirements.limits.min_heads == 0:
            every = {
                site.index: (*every[site.index], *_all_of(site, every[site.index], kept)) for site in sites
            }
        return SearchSpace(sites, total, every, basis, requirements.limits, constant, left)

    open_, measuring = sites, evidence if requirements.measures else None
    if measuring is not None:
        open_, unread = measurable(analysis.view, sites, measuring.data, measuring.provider)
        left |= unread
    if left:
        alike = _paths_by_worth(Candidates(open_, kept), HeadScores.equal(open_), {})
        foresee(asked, [spaced({index: merged(ways) for index, ways in alike.items()}, "", {})], INSTEAD)
    scores = requirements.scores_for(analysis, open_, evidence, left, progress)
    candidates = Candidates(tuple(site for site in open_ if site.label not in left), kept)
    constant = {} if scores is None else scores.constant
    if measuring is None:
        basis = WITHOUT_DATA if scores is None else f"scores ({scores.method})"
        found = _paths_by_worth(candidates, scores, left)
        return spaced({index: merged(ways) for index, ways in found.items()}, basis, constant)
    basis = AFTER_REFIT
    if scores is not None:
        basis = f"scores ({scores.method}) within sites, {basis} across them"
    paths = _measured_paths(analysis, candidates, scores, measuring, left, progress)
    return spaced(paths, basis, constant)


def _paths_by_worth(
    candidates: Candidates, scores: HeadScores | None, left: dict[str, str]
) -> dict[int, list[tuple[Step, ...]]]:
    """Per site its paths, the heads that are worth least first: by scores, or by the weights."""

    def found_for(site: AttentionSite) -> list[tuple[Step, ...]]:
        worth = tuple(weight_scores(site).tolist()) if scores is None else scores.of(site)
        kept = candidates.kept[site.index]
        return [path_by_worth(site, worth, kept, ways) for ways in ways_of(site)]

    return readable(candidates.sites, map(or_reason(found_for), candidates.sites), left)[0]


def _measured_paths(
    analysis: Analysis,
    candidates: Candidates,
    scores: HeadScores | None,
    evidence: Evidence,
    left: dict[str, str],
    progress: Progress,
) -> dict[int, tuple[Step, ...]]:
    """Per site its path with measured costs; what goes first is said by scores, or by what a refit cannot restore."""
    data, work = evidence.data, Work(analysis.view)
    sites = candidates.sites
    widest = max(prod(item.sizes) for site in sites for item in site.projections)
    with algebra_threads(widest):
        looked = look_at(analysis.view, sites, evidence, work, progress, left)
        moments = looked.moments
        sites = with_enough(seen(sites, moments, data.source), moments, looked.data, left)
        if scores is not None:
            paths = _paths_by_worth(replace(candidates, sites=sites), scores, left)
        else:

            def found_for(site: AttentionSite) -> list[tuple[Step, ...]]:
                return reconstruction_paths(
                    site, moments[site.index], ways_of(site), candidates.kept[site.index]
                )

            each = algebra_workers(widest).each(or_reason(found_for), sites)
            paths, sites = readable(
                sites, reported(each, "ordering what to remove, site by site", len(sites), progress), left
            )
        how = Effort.of(work, sites, paths, data.count, positions_per_sample(moments, looked.data))
        return measured_paths(analysis.view, sites, paths, looked.folds, evidence, how, progress)


def _all_of(site: AttentionSite, steps: Sequence[Step], kept: Mapping[int, Heads]) -> tuple[Step, ...]:
    """The step in which the whole site goes, where it can; the last heads cost as much as those before them."""
    whole = frozenset(range(site.num_heads))
    if kept[site.index] or not steps or steps[-1].removed == whole:
        return ()
    if not can_go_whole(site):
        return ()
    left = len(whole) - len(steps[-1].removed)
    last = steps[-1].error - (steps[-2].error if len(steps) > 1 else 0.0)
    per_head = max(last, steps[-1].error / len(steps[-1].removed))
    return (Step(whole, steps[-1].error + left * per_head),)
