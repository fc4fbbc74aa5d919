"""Which contractions multiply two activations, and what counts as a weight."""

from __future__ import annotations

from onnxheadprune.graph.view import Node, Value
from onnxheadprune.liveness.contraction import Contraction, contraction_of, operands
from onnxheadprune.liveness.observers import CARRIERS


def is_product(node: Node) -> Contraction | None:
    """The contraction, if the node multiplies two values that both depend on the inputs."""
    found = contraction_of(node)
    if found is None:
        return None
    activations = [value for value in operands(node, found) if not is_weight(value)]
    return found if len(activations) > 1 else None


def is_weight(value: Value) -> bool:
    """Whether a value is stored, or picked from stored matrices by a router (the experts of a mixture)."""
    for _ in range(6):
        if value.is_constant:
            return True
        node = value.producer
        if (
            node is None
            or node.domain
            or node.op_type not in ("Gather", "GatherND", "QuantizeLinear", *CARRIERS)
        ):
            return False
        source = node.inputs[0]
        if source is None or (node.op_type.startswith("Gather") and len(source.shape or ()) < 3):
            # Rows of a matrix are embeddings: an activation like any other.
            return False
        value = source
    return False
