"""LSTM, GRU and RNN, which have a cost and no law."""

from __future__ import annotations

from onnxheadprune.model.graph.facts import ROUNDS_ACTIVATIONS
from onnxheadprune.model.graph.tables import cost_function, size_of
from onnxheadprune.model.graph.view import Node

ROUNDS_ACTIVATIONS.add("DynamicQuantizeLSTM", domain="com.microsoft")


@cost_function("LSTM", "GRU", "RNN")
def _recurrent_cost(node: Node) -> int | None:
    """Each step multiplies with the input and the recurrent weights, `[directions, gates * hidden, width]`."""
    data, weights, hidden = node.shape(0), node.shape(1), node.shape(2)
    steps = None if data is None else size_of(data[:2])
    inner, outer = size_of(weights), size_of(hidden)
    return None if steps is None or inner is None or outer is None else 2 * steps * (inner + outer)
