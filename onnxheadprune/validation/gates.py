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
    """

    name: str
    subject: str
    limit: float
    value: float | None
    passed: bool

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        return asdict(self)


def drift_gate(drift: Drift | None, limit: float) -> Gate:
    """The drift of a pruned model from the unmasked original, 1 - the mean cosine of the main output.

    Args:
        drift: what `validate` measured, on the user's data if there was any.
        limit: the largest drift that passes, from 0 (no change of direction) to 2.
    """
    if drift is None:
        return Gate("max_drift", "no output", limit, None, False)
    value = max(0.0, 1 - drift.cosine)
    return Gate("max_drift", drift.output, limit, value, value <= limit)
