"""Units of several kinds under one budget: the removed share of the prunable blocks' operations or bytes.

Every site has a path of steps, each with its cost (the measured drift of the outputs) and its savings:
operations, or bytes where experts may be removed, since each token still uses equally many experts. The
cheapest combination that saves enough is a knapsack with one choice per site, solved exactly on a
grid of budgets.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np

from onnxheadprune.attention.sites.all_sites import Sites
from onnxheadprune.attention.sites.attention_site import AttentionSite
from onnxheadprune.attention.sites.find import Analysis
from onnxheadprune.attention.sites.kinds import LAYERS
from onnxheadprune.attention.sites.site import BYTES, OPERATIONS, Site
from onnxheadprune.choosing.activations.contexts import INSTEAD, measurable, seen, with_enough
from onnxheadprune.choosing.activations.moments import Moments
from onnxheadprune.choosing.allocate import Choice, Limits, Paths, Savings, keep_per_site
from onnxheadprune.choosing.curves import measured_paths
from onnxheadprune.choosing.effort import Effort, Work, positions_per_sample
from onnxheadprune.choosing.folds import look_at
from onnxheadprune.choosing.scoring.by_method import Working, scores_of
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
from onnxheadprune.choosing.scoring.reconstruction import wide_path, wide_path_by_worth
from onnxheadprune.choosing.scoring.score import default_method, scored_kinds
from onnxheadprune.choosing.scoring.scores import HeadScores
from onnxheadprune.choosing.space import AFTER_REFIT, Asked, Selection, and_left_out, foresee, worth
from onnxheadprune.choosing.wishes import Requirements
from onnxheadprune.data.drift import Evidence
from onnxheadprune.errors import RefusedError, UsageError
from onnxheadprune.runtime.progress import Progress, reported, silent
from onnxheadprune.runtime.workers import algebra_threads, algebra_workers
from onnxheadprune.settings.cutting import Cut
from onnxheadprune.settings.setting import check

PARTS = 200
"""Into how many parts the operations of all blocks are divided: sizes that a search tries."""
FINE = 50
"""Into how many pieces the knapsack divides a part."""
UNBOUNDED = 1e9
"""A length beside which a linear layer costs nothing: what can go is a share between those at 0 and here."""
OVER_SAVED = "over the {} saved"
"""What costs are weighed against."""
WHY_BYTES = " (experts save memory: a token goes through as many as before)"


def joint_space(
    analysis: Analysis,
    requirements: Requirements,
    evidence: Evidence | None,
    progress: Progress = silent,
    asked: Asked | None = None,
) -> JointSpace:
    """Paths for the sites of all kinds that a target names, with costs measured on data.

    Args:
        asked: the target, tried before the first pass where some blocks cannot be measured.
    """
    if evidence is None:
        raise UsageError("selecting among several kinds of units needs data; give --data")
    sites = _sites(analysis.sites, requirements.units)
    if not sites:
        kinds = " and ".join(sorted(requirements.units))
        every = [site for units in requirements.units for site in analysis.sites.of(units)]
        only = next((site.only_named for site in every if site.removable and site.only_named), None)
        why = "" if only is None else f"; {only}: name them"
        raise RefusedError(f"no site of {analysis.name} can lose {kinds}{why}")
    counted = BYTES if any(site.SAVES == BYTES for site in sites) else OPERATIONS
    protected = requirements.protected(sites)
    kept = {site.index: site.still_there(protected.get(site.index, ())) for site in sites}
    data = evidence.data
    open_, left = measurable(analysis.view, sites, data, evidence.provider)

    def spaced(costs: Paths, length: float, basis: str, constant: Mapping[str, str]) -> JointSpace:
        # What cannot be measured, or no sample has run, stays unchanged.
        every = {site.index: costs.get(site.index, ()) for site in sites}
        savings = {
            site.index: Savings.evenly(
                site.num_units,
                site.bytes / site.num_units if counted == BYTES else site.flops_per_unit(length),
            )
            for site in sites
        }
        whole = sum(savings[site.index].of(site.num_units) for site in sites)
        return JointSpace(sites, every, savings, whole, basis, counted, requirements.limits, constant, left)

    if left:
        alike = HeadScores.equal(open_)
        paths = {
            site.index: merged(_paths(site, (), kept[site.index], requirements, alike)) for site in open_
        }
        lengths = (0.0, UNBOUNDED) if data.positions is None else (data.positions / data.count,)
        foresee(asked, (spaced(paths, length, "", {}) for length in lengths), INSTEAD)
    scores = _scores(analysis, open_, requirements, evidence, left, progress)
    open_ = tuple(site for site in open_ if site.label not in left)
    widest = max(math.prod(item.sizes) for site in open_ for item in site.projections)
    with algebra_threads(widest):
        work = Work(analysis.view)
        looked = look_at(analysis.view, open_, evidence, work, progress, left)
        moments = looked.moments
        reached = with_enough(seen(open_, moments, data.source), moments, looked.data, left)
        found = algebra_workers(widest).each(
            or_reason(
                lambda site: _paths(
                    site,
                    moments[site.index],
                    kept[site.index],
                    requirements,
                    scores if site.ROUTED or _is_ordered(requirements) else None,
                )
            ),
            reached,
        )
        each = reported(found, "ordering what to remove, site by site", len(reached), progress)
        ways, reached = readable(reached, each, left)
        length = positions_per_sample(moments, looked.data)
        how = Effort.of(work, reached, ways, data.count, length)
        measured = measured_paths(analysis.view, reached, ways, looked.folds, evidence, how, progress)
    why = WHY_BYTES if counted == BYTES else ""
    basis = f"{AFTER_REFIT}, {OVER_SAVED.format(counted)}{why}"
    if scores is not None:
        within = "blocks" if _is_ordered(requirements) else f"{scores.sites[0].kind.BLOCK}s"
        basis = f"scores ({scores.method}) within {within}, {basis}"
    return spaced(measured, length, basis, {} if scores is None else scores.constant)


def _sites(sites: Sites, units: frozenset[str]) -> tuple[Site, ...]:
    """The sites that may lose units of some kinds."""
    kinds: tuple[type[Site], ...] = (AttentionSite, *sites.others)
    found = [
        site
        for kind in kinds
        if kind.UNITS in units or (LAYERS in units and kind.LAYER)
        for site in sites.of(kind.UNITS)
        if site.removable and site.only_named is None
    ]
    # What goes with a unit of another site is no choice of its own.
    inner = {one for site in found for one in site.inner(found)}
    return tuple(site for site in found if site not in inner)


def _scores(
    analysis: Analysis,
    sites: Sequence[Site],
    requirements: Requirements,
    evidence: Evidence,
    left: dict[str, str],
    progress: Progress,
) -> HeadScores | None:
    """The scores that order the units within their sites; where a refit's errors do, None or none of the site."""
    if _is_ordered(requirements):
        ordered = scored_kinds(requirements.units, requirements.method)
        some = [site for site in sites if site.UNITS in ordered]
        return requirements.scores_for(analysis, some, evidence, left, progress)
    routed = [site for site in sites if site.ROUTED]
    if not routed:
        return None
    working = Working(progress=progress)
    return scores_of(
        analysis.name,
        analysis.view,
        routed,
        default_method({site.UNITS for site in routed}),
        evidence,
        working,
        left,
    )


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
    found: list[tuple[Step, ...]] = []
    if site.UNITS not in requirements.units:
        pass
    elif site.WIDE:
        multiple = requirements.limits.multiple(site.UNITS)
        if scores is None:
            found = [wide_path(site, moments, multiple, kept)]
        else:
            found = [wide_path_by_worth(site, scores.of(site), multiple, kept)]
    else:
        limits = replace(requirements.limits, min_heads=max(requirements.limits.min_heads, 1))
        if scores is None:
            ways = reconstruction_paths(site, moments, ways_of(site), kept)
        else:
            ways = [path_by_worth(site, scores.of(site), kept, ways=way) for way in ways_of(site)]
        found = [tuple(step for step in limits.options(site, path) if step.removed) for path in ways]
    if LAYERS in requirements.units and not kept and can_go_whole(site):
        whole = Step(frozenset(range(site.num_units)), 1.0)
        return [(*path, whole) for path in found] or [(whole,)]
    return found


