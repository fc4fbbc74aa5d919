"""The output that tells a model's quality, and whether it holds logits."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

from onnxheadprune.errors import RefusedError
from onnxheadprune.model.graph.operator import MULTIPLIES_MATRICES, REREADS, WEIGHS, is_a, kind
from onnxheadprune.model.graph.view import GraphView, Node, Value
from onnxheadprune.model.graph.walks import back_through
from onnxheadprune.model.tensors import FLOATS

SAME = kind("Cast", "Identity")
_LOGIT_NAMES = ("logit", "prob", "score", "class")
_HANDS_ON = REREADS | WEIGHS | kind("Add", "Cast", "Identity", "Sigmoid", "Clip")
"""Operators between a projection and an output that holds logits or probabilities."""


@dataclass(frozen=True)
class MainOutput:
    """The output that drift and accuracy are measured on."""

    name: str  # of the output
    is_logits: bool  # whether its last axis holds classes or tokens: logits, or what a Softmax makes of them
    is_probabilities: bool = False  # whether these are probabilities along the last axis already


def main_output(view: GraphView, narrowed: Container[str]) -> MainOutput | None:
    """The last output that looks like logits, else the first float output that keeps its shape.

    Args:
        narrowed: names of outputs that the cut narrows (a cache); they are no result.
    """
    values = [view.main.values[info.name] for info in view.main.proto.output]
    results = [
        value
        for value in values
        if value.elem_type in FLOATS and value.name not in narrowed and "present" not in value.name
    ]
    for value in reversed(results):
        if _looks_like_logits(value):
            return MainOutput(value.name, True, _is_softmax(value))
    return MainOutput(results[0].name, False) if results else None


def require_main_output(view: GraphView, narrowed: Container[str] = ()) -> MainOutput:
    """The output that effects are measured on; none of those that a cut narrows."""
    main = main_output(view, narrowed)
    if main is None:
        raise RefusedError("the model has no float output to measure the effect of a head on")
    return main


def _looks_like_logits(value: Value) -> bool:
    """Two or more entries on the last axis, and a telling name or a projection right before."""
    shape = value.shape
    if not shape or (isinstance(shape[-1], int) and shape[-1] < 2):
        return False
    return any(part in value.name.lower() for part in _LOGIT_NAMES) or _comes_from_projection(value)


def _is_softmax(value: Value) -> bool:
    """Return whether a Softmax over the last axis makes the value."""
    node = next((node for node in back_through(value, SAME) if node not in SAME), None)
    if node is None or not is_a(node, "Softmax"):
        return False
    axis = node.attribute("axis", -1 if node.opset >= 13 else 1)
    return axis == -1 or (value.shape is not None and axis == len(value.shape) - 1)


def _comes_from_projection(value: Value) -> bool:
    """Return whether a product with weights makes the value. Hidden states come out of a normalisation instead."""
    node: Node | None = value.producer
    while node is not None and node in _HANDS_ON:
        # A residual connection adds two computed values: a hidden state.
        if len(node.computed) != 1:
            return False
        node = node.computed[0].producer
    return node is not None and node in MULTIPLIES_MATRICES
