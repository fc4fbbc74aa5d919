"""Limits that a pipeline sets: each a yes or no, with the number behind it."""

from __future__ import annotations

from onnxheadprune.benchmarking.gate import Gate
from onnxheadprune.validation.result import Drift


def drift_gate(drift: Drift | None, limit: float) -> Gate:
    """The drift of a pruned model from the unmasked original, as `prune --max-drift` measures it.

    Args:
        drift: what `validate` measured, on the user's data if there was any.
        limit: the largest drift that passes.
    """
    if drift is None or drift.value is None:
        return Gate("max_drift", "no output", limit, None, False, None if drift is None else drift.measure)
    return Gate("max_drift", drift.output, limit, drift.value, drift.value <= limit, drift.measure)
