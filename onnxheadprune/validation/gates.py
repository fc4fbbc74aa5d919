"""Limits that a pipeline sets: each a yes or no, with the number behind it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from onnxheadprune.validation.result import Drift


@dataclass(frozen=True)
class Gate:
    """One limit and whether it was kept.

    Attributes:
        name: "max_drift" or "min_speedup".
        subject: the model or output that was judged.
        limit: what was asked for.
        value: what was found, None where nothing could be measured; that never passes.
        passed: whether the limit was kept.
        measure: what a drift is measured in, None for a speed-up.
    """

    name: str
    subject: str
    limit: float
    value: float | None
    passed: bool
    measure: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        return asdict(self)


def drift_gate(drift: Drift | None, limit: float) -> Gate:
    """The drift of a pruned model from the unmasked original, as `prune --max-drift` measures it.

    Args:
        drift: what `validate` measured, on the user's data if there was any.
        limit: the largest drift that passes.
    """
    if drift is None or drift.value is None:
        return Gate("max_drift", "no output", limit, None, False, None if drift is None else drift.measure)
    return Gate("max_drift", drift.output, limit, drift.value, drift.value <= limit, drift.measure)
