"""Scores of the units of some sites by a method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

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
from onnxheadprune.data.drift import Evidence
from onnxheadprune.errors import RefusedError, UsageError
from onnxheadprune.model.graph.view import GraphView
from onnxheadprune.model.tensors import Floats
from onnxheadprune.runtime.progress import Progress, silent
from onnxheadprune.settings.registry import METHODS, WITHOUT_DATA, for_each_kind, methods_of

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
