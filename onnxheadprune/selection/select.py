"""`select_heads`: from a wish to a legal set of heads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from onnxheadprune.attention.analysis import Analysis, analysis_of
from onnxheadprune.attention.sites.site import AttentionSite
from onnxheadprune.errors import RefusedError, UsageError
from onnxheadprune.liveness.branch import detach
from onnxheadprune.liveness.refusal import Refusal
from onnxheadprune.model.graph.view import GraphView
from onnxheadprune.model.load import ModelLike, open_structure
from onnxheadprune.runtime import Provider
from onnxheadprune.runtime.feeds import DataSource
from onnxheadprune.runtime.progress import Progress, silent
from onnxheadprune.runtime.providers import AUTO, resolve_provider
from onnxheadprune.selection.activations.contexts import context_moments, require_rows
from onnxheadprune.selection.activations.data import Calibration, calibration_data
from onnxheadprune.selection.activations.drift import Measure
from onnxheadprune.selection.allocate import (
    Choice,
    Limits,
    Paths,
    allocate,
    heads_for_ratio,
    keep_per_site,
    removable_heads,
)
from onnxheadprune.selection.curves import measured_paths
from onnxheadprune.selection.scoring.moves import Heads, Step, merged, path_by_worth, ways_of
from onnxheadprune.selection.scoring.reconstruction import path as reconstruction_path
from onnxheadprune.selection.scoring.scores import HeadScores, is_protected
from onnxheadprune.selection.scoring.simple import weight_scores

SAMPLES_TO_MEASURE = 128
"""Samples on which the effect of cuts is measured; Gram matrices see all of them."""
SITES_TO_MEASURE = 6
"""Sites up to which all of them are used. A cut runs on through all blocks behind it, so in a deeper model each is
measured on fewer samples, and a site costs the same everywhere."""
LEAST_TO_MEASURE = 16
"""Samples that are used in any case."""


@dataclass(frozen=True)
class Selection:
    """Heads to remove, and why these.

    Attributes:
        heads: heads to remove per site index (indices of the original model).
        basis: how the choice was made.
        costs: expected cost per site index, in the unit of `basis`.
        scores: what each head was worth (the cost of the step in which it would go), per site index.
    """

    heads: Mapping[int, tuple[int, ...]]
    basis: str
    costs: Mapping[int, float] = field(default_factory=dict)
    scores: Mapping[int, tuple[float | None, ...]] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """Heads that go, in all."""
        return sum(len(heads) for heads in self.heads.values())

    @property
    def spec(self) -> dict[str, list[int]]:
        """The heads as a head spec."""
        return {str(index): list(heads) for index, heads in self.heads.items()}

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data; `heads` is a head spec."""
        return {
            "heads": self.spec,
            "basis": self.basis,
            "costs": {str(index): cost for index, cost in self.costs.items()},
            "scores": {str(index): list(values) for index, values in self.scores.items()},
        }


