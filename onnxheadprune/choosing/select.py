"""`search_space`: the legal cuts of a model's sites, and what each costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from onnxheadprune.attention.sites.all_sites import AttentionSite
from onnxheadprune.attention.sites.find import Analysis
from onnxheadprune.choosing.activations.contexts import INSTEAD, measurable
from onnxheadprune.choosing.activations.moments import Moments
from onnxheadprune.choosing.allocate import Savings
from onnxheadprune.choosing.measured import measured_steps
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
from onnxheadprune.choosing.space import AFTER_REFIT, WITHOUT_DATA, Asked, SearchSpace, foresee, worth
from onnxheadprune.choosing.targets import Requirements
from onnxheadprune.data.drift import Evidence
from onnxheadprune.edit.records import HEADS
from onnxheadprune.errors import RefusedError
from onnxheadprune.runtime.progress import Progress, silent
from onnxheadprune.settings.units import DEFAULT_UNITS

if TYPE_CHECKING:
    from onnxheadprune.choosing.scoring.scores import HeadScores


def search_space(
    analysis: Analysis,
    requirements: Requirements,
    evidence: Evidence | None = None,
    progress: Progress = silent,
    asked: Asked | None = None,
) -> SearchSpace:
    """Paths for all sites, with costs that compare across sites as well as the evidence allows.

    Args:
        evidence: what costs are measured on; None goes by given scores or by the weights.
        asked: what the space is for, tried before the first pass where some sites cannot be measured.
    """
    if requirements.units != DEFAULT_UNITS:
        from onnxheadprune.choosing.joint import joint_space

        return joint_space(analysis, requirements, evidence, progress, asked)
    sites = tuple(site for site in analysis.sites if site.removable)
    if not sites:
        why = f": {analysis.sites[0].reason}" if len(analysis.sites) else "; no attention site was found"
        raise RefusedError(f"no site of {analysis.name} can lose heads{why}")
    protected, limits = requirements.protected(sites), requirements.limits
    kept = {site.index: site.still_there(protected.get(site.index, ())) for site in sites}
    total = sum(site.num_heads for site in analysis.sites)

    def spaced(
        costs: Mapping[int, tuple[Step, ...]],
        basis: str,
        constant: Mapping[str, str],
        skipped: dict[str, str],
    ) -> SearchSpace:
        # What cannot be measured, or no sample has run, stays unchanged.
        every = {site.index: costs.get(site.index, ()) for site in sites}
        if limits.min_heads == 0:
            every = {
                site.index: (*every[site.index], *_all_of(site, every[site.index], kept)) for site in sites
            }
        within = {site.index: limits.options(site, every[site.index])[1:] for site in sites}
        return SearchSpace(
            sites,
            within,
            {site.index: Savings.evenly(site.num_heads, 1) for site in sites},
            total,
            basis,
            HEADS,
            total,
            1,
            limits,
            {site.index: worth(site, every[site.index]) for site in sites},
            constant,
            skipped,
        )

    def by_worth(site: AttentionSite, scores: HeadScores | None) -> list[tuple[Step, ...]]:
        """Paths with the heads first that are worth least: by scores, or by the weights."""
        if scores is not None:
            each = scores.of(site)
        else:
            from onnxheadprune.choosing.scoring.weight import weight_scores

            each = tuple(weight_scores(site).tolist())
        return [path_by_worth(site, each, kept[site.index], ways) for ways in ways_of(site)]

    open_, skipped = sites, dict[str, str]()
    measuring = evidence if requirements.measures else None
    if measuring is not None:
        open_, skipped = measurable(analysis.view, sites, measuring.data, measuring.provider)
    if measuring is not None and asked is not None:
        from onnxheadprune.choosing.scoring.scores import HeadScores

        alike = HeadScores.equal(open_)
        space = spaced({site.index: merged(by_worth(site, alike)) for site in open_}, "", {}, skipped)
        foresee(asked, [space], INSTEAD if skipped else "")
    scores = requirements.scores_for(analysis, open_, evidence, progress)
    constant = {} if scores is None else scores.constant
    skipped |= {} if scores is None else scores.skipped
    open_ = tuple(site for site in open_ if site.label not in skipped)
    if measuring is None:
        basis = WITHOUT_DATA if scores is None else f"scores ({scores.method})"
        paths, unread = readable(open_, map(or_reason(partial(by_worth, scores=scores)), open_))
        return spaced(
            {index: merged(ways) for index, ways in paths.items()}, basis, constant, skipped | unread
        )

    def ways(site: AttentionSite, moments: Sequence[Moments]) -> list[tuple[Step, ...]]:
        if scores is not None:
            return by_worth(site, scores)
        return reconstruction_paths(site, moments, ways_of(site), kept[site.index])

    basis = (
        AFTER_REFIT if scores is None else f"scores ({scores.method}) within sites, {AFTER_REFIT} across them"
    )
    measured = measured_steps(analysis.view, open_, ways, measuring, progress)
    return spaced(measured.steps, basis, constant, skipped | measured.skipped)


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
