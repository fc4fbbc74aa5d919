"""`search_space`: the legal cuts of a model's sites, and what each costs and saves.

Heads alone are counted; units of several kinds have one budget, a share of the prunable blocks' operations, or of their
bytes where experts may be removed, since each token still uses equally many experts. A layer is one step, whose cost is
what bypassing it does to the outputs; it is taken in place of the steps of the sites inside it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType

from onnxheadprune.attention.main_graph_copy import with_switches
from onnxheadprune.attention.sites.all_sites import Sites
from onnxheadprune.attention.sites.find import Analysis
from onnxheadprune.attention.sites.site import Site, outermost
from onnxheadprune.attention.specs import listed, parsed
from onnxheadprune.choosing.activations.contexts import INSTEAD, measurable
from onnxheadprune.choosing.activations.moments import Moments
from onnxheadprune.choosing.curves import folds_of, measured_steps
from onnxheadprune.choosing.scoring.moves import Path, Step, Summed, Worth, can_go_whole, merged, paths
from onnxheadprune.choosing.scoring.reconstruction import Refitted
from onnxheadprune.choosing.scoring.score import default_method, scored_kinds, scores_of
from onnxheadprune.choosing.scoring.scores import HeadScores, scores_in
from onnxheadprune.choosing.space import (
    AFTER_REFIT,
    FINE,
    NOTHING,
    PARTS,
    WITHOUT_DATA,
    Asked,
    Savings,
    SearchSpace,
    foresee,
    options,
    worth,
)
from onnxheadprune.data.drift import Evidence
from onnxheadprune.edit.records import HEADS
from onnxheadprune.errors import RefusedError, UsageError
from onnxheadprune.runtime.progress import Progress, silent
from onnxheadprune.settings.cutting import Cut, Selecting, units_of
from onnxheadprune.settings.registry import METHODS, SHARE
from onnxheadprune.settings.units import BYTES, DEFAULT_UNITS, HEAD, OPERATIONS, UnitKind

UNBOUNDED = 1e9
"""A length beside which a linear layer costs nothing: what can go is a share between those at 0 and here."""
OVER_SAVED = "over the {} saved"
"""The savings that costs are weighed against."""
WHOLE = "the same share of every site is removed, and a layer has no share"
"""Why no layer is chosen then."""
HIDDEN = "it cannot be told apart where layers are bypassed"
"""Why a site is not measured beside layers."""
NO_REASONS: Mapping[str, str] = MappingProxyType({})
WHY_BYTES = " (experts save memory: a token goes through as many as before)"


def search_space(
    analysis: Analysis,
    given: Selecting,
    evidence: Evidence | None = None,
    progress: Progress = silent,
    asked: Asked | None = None,
) -> SearchSpace:
    """Paths for all sites, with costs that compare across sites as well as the evidence allows.

    Args:
        given: the kinds of units, their scores, and the limits that cuts respect.
        evidence: what costs are measured on; None goes by given scores or by the weights.
        asked: what the space is for, tried before the first pass where some sites cannot be measured.
    """
    units = frozenset(units_of(given, has_data=evidence is not None))
    budget = _Budget(analysis, given, units)
    if evidence is None and not budget.counts_heads:
        raise UsageError("selecting among several kinds of units needs data; give `data`")
    # Scores of different sites may compare as they are; operations and bytes are paid for in drift.
    measuring = evidence if _is_measured(given) or not budget.counts_heads else None
    open_, skipped = budget.open, dict[str, str]()
    if measuring is not None:
        data = measuring.data
        open_, skipped = measurable(analysis.view, open_, data, measuring.provider)
        if asked is not None:
            alike = {
                site.index: merged(budget.paths(site, Summed((1.0,) * site.num_units))) for site in open_
            }
            lengths = (0.0, UNBOUNDED) if data.positions is None else (data.positions / data.count,)
            spaces = (budget.space(alike, length, skipped=skipped) for length in lengths)
            foresee(asked, spaces, INSTEAD if skipped else "")
    skipped |= budget.closed
    scores = _scores(analysis, open_, given, units, evidence, progress)
    unscored = {} if scores is None else dict(scores.skipped)
    constant = {} if scores is None else scores.constant
    open_ = tuple(site for site in open_ if site.label not in unscored)

    def by_scores(site: Site) -> Worth:
        if scores is not None:
            return Summed(scores.of(site))
        from onnxheadprune.choosing.scoring.weight import weight_scores

        return Summed(weight_scores(site))

    def order(site: Site, moments: Sequence[Moments]) -> list[Path]:
        ordered = _is_ordered(given) or not site.contexts
        return budget.paths(site, by_scores(site) if ordered else Refitted(site, moments))

    if measuring is None:
        steps, unread = _unmeasured(open_, lambda site: budget.paths(site, by_scores(site)))
        basis = WITHOUT_DATA if scores is None else f"scores ({scores.method})"
        return budget.space(steps, basis=basis, constant=constant, skipped=skipped | unscored | unread)
    view, there = with_switches(analysis.view, open_)
    known = {site.index for site in there}
    skipped |= {site.label: HIDDEN for site in open_ if site.index not in known}
    folds = folds_of(view, there, measuring.data, measuring.provider)
    costs = measured_steps(view, there, order, folds, measuring, progress)
    return budget.space(
        costs.steps,
        costs.length,
        budget.basis(scores),
        constant=constant,
        skipped=skipped | unscored | costs.skipped,
    )


class _Budget:
    """The sites that may lose units, and the resource that their steps save.

    Attributes:
        counts_heads: whether heads are counted, of attention sites alone.
        sites: those inside another one just before it.
        closed: why some of them cannot lose any, by their label.
    """

    def __init__(self, analysis: Analysis, given: Selecting, units: frozenset[str]) -> None:
        self._heads = sum(site.num_heads for site in analysis.sites)
        self._given, self._units, self.counts_heads = given, units, units == DEFAULT_UNITS
        self.sites = _sites(analysis.sites, units)
        self.closed = {site.label: site.reason.sentence for site in self.sites if site.reason is not None}
        if given.uniform:
            self.closed |= {site.label: WHOLE for site in self.sites if not site.KIND.scored_by}
            self.sites = tuple(site for site in self.sites if site.KIND.scored_by)
        if not self.open:
            raise RefusedError(
                f"no site of {analysis.name} can lose {' and '.join(sorted(units))}"
                f"; {self._why_none(analysis)}"
            )
        kept = protected(given.protect or "", self.sites)
        self._kept = {site.index: site.still_there(kept.get(site.index, ())) for site in self.sites}
        self._saves_experts = any(site.KIND.saves == BYTES for site in self.sites)
        saves_bytes = self._saves_experts or (isinstance(given, Cut) and given.target_size is not None)
        self._counted = HEADS if self.counts_heads else BYTES if saves_bytes else OPERATIONS

    @property
    def open(self) -> tuple[Site, ...]:
        """The sites that can lose units."""
        return tuple(site for site in self.sites if site.label not in self.closed)

    def paths(self, site: Site, worth: Worth) -> list[Path]:
        """The paths of a site by the worth of its units, within the limits."""
        kept = self._kept[site.index]
        if not site.KIND.scored_by:
            return [() if kept else (Step(frozenset(range(site.num_units)), 1.0),)]
        if site.KIND.has_many_units:
            return paths(site, worth, kept, self._given.multiple(site.KIND.units))
        return [tuple(options(self._given, site, path)[1:]) for path in paths(site, worth, kept)]

    def space(
        self,
        steps: Mapping[int, Sequence[Step]],
        length: float = 0.0,
        basis: str = "",
        *,
        constant: Mapping[str, str] = NO_REASONS,
        skipped: Mapping[str, str] = NO_REASONS,
    ) -> SearchSpace:
        """The search space of some steps.

        Args:
            length: positions of a sample.
        """
        # What cannot be measured, or no sample has run, stays unchanged.
        every = {site.index: tuple(steps.get(site.index, ())) for site in self.sites}
        scored = [site for site in self.sites if not site.KIND.has_many_units]
        if self.counts_heads:
            if self._given.min_heads == 0:
                every = {
                    site.index: (*every[site.index], *self._all_of(site, every[site.index]))
                    for site in scored
                }
            savings = {site.index: Savings.evenly(site.num_units, 1) for site in self.sites}
            whole, sizes = float(self._heads), (self._heads, 1)
        else:
            savings = {
                site.index: Savings.evenly(
                    site.num_units,
                    site.bytes / site.num_units if self._counted == BYTES else site.flops_per_unit(length),
                )
                for site in self.sites
            }
            whole, sizes = (
                sum(savings[site.index].of(site.num_units) for site in outermost(self.sites)),
                (PARTS, FINE),
            )
        worths = {site.index: worth(site, every[site.index]) for site in scored}
        return SearchSpace(
            self.sites,
            every,
            savings,
            whole,
            basis,
            self._counted,
            *sizes,
            self._given,
            worths,
            constant,
            skipped,
        )

    def basis(self, scores: HeadScores | None) -> str:
        """The meaning of measured costs, of units in the order of some scores."""
        if self.counts_heads:
            if scores is None:
                return AFTER_REFIT
            return f"scores ({scores.method}) within sites, {AFTER_REFIT} across them"
        drifts = (
            AFTER_REFIT if any(site.projections for site in self.sites) else "measured drift without each"
        )
        basis = f"{drifts}, {OVER_SAVED.format(self._counted)}{WHY_BYTES if self._saves_experts else ''}"
        if scores is None:
            return basis
        within = "block" if _is_ordered(self._given) else scores.sites[0].kind.block
        return f"scores ({scores.method}) within {within}s, {basis}"

    def _all_of(self, site: Site, steps: Sequence[Step]) -> tuple[Step, ...]:
        """The step in which the whole site goes, where it can; the last heads cost as much as those before them."""
        whole = frozenset(range(site.num_units))
        if self._kept[site.index] or not steps or steps[-1].removed == whole or not can_go_whole(site):
            return ()
        last, before = steps[-1], steps[-2] if len(steps) > 1 else NOTHING
        each = (last.error - before.error) / max(len(last.removed) - len(before.removed), 1)
        left = len(whole) - len(last.removed)
        return (Step(whole, last.error + left * max(each, last.error / len(last.removed))),)

    def _why_none(self, analysis: Analysis) -> str:
        every = [site for units in self._units for site in analysis.sites.of(units)]
        only = (f"{site.only_named}: name them" for site in every if site.removable and site.only_named)
        reasons = (str(site.reason) for site in every if site.reason is not None)
        return next(iter((*only, *self.closed.values(), *reasons)), "no attention site was found")


def _unmeasured(
    sites: Sequence[Site], paths_of: Callable[[Site], list[Path]]
) -> tuple[dict[int, tuple[Step, ...]], dict[str, str]]:
    """The steps per site index by scores alone, and for the labels of sites whose weights cannot be read why."""
    steps, unread = dict[int, tuple[Step, ...]](), dict[str, str]()
    for site in sites:
        try:
            steps[site.index] = merged(paths_of(site))
        except RefusedError as error:
            unread[site.label] = str(error)
    if not steps:
        raise RefusedError(next(iter(unread.values())))
    return steps, unread


def _sites(sites: Sites, units: Collection[str]) -> tuple[Site, ...]:
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
    given: Selecting,
    units: frozenset[str],
    evidence: Evidence | None,
    progress: Progress,
) -> HeadScores | None:
    """The scores that order the units within their sites; where a refit's errors do, None or none of the site."""
    if _is_ordered(given):
        if given.scores is not None:
            return scores_in(given.scores)
        ordered = scored_kinds(units, given.method)
        method, some = given.method, [site for site in sites if site.KIND.units in ordered]
    else:
        some = [site for site in sites if site.routing is not None]
        method = default_method({site.KIND.units for site in some}) if some else None
    if method is None:
        return None
    return scores_of(analysis.name, analysis.view, some, method, evidence, progress, skip=True)