@dataclass(frozen=True, eq=False)
class JointSpace:
    """The search space over sites of several kinds."""

    UNITS: ClassVar[str] = "units"

    sites: tuple[Site, ...]  # sites that may lose units
    paths: Paths  # steps per site index, with costs that add up across sites
    # per site index, by the number of removed units: multiply-adds x 2 per token, bytes, or shares of the
    # latency
    savings: Mapping[int, Savings]
    whole: float  # the whole budget, in the unit of `savings`
    basis: str  # the meaning of costs
    counted: str = OPERATIONS  # the total of which ratios are shares
    limits: Limits = field(default_factory=Limits)  # the limits of cuts
    constant: Mapping[str, str] = field(default_factory=dict)  # see `Selection`
    left_out: Mapping[str, str] = field(default_factory=dict)  # see `Selection`

    @property
    def total(self) -> int:
        """The parts of which ratios are taken."""
        return PARTS

    @property
    def uniform(self) -> bool:
        """True if every site loses the same share."""
        return self.limits.uniform

    def share_of(self, selection: Selection) -> float:
        """The share of the blocks' operations or bytes that a cut saves."""
        saved = sum(self.savings[index].of(len(units)) for index, units in selection.heads.items())
        return saved / self.whole

    def most(self) -> int:
        """The largest cut, in parts of `PARTS`; the last part may be a fraction."""
        return math.ceil(self._all / FINE)

    @property
    def _all(self) -> int:
        """Pieces that all sites together can save."""
        return sum(
            max((self._pieces(site, step) for step in self._steps(site)), default=0) for site in self.sites
        )

    def has_cut(self, count: int) -> bool:
        """Return whether some cut saves this number of parts."""
        return 0 < count <= self.most()

    def removing(self, count: int) -> Selection:
        """The cheapest way to save so many parts of `PARTS`, or all that can go if that is nearly as many."""
        if count > self.most():
            raise self._too_much(count)
        return self._selection(self._even(count) if self.uniform else self._cheapest(count))

    def ratio(self, share: float) -> Selection:
        """The cheapest way to save a share of the operations, or bytes, of all blocks."""
        check(Cut, ratio=share)
        count = max(round(share * PARTS), 1)
        if count * FINE > self._all:
            raise self._too_much(count)
        return self.removing(count)

    def _too_much(self, count: int) -> RefusedError:
        return RefusedError(
            f"{count / PARTS:.1%} of the blocks' {self.counted} were asked for, but only"
            f" {self._all // FINE / PARTS:.1%} can go (protected units, minimums and blocks that cannot lose"
            f" units are kept){and_left_out(self.left_out)}"
        )

    def keeping(self, count: int) -> Selection:
        """Every site down to so many units."""
        if len({site.UNITS for site in self.sites}) > 1:
            raise UsageError(
                f"--keep {count} counts units of one kind; with several say --ratio, --target-speedup or --max-drift"
            )
        check(Cut, keep=count)
        return self._selection(keep_per_site(self.sites, self.paths, count, self.limits))

    def _steps(self, site: Site) -> Sequence[Step]:
        return self.paths[site.index]

    def _saved(self, site: Site, step: Step) -> float:
        return self.savings[site.index].of(len(step.removed))

    def _cheapest(self, count: int) -> Choice:
        """One step or none for each site, so that at least `count` parts are saved at the least cost.

        f(sites, b) is the least cost that saves at least b pieces: the minimum over the last site's steps of
        f(sites before, b - pieces of the step) plus its cost.
        """
        wanted = min(count * FINE, self._all)
        costs = np.full(wanted + 1, np.inf)
        costs[0] = 0.0
        picks: list[np.ndarray] = []
        for site in self.sites:
            best, pick = costs.copy(), np.full(wanted + 1, -1)
            for number, step in enumerate(self._steps(site)):
                pieces = min(self._pieces(site, step), wanted)
                reached = (
                    np.concatenate([np.full(pieces, costs[0]), costs[: wanted + 1 - pieces]]) + step.error
                )
                better = reached < best
                best[better], pick[better] = reached[better], number
            picks.append(pick)
            costs = best
        choice: Choice = {}
        left = wanted
        for site, pick in zip(reversed(self.sites), reversed(picks), strict=True):
            if pick[left] >= 0:
                step = self._steps(site)[pick[left]]
                choice[site.index] = step.removed
                left = max(left - self._pieces(site, step), 0)
        return choice

    def _pieces(self, site: Site, step: Step) -> int:
        """Whole pieces that a step saves, rounded down."""
        return int(self._saved(site, step) / self.whole * PARTS * FINE)

    def _even(self, count: int) -> Choice:
        """The same share of every site, the smallest that saves enough."""
        share = count / PARTS
        choice: Choice = {}
        for site in self.sites:
            wanted = share * site.num_units
            steps = sorted(self._steps(site), key=lambda step: len(step.removed))
            fitting = [step for step in steps if len(step.removed) >= wanted] or steps[-1:]
            if fitting:
                choice[site.index] = fitting[0].removed
        return choice

    def _selection(self, choice: Choice) -> Selection:
        units, costs, scores = {}, {}, {}
        for site in self.sites:
            steps = self._steps(site)
            if not site.WIDE:
                scores[site.index] = worth(site, steps)
            if site.index in choice:
                units[site.index] = tuple(sorted(site.original(choice[site.index])))
                costs[site.index] = next(step.error for step in steps if step.removed == choice[site.index])
        return Selection(units, self.basis, costs, scores, self.constant, self.left_out)
