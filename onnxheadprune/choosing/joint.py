"""Units of several kinds under one budget: the removed share of the prunable blocks' operations or bytes.

Every site has a path of steps, each with its cost (the measured drift of the outputs) and its savings:
operations, or bytes where experts may be removed, since each token still uses equally many experts. The
cheapest combination that saves enough is a knapsack with one choice per site, solved exactly on a
grid of budgets. A layer is one step, whose cost is what bypassing it does to the outputs; it is taken in place of
the steps of the sites inside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from onnxheadprune.attention.main_graph_copy import with_switches
from onnxheadprune.attention.sites.all_sites import Sites
from onnxheadprune.attention.sites.find import Analysis
from onnxheadprune.attention.sites.site import Site, outermost
from onnxheadprune.choosing.activations.contexts import INSTEAD, measurable
from onnxheadprune.choosing.activations.moments import Moments
from onnxheadprune.choosing.allocate import Paths, Savings
from onnxheadprune.choosing.measured import measured_steps
from onnxheadprune.choosing.scoring.by_method import scores_of
from onnxheadprune.choosing.scoring.moves import Heads, Step, merged, path_by_worth, ways_of
from onnxheadprune.choosing.scoring.reconstruction import paths as reconstruction_paths
from onnxheadprune.choosing.scoring.reconstruction import wide_path, wide_path_by_worth
from onnxheadprune.choosing.scoring.score import default_method, scored_kinds
from onnxheadprune.choosing.scoring.scores import HeadScores
from onnxheadprune.choosing.space import AFTER_REFIT, Asked, SearchSpace, foresee, worth
from onnxheadprune.choosing.targets import Requirements
from onnxheadprune.data.drift import Evidence
from onnxheadprune.errors import RefusedError, UsageError, named_setting
from onnxheadprune.runtime.progress import Progress, silent
from onnxheadprune.settings.units import BYTES, HEAD, OPERATIONS, UnitKind

UNBOUNDED = 1e9
"""A length beside which a linear layer costs nothing: what can go is a share between those at 0 and here."""
OVER_SAVED = "over the {} saved"
"""The savings that costs are weighed against."""
WHOLE = "the same share of every site is removed, and a layer has no share"
"""Why no layer is chosen then."""
HIDDEN = "it cannot be told apart where layers are bypassed"
"""Why a site is not measured beside layers."""
WHY_BYTES = " (experts save memory: a token goes through as many as before)"


def joint_space(
    analysis: Analysis,
    requirements: Requirements,
    evidence: Evidence | None,
    progress: Progress = silent,
    asked: Asked | None = None,
) -> SearchSpace:
    """Paths for the sites of all kinds that a target names, with costs measured on data."""
    if evidence is None:
        raise UsageError(f"selecting among several kinds of units needs data; give {named_setting('data')}")
    sites = _sites(analysis.sites, requirements.units)
    closed = {site.label: site.reason.sentence for site in sites if site.reason is not None}
    if requirements.limits.uniform:
        closed |= {site.label: WHOLE for site in sites if not site.KIND.scored_by}
        sites = tuple(site for site in sites if site.KIND.scored_by)
    if all(site.label in closed for site in sites):
        kinds = " and ".join(sorted(requirements.units))
        every = [site for units in requirements.units for site in analysis.sites.of(units)]
        only = [f"{site.only_named}: name them" for site in every if site.removable and site.only_named]
        why = "".join(f"; {reason}" for reason in (*only, *closed.values())[:1])
        raise RefusedError(f"no site of {analysis.name} can lose {kinds}{why}")
    by_memory = any(site.KIND.saves == BYTES for site in sites)
    counted = BYTES if by_memory or requirements.saves_bytes else OPERATIONS
    protected = requirements.protected(sites)
    kept = {site.index: site.still_there(protected.get(site.index, ())) for site in sites}
    data = evidence.data
    open_ = tuple(site for site in sites if site.label not in closed)
    open_, skipped = measurable(analysis.view, open_, data, evidence.provider)

    def spaced(
        costs: Paths, length: float, basis: str, constant: Mapping[str, str], skipped: Mapping[str, str]
    ) -> SearchSpace:
        # What cannot be measured, or no sample has run, stays unchanged.
        every = {site.index: costs.get(site.index, ()) for site in sites}
        savings = {
            site.index: Savings.evenly(
                site.num_units,
                site.bytes / site.num_units if counted == BYTES else site.flops_per_unit(length),
            )
            for site in sites
        }
        return SearchSpace(
            sites,
            every,
            savings,
            sum(savings[site.index].of(site.num_units) for site in outermost(sites)),
            basis,
            counted,
            limits=requirements.limits,
            scores={
                site.index: worth(site, every[site.index]) for site in sites if not site.KIND.has_many_units
            },
            constant=constant,
            skipped=skipped,
        )

    if asked is not None:
        alike = HeadScores.equal(open_)
        paths = {
            site.index: merged(_paths(site, (), kept[site.index], requirements, alike)) for site in open_
        }
        lengths = (0.0, UNBOUNDED) if data.positions is None else (data.positions / data.count,)
        spaces = (spaced(paths, length, "", {}, skipped) for length in lengths)
        foresee(asked, spaces, INSTEAD if skipped else "")
    skipped |= closed
    scores = _scores(analysis, open_, requirements, evidence, progress)
    unscored = {} if scores is None else scores.skipped

    def ways(site: Site, moments: Sequence[Moments]) -> list[tuple[Step, ...]]:
        known = scores if not site.contexts or _is_ordered(requirements) else None
        return _paths(site, moments, kept[site.index], requirements, known)

    scored = tuple(site for site in open_ if site.label not in unscored)
    view, there = with_switches(analysis.view, scored)
    known = {site.index for site in there}
    skipped |= {site.label: HIDDEN for site in scored if site.index not in known}
    measured = measured_steps(view, there, ways, evidence, progress)
    why = WHY_BYTES if by_memory else ""
    drifts = AFTER_REFIT if any(site.projections for site in sites) else "measured drift without each"
    basis = f"{drifts}, {OVER_SAVED.format(counted)}{why}"
    if scores is not None:
        within = "blocks" if _is_ordered(requirements) else f"{scores.sites[0].kind.block}s"
        basis = f"scores ({scores.method}) within {within}, {basis}"
    constant = {} if scores is None else scores.constant
    return spaced(
        measured.steps, measured.length, basis, constant, {**skipped, **unscored, **measured.skipped}
    )


def _sites(sites: Sites, units: frozenset[str]) -> tuple[Site, ...]:
    """The sites that may lose units of some kinds, those in a layer just before it, and layers that cannot go."""
    kinds: tuple[UnitKind, ...] = (HEAD, *sites.others)
    found = [
        site
        for kind in kinds
        if kind.units in units
        for site in sites.of(kind.units)
        if site.only_named is None and (site.removable or not site.KIND.scored_by)
    ]
    # What goes with one of several units of another site is no choice of its own.
    inner = {one for site in found if site.KIND.scored_by for one in site.inner(found)}
    found = [site for site in found if site not in inner]
    return tuple(one for site in outermost(found) for one in (*site.inner(found), site))


def _scores(
    analysis: Analysis,
    sites: Sequence[Site],
    requirements: Requirements,
    evidence: Evidence,
    progress: Progress,
) -> HeadScores | None:
    """The scores that order the units within their sites; where a refit's errors do, None or none of the site."""
    if _is_ordered(requirements):
        ordered = scored_kinds(requirements.units, requirements.method)
        some = [site for site in sites if site.KIND.units in ordered]
        return requirements.scores_for(analysis, some, evidence, progress)
    routed = [site for site in sites if site.routing is not None]
    if not routed:
        return None
    method = default_method({site.KIND.units for site in routed})
    return scores_of(analysis.name, analysis.view, routed, method, evidence, progress, skip=True)


def _is_ordered(requirements: Requirements) -> bool:
    """Return whether units of all kinds are removed in the order of scores."""
    return requirements.method is not None or requirements.scores is not None


def _paths(
    site: Site,
    moments: Sequence[Moments],
    kept: Heads,
    requirements: Requirements,
    scores: HeadScores | None = None,
) -> list[tuple[Step, ...]]:
    """Paths of a site, whose errors are those after a refit, or sums of scores."""
    if not site.KIND.scored_by:
        return [() if kept else (Step(frozenset(range(site.num_units)), 1.0),)]
    if site.KIND.has_many_units:
        multiple = requirements.limits.multiple(site.KIND.units)
        if scores is None:
            return [wide_path(site, moments, multiple, kept)]
        return [wide_path_by_worth(site, scores.of(site), multiple, kept)]
    limits = replace(requirements.limits, min_heads=max(requirements.limits.min_heads, 1))
    if scores is None:
        ways = reconstruction_paths(site, moments, ways_of(site), kept)
    else:
        ways = [path_by_worth(site, scores.of(site), kept, ways=way) for way in ways_of(site)]
    return [tuple(step for step in limits.options(site, path) if step.removed) for path in ways]
