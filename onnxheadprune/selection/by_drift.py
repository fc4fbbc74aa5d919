"""The largest cut that stays within a drift, searched by bisection on real pruned models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from onnxheadprune.errors import RefusedError
from onnxheadprune.selection.completing import completed, drift
from onnxheadprune.selection.cutting import Cutter
from onnxheadprune.selection.space import Space
from onnxheadprune.selection.wishes import Chosen, Trial

ROUNDING = 1e-3
"""Part of a limit on drift that is left free: other kernels and batches of the same model round otherwise."""


def largest_near(cutter: Cutter, space: Space, limit: float) -> Chosen:
    """The largest cut that stays within a drift.

    Held-out data tells how the model will do elsewhere, and a later `validate` looks at all of the data: the drift
    on both stays within the limit.

    Args:
        cutter: the model and its data, a part of it held out.
        space: cuts to search.
        limit: the largest drift.

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
        raise RefusedError("no head can go: protected heads, floors and groups of KV heads leave none")
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