@dataclass(frozen=True, eq=False)
class Ground:
    """What choices of any size are made from: the sites, and their paths.

    Attributes:
        sites: sites that may lose heads.
        total: heads of all sites of the model, of which ratios are taken.
        paths: steps per site index, with costs that add up across sites.
        basis: what the costs are.
        limits: what cuts respect.
        gone: present heads per site index that earlier rounds removed.
    """

    sites: tuple[AttentionSite, ...]
    total: int
    paths: Paths
    basis: str
    limits: Limits
    gone: Mapping[int, Heads] = field(default_factory=dict)

    def most(self) -> int:
        """The most heads that can go."""
        return removable_heads(self.sites, self.paths, self.limits, self.gone)

    def removing(self, count: int) -> Selection:
        """The cheapest way to remove so many heads.

        Raises:
            RefusedError: if nothing can be removed.
        """
        return self._selection(allocate(self.sites, self.paths, count, self.limits, self.gone))

    def ratio(self, share: float) -> Selection:
        """The cheapest way to remove a share of all heads.

        Raises:
            UsageError: if it is no share.
            RefusedError: if nothing can be removed.
        """
        wanted = heads_for_ratio(self.total, share)
        if wanted > self.most():
            raise RefusedError(
                f"{wanted} of {self.total} heads were asked for, but only {self.most()} can go"
                " (protected heads, floors, groups of KV heads and sites that cannot lose heads stay)"
            )
        return self.removing(wanted)

    def keeping(self, count: int) -> Selection:
        """Every site down to so many heads.

        Raises:
            UsageError: if `count` is below 1.
            RefusedError: if nothing can be removed.
        """
        if count < 1:
            raise UsageError(f"every site keeps 1 head or more, not {count}")
        return self._selection(keep_per_site(self.sites, self.paths, count, self.limits))

    def _selection(self, choice: Choice) -> Selection:
        heads, costs, scores = {}, {}, {}
        for site in self.sites:
            steps = self.paths[site.index]
            scores[site.index] = _worth(site, steps)
            if site.index in choice:
                heads[site.index] = tuple(sorted(site.original(choice[site.index])))
                costs[site.index] = next(
                    (step.error for step in steps if step.removed == choice[site.index]), 0.0
                )
        return Selection(heads, self.basis, costs, scores)


def _worth(site: AttentionSite, steps: Sequence[Step]) -> tuple[float | None, ...]:
    """The cost per head of the step in which each head would go, None for heads that are gone or stay."""
    worth: list[float | None] = [None] * site.original_num_heads
    names = site.original_heads
    before, done = 0.0, frozenset[int]()
    for step in steps:
        fresh = step.removed - done
        if not step.removed > done:
            continue
        for head in fresh:
            worth[names[head]] = (step.error - before) / len(fresh)
        before, done = step.error, step.removed
    return tuple(worth)


def select_heads(
    model: ModelLike,
    *,
    ratio: float | None = None,
    keep: int | None = None,
    scores: HeadScores | None = None,
    data: DataSource | Calibration | None = None,
    limits: Limits | None = None,
    protect: str | None = None,
    provider: str | Provider = AUTO,
    effect: Measure | None = None,
    progress: Progress = silent,
) -> Selection:
    """The heads whose removal should cost least.

    Args:
        model: a path, a `ModelProto` or a `gs.Graph`.
        ratio: share of all heads of the model to remove.
        keep: heads that every site keeps.
        scores: what heads are worth; None measures it on `data`, or without data goes by the weights. Scores that
            are shares of a site order its heads; with `data`, what cuts of each site cost is measured.
        data: calibration data; see `feeds.load_data` for the forms.
        limits: floors, multiples, uniformity.
        protect: a head spec of heads that must stay; a bare site protects all of its heads.
        provider: where to run.
        effect: the user's measure of drift.
        progress: told what is being done.

    Raises:
        UsageError: unless exactly one wish is given, or if the data or the scores do not fit.
        RefusedError: if the wish cannot be met.
    """
    if (ratio is None) == (keep is None):
        raise UsageError("say how many heads are to go: by a ratio, or by how many every site keeps")
    found = ground(
        model,
        scores=scores,
        data=data,
        limits=limits,
        protect=protect,
        provider=provider,
        effect=effect,
        progress=progress,
    )
    return found.ratio(ratio) if ratio is not None else found.keeping(keep or 0)


