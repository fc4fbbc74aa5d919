"""The exact effect of each head on the outputs: leave one out. Of neurons, which are many, some are left out at a time.

Michel et al. 2019 (Are Sixteen Heads Really Better than One?), measured on the outputs in place of a loss.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from onnxheadprune.attention.sites.site import Site
from onnxheadprune.choosing.activations.chain import Chain, cut_at, measuring
from onnxheadprune.choosing.activations.contexts import context_moments
from onnxheadprune.choosing.activations.parts import Parts
from onnxheadprune.choosing.scoring.simple import fluctuation_scores
from onnxheadprune.data.calibration import Calibration
from onnxheadprune.data.drift import EffectMeter, Measure
from onnxheadprune.model.graph.main_output import require_main_output
from onnxheadprune.model.graph.view import GraphView
from onnxheadprune.runtime import Provider

GROUPS = 16
"""Parts of a site of many units that are left out together: it costs about what one of so many heads does."""
Scores = npt.NDArray[np.float64]


def ablation_scores(
    view: GraphView,
    site: Site,
    data: Calibration,
    provider: Provider,
    effect: Measure | None = None,
) -> Scores:
    """Return what silencing each present unit of a site does to the outputs, averaged over the data.

    Kullback-Leibler divergence on logits, one minus the cosine elsewhere, or the user's measure. The part of
    the model before the site runs once for all units. Neurons are ranked by their fluctuation, and silenced in
    groups of neighbours; each has the part of the group's effect that it has in the group's fluctuation.

    Raises:
        RefusedError: if the site lives in a body, or the model has no float output.
        UsageError: if the data does not run.
    """
    main = require_main_output(view)
    outputs = [main.name] if not callable(effect) else [info.name for info in view.model.graph.output]
    chain = Chain(
        Parts(view, provider, len(data), [site]), [site], [view.main.values[name] for name in outputs]
    )
    each = np.ones(site.num_units)
    groups: list[tuple[int, ...]] = [(head,) for head in range(site.num_units)]
    if site.WIDE:
        each = fluctuation_scores(site, context_moments(view, [site], data, provider)[site.index])
        groups = _groups(site, each)
    cuts = [cut_at(site, group) for group in groups]
    meters = [EffectMeter(main, data.inputs, effect) for _ in cuts]
    for cut, found in chain.outcomes(cuts, data.feeds, data.source, measuring(meters, data.feeds)):
        meters[cut].take(found)
    scores = np.zeros(site.num_units)
    for group, meter in zip(groups, meters, strict=True):
        parts = each[list(group)]
        total = parts.sum()
        scores[list(group)] = meter.mean() * (parts / total if total > 0 else 1 / len(group))
    return scores


def _groups(site: Site, worth: Scores) -> list[tuple[int, ...]]:
    """Units in groups of about equal size, those of like worth together; what can only go together is not parted."""
    together = sorted(site.units, key=lambda unit: (worth[list(unit)].mean(), unit))
    parts = np.array_split(np.arange(len(together)), min(GROUPS, len(together)))
    return [tuple(one for at in part for one in together[at]) for part in parts]
