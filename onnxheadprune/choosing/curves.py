"""Measured drift of every site along its path, which makes errors of different sites comparable.

How much an error in one layer's attention matters depends on everything after it. So each site alone is cut
at a few points of its path, its projection refitted from the Gram matrix, and the effect on the model's
outputs is measured: all of that in one pass over the model (`activations.chain`).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from onnxheadprune.attention.sites.projection import Projection
from onnxheadprune.attention.sites.site import Site
from onnxheadprune.choosing.activations.chain import Chain, Cut
from onnxheadprune.choosing.activations.contexts import SiteMoments, inputs_of
from onnxheadprune.choosing.activations.linear import Linear
from onnxheadprune.choosing.activations.moments import Centred, Moments, Ridge
from onnxheadprune.choosing.activations.parts import Parts
from onnxheadprune.choosing.effort import Effort
from onnxheadprune.choosing.folds import Fold
from onnxheadprune.choosing.scoring.moves import Step, merged
from onnxheadprune.data.drift import EffectMeter, Evidence
from onnxheadprune.model.graph.main_output import require_main_output
from onnxheadprune.model.graph.view import GraphView
from onnxheadprune.runtime import Array
from onnxheadprune.runtime.progress import Progress, part_of, silent
from onnxheadprune.runtime.workers import algebra_workers

STRENGTH = 3e-2
"""Ridge of the refits that are only measured, not kept."""
NO_NUMBER = 1e30
"""The cost of a cut whose outputs are not finite."""


def measured_paths(
    view: GraphView,
    sites: Sequence[Site],
    paths: Mapping[int, Sequence[Sequence[Step]]],
    folds: Sequence[Fold],
    evidence: Evidence,
    how: Effort,
    progress: Progress = silent,
) -> dict[int, tuple[Step, ...]]:
    """Every path of every site with drifts instead of errors, merged per site.

    Args:
        folds: the samples to measure drifts on, and the moments that the refits of each are fitted to.
    """
    main, effect = require_main_output(view), evidence.effect
    parts = [fold.data.subset(max(how.samples // len(folds), 1)) for fold in folds]
    # A measure of the user's sees all outputs.
    outputs = [main.name] if not callable(effect) else [info.name for info in view.model.graph.output]
    points = [(site, some) for site in sites for some in _measured(paths[site.index], how.points)]
    workers = algebra_workers(max(map(inputs_of, sites)))
    meters = [EffectMeter(main, parts[0].inputs, effect) for _, some in points for _ in some]
    chain = Chain(
        Parts(view, evidence.provider, max(map(len, parts)), sites),
        sites,
        [view.main.values[name] for name in outputs],
        sampled=not callable(effect),
    )
    for number, (fold, data) in enumerate(zip(folds, parts, strict=True)):
        made: list[Cut] = []
        for cuts in workers.each(functools.partial(_cuts, fold.moments), points):
            made += cuts
            progress("measuring what cuts cost: refitting each", len(made), len(meters))
        told = part_of(progress, number, len(folds))
        passed = functools.partial(told, "measuring what cuts cost, block by block")
        chain.measure(made, data.feeds, data.source, meters, passed)
    means = iter(meters)
    found: dict[int, list[tuple[Step, ...]]] = {site.index: [] for site in sites}
    known = [(site, some, [next(means).mean() for _ in some]) for site, some in points]
    for site, some, drifts in known:
        # One measurement of a site stands for all of its paths.
        alike = paths[site.index] if not how.points else [paths[site.index][len(found[site.index])]]
        found[site.index] += [_smooth(path, some, drifts) for path in alike]
    return {index: merged(steps) for index, steps in found.items()}


def _cuts(moments: SiteMoments, point: tuple[Site, Sequence[Step]]) -> list[Cut]:
    """The cuts of some steps of a site, with refitted remaining weights."""
    site, steps = point
    refits: list[dict[str, Array]] = [{} for _ in steps]
    for projection, moment in zip(site.projections, moments[site.index], strict=True):
        linear = Linear.of(projection)
        # Weights that something else reads too are not refitted later, so not here either.
        if linear is not None and not linear.matrix.shared:
            for refit, more in zip(refits, _refits(projection, linear, moment, steps), strict=True):
                refit |= more
    return [Cut.of(site, step.removed, refit) for step, refit in zip(steps, refits, strict=True)]


def _refits(
    projection: Projection, linear: Linear, moment: Moments, steps: Sequence[Step]
) -> Iterator[dict[str, Array]]:
    """Refitted weights of the remaining heads for each step, which keep the output near the original's."""
    weight, bias = linear.matrix.read(), linear.read_bias()
    covariance, mean = moment.centred().covariance, moment.x_sum / (moment.total or 1.0)
    for step in steps:
        left = projection.live_without(step.removed).reshape(-1)
        new, gone = np.zeros_like(weight), weight[~left]
        if left.any():
            # Remaining inputs predict the removed ones, or the outputs of these, whichever are fewer.
            narrow = len(gone) < weight.shape[1]
            among, across = covariance[np.ix_(left, left)], covariance[np.ix_(left, ~left)]
            across = across if narrow else across @ gone
            found = Ridge(Centred(among, across)).solved(STRENGTH)
            new[left] = weight[left] + (found @ gone if narrow else found)
        refit = {linear.matrix.stored.name: linear.matrix.written(new)}
        if bias is not None and linear.bias is not None:
            refit[linear.bias.stored.name] = linear.written_bias(bias + mean @ (weight - new))
        yield refit


def _measured(paths: Sequence[Sequence[Step]], points: int) -> list[list[Step]]:
    """The steps to measure of each path, or with no points the middle step of the first path that has any."""
    if points:
        return [_spread(path, points) for path in paths]
    path = next((path for path in paths if path), ())
    return [list(path[len(path) // 2 :][:1])]


def _spread(path: Sequence[Step], points: int) -> list[Step]:
    """Some steps of a path, including its last one."""
    places = {round(at) for at in np.linspace(0, len(path) - 1, min(points, len(path)))} if points > 1 else ()
    return [path[at] for at in sorted({*places, len(path) - 1})] if path else []


def _smooth(path: Sequence[Step], measured: Sequence[Step], means: Sequence[float]) -> tuple[Step, ...]:
    """A path with drifts, interpolated between the measured ones along the error, and non-decreasing."""
    # A cut after which there are no numbers left costs more than any other.
    numbers = np.nan_to_num(means, nan=NO_NUMBER, posinf=NO_NUMBER)
    drifts = np.maximum.accumulate(np.maximum(numbers, 0.0))
    known, errors = [step.error for step in measured], np.array([step.error for step in path])
    smooth = np.interp(errors, [0.0, *known], [0.0, *drifts])
    if known and known[-1] > 0:
        # Behind the last measured step drift goes on in proportion to the error.
        smooth = np.where(errors > known[-1], drifts[-1] * errors / known[-1], smooth)
    return tuple(Step(step.removed, float(drift)) for step, drift in zip(path, smooth, strict=True))