def _is_ordered(given: Selecting) -> bool:
    """Return whether units of all kinds are removed in the order of scores."""
    return given.method is not None or given.scores is not None


def _is_measured(given: Selecting) -> bool:
    """Return whether cuts are measured where there is data, since scores do not compare across sites."""
    if given.method is not None:
        return METHODS[given.method].unit.startswith(SHARE)
    return given.scores is None or scores_in(given.scores).are_shares


def protected(spec: str, sites: Sequence[Site]) -> dict[int, frozenset[int]]:
    """Heads that must stay, per site index (indices of the original model).

    A bare site ("3" or a name) protects all of its heads, and what is protected in a layer protects the layer.
    """
    found: dict[int, frozenset[int]] = {}
    for token in spec.split():
        key, colon, _ = token.rpartition(":")
        key = key if colon else token
        matching = [
            site for site in sites if any(key in ("*", one.key, one.name) for one in (site, *site.parts))
        ]
        if not matching:
            raise UsageError(f"there is no {key!r} to protect; this model has {listed(sites)}")
        for site in matching:
            named = parsed(token)[key] if colon and site.KIND.scored_by else None
            heads = range(site.original_num_units) if named is None else named
            if any(head >= site.original_num_units for head in heads):
                raise UsageError(
                    f"{site.label} has {site.original_num_units} {site.KIND.unit}s, so {token!r} protects none"
                )
            found[site.index] = found.get(site.index, frozenset()) | frozenset(heads)
    return found
