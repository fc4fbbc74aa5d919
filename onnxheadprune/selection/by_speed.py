"""The smallest cut that is fast enough, searched on real pruned models, measured here."""

from __future__ import annotations

from dataclasses import replace

from onnxheadprune.benchmarking.request import BenchSettings
from onnxheadprune.errors import RefusedError
from onnxheadprune.selection.completing import completed
from onnxheadprune.selection.cutting import Cutter
from onnxheadprune.selection.space import Selection, Space
from onnxheadprune.selection.speed import smallest_reaching, speedups
from onnxheadprune.selection.wishes import Chosen, Trial


def smallest_fast(cutter: Cutter, space: Space, wanted: float, sizes: BenchSettings) -> Chosen:
    """The smallest cut that reaches a speed-up.

    Args:
        cutter: the model and its data.
        space: cuts to search.
        wanted: the speed-up, 1.3 for 1.3 times as fast.
        sizes: of the inputs that it is measured with.

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
        raise RefusedError("nothing can go: protected units, floors and groups of KV heads leave none")
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
