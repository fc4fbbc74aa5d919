"""The registry of propagation rules, one pure function per `(domain, op_type)`, and their answers.

A rule answers one local question: *if only these indices of my outputs are live, which indices of my inputs are?* It
must commute with gathering, `op(gather(x)) == gather(op(x))`. Liveness does not pass an operator without a rule. A
refusal is a value with a typed reason, never an exception.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from onnxheadprune.edit.edits import Edit
from onnxheadprune.liveness.live import Live
from onnxheadprune.liveness.refusals import Refusal, coupled
from onnxheadprune.model.graph.tables import Table
from onnxheadprune.model.graph.view import Node, Value

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
