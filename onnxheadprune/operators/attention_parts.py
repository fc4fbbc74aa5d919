"""What fused attention operators are made of: products, a softmax, and masks that are added to the scores."""

from __future__ import annotations

from dataclasses import dataclass

from onnx import TensorProto

from onnxheadprune.edit.gradients import Constant, Step, UnknownShapeError, decomposition
from onnxheadprune.edit.terms import Term
from onnxheadprune.model.graph import dims
from onnxheadprune.model.graph.dims import Shape
from onnxheadprune.model.graph.view import Node

HIDDEN = -1e38
"""What is added to scores that do not count. Infinity would make NaN of rows without any."""


@dataclass(frozen=True)
class Scores:
    """How scores become weights.

    Attributes:
        scale: of the product of queries and keys, None or 0 for one over the root of the head size.
        softcap: scores are bent to stay within this, 0 for no limit.
        biases: what is added to them, of up to four axes.
    """

    scale: float | None
    softcap: float
    biases: tuple[Term, ...]


def heads_apart(term: Term, heads: int) -> Term:
    """[B, S, H * D] -> [B, H, S, D]."""
    return term.reshape([0, 0, heads, -1]).transpose([0, 2, 1, 3])


def heads_joined(term: Term) -> Term:
    """[B, H, S, D] -> [B, S, H * D]."""
    return term.transpose([0, 2, 1, 3]).reshape([0, 0, -1])


def repeated(term: Term, times: int) -> Term:
    """[B, K, T, D] -> [B, K * times, T, D]: neighbouring query heads share keys."""
    if times == 1:
        return term
    integers = term.writer.integers
    target = term.writer.joined([term.dim(0), term.dim(1), integers([times]), term.dim(2), term.dim(3)])
    merged = term.writer.joined([term.dim(0), term.dim(1) * times, term.dim(2), term.dim(3)])
    return term.unsqueeze([2]).expand(target).reshape(merged)


def attended(query: Term, key: Term, value: Term, scores: Scores) -> Term:
    """Contexts [B, H, S, Dv] of queries [B, H, S, D], keys [B, H, T, D] and values [B, H, T, Dv]."""
    product = (query * scores.scale if scores.scale else _rooted(query)) @ key.swapped(4)
    if scores.softcap:
        product = (product / scores.softcap).op("Tanh") * scores.softcap
    for bias in scores.biases:
        product = product + bias
    return product.op("Softmax", axis=-1) @ value


def _rooted(query: Term) -> Term:
    """Queries over the root of the head size."""
    return query / query.dim(3).cast(query.elem_type).op("Sqrt")


def hidden_unless(allowed: Term, elem_type: int) -> Term:
    """A condition as something to add to scores."""
    number = allowed.writer.number
    return allowed.where(number(0.0, elem_type), HIDDEN)


def positions(length: Term) -> Term:
    """0, 1, ... up to a length, given as a list of one."""
    integer = length.writer.number
    return integer(0, TensorProto.INT64).op("Range", length.squeeze([0]), integer(1, TensorProto.INT64))


def window(query: Term, key: Term, past: Term | None, width: int = 0) -> Term:
    """Which keys [T] lie at or before each query [S], and at most `width` before, if that is given: [S, T]."""
    rows = positions(query.dim(2)).unsqueeze([1])
    rows = rows if past is None else rows + past.dim(2)
    columns = positions(key.dim(2)).unsqueeze([0])
    allowed = rows.test("GreaterOrEqual", columns)
    if width > 0:
        allowed = allowed.op("And", (rows - columns).test("Less", width))
    return allowed


def with_past(past: Term | None, present: Term) -> Term:
    """Keys or values that were cached, and those that are new."""
    return present if past is None else past.writer.joined([past, present], axis=2)


@decomposition("Attention")
def attention_parts(step: Step) -> list[Term | None] | Constant:
    """The standard operator; rows without a visible key are not told apart."""
    node, apart = step.node, len(step.shape(0)) == 3
    if step.given(6) is not None or any(
        node.attribute(f"{side}_window_size", -1) >= 0 for side in ("left", "right")
    ):
        return Constant("has lengths of its own, or windows")
    counts = [int(node.attribute(name, 0)) for name in ("q_num_heads", "kv_num_heads")]
    operands = [step.input(index) for index in range(3)]
    if apart:
        operands = [heads_apart(term, counts[min(i, 1)]) for i, term in enumerate(operands)]
    else:
        heads = [step.shape(index)[1] for index in range(2)]
        if not all(isinstance(count, int) for count in heads):
            raise UnknownShapeError("its numbers of heads are not known")
        counts = [int(str(count)) for count in heads]
    query, (key, value) = operands[0], (with_past(step.given(4 + i), operands[1 + i]) for i in range(2))
    biases = [] if step.given(3) is None else [_mask(step.input(3), query.elem_type)]
    if node.attribute("is_causal", 0):
        biases.append(hidden_unless(window(query, key, step.given(4)), query.elem_type))
    scores = Scores(node.attribute("scale"), float(node.attribute("softcap", 0.0)), tuple(biases))
    times = counts[0] // counts[1]
    context = attended(query, repeated(key, times), repeated(value, times), scores)
    return [heads_joined(context) if apart else context, key, value]


def _mask(mask: Term, elem_type: int) -> Term:
    return hidden_unless(mask, elem_type) if mask.elem_type == TensorProto.BOOL else mask


def buffered(node: Node, past_index: int, output_index: int) -> Shape | None:
    """The shape of a present that has the heads and sizes of its past, of whatever length."""
    past, present = node.shape(past_index), node.outputs[output_index : output_index + 1]
    if past is None or len(past) != 4 or not present or present[0] is None:
        return None
    return past[0], past[1], dims.symbol(f"{present[0].name}.2"), past[3]
