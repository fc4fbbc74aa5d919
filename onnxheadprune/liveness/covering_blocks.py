"""The smallest block of its input that a Reshape can keep where the demand is no block."""

from __future__ import annotations

from onnxheadprune.liveness.answers import Answer
from onnxheadprune.liveness.axes import reshape_back
from onnxheadprune.liveness.carriers import carried
from onnxheadprune.liveness.domain import MASKS
from onnxheadprune.liveness.live import Live
from onnxheadprune.liveness.refusals import Refusal
from onnxheadprune.liveness.rule_calls import ask
from onnxheadprune.model.graph.operator import is_a
from onnxheadprune.model.graph.view import Node


def covering(node: Node, live: Live) -> Answer | None:
    """The answer of a Reshape that keeps the smallest block of its input that covers the demand.

    None for other operators, where the block is all of the input, or where it is no block of the output.
    """
    source, shape = node.shape(0), node.out.shape
    if not is_a(node, "Reshape") or source is None or shape is None:
        return None
    back = reshape_back(live, source, shape)
    if back is None or back.dense_shape() is not None:
        return None
    block = back.as_mask().dense_closure()
    through = None if block.is_full else carried(node, block)
    if through is None or through.dense_shape() is None:
        return None
    answer = ask(node, [through], MASKS)
    if isinstance(answer, Refusal) or answer.inputs.get(0) != block:
        return None
    return Answer(answer.inputs, answer.rewrite, kept=(through,))
