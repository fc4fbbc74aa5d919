"""Measured drift of every site along its path: what makes errors of different sites comparable.

How much an error in one layer's attention matters depends on everything behind it. So each site alone is cut
at a few points of its path, its projection refitted from the Gram matrix, and the effect on the model's
outputs is measured: all of that in one pass over the model (`activations.chain`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from onnxheadprune.attention.matrices import Array
from onnxheadprune.attention.sites.site import Projection, Site
from onnxheadprune.model.graph.view import GraphView
from onnxheadprune.runtime.progress import Progress, silent
from onnxheadprune.selection.activations.chain import Chain, Cut
from onnxheadprune.selection.activations.drift import EffectMeter
from onnxheadprune.selection.activations.linear import Linear, linear_of
from onnxheadprune.selection.activations.moments import Moments, ridge
from onnxheadprune.selection.activations.parts import Parts
from onnxheadprune.selection.evidence import Evidence
from onnxheadprune.selection.scoring.ablation import require_main
from onnxheadprune.selection.scoring.moves import Step, merged

STRENGTH = 3e-2
"""Ridge of the refits that are only measured, not kept."""
NO_NUMBER = 1e30
"""What a cut costs whose outputs are not finite."""
POINTS = 6
"""Steps of a path to measure; the others are interpolated along their error."""

SAMPLES_TO_MEASURE = 128
"""Samples on which the effect of cuts is measured; Gram matrices see all of them."""
SITES_TO_MEASURE = 6
"""Sites up to which all of them are used. A cut runs on through all blocks behind it, so in a deeper model each is
measured on fewer samples, and a site costs the same everywhere."""
LEAST_TO_MEASURE = 16
"""Samples that are used in any case."""


def _refits(
    projection: Projection, linear: Linear, moment: Moments, steps: Sequence[Step]
) -> Iterator[dict[str, Array]]:
    """For each step new weights for the heads that are left, so that the output stays near what it was."""
    weight, bias = linear.matrix.read(), linear.read_bias()
    mean = moment.x_sum / (moment.total or 1.0)
    for step in steps:
        rows = np.flatnonzero(projection.live_without(step.removed).reshape(-1))
        new = np.zeros_like(weight)
        if len(rows):
            new[rows] = ridge(moment.towards(weight, rows), weight[rows], STRENGTH)
        refit = {linear.matrix.stored.name: linear.matrix.written(new)}
        if bias is not None and linear.bias is not None:
            refit[linear.bias.stored.name] = linear.written_bias(bias + mean @ (weight - new))
        yield refit


def _cuts(site: Site, steps: Sequence[Step], moments: Sequence[Moments]) -> list[Cut]:
    """The cuts of some steps, what is left refitted."""
    refits: list[dict[str, Array]] = [{} for _ in steps]
    for projection, moment in zip(site.projections, moments, strict=True):
        linear = linear_of(projection)
        # Weights that something else reads too are not refitted later, so not here either.
        if linear is not None and not linear.matrix.shared:
            for refit, more in zip(refits, _refits(projection, linear, moment, steps), strict=True):
                refit |= more
    return [
        Cut(site.index, tuple(sorted(step.removed)), refit) for step, refit in zip(steps, refits, strict=True)
    ]


def measured_paths(
    view: GraphView,
    sites: Sequence[Site],
    paths: Mapping[int, Sequence[Sequence[Step]]],
    moments: Mapping[int, Sequence[Moments]],
    evidence: Evidence,
    progress: Progress = silent,
) -> dict[int, tuple[Step, ...]]:
    """Every path of every site with drifts in place of errors, those of one site merged.

    Args:
        view: an annotated view of the model.
        sites: the sites.
        paths: some paths per site index.
        moments: per site index, of the context of each of its projections.
        evidence: what drifts are measured on.
        progress: told after each block.
    """
    main, data, effect = require_main(view), evidence.data, evidence.effect
    # A measure of the user's sees all outputs.
    outputs = [main.name] if not callable(effect) else [info.name for info in view.model.graph.output]
    points = [(site, path, _points(path)) for site in sites for path in paths[site.index]]
    cuts = [cut for site, _, some in points for cut in _cuts(site, some, moments[site.index])]
    meters = [EffectMeter(main, data.inputs, effect) for _ in cuts]
    chain = Chain(Parts(view, evidence.provider), sites, [view.main.values[name] for name in outputs])

    def passed(blocks: int) -> None:
        progress("measuring what cuts cost, site by site", blocks, len(sites))

    for item in chain.outcomes(cuts, data.feeds, data.source, passed):
        meters[item.cut].add(item.before, item.after, data.feeds[item.feed])
    means = iter(meters)
    found: dict[int, list[tuple[Step, ...]]] = {site.index: [] for site in sites}
    for site, path, some in points:
        found[site.index].append(_smooth(path, some, [next(means).mean() for _ in some]))
    return {index: merged(steps) for index, steps in found.items()}


def _points(path: Sequence[Step]) -> list[Step]:
    """The steps of a path that are measured."""
    if not path:
        return []
    return [
        path[at] for at in sorted({round(at) for at in np.linspace(0, len(path) - 1, min(POINTS, len(path)))})
    ]


def _smooth(path: Sequence[Step], measured: Sequence[Step], means: Sequence[float]) -> tuple[Step, ...]:
    """A path with drifts, interpolated between the measured ones along the error; they never fall."""
    # A cut after which there are no numbers left costs more than any other.
    numbers = np.nan_to_num(means, nan=NO_NUMBER, posinf=NO_NUMBER)
    drifts = np.maximum.accumulate(np.maximum(numbers, 0.0))
    errors = [step.error for step in measured]
    smooth = np.interp([step.error for step in path], [0.0, *errors], [0.0, *drifts])
    return tuple(Step(step.removed, float(drift)) for step, drift in zip(path, smooth, strict=True))


def samples_to_measure(sites: int) -> int:
    """Samples on which the effect of cuts is measured in a model of so many sites."""
    share = (SITES_TO_MEASURE + 1) / (sites + 1)
    return max(LEAST_TO_MEASURE, round(SAMPLES_TO_MEASURE * min(share, 1.0)))
