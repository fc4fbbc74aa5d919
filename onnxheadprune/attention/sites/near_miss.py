"""Candidates that are no sites, with the reasons."""

from __future__ import annotations

from dataclasses import dataclass

from onnxheadprune.liveness.refusals import Refusal
from onnxheadprune.model.display import one_line


@one_line()
@dataclass(frozen=True)
class NearMiss:
    """A candidate that is no site, with the reason.

    Attributes:
        node: label of the projection, or of the attention.
        reason: why it is none.
        units: the name of the units of such a site.
    """

    node: str
    reason: Refusal
    units: str = "heads"

    def to_dict(self) -> dict[str, str]:
        """The near miss as JSON-ready data."""
        return {"node": self.node, "reason": self.reason.sentence, "units": self.units}
