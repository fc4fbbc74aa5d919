"""A limit that a pipeline sets, and whether it was kept."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Gate:
    """One limit and whether it was kept.

    Attributes:
        name: "max_drift", "min_speedup" or another limit of a job.
        subject: the model, output or metric that was judged.
        limit: what was asked for.
        value: what was found, None where nothing could be measured; that never passes.
        passed: whether the limit was kept.
        measure: what a drift is measured in, None for others.
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
