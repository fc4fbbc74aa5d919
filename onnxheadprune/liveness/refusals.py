"""Refusals as values: why liveness does not pass a node, or why a site cannot lose units."""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace

from onnxheadprune.model.graph.view import Node
from onnxheadprune.model.graph.walks import along
from onnxheadprune.model.one_line import one_line
from onnxheadprune.model.typed_json import JsonObject

UNITS = "{units}"
"""Stands in the sentence of a propagation rule for the units that it is asked about, which it does not know."""


class Reason(enum.Enum):
    """The reason why liveness does not pass a node, or why a site cannot lose heads."""

    NO_RULE = "no-rule"
    COUPLED = "coupled"
    INEXPRESSIBLE = "inexpressible"
    UNKNOWN_SHAPE = "unknown-shape"
    NO_PROJECTION = "no-projection"
    OPAQUE_WEIGHTS = "opaque-weights"
    NOT_FUSIBLE = "not-fusible"


@one_line("reason node value sentence")
@dataclass(frozen=True)
class Refusal(JsonObject):
    """One refusal.

    Attributes:
        reason: the kind of obstacle.
        node: reference of the node (`Node.ref`, or its name).
        value: name of the value that is not narrowed.
        sentence: the message, one sentence without a full stop.
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
            units: their name: "heads", "neurons".
        """
        return replace(self, sentence=self.sentence.replace(UNITS, units))


def refuse(node: Node, reason: Reason, sentence: str) -> Refusal:
    """A refusal at `node`."""
    value = next((output.name for output in node.outputs if output is not None), "")
    return Refusal(reason, node.label, value, sentence)


def inexpressible(node: Node) -> Refusal:
    """The refusal where live sets of outputs cannot be expressed on inputs."""
    return refuse(
        node,
        Reason.INEXPRESSIBLE,
        f"{node.op_type} re-arranges the live axis in a way that cannot be followed",
    )


def unknown_shape(node: Node) -> Refusal:
    """The refusal of an operator with unknown shapes; the first node upstream whose output has none is named."""
    *_, first = along(node, _without_shape)
    since = "" if first is node else f", since that of what {first.label} gives is not"
    return refuse(node, Reason.UNKNOWN_SHAPE, f"the shapes around {node.op_type} are not known{since}")


def _without_shape(node: Node) -> Node | None:
    makers = (value.producer for value in node.computed if value.shape is None)
    return next((maker for maker in makers if maker is not None), None)


def coupled(node: Node) -> Refusal:
    """The refusal of an operator that mixes positions of the live axis."""
    return refuse(
        node,
        Reason.COUPLED,
        f"{node.op_type} mixes values across {UNITS}, so removing one would change the others",
    )
