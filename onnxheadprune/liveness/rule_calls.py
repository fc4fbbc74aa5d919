"""The only caller of propagation rules, which checks every answer.

A rule is a local function, written for one operator. Its answer is checked against the node: a live set
must fit the shape of its value, a mask that is no outer product of axes is passed only to rules that accept such masks,
and the kept part of an input must be a tensor. An invalid answer becomes a refusal, so that a mistake in a rule costs
a gather and not a wrong model.
"""

from __future__ import annotations

from collections.abc import Sequence

from onnxheadprune.liveness.answers import Answer
from onnxheadprune.liveness.domain import Domain
from onnxheadprune.liveness.live import DEAD, FULL, Live, fits
from onnxheadprune.liveness.refusals import Reason, Refusal, inexpressible, refuse, unknown_shape
from onnxheadprune.model.graph.operator import is_a
from onnxheadprune.model.graph.view import Node, Value


def has_rule(node: Node) -> bool:
    """Return whether a node's operator has a rule."""
    return node.operator.rule is not None


def ask(node: Node, lives: Sequence[Live], domain: Domain) -> Answer | Refusal:
    """Return the live sets of a node's inputs for live sets of its outputs.

    Returns:
        The checked answer of the operator's rule. A refusal if there is no rule, if the rule refuses, if it cannot take
        these live sets, or if its answer does not fit the node.
    """
    answer = _answer(node, lives, domain)
    return answer.about(domain.units) if isinstance(answer, Refusal) else answer


def _answer(node: Node, lives: Sequence[Live], domain: Domain) -> Answer | Refusal:
    operator = node.operator
    if operator.rule is None:
        name = f"{node.domain or 'ai.onnx'}.{node.op_type}"
        return refuse(node, Reason.NO_RULE, f"there is no rule for {name}")
    for live, output in zip(lives, node.outputs, strict=True):
        if output is not None and not fits(live, output.shape):
            return unknown_shape(node)
    if not operator.repeats and any(live.repeats for live in lives):
        return inexpressible(node)
    if not operator.ragged and any(domain.is_ragged(live) for live in lives):
        return inexpressible(node)
    answer: Answer | Refusal = operator.rule(node, lives)
    return answer if isinstance(answer, Refusal) else checked(node, lives, answer, domain)


def ask_about(output: Value, live: Live, domain: Domain) -> Answer | Refusal:
    """Return the live sets of the inputs of the producer of `output`, for a live set of that output.

    Its other outputs are fully live; pieces of a Split do not affect what another piece reads.
    """
    node = output.producer
    assert node is not None
    others = DEAD if is_a(node, "Split") else FULL
    return ask(node, [live if other is output else others for other in node.outputs], domain)


def checked(node: Node, lives: Sequence[Live], answer: Answer, domain: Domain) -> Answer | Refusal:
    """Return a rule's answer for `node` and the demands `lives` on its outputs; a refusal if it is invalid."""
    for index, live in answer.inputs.items():
        value = node.input(index)
        if value is None:
            continue
        if not fits(live, value.shape):
            return unknown_shape(node) if value.shape is None else inexpressible(node)
        if not domain.can_be_kept(live):
            return inexpressible(node)
    for value, live in answer.bodies.items():
        if value.shape is not None and not fits(live, value.shape):
            return inexpressible(node)
    if answer.kept is not None and not _holds(node, lives, answer.kept):
        return inexpressible(node)
    return answer


def _holds(node: Node, lives: Sequence[Live], kept: Sequence[Live]) -> bool:
    """Return whether outputs that keep `kept` cover all demands; an unread output may keep anything."""
    if len(kept) != len(lives):
        return False
    for output, asked, have in zip(node.outputs, lives, kept, strict=True):
        if output is None or have is asked:
            continue
        if output.shape is not None and not fits(have, output.shape):
            return False
        if output.is_read and not have.covers(asked):
            return False
    return True
