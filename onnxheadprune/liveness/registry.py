"""The registry of propagation rules, one pure function per `(domain, op_type)`, and their answers.

A rule answers one local question: *if only these indices of my outputs are live, which indices of my inputs are?* It
must commute with gathering, `op(gather(x)) == gather(op(x))`. Liveness does not pass an operator without a rule. A
refusal is a value with a typed reason, never an exception.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from onnxheadprune.edit.edits import Edit
from onnxheadprune.liveness.live import Live
from onnxheadprune.model.display import one_line
from onnxheadprune.model.graph.tables import Table
from onnxheadprune.model.graph.view import Node, Value


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

    @property
    def hides_axes(self) -> bool:
        """True if the reason is that lengths or axes are not known, which may differ with fixed sizes."""
        return self in (Reason.INEXPRESSIBLE, Reason.UNKNOWN_SHAPE)


UNITS = "{units}"
"""Stands in the sentence of a propagation rule for the units that it is asked about, which it does not know."""


@one_line("reason node value sentence")
@dataclass(frozen=True)
class Refusal:
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

    def to_dict(self) -> dict[str, str]:
        """The refusal as JSON-ready data."""
        return {
            "reason": self.reason.value,
            "node": self.node,
            "value": self.value,
            "sentence": self.sentence,
        }


Rewrite: TypeAlias = Callable[[Mapping[int, Live]], Sequence[Edit]]
"""Edits that let the node itself produce its narrowed outputs, given what its inputs finally keep."""


@dataclass(frozen=True)
class Answer:
    """The answer of a propagation rule.

    Attributes:
        inputs: live indices per input; an input that is not listed stays fully live.
        rewrite: edits on the node, if any are needed.
        selects: inputs that the rewritten node picks from itself, so that they may keep more than
            `inputs` asks for without an edge gather (a Slice moves its bounds).
        accepts: whether a selecting node can pick from an input that finally keeps this much.
        kept: the kept part of each output, where larger than the demand.
        bodies: live indices of outputs of the node's subgraphs.
    """

    inputs: Mapping[int, Live]
    rewrite: Rewrite | None = None
    selects: frozenset[int] = field(default_factory=frozenset)
    accepts: Callable[[Live], bool] = lambda have: True
    kept: tuple[Live, ...] | None = None
    bodies: Mapping[Value, Live] = field(default_factory=dict)


Rule: TypeAlias = Callable[[Node, Sequence[Live]], Answer | Refusal]


@dataclass(frozen=True)
class RuleEntry:
    """A registered rule; `ragged` rules also take masks that are no outer product of axes, others also `Live.runs`."""

    function: Rule
    ragged: bool
    runs: bool


RULES: Table[RuleEntry] = Table("liveness rules")


def rule(
    *op_types: str, domain: str = "", ragged: bool = False, runs: bool = False
) -> Callable[[Rule], Rule]:
    """Register a rule for operators of one domain; a second registration is an error."""

    def register(function: Rule) -> Rule:
        RULES.add(op_types, domain, RuleEntry(function, ragged, runs))
        return function

    return register


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
    """The refusal of an operator with unknown shapes."""
    return refuse(node, Reason.UNKNOWN_SHAPE, f"the shapes around {node.op_type} are not known")


def coupled(node: Node) -> Refusal:
    """The refusal of an operator that mixes positions of the live axis."""
    return refuse(
        node,
        Reason.COUPLED,
        f"{node.op_type} mixes values across {UNITS}, so removing one would change the others",
    )


def beside(live: Live, mixed: Collection[int]) -> Live | None:
    """Return the live set without the axes that an operator needs whole; None if it has no others (merged heads).

    A later Slice of the same axis (attention sinks, the largest of TopK) asks for a part of it, which is
    unrelated to heads. Labels are not masks: labels of one position do not apply to others.
    """
    if not set(mixed) & set(live.axes):
        return live
    rest = live.only([axis for axis in live.axes if axis not in mixed])
    return None if rest.is_full or live.numbers_positions else rest


def mixing(node: Node, live: Live, mixed: Collection[int]) -> Answer | Refusal:
    """The answer of an operator with one input and one output that mixes some axes."""
    rest = beside(live, mixed)
    return coupled(node) if rest is None else Answer({0: rest}, kept=(rest,))


def rank_of(node: Node) -> int | None:
    """The number of axes of the first input, None where it is not known."""
    value = node.input(0)
    return None if value is None else value.rank
