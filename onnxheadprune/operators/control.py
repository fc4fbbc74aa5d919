"""Control flow, recurrent layers and generation operators.

What an If needs of its outputs, it needs of the outputs of both branches.
"""

from __future__ import annotations

from collections.abc import Sequence

from onnxheadprune.liveness.answers import Answer
from onnxheadprune.liveness.live import FULL, Live
from onnxheadprune.liveness.refusals import Refusal, inexpressible
from onnxheadprune.model.graph.dims import size_of
from onnxheadprune.model.graph.operator import DRAWS_OUTSIDE_STANDARD, GENERATES, ROUNDS_ACTIVATIONS, Roles
from onnxheadprune.model.graph.view import Node, Value
from onnxheadprune.operators.record import operator


def _recurrent_cost(node: Node) -> int | None:
    """Each step multiplies with the input and the recurrent weights, `[directions, gates * hidden, width]`."""
    data, weights, hidden = node.shape(0), node.shape(1), node.shape(2)
    steps = None if data is None else size_of(data[:2])
    inner, outer = size_of(weights), size_of(hidden)
    return None if steps is None or inner is None or outer is None else 2 * steps * (inner + outer)


def _loop_trips(node: Node) -> int:
    limit = node.literal(0)
    return 1 if limit is None else max(int(limit.reshape(-1)[0]), 0)


def _scan_trips(node: Node) -> int:
    """As many as its last scanned input is long."""
    shape = node.shape(len(node.inputs) - 1)
    return shape[0] if shape and isinstance(shape[0], int) else 1


def _if_rule(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """Bodies read outer values themselves, so only their outputs are asked for here."""
    bodies: dict[Value, Live] = {}
    for body in node.bodies.values():
        for info, live in zip(body.proto.output, lives, strict=True):
            value = body.values.get(info.name)
            if value is None or value.producer is None:
                return inexpressible(node)
            bodies[value] = bodies.get(value, live) | live
    return Answer({0: FULL}, bodies=bodies)


operator(
    "com.microsoft.BeamSearch",
    "com.microsoft.GreedySearch",
    "com.microsoft.WhisperBeamSearch",
    kinds=(GENERATES,),
    roles=Roles(longest=1),
)
operator(
    "com.microsoft.Sampling",
    kinds=(
        GENERATES,
        DRAWS_OUTSIDE_STANDARD,
    ),
    roles=Roles(longest=1),
)
operator("com.microsoft.DynamicQuantizeLSTM", kinds=(ROUNDS_ACTIVATIONS,))
operator("If", rule=_if_rule, ragged=True)
operator("Loop", trips=_loop_trips)
operator("LSTM", "GRU", "RNN", cost=_recurrent_cost)
operator("Scan", trips=_scan_trips)
