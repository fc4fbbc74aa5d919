"""Scores by leaving units out (Michel et al. 2019: Are Sixteen Heads Really Better than One?)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxheadprune.attention.sites.site import Site
from onnxheadprune.choosing.activations.chain import Chain, Cut
from onnxheadprune.choosing.activations.contexts import projection_matrix, site_moments
from onnxheadprune.choosing.activations.moments import Moments
from onnxheadprune.choosing.activations.parts import Parts
from onnxheadprune.choosing.scoring.method import Scored, Subject, shares, summed
from onnxheadprune.data.drift import EffectMeter, Evidence
from onnxheadprune.model.graph.main_output import require_main_output
from onnxheadprune.model.graph.view import GraphView
from onnxheadprune.model.tensors import Floats

GROUPS = 16
"""Parts of a site of many units that are left out together: it costs about what one of so many heads does."""


def ablation(subject: Subject) -> Scored:
    """The drift of the outputs when a unit alone is silenced (Michel et al. 2019)."""
    view, sites, evidence = subject.view, subject.sites, subject.data
    unit = EffectMeter(require_main_output(view), evidence.data.inputs, evidence.effect).name
    found = {}
    for number, site in enumerate(sites, 1):
        found[site.index] = ablation_scores(view, site, evidence)
        subject.progress("ablating units, site by site", number, len(sites))
    return Scored(found, unit)


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
        data.feeds,
        data.source,
        [view.main.values[name] for name in outputs],
        sampled=not callable(effect),
    )
    batches = range(len(data.feeds))
    ((_, read),) = chain.contexts()
    each = np.ones(site.num_units)
    groups: list[tuple[int, ...]] = [(unit,) for unit in range(site.num_units)]
    if site.KIND.has_many_units:
        each = _fluctuation(site, site_moments(chain, site, read, batches, data.inputs))
        groups = _groups(site, each)
    meters = {
        chain.start(Cut.of(site, group), batches): EffectMeter(main, data.inputs, effect) for group in groups
    }
    chain.measure(meters)
    scores = np.zeros(site.num_units)
    for group, meter in zip(groups, meters.values(), strict=True):
        parts = each[list(group)]
        total = parts.sum()
        scores[list(group)] = meter.mean() * (parts / total if total > 0 else 1 / len(group))
    return scores


def _groups(site: Site, worth: Floats) -> list[tuple[int, ...]]:
    """Units in groups of about equal size, sorted by score; inseparable units stay in one group."""
    together = sorted(site.units, key=lambda unit: (worth[list(unit)].mean(), unit))
    parts = np.array_split(np.arange(len(together)), min(GROUPS, len(together)))
    return [tuple(one for at in part for one in together[at]) for part in parts]


def _fluctuation(site: Site, moments: Sequence[Moments]) -> Floats:
    """Sum of Var(x_i) |W_i|² over the channels of each unit (FLAP, An et al. 2024), as a share of the site's."""
    each = [
        np.diag(moment.centred().covariance) * np.square(projection_matrix(projection)).sum(axis=1)
        for projection, moment in zip(site.projections, moments, strict=True)
    ]
    return shares(summed(site, each))
