"""`score_heads`: what every head of a model is worth."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from typing import Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from onnxheadprune.attention.observed import observed
from onnxheadprune.attention.sites.find import sites_of, view_of
from onnxheadprune.attention.sites.site import AttentionSite
from onnxheadprune.errors import RefusedError, UsageError
from onnxheadprune.model.graph.view import GraphView
from onnxheadprune.model.load import LoadedModel, ModelLike, model_name, open_structure
from onnxheadprune.runtime import Provider
from onnxheadprune.runtime.feeds import DataSource
from onnxheadprune.runtime.progress import Progress, silent
from onnxheadprune.runtime.providers import AUTO, resolve_provider
from onnxheadprune.selection.activations.contexts import context_moments, require_rows, seen
from onnxheadprune.selection.activations.data import Calibration, calibration_data
from onnxheadprune.selection.activations.drift import EffectMeter, Measure
from onnxheadprune.selection.activations.moments import Moments
from onnxheadprune.selection.evidence import Evidence
from onnxheadprune.selection.scoring.ablation import ablation_scores, require_main
from onnxheadprune.selection.scoring.executors import run_all
from onnxheadprune.selection.scoring.partial import Partial, partial_key
from onnxheadprune.selection.scoring.reconstruction import reconstruction_scores
from onnxheadprune.selection.scoring.scores import HeadScores, SiteScores
from onnxheadprune.selection.scoring.simple import activation_scores, fluctuation_scores, weight_scores
from onnxheadprune.selection.scoring.work import ablate, site_tasks

Method: TypeAlias = Literal["weight", "activation", "fluctuation", "reconstruction", "ablation"]
METHODS: tuple[Method, ...] = get_args(Method)
Array = npt.NDArray[np.float64]

_UNITS = {
    "weight": "share of the site's weights",
    "activation": "share of the site's activity",
    "fluctuation": "share of the site's variance",
    "reconstruction": "share of the site's variance lost after refit",
}
_FROM_MOMENTS: Mapping[str, Callable[[AttentionSite, Sequence[Moments]], Array]] = {
    "activation": activation_scores,
    "fluctuation": fluctuation_scores,
    "reconstruction": reconstruction_scores,
}


def score_heads(
    model: ModelLike,
    *,
    method: Method = "reconstruction",
    data: DataSource | None = None,
    provider: str | Provider = AUTO,
    effect: Measure | None = None,
    executor: Executor | None = None,
    partial: str | os.PathLike[str] | None = None,
    progress: Progress = silent,
) -> HeadScores:
    """Scores of all heads; the larger, the more the head is worth.

    Args:
        model: a path, a `ModelProto`, a `gs.Graph` or an `onnx_ir.Model`.
        method: "weight" needs no data. "activation", "fluctuation" and "reconstruction" need one pass over
            the data, "ablation" about half a pass per head.
        data: calibration data; see `feeds.load_data` for the forms.
        provider: where to run: "auto", "cpu", "cuda" or another execution provider's name.
        effect: for "ablation": what to measure in place of divergence or cosine, called with the outputs
            before, the outputs after and the feed; larger is worse.
        executor: where to ablate sites; any `concurrent.futures.Executor`.
        partial: a file to keep finished sites in, so that an interrupted ablation goes on where it stopped.
        progress: told what is being done, how much is done, and of how much.

    Raises:
        UsageError: if there is no data where the method needs it, or the data does not fit.
        RefusedError: if the model has no sites, or a site that this method cannot see into.
        ModelError: if the model cannot be read.
        ProviderError: if the asked-for provider does not run here.
    """
    if method not in METHODS:
        raise UsageError(f"there is no scoring method {method!r}; there are {', '.join(METHODS)}")
    loaded = open_structure(model)
    view = view_of(loaded.proto, loaded.name, loaded.sources)
    sites = sites_of(view, model_name(model))
    if not len(sites):
        raise RefusedError("no attention site was found in this model, so there are no heads to score")
    if method == "weight":
        return _scores(
            method, _UNITS[method], sites.model, sites, [weight_scores(site) for site in sites], None
        )
    if data is None:
        raise UsageError(f"the method {method} needs calibration data; without any, use the method weight")
    where = provider if isinstance(provider, Provider) else resolve_provider(provider)
    calibration = calibration_data(data, view)
    first = observed(loaded)
    if first is not None:
        loaded, view = first, view_of(first.proto, first.name, first.sources)
        sites = sites_of(view, sites.model)
    if method == "ablation":
        meter = EffectMeter(require_main(view), calibration.inputs, effect)
        evidence = Evidence(calibration, where, effect)
        found = _ablated(loaded, view, sites.sites, evidence, executor, partial, progress)
        return _scores(method, meter.name, sites.model, sites, found, calibration)
    moments = context_moments(view, sites.sites, calibration, where, progress)
    reached = seen(sites.sites, moments, calibration.source)
    if len(reached) < len(sites):
        left = ", ".join(site.label for site in sites if site not in reached)
        raise UsageError(
            f"no sample of {calibration.source} runs {left}, so its heads cannot be scored on it; give data that goes"
            " further, or take the exit that is always taken with prune --exit"
        )
    if method == "reconstruction":
        require_rows(moments, calibration.source)
    found = [_FROM_MOMENTS[method](site, moments[site.index]) for site in sites]
    return _scores(method, _UNITS[method], sites.model, sites, found, calibration)


def _scores(
    method: str,
    unit: str,
    name: str,
    sites: Sequence[AttentionSite],
    found: Sequence[Array],
    data: Calibration | None,
) -> HeadScores:
    entries = tuple(
        SiteScores(site.index, site.name, _by_original(site, values))
        for site, values in zip(sites, found, strict=True)
    )
    if data is None:
        return HeadScores(method, unit, name, entries)
    return HeadScores(method, unit, name, entries, data.fingerprint, data.count, data.source)


def _by_original(site: AttentionSite, values: Array) -> tuple[float | None, ...]:
    scores: list[float | None] = [None] * site.original_num_heads
    for head, value in zip(site.original_heads, values, strict=True):
        scores[head] = float(value)
    return tuple(scores)


def _ablated(
    loaded: LoadedModel,
    view: GraphView,
    sites: Sequence[AttentionSite],
    evidence: Evidence,
    executor: Executor | None,
    partial: str | os.PathLike[str] | None,
    progress: Progress,
) -> list[Array]:
    """Ablation scores per site, those of an interrupted run taken from its file."""
    data, provider, effect = evidence.data, evidence.provider, evidence.effect
    kept = Partial(partial, "" if partial is None else partial_key(loaded, data, provider, effect))
    missing = [position for position in range(len(sites)) if position not in kept.found]

    def done(at: int, result: Array) -> None:
        kept.add(missing[at], result)
        progress("ablating heads, site by site", len(kept.found), len(sites))

    if executor is None:
        run_all(
            lambda position: ablation_scores(view, sites[position], data, provider, effect),
            missing,
            None,
            done,
        )
    else:
        tasks = site_tasks(loaded, len(sites), data, provider, effect)
        run_all(ablate, [tasks[position] for position in missing], executor, done)
    kept.finish()
    return [kept.found[position] for position in range(len(sites))]
