"""`score`: importance scores of heads and other units."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import cast

from onnxheadprune.attention.main_graph_copy import main_graph_copy
from onnxheadprune.attention.sites.all_sites import Sites
from onnxheadprune.attention.sites.find import sites_of
from onnxheadprune.attention.sites.site import Site
from onnxheadprune.choosing.activations.contexts import (
    SiteMoments,
    context_moments,
    measurable,
    seen,
    with_enough,
)
from onnxheadprune.choosing.activations.moments import NotFiniteError
from onnxheadprune.choosing.scoring.method import Scored, Subject
from onnxheadprune.choosing.scoring.scores import HeadScores, SiteScores
from onnxheadprune.data.calibration import calibration_data, require_variety
from onnxheadprune.data.drift import Evidence, Measure
from onnxheadprune.edit.records import HEADS
from onnxheadprune.errors import RefusedError, UsageError
from onnxheadprune.model.graph.view import GraphView
from onnxheadprune.model.load import ModelLike, model_name, open_structure
from onnxheadprune.model.tensors import Floats
from onnxheadprune.operators import view_of
from onnxheadprune.runtime import Provider
from onnxheadprune.runtime.feeds.data import DataSource
from onnxheadprune.runtime.progress import Progress, silent
from onnxheadprune.runtime.providers import AUTO, resolve_provider
from onnxheadprune.settings import registry
from onnxheadprune.settings.calls import ScoreCall
from onnxheadprune.settings.registry import METHODS, WITHOUT_DATA, for_each_kind, methods_of
from onnxheadprune.settings.units import DEFAULT_UNITS, KINDS, SCORED

_WITH_LITTLE = [name for name in methods_of("contexts") if METHODS[name].data == "any"]
FREE = for_each_kind(
    lambda reads: next(name for name in methods_of(reads) if name in WITHOUT_DATA), ", or for"
)
INSTEAD = f"the methods {' and '.join(_WITH_LITTLE)} need no more than there is"


def scores_of(
    model: str,
    view: GraphView,
    sites: Sequence[Site],
    method: str,
    evidence: Evidence | None,
    progress: Progress = silent,
    skip: bool = False,
) -> HeadScores:
    """Scores of the units of some sites; with `skip` of those that can be scored on the data."""
    known = METHODS[method]
    subject, skipped = Subject(view, sites, evidence, progress=progress), dict[str, str]()
    if known.data:
        if evidence is None:
            raise UsageError(
                f"the method {method} needs calibration data; without any, use the method {FREE}"
            )
        if skip or known.gives_shares:
            sites, moments = _measured(subject, full=known.data == "full", skip=skip)
            subject, skipped = replace(subject, sites=sites, moments=moments), moments.skipped
    made: Scored = known.load()(subject)
    if made.skipped and not skip:
        raise RefusedError(next(iter(made.skipped.values())))
    entries = tuple(
        SiteScores(site.index, site.name, _by_original(site, made.values[site.index]))
        for site in sites
        if site.index in made.values
    )
    scores = HeadScores(method, made.unit or known.unit, model, entries, constant=made.constant)
    if not known.data or evidence is None:
        return scores
    data, skipped = evidence.data, {**skipped, **made.skipped}
    return replace(scores, data=data.fingerprint, samples=data.count, source=data.source, skipped=skipped)


def _measured(subject: Subject, *, full: bool, skip: bool) -> tuple[Sequence[Site], SiteMoments]:
    """The sites that can be scored on the data, and the moments of what they carry."""
    view, sites, evidence = subject.view, subject.sites, subject.data
    data, short = evidence.data, dict[str, str]()
    if full:
        sites, short = measurable(view, sites, data, evidence.provider, INSTEAD)
        _require_all(short, skip)
    moments = context_moments(view, sites, data, evidence.provider, subject.progress)
    if moments.skipped and not skip:
        raise NotFiniteError(next(iter(moments.skipped.values())))
    reached = seen(sites, moments, data.source)
    others = [site.label for site in sites if site.index in moments and site not in reached]
    if others and not skip:
        raise UsageError(
            f"no sample of {data.source} runs {', '.join(others)}, so its units cannot be scored on it; give data that"
            f" goes further, or take the exit that is always taken with `prune exit`"
        )
    if full:
        reached, few = with_enough(reached, moments.counts, data, INSTEAD)
        _require_all(few, skip)
        short |= few
    unreached = dict.fromkeys(others, f"no sample of {data.source} runs it")
    return reached, SiteMoments(moments, short | moments.skipped | unreached)


def _require_all(short: Mapping[str, str], skip: bool) -> None:
    """Check that all sites can be scored by errors after a refit, where none may be skipped."""
    for label, reason in () if skip else short.items():
        raise UsageError(f"{label} cannot be scored by reconstruction: {reason}; {INSTEAD}")


def _by_original(site: Site, values: Floats) -> tuple[float | None, ...]:
    scores: list[float | None] = [None] * site.original_num_units
    for unit, value in zip(site.original_units, values, strict=True):
        scores[unit] = float(value)
    return tuple(scores)


def score(
    model: ModelLike, call: ScoreCall, data: DataSource | None = None, progress: Progress = silent
) -> HeadScores:
    """Importance scores of all heads, neurons or experts; larger is more important."""
    method, units = call.method, call.units
    effect, provider = cast("Measure | None", call.drift), cast("str | Provider", call.provider)
    if method is not None and METHODS[method].gradient and callable(effect):
        raise UsageError(
            f"a measure of your own has no gradient that {method} could take; use ablation for it"
        )
    kinds = scored_kinds(units, method)
    method = method or default_method(units, measured=data is not None)
    # Weights alone need no provider, but one that is asked for by name must be usable.
    if isinstance(provider, str) and (data is not None or provider.lower() != AUTO):
        provider = resolve_provider(provider)
    loaded = open_structure(model)
    view = view_of(loaded)
    sites = sites_of(view, model_name(model))
    _require(sites, kinds)
    if method in WITHOUT_DATA or data is None:
        return scores_of(sites.model, view, _of_kinds(sites, kinds), method, None)
    assert isinstance(provider, Provider)
    calibration = calibration_data(data, view)
    require_variety(calibration)
    first = main_graph_copy(loaded)
    if first is not None:
        loaded = first
        view = view_of(first)
        sites = sites_of(view, sites.model)
    evidence = Evidence(calibration, provider, effect)
    return scores_of(sites.model, view, _of_kinds(sites, kinds), method, evidence, progress)


def scored_kinds(units: Collection[str], method: str | None = None) -> frozenset[str]:
    """The kinds of units that have scores among some kinds, or else the error; by one method where it is given."""
    found = frozenset(units) & set(SCORED)
    if not found:
        ordered = " and the ".join(f"{kind.units} of a {kind.block}" for kind in KINDS)
        raise UsageError(f"scores order the {ordered}; layers are removed as a whole, so they have none")
    for kind in KINDS:
        others = methods_of(kind.scored_by)
        if kind.units in found and method not in (None, *others):
            raise UsageError(f"{method} does not score {kind.units}; {', '.join(others)} do")
    return found


def default_method(units: Collection[str], *, measured: bool = True) -> str:
    """The method that scores units of all of some kinds, unless another one is asked for."""
    named = scored_kinds(units)
    return registry.default_method(
        [kind.scored_by for kind in KINDS if kind.units in named], measured=measured
    )


def _require(sites: Sites, kinds: frozenset[str]) -> None:
    """Check that there is anything to score."""
    if not len(sites) and kinds == DEFAULT_UNITS:
        raise RefusedError("no attention site was found in this model, so there are no heads to score")
    if not _of_kinds(sites, kinds):
        raise RefusedError("no site of this model has units of these kinds to score")


def _of_kinds(sites: Sites, kinds: frozenset[str]) -> tuple[Site, ...]:
    """All attention sites, and those of other kinds that can lose units."""
    return tuple(
        site
        for units in SCORED
        if units in kinds
        for site in sites.of(units)
        if units == HEADS or site.removable
    )