def ground(
    model: ModelLike | Analysis,
    *,
    scores: HeadScores | None = None,
    data: DataSource | Calibration | None = None,
    limits: Limits | None = None,
    protect: str | None = None,
    provider: str | Provider = AUTO,
    effect: Measure | None = None,
    progress: Progress = silent,
    gone: Mapping[int, Heads] | None = None,
) -> Ground:
    """Paths for all sites; see `select_heads` for the arguments.

    With `gone`, present heads per site index whose rows in the projection are zero already, paths go on from there.
    """
    if isinstance(model, Analysis):
        found = model
    else:
        loaded = open_structure(model)
        found = analysis_of(loaded.proto, loaded.name, loaded.sources)
    view, name, everything = found.view, found.name, found.sites
    sites = tuple(site for site in everything if site.removable)
    if not sites:
        why = f": {everything[0].reason}" if len(everything) else "; no attention site was found"
        raise RefusedError(f"no site of {name} can lose heads{why}")
    total = sum(site.num_heads for site in everything)
    bounds = limits or Limits()
    stay = is_protected(protect, sites)
    kept = {site.index: _present(site, stay.get(site.index, frozenset())) for site in sites}
    where = provider if isinstance(provider, Provider) or data is None else resolve_provider(provider)
    paths, basis = _paths(view, sites, kept, scores, data, where, effect, progress, gone or {})
    if bounds.floor == 0:
        paths = {site.index: (*paths[site.index], *_all_of(site, paths[site.index], kept)) for site in sites}
    return Ground(sites, total, paths, basis, bounds, gone or {})


def _paths(
    view: GraphView,
    sites: Sequence[AttentionSite],
    kept: Mapping[int, Heads],
    scores: HeadScores | None,
    data: DataSource | Calibration | None,
    provider: Provider | str,
    effect: Measure | None,
    progress: Progress,
    gone: Mapping[int, Heads],
) -> tuple[dict[int, tuple[Step, ...]], str]:
    """Steps per site with costs that compare across sites as well as the basis allows; and the basis."""
    worths = {
        site.index: scores.of(site) if scores is not None else tuple(weight_scores(site).tolist())
        for site in sites
        if scores is not None or data is None
    }
    paths = {
        site.index: [
            path_by_worth(site, worths[site.index], kept[site.index], ways=ways) for ways in ways_of(site)
        ]
        for site in sites
        if site.index in worths
    }
    if data is None or (scores is not None and not scores.are_shares):
        basis = "weights (no data was given)" if scores is None else f"scores ({scores.method})"
        return {index: merged(found) for index, found in paths.items()}, basis
    assert isinstance(provider, Provider)
    calibration = calibration_data(data, view)
    moments = context_moments(view, sites, calibration, provider, progress)
    require_rows(moments, calibration.source)
    if scores is None:
        paths = {
            site.index: [
                reconstruction_path(
                    site, moments[site.index], kept[site.index], gone.get(site.index, ()), ways
                )
                for ways in ways_of(site)
            ]
            for site in sites
        }
    measured = measured_paths(
        view,
        sites,
        paths,
        moments,
        calibration.subset(samples_to_measure(len(sites))),
        provider,
        effect,
        progress,
    )
    if scores is None:
        return measured, "measured drift after refit"
    return measured, f"scores ({scores.method}) within sites, measured drift after refit across them"


def samples_to_measure(sites: int) -> int:
    """Samples on which the effect of cuts is measured in a model of so many sites."""
    share = (SITES_TO_MEASURE + 1) / (sites + 1)
    return max(LEAST_TO_MEASURE, round(SAMPLES_TO_MEASURE * min(share, 1.0)))


def _present(site: AttentionSite, heads: frozenset[int]) -> frozenset[int]:
    """Present indices of the heads among these that are still there."""
    return frozenset(site.present(head for head in site.original_heads if head in heads))


def _all_of(
    site: AttentionSite, steps: Sequence[Step], kept: Mapping[int, frozenset[int]]
) -> tuple[Step, ...]:
    """The step in which the whole site goes, where it can; the last heads cost as much as those before them."""
    whole = frozenset(range(site.num_heads))
    if kept[site.index] or not steps or steps[-1].removed == whole:
        return ()
    if any(isinstance(detach(projection.node), Refusal) for projection in site.projections):
        return ()
    left = len(whole) - len(steps[-1].removed)
    last = steps[-1].error - (steps[-2].error if len(steps) > 1 else 0.0)
    return (Step(whole, steps[-1].error + left * max(last, steps[-1].error / len(steps[-1].removed))),)
