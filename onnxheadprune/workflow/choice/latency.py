"""The speed of cuts on this machine: the smallest cut that is fast enough, and the time that sites of one shape save.

A speed-up is defined as by `bench` (`SpeedUp`), so a cut meets a target only if it would pass `--min-speedup`.

Operations are a poor estimate of time: narrow products, bandwidth and launches matter. So all sites of one shape
are cut to one width at once, the model is timed against the original, and each site gets its share of the difference.
A single block would be too short to time, and has no neighbours to share the caches with; NVIDIA's ModelOpt times ten
repeats of a block for such reasons, and here the model itself is the repeat.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from onnxheadprune.attention.sites.site import Site, outermost
from onnxheadprune.benchmarking.result import SpeedUp
from onnxheadprune.benchmarking.runner import run_benchmark
from onnxheadprune.choosing.scoring.moves import Step
from onnxheadprune.choosing.select import OVER_SAVED
from onnxheadprune.choosing.space import Savings, SearchSpace, Selection
from onnxheadprune.errors import RefusedError
from onnxheadprune.model.load import LoadedModel, stored_bytes
from onnxheadprune.runtime import Provider
from onnxheadprune.settings.calls import BenchCall
from onnxheadprune.settings.measuring import Timing
from onnxheadprune.workflow.choice.chosen import Chosen, Trial
from onnxheadprune.workflow.choice.completing import completed
from onnxheadprune.workflow.choice.cutting import Cutter

SECONDS = 4.0
"""Time to measure one cut beside the original, per grid point."""
POINTS = 4
"""Sizes of inputs where the user names none, at most: two batches of whole sequences, and of single new tokens."""
TOGETHER = 8
"""Cuts that are measured beside one original: nine models take turns in place of 16."""
TOGETHER_BYTES = 2**28
"""Weights that models measured together may have: each has a session of its own."""

Maker = Callable[[], LoadedModel]
SHARES = (0.25, 0.5, 0.75, 1.0)
"""Widths to measure, as shares of the largest cut of a site."""
MOST_SHAPES = 8
"""Shapes of sites up to which a table is made: each is timed at four widths."""
LEAST = 3e-2
"""Part of a site's operations that count as time in any case. Of two cuts that are equally fast the smaller wins, and
where a busy machine hides what a cut saves, operations tell: noise removes no option."""


def speedups(
    original: LoadedModel,
    cuts: Sequence[Maker],
    provider: Provider,
    timing: Timing = Timing(),
    seconds: float = math.inf,
) -> Iterator[SpeedUp]:
    """The speed-up of each cut, measured against the original.

    Args:
        cuts: functions that make the cuts; large ones are not all held at once.
        timing: of the user, whose time budget goes before that of a trial.
    """
    room = max(1, min(TOGETHER, TOGETHER_BYTES // max(1, stored_bytes(original.proto))))
    for first in range(0, len(cuts), room):
        some = [make() for make in cuts[first : first + room]]
        budget = min(SECONDS * (1 + len(some)) / 2, seconds * len(some) / len(cuts) / POINTS)
        call = BenchCall(**vars(timing), memory=False)
        if timing.time_budget == Timing.time_budget:
            call = replace(call, time_budget=budget)
        measured = run_benchmark((original, *some), call, attention=False, provider=provider)
        yield from (measured.speedup(index) for index in range(1, len(some) + 1))


def smallest_reaching(most: int, wanted: float, speed_of: Callable[[int], float | None]) -> int:
    """The smallest count whose cut is fast enough, if the cut of `most` is.

    Latency falls about evenly with the removed heads, so each trial is where a line through the ends of the remaining
    range meets the target; every third trial is in the middle, so that it takes at most twice the trials of a
    bisection.
    """
    high, above = most, 1 / (speed_of(most) or wanted)
    low, below = 0, 1.0
    looks = 0
    while high - low > 1:
        looks += 1
        share = (below - 1 / wanted) / (below - above) if below > above else 0.5
        guess = low + (high - low) * (0.5 if looks % 3 == 0 else share)
        count = min(max(math.ceil(guess), low + 1), high - 1)
        speed = speed_of(count)
        if speed is not None and speed >= wanted:
            high, above = count, 1 / speed
        else:
            low, below = count, below if speed is None else 1 / speed
    return high


def smallest_fast(cutter: Cutter, space: SearchSpace, wanted: float, timing: Timing) -> Chosen:
    """The smallest cut that reaches a speed-up: 1.3 for 1.3 times as fast."""
    measured: dict[str, Trial] = {}

    def trial(selection: Selection) -> Trial:
        key = repr(selection.spec)
        if key not in measured:
            (speed,) = speedups(cutter.model, [lambda: cutter.timed(selection)], cutter.provider, timing)
            made = Trial(selection.count, speed.value, speed.reaches(wanted), speed)
            measured[key] = made
            text = f"measuring: {made.removed} {space.units} less are {speed.value:.2f} times as fast"
            cutter.progress(text, len(measured), 0)
        return measured[key]

    def speed_of(count: int) -> float | None:
        return trial(space.removing(count)).measured if space.has_cut(count) else None

    most = space.most()
    if not space.has_cut(most):
        raise RefusedError(
            "nothing can be removed: protected units, minimums and groups of KV heads leave none"
        )
    first = trial(space.removing(most))
    if not first.meets and first.speed is not None and first.speed.is_too_noisy(wanted):
        raise RefusedError(
            f"this machine is too busy to measure whether a cut is {wanted:g} times as fast: without all"
            f" {first.removed} {space.units} that can go, noise hides any difference ({first.speed}); try again when"
            f" it is idle, or choose by operations with `ratio`"
        )
    if not first.meets:
        raise RefusedError(
            f"without all {first.removed} {space.units} that can go the model is {first.measured:.2f} times as fast,"
            f" not {wanted:g} times ({first.speed})"
        )
    selection = space.removing(smallest_reaching(most, wanted, speed_of))
    speed = trial(selection).speed
    return replace(completed(cutter, selection), trials=tuple(measured.values()), speed=speed)


@dataclass(frozen=True, eq=False)
class Width:
    """Sites of one shape at one width: the step of each."""

    steps: Mapping[int, Step]

    @property
    def removed(self) -> float:
        """The mean number of units that a site loses."""
        return float(np.mean([len(step.removed) for step in self.steps.values()]))


def by_latency(cutter: Cutter, space: SearchSpace, timing: Timing) -> SearchSpace:
    """The search space with measured time instead of operations: a budget is a share of the time that can be saved.

    Unchanged where heads are counted, where every site loses the same share, so nothing is weighed, and where there
    are too many shapes of sites to time.
    """
    shapes = _shapes(space)
    if space.counts_heads or space.given.uniform or len(shapes) > MOST_SHAPES:
        return space
    widths = [(sites, width) for sites in shapes for width in _widths(space, sites)]
    makers = [partial(cutter.timed, _selection(space, width)) for _, width in widths]
    measured: list[SpeedUp] = []
    for number, speed in enumerate(speedups(cutter.model, makers, cutter.provider, timing), 1):
        measured.append(speed)
        cutter.progress("timing sites of one shape at one width", number, len(widths))
    return with_times(space, widths, measured)


def with_times(
    space: SearchSpace, widths: Sequence[tuple[Sequence[Site], Width]], measured: Sequence[SpeedUp]
) -> SearchSpace:
    """The search space with measured time instead of operations, unconditionally."""
    times = defaultdict[int, list[tuple[float, float]]](lambda: [(0.0, 0.0)])
    for (sites, width), speed in zip(widths, measured, strict=True):
        for site in sites:
            times[site.index].append((width.removed, (1 - 1 / speed.value) / len(sites)))
    savings = {site.index: _curve(times[site.index], space, site) for site in space.sites}
    # All that can be saved is the budget: what little of it was measured on a busy machine is divided as finely.
    whole = sum(savings[site.index].saved[-1] for site in outermost(space.sites)) or 1.0
    basis = space.basis.replace(OVER_SAVED.format(space.counted), OVER_SAVED.format("time"))
    return replace(space, savings=savings, whole=whole, basis=basis)


def _shapes(space: SearchSpace) -> list[list[Site]]:
    """The sites that can lose units, grouped by shape."""
    found = defaultdict[object, list[Site]](list)
    for site in space.sites:
        if space.paths[site.index]:
            found[site.KIND.unit, site.num_units, site.flops_per_token].append(site)
    return list(found.values())


def _widths(space: SearchSpace, sites: Sequence[Site]) -> Iterator[Width]:
    """The sites at each share of their largest cut."""
    seen = set[float]()
    for share in SHARES:
        width = Width({site.index: _nearest(space.paths[site.index], share) for site in sites})
        if width.removed not in seen:
            seen.add(width.removed)
            yield width


def _nearest(steps: Sequence[Step], share: float) -> Step:
    """The step nearest to a share of the largest one."""
    wanted = share * max(len(step.removed) for step in steps)
    return min(steps, key=lambda step: abs(len(step.removed) - wanted))


def _selection(space: SearchSpace, width: Width) -> Selection:
    sites = {site.index: site for site in space.sites}
    units = {index: tuple(sorted(sites[index].original(step.removed))) for index, step in width.steps.items()}
    return Selection(units, "timed")


def _curve(points: Sequence[tuple[float, float]], space: SearchSpace, site: Site) -> Savings:
    """A non-decreasing curve: narrower sites are assumed not to be slower."""
    ordered = sorted(points)
    saved = np.maximum.accumulate([max(time, 0.0) for _, time in ordered])
    least = [LEAST * space.savings[site.index].of(round(units)) / space.whole for units, _ in ordered]
    return Savings(tuple(units for units, _ in ordered), tuple(float(time) for time in saved + least))
