"""Refusals: typed reasons why something is not done. Values, never exceptions."""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace

from onnxheadprune.model.one_line import one_line


class Reason(enum.Enum):
    """The reason why liveness does not pass a node, or why a site cannot lose heads."""

    NO_RULE = "no-rule"
    COUPLED = "coupled"
    INEXPRESSIBLE = "inexpressible"
    UNKNOWN_SHAPE = "unknown-shape"
    NO_PROJECTION = "no-projection"
    OPAQUE_WEIGHTS = "opaque-weights"
    NOT_FUSIBLE = "not-fusible"

    @property
    def couples_heads(self) -> bool:
        """True if the reason is a computation that mixes heads, so that no cut is exact."""
        return self is Reason.COUPLED


UNITS = "{units}"
"""Stands in the sentence of a propagation rule for the units that it is asked about, which it does not know."""


@one_line("reason node value sentence")
@dataclass(frozen=True)
class Refusal:
    """One refusal.

    Attributes:
        reason: the kind of obstacle.
        node: reference of the node where it stands (`Node.ref`, or its name).
        value: name of the value that is not narrowed.
        sentence: what a person needs to know, in one sentence without a full stop.
    """

    reason: Reason
    node: str
    value: str
    sentence: str

    def __str__(self) -> str:
        return self.sentence if self.node in self.sentence else f"{self.sentence} (at {self.node})"

    def about(self, units: str) -> Refusal:
        """The same with its units named.

        Args:
            units: what they are called: "heads", "neurons".
        """
        return replace(self, sentence=self.sentence.replace(UNITS, units))

    def to_dict(self) -> dict[str, str]:
        """The refusal as JSON-ready data."""
        return {
            "reason": self.reason.value,
            "node": self.node,
            "value": self.value,
            "sentence": self.sentence,
        }
