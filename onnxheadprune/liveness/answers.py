"""Answers of propagation rules.

A rule answers one local question: *if only these indices of my outputs are live, which indices of my inputs are?* It
must commute with gathering, `op(gather(x)) == gather(op(x))`. Liveness does not pass an operator without a rule. A
refusal is a value with a typed reason, never an exception.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from onnxheadprune.edit.edits import Edit
from onnxheadprune.liveness.live import Live
from onnxheadprune.liveness.refusals import Refusal
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
