"""One pass over a model that measures what the steps of its sites cost, so that those of different sites compare.

How much an error in one layer's attention matters depends on everything after it. So at each site the second moments
of what it reads are taken; they order its units, and a few steps on the way are tried: with the remaining weights
refitted from the moments, the cut goes on beside the model to its outputs, where its effect is measured.

On samples that a trial refit has seen, every cut looks cheaper than it is, and by how much differs from layer to layer.
So trial refits are fitted to one part of the data and measured on the rest, or with little data to each half and
measured on the other (cross-fitting; Chernozhukov et al. 2018, 1608.00060).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn, TypeAlias

import numpy as np

from onnxheadprune.attention.sites.projection import Projection
from onnxheadprune.attention.sites.site import Site
from onnxheadprune.choosing.activations.chain import Chain, Cut
from onnxheadprune.choosing.activations.contexts import (
    inputs_of,
    missing,
    positions_at,
    site_moments,
    unreached,
    with_enough,
)
from onnxheadprune.choosing.activations.linear import Linear
from onnxheadprune.choosing.activations.moments import Centred, Moments, NotFiniteError, Ridge
from onnxheadprune.choosing.activations.parts import Parts
from onnxheadprune.choosing.activations.walk import BatchReader, Variant
from onnxheadprune.choosing.effort import Effort, Work, positions_per_sample, samples_to_measure
from onnxheadprune.choosing.scoring.moves import Step, merged
from onnxheadprune.data.calibration import Calibration
from onnxheadprune.data.drift import EffectMeter, Evidence
from onnxheadprune.errors import RefusedError
from onnxheadprune.model.graph.main_output import require_main_output
from onnxheadprune.model.graph.view import GraphView
from onnxheadprune.runtime import Array, Provider
from onnxheadprune.runtime.feeds.generate import Feed
from onnxheadprune.runtime.progress import Progress, silent
from onnxheadprune.runtime.workers import algebra_threads

MOST_APART = 0.25
"""Share of the data that moments can do without; to measure cuts on more, each half is fitted to and measured on."""
STRENGTH = 3e-2
"""Ridge of the refits that are only measured, not kept."""
NO_NUMBER = 1e30
"""The cost of a cut whose outputs are not finite."""
Order: TypeAlias = Callable[[Site, Sequence[Moments]], "list[tuple[Step, ...]]"]
"""Gives the paths of a site, from the moments of what its projections read."""


@dataclass(frozen=True, eq=False)
class Costs:
    """Steps with measured costs."""

    steps: Mapping[int, tuple[Step, ...]]  # per site index
    length: float  # positions of a sample
    skipped: dict[str, str]  # why a site has none, by its label


@dataclass(frozen=True, eq=False)
class Fold:
    """Two parts of the data."""

    learned: Calibration  # what trial refits are fitted to
    judged: Calibration  # what their cuts are measured on


def folds_of(view: GraphView, sites: Sequence[Site], data: Calibration, provider: Provider) -> list[Fold]:
    """Divide data for a pass.

    Few samples, of which no part has as many positions as a projection has inputs, are all used for both.
    """
    work, count, widest = Work(view), samples_to_measure(len(sites)), max(map(inputs_of, sites))
    crossed = count > MOST_APART * data.count
    learned, judged = data.split(0.5 if crossed else count / data.count)

    def is_short(part: Calibration) -> bool:
        counts = positions_at(view, sites, part, provider)
        # What no sample reaches prevents nothing.
        return any(0 < counts.get(site.index, 0) < inputs_of(site) for site in sites)

    if judged is learned or is_short(learned) or (crossed and is_short(judged)):
        return [Fold(work.to_look_at(data, widest), data.subset(count))]
    looked = work.to_look_at(learned, widest)
    if not crossed:
        return [Fold(looked, judged.subset(count))]
    return [Fold(looked, judged.subset(count)), Fold(judged, learned.subset(count))]


def measured_steps(
    view: GraphView,
    sites: Sequence[Site],
    order: Order,
    folds: Sequence[Fold],
    evidence: Evidence,
    progress: Progress = silent,
) -> Costs:
    """Measure what steps of some sites cost: of each its paths, made from the moments of what it reads."""
    with algebra_threads(max(map(inputs_of, sites))):
        return _Pass(view, sites, order, folds, evidence, progress).costs()


@dataclass(frozen=True, eq=False)
class _Tried:
    """Paths of a site, of which the same steps are measured."""

    site: Site
    paths: Sequence[Sequence[Step]]
    steps: Sequence[Step]
    meters: Sequence[EffectMeter]  # of each of these steps


class _Pass:
    """The state of a pass, and its results so far."""

    def __init__(
        self,
        view: GraphView,
        sites: Sequence[Site],
        order: Order,
        folds: Sequence[Fold],
        evidence: Evidence,
        progress: Progress,
    ) -> None:
        main, data, effect = require_main_output(view), evidence.data, evidence.effect
        feeds, places = list[Feed](), list[tuple[range, range]]()
        for fold in folds:
            first, middle = len(feeds), len(feeds) + len(fold.learned)
            feeds += (*fold.learned.feeds, *fold.judged.feeds)
            places.append((range(first, middle), range(middle, len(feeds))))
        self._places = places
        """Of each fold, the batches that moments are taken of, and those that cuts are measured on."""
        # A measure of the user's sees all outputs.
        outputs = [main.name] if not callable(effect) else [info.name for info in view.model.graph.output]
        self._chain = Chain(
            Parts(view, evidence.provider, len(feeds), sites),
            sites,
            feeds,
            data.source,
            [view.main.values[name] for name in outputs],
            sampled=not callable(effect),
        )
        self._view, self._order, self._data = view, order, data
        self._judged = sum(fold.judged.count for fold in folds)
        self._looked = data if len(folds) > 1 else folds[0].learned
        """The inputs whose moments are taken."""
        self._meter = functools.partial(EffectMeter, main, data.inputs, effect)
        self._effort: Effort | None = None
        self._meters: dict[Variant, EffectMeter] = {}
        self._tried: list[_Tried] = []
        self._counts: dict[int, int] = {}
        """The positions that reach all projections of a site, by its index."""
        self._short: list[Site] = []
        self._errors: dict[str, NotFiniteError | RefusedError] = {}
        self._progress, self._done = progress, 0
        self._runs = len(feeds) * len(sites) + sum(len(judged) for _, judged in places)

    def costs(self) -> Costs:
        """Make the pass."""
        for site, read in self._chain.contexts(self._ran):
            try:
                self._try(site, read)
            except (NotFiniteError, RefusedError) as error:
                self._errors[site.label] = error
        if not self._tried:
            self._refuse()
        self._chain.measure(self._meters, self._ran)
        found: dict[int, list[tuple[Step, ...]]] = {}
        for item in self._tried:
            drifts = [meter.mean() for meter in item.meters]
            ways = [_smooth(path, item.steps, drifts) for path in item.paths]
            found[item.site.index] = [*found.get(item.site.index, ()), *ways]
        skipped = {label: str(error) for label, error in self._errors.items()}
        skipped |= {site.label: self._missing(site) for site in self._short}
        steps = {index: merged(ways) for index, ways in found.items()}
        return Costs(steps, positions_per_sample(self._counts.values(), self._looked), skipped)

    def _try(self, site: Site, read: BatchReader) -> None:
        """Order the units of the site that the pass is at, and start cuts of some steps."""
        each = [
            site_moments(self._chain, site, read, learned, self._data.inputs) for learned, _ in self._places
        ]
        both = each[0] if len(each) == 1 else [one.merged(other) for one, other in zip(*each, strict=True)]
        counts = [moment.count for moment in both]
        if counts and not any(counts):
            return  # No sample runs it: it stays unchanged.
        self._counts |= {site.index: min(counts)} if counts else {}
        if min(counts, default=0) < inputs_of(site):
            self._short.append(site)
            return
        paths, points = self._order(site, both), self._how.points
        # With no points one measurement of a site stands for all of its paths.
        for alike in [[path] for path in paths] if points else [paths]:
            steps = _measured(alike, points)
            tried = _Tried(site, alike, steps, [self._meter() for _ in steps])
            self._tried.append(tried)
            for moments, (_, judged) in zip(each, self._places, strict=True):
                cuts = _cuts(site, moments, steps)
                for cut, meter in zip(cuts, tried.meters, strict=True):
                    self._meters[self._chain.start(cut, self._part_of(judged))] = meter

    @property
    def _how(self) -> Effort:
        """The extent of the measurements, known as soon as a site shows how long samples are."""
        if self._effort is None:
            length = positions_per_sample(self._counts.values(), self._looked)
            work = Work(self._view)
            self._effort = Effort.of(work, self._chain.sites, self._data.count, length, self._judged)
        return self._effort

    def _part_of(self, judged: range) -> list[int]:
        """Some batches, spread evenly: as many as there is effort for."""
        count = max(1, round(len(judged) * min(self._how.samples / self._judged, 1)))
        return [judged[int((at + 0.5) * len(judged) / count)] for at in range(count)]

    def _ran(self) -> None:
        self._done += 1
        self._progress("measuring what cuts cost, block by block", min(self._done, self._runs), self._runs)

    def _missing(self, site: Site) -> str:
        return missing(self._counts[site.index], inputs_of(site), self._looked)

    def _refuse(self) -> NoReturn:
        """Raise the reason why no site can be measured."""
        errors = [*self._errors.values()]
        unread = [error for error in errors if isinstance(error, RefusedError)]
        if unread:
            raise unread[0]
        if self._short:
            with_enough(self._short, self._counts, self._looked)
        raise errors[0] if len(errors) == len(self._chain.sites) else unreached(self._data.source)


def _cuts(site: Site, moments: Sequence[Moments], steps: Sequence[Step]) -> list[Cut]:
    """The cuts of some steps of a site, with refitted remaining weights."""
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


def _measured(paths: Sequence[Sequence[Step]], points: int) -> list[Step]:
    """The steps to measure of a path, or with no points the middle step of the first path that has any."""
    if points:
        return _spread(paths[0], points)
    path = next((path for path in paths if path), ())
    return list(path[len(path) // 2 :][:1])


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
