"""Measured drift of every site along its path, which makes errors of different sites comparable.

How much an error in one layer's attention matters depends on everything after it. So each site alone is cut
at a few points of its path, its projection refitted from the Gram matrix, and the effect on the model's
outputs is measured: all of that in one pass over the model (`activations.chain`).

In a small model that is fast; in one of a billion weights, a few cuts of every site on all samples take days. So
the work is limited in advance: enough to compare sites in acceptable time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxheadprune.attention.sites.projection import Projection
from onnxheadprune.attention.sites.site import Site
from onnxheadprune.choosing.activations.chain import Chain, Cut
from onnxheadprune.choosing.activations.linear import Linear
from onnxheadprune.choosing.activations.moments import Moments, Ridge
from onnxheadprune.choosing.activations.parts import Parts
from onnxheadprune.choosing.scoring.moves import Step, merged
from onnxheadprune.data.calibration import Calibration
from onnxheadprune.data.drift import EffectMeter, Evidence
from onnxheadprune.model.graph.main_output import require_main_output
from onnxheadprune.model.graph.view import GraphView
from onnxheadprune.runtime import Array
from onnxheadprune.runtime.progress import Progress, silent
from onnxheadprune.runtime.workers import algebra_workers

MOST_WORK = 1e13
"""Multiply-adds that one part of a choice may take in any case: some minutes on two cores."""
POINTS = 6
"""Steps of a path to measure, at most; the others are interpolated along their error."""
SAMPLES_TO_LOOK_AT = 512
"""Samples on which it is looked what units carry, and how far outputs drift, where fewer do not tell less."""
SAMPLES_TO_MEASURE = 128
"""Samples on which the effect of cuts is measured; Gram matrices see more of them."""
SITES_TO_MEASURE = 6
"""Sites up to which all of them are used. A cut runs on through all blocks after it, so in a deeper model each is
measured on fewer samples, and a site costs the same everywhere."""
LEAST_TO_MEASURE = 16
"""Samples that are used in any case, or fewer that have `LEAST_POSITIONS`."""
LEAST_POSITIONS = 1024
ROWS_PER_INPUT = 6
"""Positions per input of a projection that tell in any case what its heads carry."""
STRENGTH = 3e-2
"""Ridge of the refits that are only measured, not kept."""
NO_NUMBER = 1e30
"""What a cut costs whose outputs are not finite."""


@dataclass(frozen=True)
class Effort:
    """The extent of a measurement.

    Attributes:
        points: steps of each path; 0 for a single step of a single path of each site.
        samples: the number of samples.
    """

    points: int
    samples: int

    @classmethod
    def of(
        cls,
        work: Work,
        sites: Sequence[Site],
        paths: Mapping[int, Sequence[object]],
        samples: int,
        positions: float,
    ) -> Effort:
        """Return the numbers of cuts and samples to measure: a third of a pass over the data, or `MOST_WORK`.

        More points have priority over more samples: the shape of a path matters more than measurement noise.
        """
        bound = max(MOST_WORK, work.whole * positions * samples / 3)
        most = min(samples, _samples_to_measure(len(sites)))
        least = min(most, LEAST_TO_MEASURE, max(2, math.ceil(LEAST_POSITIONS / max(positions, 1.0))))
        once = sum(work.behind(site) for site in sites) * positions
        each = sum(work.behind(site) * len(paths[site.index]) for site in sites) * positions
        points = next((count for count in range(POINTS, 0, -1) if count * each * least <= bound), 0)
        cost = points * each or once
        return cls(points, max(least, min(most, int(bound / max(cost, 1.0)))))


class Work:
    """Multiply-adds per position of a model's layers."""

    def __init__(self, view: GraphView) -> None:
        found = ((node.index, Linear.at(node)) for node in view.main.nodes)
        self._maps = [(index, math.prod(item.matrix.shape)) for index, item in found if item is not None]

    @property
    def whole(self) -> int:
        """Of all layers."""
        return sum(size for _, size in self._maps)

    def behind(self, site: Site) -> int:
        """Of those that a cut of a site runs: its projections, and all later layers."""
        first = min(item.node.index for item in site.projections)
        return sum(size for index, size in self._maps if index >= first)

    def to_look_at(self, data: Calibration, widest: int) -> Calibration:
        """Enough data for statistics of contexts: some hundred samples, or as many as the widest projection needs."""
        positions = data.positions
        if positions is None:
            return data.subset(SAMPLES_TO_LOOK_AT)
        bearable = min(MOST_WORK / max(self.whole, 1), SAMPLES_TO_LOOK_AT * positions / data.count)
        most = max(ROWS_PER_INPUT * widest, bearable)
        return data if positions <= most else data.subset(math.ceil(data.count * most / positions))

    def to_run(self, data: Calibration) -> Calibration:
        """The data for runs of whole models that decide nothing: for a reported figure, a proof."""
        positions = data.positions
        if positions is None:
            return data.subset(SAMPLES_TO_LOOK_AT)
        most = min(MOST_WORK / max(self.whole, 1) / 4, SAMPLES_TO_LOOK_AT * positions / data.count)
        return data if positions <= most else data.subset(math.ceil(data.count * most / positions))


