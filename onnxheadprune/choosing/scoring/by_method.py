"""Scores of the units of some sites by one of the methods.

Ablation is Michel et al. 2019 (Are Sixteen Heads Really Better than One?), measured on the outputs instead of a loss.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from onnxheadprune.attention.sites.all_sites import Sites
from onnxheadprune.attention.sites.find import sites_of, view_of
from onnxheadprune.attention.sites.site import Site
from onnxheadprune.choosing.activations.chain import Chain, Cut
from onnxheadprune.choosing.activations.contexts import (
    SiteMoments,
    context_moments,
    measurable,
    projection_matrix,
    seen,
    with_enough,
)
from onnxheadprune.choosing.activations.moments import Moments, NotFiniteError
from onnxheadprune.choosing.activations.parts import Parts
from onnxheadprune.choosing.scoring.executors import run_all
from onnxheadprune.choosing.scoring.experts import expert_scores
from onnxheadprune.choosing.scoring.partial import Partial
from onnxheadprune.choosing.scoring.reconstruction import reconstruction_scores
from onnxheadprune.choosing.scoring.scores import (
    FISHER,
    RANDOM,
    SHARES,
    TAYLOR,
    WITHOUT_DATA,
    HeadScores,
    SiteScores,
)
from onnxheadprune.choosing.scoring.sensitivity import Sensitivity
from onnxheadprune.data.calibration import Calibration
from onnxheadprune.data.drift import EffectMeter, Evidence, Measure
from onnxheadprune.errors import RefusedError, UsageError
from onnxheadprune.model.graph.main_output import require_main_output
from onnxheadprune.model.graph.view import GraphView
from onnxheadprune.model.load import LoadedModel
from onnxheadprune.model.pickling import Sent, arrived, sent
from onnxheadprune.runtime import Provider
from onnxheadprune.runtime.progress import Progress, silent
from onnxheadprune.settings.cutting import Method

_CACHE: dict[str, tuple[GraphView, Sites]] = {}
Array = npt.NDArray[np.float64]
_UNITS = {
    "weight": "share of the site's weights",
    "activation": "share of the site's activity",
    "fluctuation": "share of the site's variance",
    "reconstruction": "share of the site's variance lost after refit",
    "reap": "share of the site's activity, weighted by the router",
    "frequency": "share of the site's choices",
    "random": "share of the site by chance",
}
INSTEAD = "the methods activation and fluctuation need no more than there is"
GROUPS = 16
"""Parts of a site of many units that are left out together: it costs about what one of so many heads does."""


@dataclass(frozen=True)
class Working:
    """Settings of a long scoring.

    Attributes:
        model: the model to send to an executor, which finished parts depend on; None takes the viewed model.
        executor: where to ablate sites; None does so here.
        partial: a file to keep finished sites in.
        progress: called with each step.
    """

    model: LoadedModel | None = None
    executor: Executor | None = None
    partial: str | os.PathLike[str] | None = None
    progress: Progress = silent


def scores_of(
    model: str,
    view: GraphView,
    sites: Sequence[Site],
    method: Method,
    evidence: Evidence | None,
    working: Working | None = None,
    skip: bool = False,
) -> HeadScores:
    """Scores of the units of some sites; with `skip` of those that can be scored on the data."""
    how = working or Working()
    if method == RANDOM:
        drawn = [np.random.default_rng(site.index).random(site.num_units) for site in sites]
        return _scores(model, sites, method, _UNITS[method], [each / each.sum() for each in drawn])
    if method == WITHOUT_DATA:
        return _scores(model, sites, method, _UNITS[method], [weight_scores(site) for site in sites])
    if evidence is None:
        raise UsageError(
            f"the method {method} needs calibration data; without any, use the method weight, or for experts random"
        )
    data = evidence.data
    moments = SiteMoments({}, {})
    if skip or method in SHARES:
        sites, moments = _measured(view, sites, method, evidence, how.progress, skip)
    skipped = moments.skipped
    if method == "ablation":
        meter = EffectMeter(require_main_output(view), data.inputs, evidence.effect)
        made = _scores(model, sites, method, meter.name, _ablated(view, sites, evidence, how))
    elif method in (FISHER, TAYLOR):
        found = Sensitivity.of(view, sites, method, evidence, how.progress)
        made = _scores(model, sites, method, found.unit, [found.scores[site.index] for site in sites])
        made = replace(made, constant=found.constant)
    else:
        values = {
            site.index: _from_moments(method, site, moments[site.index]) for site in sites if not site.ROUTED
        }
        routed = [site for site in sites if site.ROUTED]
        if routed:
            experts, unread = expert_scores(view, routed, method, evidence, how.progress)
            if unread and not skip:
                raise RefusedError(next(iter(unread.values())))
            values |= experts
            skipped |= unread
        sites = [site for site in sites if site.index in values]
        made = _scores(model, sites, method, _UNITS[method], [values[site.index] for site in sites])
    return replace(made, data=data.fingerprint, samples=data.count, source=data.source, skipped=skipped)


def _measured(
    view: GraphView,
    sites: Sequence[Site],
    method: Method,
    evidence: Evidence,
    progress: Progress,
    skip: bool,
) -> tuple[Sequence[Site], SiteMoments]:
    """The sites that can be scored on the data, and the moments of what they carry."""
    data, short = evidence.data, dict[str, str]()
    if method == "reconstruction":
        sites, short = measurable(view, sites, data, evidence.provider, INSTEAD)
        _require_all(short, skip)
    moments = context_moments(view, sites, data, evidence.provider, progress)
    if moments.skipped and not skip:
        raise NotFiniteError(next(iter(moments.skipped.values())))
    reached = seen(sites, moments, data.source)
    others = [site.label for site in sites if site.index in moments and site not in reached]
    if others and not skip:
        raise UsageError(
            f"no sample of {data.source} runs {', '.join(others)}, so its units cannot be scored on it; give data that"
            " goes further, or take the exit that is always taken with prune --exit"
        )
    if method == "reconstruction":
        reached, few = with_enough(reached, moments, data, INSTEAD)
        _require_all(few, skip)
        short |= few
    unreached = dict.fromkeys(others, f"no sample of {data.source} runs it")
    return reached, SiteMoments(moments, short | moments.skipped | unreached)


def _require_all(short: Mapping[str, str], skip: bool) -> None:
    """Check that all sites can be scored by errors after a refit, where none may be skipped."""
    for label, reason in () if skip else short.items():
        raise UsageError(f"{label} cannot be scored by reconstruction: {reason}; {INSTEAD}")


def _from_moments(method: Method, site: Site, moments: Sequence[Moments]) -> Array:
    if method == "activation":
        return _activation_scores(site, moments)
    if method == "fluctuation":
        return _fluctuation_scores(site, moments)
    return reconstruction_scores(site, moments)


def _scores(model: str, sites: Sequence[Site], method: str, unit: str, found: Sequence[Array]) -> HeadScores:
    entries = tuple(
        SiteScores(site.index, site.name, _by_original(site, values))
        for site, values in zip(sites, found, strict=True)
    )
    return HeadScores(method, unit, model, entries)


def _by_original(site: Site, values: Array) -> tuple[float | None, ...]:
    scores: list[float | None] = [None] * site.original_num_units
    for unit, value in zip(site.original_units, values, strict=True):
        scores[unit] = float(value)
    return tuple(scores)


def weight_scores(site: Site) -> Array:
    """Share of a unit's rows in the energy of the layer that sums units up: |W_o[h]|² / |W_o|².

    Magnitude pruning (Han et al. 2015) with heads, or neurons, as groups. It needs no data and ignores
    activations; the other methods are better if there is data.
    """
    total = np.zeros(site.num_units)
    for projection in site.projections:
        energy = np.square(projection_matrix(projection)).sum(axis=1)
        total += [energy[list(channels)].sum() for channels in projection.channels]
    return _shares(total)


def _activation_scores(site: Site, moments: Sequence[Moments]) -> Array:
    """Mean of |W_ij| |x_i| over the entries of a unit, as a share of the site's (Wanda, Sun et al. 2024).

    |x_i| is the norm of a context channel over the calibration data.
    """
    total = np.zeros(site.num_units)
    for projection, moment in zip(site.projections, moments, strict=True):
        norms = np.sqrt(np.diag(moment.gram) / (moment.total or 1.0))
        each = np.abs(projection_matrix(projection)).sum(axis=1) * norms
        total += [each[list(channels)].sum() for channels in projection.channels]
    return _shares(total)


def _fluctuation_scores(site: Site, moments: Sequence[Moments]) -> Array:
    """Var(x_i) |W_i|² over the channels of a unit, as a share of the site's (FLAP, An et al. 2024).

    The bias can replace the mean of a channel; only its fluctuation is lost.
    """
    total = np.zeros(site.num_units)
    for projection, moment in zip(site.projections, moments, strict=True):
        variance = np.diag(moment.centred().covariance)
        each = variance * np.square(projection_matrix(projection)).sum(axis=1)
        total += [each[list(channels)].sum() for channels in projection.channels]
    return _shares(total)


def _shares(values: Array) -> Array:
    """Scores as shares of the site, so that sites of different scale are comparable."""
    total = values.sum()
    shares: Array = values / total if total > 0 else np.full(len(values), 1 / max(len(values), 1))
    return shares


def _ablated(view: GraphView, sites: Sequence[Site], evidence: Evidence, how: Working) -> list[Array]:
    """Ablation scores per site, those of an interrupted run taken from its file."""
    data, provider, effect = evidence.data, evidence.provider, evidence.effect
    loaded = how.model or LoadedModel(view.model, "the model", view.sources)
    kept = Partial.of(how.partial, loaded, sites, evidence)
    missing = [position for position in range(len(sites)) if position not in kept.found]

    def done(at: int, result: Array) -> None:
        kept.add(missing[at], result)
        how.progress("ablating units, site by site", len(kept.found), len(sites))

    if how.executor is None:
        run_all(
            lambda position: ablation_scores(view, sites[position], data, provider, effect),
            missing,
            None,
            done,
        )
    else:
        tasks = _site_tasks(loaded, sites, data, provider, effect)
        run_all(_ablate, [tasks[position] for position in missing], how.executor, done)
    kept.finish()
    return [kept.found[position] for position in range(len(sites))]


def ablation_scores(
    view: GraphView,
    site: Site,
    data: Calibration,
    provider: Provider,
    effect: Measure | None = None,
) -> Array:
    """Return the mean effect on the outputs of silencing each present unit of a site.

    Kullback-Leibler divergence on logits, one minus the cosine elsewhere, or the user's measure. The part of
    the model before the site runs once for all units. Neurons are ranked by their fluctuation, and silenced in
    groups of neighbours; the group's effect is divided by shares of its fluctuation.

    Raises:
        RefusedError: if the site lives in a body, or the model has no float output.
        UsageError: if the data does not run.
    """
    main = require_main_output(view)
    outputs = [main.name] if not callable(effect) else [info.name for info in view.model.graph.output]
    chain = Chain(
        Parts(view, provider, len(data), [site]),
        [site],
        [view.main.values[name] for name in outputs],
        sampled=not callable(effect),
    )
    each = np.ones(site.num_units)
    groups: list[tuple[int, ...]] = [(head,) for head in range(site.num_units)]
    if site.WIDE:
        each = _fluctuation_scores(site, context_moments(view, [site], data, provider)[site.index])
        groups = _groups(site, each)
    cuts = [Cut.of(site, group) for group in groups]
    meters = [EffectMeter(main, data.inputs, effect) for _ in cuts]
    chain.measure(cuts, data.feeds, data.source, meters)
    scores = np.zeros(site.num_units)
    for group, meter in zip(groups, meters, strict=True):
        parts = each[list(group)]
        total = parts.sum()
        scores[list(group)] = meter.mean() * (parts / total if total > 0 else 1 / len(group))
    return scores


def _groups(site: Site, worth: Array) -> list[tuple[int, ...]]:
    """Units in groups of about equal size, sorted by score; inseparable units stay in one group."""
    together = sorted(site.units, key=lambda unit: (worth[list(unit)].mean(), unit))
    parts = np.array_split(np.arange(len(together)), min(GROUPS, len(together)))
    return [tuple(one for at in part for one in together[at]) for part in parts]


@dataclass(frozen=True, eq=False)
class _SiteTask:
    """Ablate the units of one site."""

    model: Sent  # the model; a process that sees several sites of one model reads it once
    site: int  # index of the site
    data: Calibration  # the inputs
    provider: Provider  # where to run
    effect: Measure | None = None  # the user's measure


def _site_tasks(
    model: LoadedModel, sites: Sequence[Site], data: Calibration, provider: Provider, effect: Measure | None
) -> list[_SiteTask]:
    """A task per site."""
    travelling = sent(model)
    return [_SiteTask(travelling, site.index, data, provider, effect) for site in sites]


def _ablate(task: _SiteTask) -> Array:
    """The scores of the task's site."""
    view, sites = _read(task.model)
    return ablation_scores(view, sites.at(task.site), task.data, task.provider, task.effect)


def _read(model: Sent) -> tuple[GraphView, Sites]:
    if model.digest not in _CACHE:
        _CACHE.clear()
        loaded = arrived(model)
        view = view_of(loaded)
        _CACHE[model.digest] = view, sites_of(view, "the model")
    return _CACHE[model.digest]
