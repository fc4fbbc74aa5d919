"""From a target ("half of the heads", "1.3 times as fast", "at most this drift") to heads and refitted weights.

A speed-up or a drift is searched for by bisection on real pruned models, measured on this machine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from onnxheadprune.benchmarking.request import BenchSettings
from onnxheadprune.choosing.joint import JointSpace
from onnxheadprune.choosing.space import Selection, Space
from onnxheadprune.choosing.speed import smallest_reaching, speedups
from onnxheadprune.choosing.wishes import Wish
from onnxheadprune.errors import RefusedError
from onnxheadprune.workflow.choice.chosen import Chosen, Trial
from onnxheadprune.workflow.choice.completing import completed, drift
from onnxheadprune.workflow.choice.cutting import Cutter
from onnxheadprune.workflow.choice.latency import by_latency

ROUNDING = 1e-3
"""Part of a limit on drift that is left free: other kernels and batches of the same model round otherwise."""


def _largest_near(cutter: Cutter, space: Space, limit: float) -> Chosen:
    """The largest cut that stays within a drift.

    Held-out data tells how the model will do elsewhere, and a later `validate` looks at all of the data: the drift
    on both stays within the limit.

    Raises:
        RefusedError: if no cut stays within it.
    """
    most = space.most()
    # Each halving of the range is a trial, and the first one asks whether all may go.
    among = most.bit_length() + 1
    allowed = limit * (1 - ROUNDING)
    trials: list[Trial] = []
    tried: dict[int, Chosen] = {}

    def too_far(count: int) -> bool:
        if not space.has_cut(count):
            return False
        chosen = completed(cutter, space.removing(count), among)
        far = _largest_drift(cutter, chosen, allowed)
        trial = Trial(chosen.selection.count, far, far <= allowed)
        tried[count] = chosen
        trials.append(trial)
        cutter.progress(
            f"measuring: without {trial.removed} {space.UNITS} the drift is {far:.2g}", len(trials), 0
        )
        # What is no number is not near.
        return not trial.meets

    count = _smallest(most, too_far) - 1 if too_far(most) else most
    if not trials:
        raise RefusedError(
            "no head can be removed: protected heads, minimums and groups of KV heads leave none"
        )
    if not any(trial.meets for trial in trials):
        unit = next(iter(tried.values())).unit
        raise RefusedError(
            f"no cut stays within a drift of {limit:g}: the smallest drifts {trials[-1].measured:.2g} ({unit})"
        )
    chosen = tried[count] if count in tried else completed(cutter, space.removing(count), among)
    return replace(chosen, trials=tuple(trials))


def _largest_drift(cutter: Cutter, chosen: Chosen, allowed: float) -> float:
    """The drift on held-out data, or on all of it if that is larger; not measured where the first is too large."""
    assert cutter.data is not None and chosen.drift is not None
    if not chosen.drift <= allowed:
        return chosen.drift
    return max(chosen.drift, drift(cutter, chosen, cutter.data.whole).mean())


def _smallest(most: int, holds: Callable[[int], bool]) -> int:
    """The smallest count for which something holds, where it holds for `most` and from some count on."""
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle
    return high


def choose(cutter: Cutter, wish: Wish) -> Chosen:
    """Heads for a wish, with refitted weights where that is wanted.

    Args:
        cutter: the model and its data.
        wish: how many heads are to go, and what the choice goes by.

    Raises:
        UsageError: if the wish needs data and there is none.
        RefusedError: if it cannot be met.
    """
    if wish.max_drift is not None:
        cutter.hold_out("a drift is measured on data")
        return _largest_near(cutter, cutter.search_space(wish), wish.max_drift)
    if wish.target_speedup is not None:
        space = cutter.search_space(wish)
        if isinstance(space, JointSpace):
            space = by_latency(cutter, space, wish.sizes)
        return _smallest_fast(cutter, space, wish.target_speedup, wish.sizes)

    def asked(space: Space) -> Selection:
        return space.ratio(wish.ratio) if wish.ratio is not None else space.keeping(wish.keep or 0)

    return completed(cutter, asked(cutter.search_space(wish, asked)))


def _smallest_fast(cutter: Cutter, space: Space, wanted: float, sizes: BenchSettings) -> Chosen:
    """The smallest cut that reaches a speed-up: 1.3 for 1.3 times as fast.

    Raises:
        RefusedError: if the largest cut does not reach it.
    """
    measured: dict[str, Trial] = {}

    def trial(selection: Selection) -> Trial:
        key = repr(selection.spec)
        if key not in measured:
            (speed,) = speedups(cutter.model, [lambda: cutter.timed(selection)], cutter.provider, sizes)
            made = Trial(selection.count, speed.value, speed.reaches(wanted), speed)
            measured[key] = made
            text = f"measuring: {made.removed} {space.UNITS} less are {speed.value:.2f} times as fast"
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
            f" {first.removed} {space.UNITS} that can go, noise hides any difference ({first.speed}); try again when"
            " it is idle, or choose by operations with --ratio"
        )
    if not first.meets:
        raise RefusedError(
            f"without all {first.removed} {space.UNITS} that can go the model is {first.measured:.2f} times as fast,"
            f" not {wanted:g} times ({first.speed})"
        )
    selection = space.removing(smallest_reaching(most, wanted, speed_of))
    speed = trial(selection).speed
    return replace(completed(cutter, selection), trials=tuple(measured.values()), speed=speed)