def positions_per_sample(moments: Mapping[int, Sequence[Moments]], data: Calibration) -> float:
    """The mean length of samples, without padding.

    Args:
        moments: of what projections read, per site index.
        data: what they were taken on.
    """
    return max(found[0].count for found in moments.values()) / max(data.count, 1)


def _samples_to_measure(sites: int) -> int:
    """The number of samples to measure cuts on, by the number of sites."""
    share = (SITES_TO_MEASURE + 1) / (sites + 1)
    return max(LEAST_TO_MEASURE, round(SAMPLES_TO_MEASURE * min(share, 1.0)))


def measured_paths(
    view: GraphView,
    sites: Sequence[Site],
    paths: Mapping[int, Sequence[Sequence[Step]]],
    moments: Mapping[int, Sequence[Moments]],
    evidence: Evidence,
    how: Effort,
    progress: Progress = silent,
) -> dict[int, tuple[Step, ...]]:
    """Every path of every site with drifts instead of errors, merged per site.

    Args:
        view: an annotated view of the model.
        sites: the sites.
        paths: some paths per site index.
        moments: per site index, of the context of each of its projections.
        evidence: the data to measure drifts on.
        how: the number of steps per path to measure, and of samples.
        progress: called after each block.
    """
    main, data, effect = require_main_output(view), evidence.data.subset(how.samples), evidence.effect
    # A measure of the user's sees all outputs.
    outputs = [main.name] if not callable(effect) else [info.name for info in view.model.graph.output]
    points = [(site, some) for site in sites for some in _measured(paths[site.index], how.points)]
    workers = algebra_workers(max(len(item.x_sum) for site in sites for item in moments[site.index]))
    made = workers.each(lambda item: _cuts(*item, moments[item[0].index]), points)
    cuts = [cut for some in made for cut in some]
    meters = [EffectMeter(main, data.inputs, effect) for _ in cuts]
    chain = Chain(
        Parts(view, evidence.provider, len(data), sites), sites, [view.main.values[name] for name in outputs]
    )

    def passed(blocks: int) -> None:
        progress("measuring what cuts cost, site by site", blocks, len(sites))

    chain.measure(cuts, data.feeds, data.source, meters, passed)
    means = iter(meters)
    found: dict[int, list[tuple[Step, ...]]] = {site.index: [] for site in sites}
    known = [(site, some, [next(means).mean() for _ in some]) for site, some in points]
    for site, some, drifts in known:
        # One measurement of a site stands for all of its paths.
        alike = paths[site.index] if not how.points else [paths[site.index][len(found[site.index])]]
        found[site.index] += [_smooth(path, some, drifts) for path in alike]
    return {index: merged(steps) for index, steps in found.items()}


def _cuts(site: Site, steps: Sequence[Step], moments: Sequence[Moments]) -> list[Cut]:
    """The cuts of some steps, with refitted remaining weights."""
    refits: list[dict[str, Array]] = [{} for _ in steps]
    for projection, moment in zip(site.projections, moments, strict=True):
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
    mean = moment.x_sum / (moment.total or 1.0)
    for step in steps:
        rows = np.flatnonzero(projection.live_without(step.removed).reshape(-1))
        new = np.zeros_like(weight)
        if len(rows):
            new[rows] = Ridge(moment.towards(weight, rows), weight[rows]).solved(STRENGTH)
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
