"""The part of a verdict on tensors whose numbers are taken from the pruned model."""

from __future__ import annotations

from onnxheadprune.edit.records import RefitRecord
from onnxheadprune.validation.result import RefitDrift, Verdict

WORSE = 2.0
"""A refit that takes the outputs this many times as far from the original as none at all did no good."""
NOTHING = 1e-6
"""Drift below this is no drift."""


def with_refits(
    reason: str, count: int, refit: RefitDrift | None, record: RefitRecord | None, unseen: bool = False
) -> tuple[Verdict, str]:
    """A passed verdict and its reason, with what the refitted tensors are worth.

    That the pruned model is a cut of the refitted original is proven; that the refitted numbers are good ones only data
    can show.

    Args:
        reason: why the rest passed.
        count: refitted tensors.
        refit: what they do, None where nothing was measured.
        record: what the pruned model says of them, None where it says nothing.
        unseen: whether what it was measured on is data that they were not learned from.
    """
    if not count or record is None:
        return "passed", reason
    trained = f", trained in {record.steps} steps," if record.steps else ""
    unsealed = " without digests, so that damage to them would not show" if record.digests is None else ""
    taken = f"{count} tensors{trained} are taken from the file{unsealed}"
    if refit is None or refit.source != "data":
        return "passed", f"{taken}, and what they are worth is not proven without --data; {reason}"
    after, before = (max(0.0, 1 - item.cosine) for item in (refit.refitted, refit.bare))
    drift = (
        f"{taken}: with them the cosine distance of the outputs from the original's on data"
        f"{' that no step has seen' if unseen else ''} is {after:.1e}, without them {before:.1e}"
    )
    if after > max(WORSE * before, NOTHING):
        return "inconclusive", f"{drift}, so they do harm, though all else {reason}"
    return "passed", f"{drift}; {reason}"
