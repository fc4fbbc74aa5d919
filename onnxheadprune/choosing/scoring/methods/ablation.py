"""Scores by leaving units out (Michel et al. 2019: Are Sixteen Heads Really Better than One?)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxheadprune.attention.sites.all_sites import Sites
from onnxheadprune.attention.sites.find import sites_of
from onnxheadprune.attention.sites.site import Site
from onnxheadprune.choosing.activations.chain import Chain, Cut
from onnxheadprune.choosing.activations.contexts import context_moments
from onnxheadprune.choosing.activations.parts import Parts
from onnxheadprune.choosing.scoring.executors import run_all
from onnxheadprune.choosing.scoring.method import Scored, ScoringMethod, Subject
from onnxheadprune.choosing.scoring.methods.fluctuation import fluctuation_scores
from onnxheadprune.choosing.scoring.partial import Partial
from onnxheadprune.data.drift import EffectMeter, Evidence
from onnxheadprune.model.graph.main_output import require_main_output
from onnxheadprune.model.graph.view import GraphView
from onnxheadprune.model.load import LoadedModel
from onnxheadprune.model.pickling import Sent, arrived, sent
from onnxheadprune.model.tensors import Floats
from onnxheadprune.operators import view_of

_CACHE: dict[str, tuple[GraphView, Sites]] = {}
GROUPS = 16
"""Parts of a site of many units that are left out together: it costs about what one of so many heads does."""


class Ablation(ScoringMethod):
    """The drift of the outputs when a unit alone is silenced (Michel et al. 2019)."""

    NAME = "ablation"
    ORDER = 7
    READS = ("contexts", "router")
    BY_SITE = True

    def __call__(self, subject: Subject) -> Scored:
        """Return the drift without each unit, for sites of an interrupted run from its file."""
        view, sites, how, evidence = subject.view, subject.sites, subject.working, subject.data
        unit = EffectMeter(require_main_output(view), evidence.data.inputs, evidence.effect).name
        loaded = how.model or LoadedModel(view.model, "the model", view.sources)
        kept = Partial.of(how.partial, loaded, sites, evidence)
        missing = [position for position in range(len(sites)) if position not in kept.found]

        def done(at: int, result: Floats) -> None:
            kept.add(missing[at], result)
            how.progress("ablating units, site by site", len(kept.found), len(sites))

        if how.executor is None:
            run_all(lambda at: ablation_scores(view, sites[at], evidence), missing, None, done)
        else:
            travelling = sent(loaded)
            tasks = [_SiteTask(travelling, sites[at].index, evidence) for at in missing]
            run_all(_ablate, tasks, how.executor, done)
        kept.finish()
        return Scored({site.index: kept.found[position] for position, site in enumerate(sites)}, unit)


def ablation_scores(view: GraphView, site: Site, evidence: Evidence) -> Floats:
    """Return the mean effect on the outputs of silencing each present unit of a site.

    The part of the model before the site runs once for all units. Where a site has hundreds of units, they are ranked
    by their fluctuation, and silenced in groups of neighbours, whose effect is divided by shares of it.
    """
    data, provider, effect = evidence.data, evidence.provider, evidence.effect
    main = require_main_output(view)
    outputs = [main.name] if not callable(effect) else [info.name for info in view.model.graph.output]
    chain = Chain(
        Parts(view, provider, len(data), [site]),
        [site],
        [view.main.values[name] for name in outputs],
        sampled=not callable(effect),
    )
    each = np.ones(site.num_units)
    groups: list[tuple[int, ...]] = [(unit,) for unit in range(site.num_units)]
    if site.KIND.has_many_units:
        each = fluctuation_scores(site, context_moments(view, [site], data, provider)[site.index])
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


def _groups(site: Site, worth: Floats) -> list[tuple[int, ...]]:
    """Units in groups of about equal size, sorted by score; inseparable units stay in one group."""
    together = sorted(site.units, key=lambda unit: (worth[list(unit)].mean(), unit))
    parts = np.array_split(np.arange(len(together)), min(GROUPS, len(together)))
    return [tuple(one for at in part for one in together[at]) for part in parts]


@dataclass(frozen=True, eq=False)
class _SiteTask:
    """Ablate the units of one site."""

    model: Sent  # a process that sees several sites of one model reads it once
    site: int  # its index
    evidence: Evidence


def _ablate(task: _SiteTask) -> Floats:
    """The scores of the task's site."""
    view, sites = _read(task.model)
    return ablation_scores(view, sites.at(task.site), task.evidence)


def _read(model: Sent) -> tuple[GraphView, Sites]:
    if model.digest not in _CACHE:
        _CACHE.clear()
        loaded = arrived(model)
        view = view_of(loaded)
        _CACHE[model.digest] = view, sites_of(view, "the model")
    return _CACHE[model.digest]
