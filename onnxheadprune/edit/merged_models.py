"""The conditions of merged models, and the model for one answer."""

from __future__ import annotations

from onnx import ModelProto

from onnxheadprune.edit.both_branches import BRANCHES, keeps_stored_names
from onnxheadprune.edit.decided_conditions import decided
from onnxheadprune.model.graph.operator import is_a
from onnxheadprune.model.graph.view import GraphView, Node


def flag_choices(view: GraphView) -> tuple[Node, ...]:
    """Return the nodes of the main graph that choose between two branches, if all of them read one graph input."""
    nodes = tuple(node for node in view.main.nodes if is_a(node, "If"))
    flags = {node.inputs[0] for node in nodes}
    flag = next(iter(flags), None)
    alone = len(flags) == 1 and flag is not None and flag.is_graph_input and not flag.is_initializer
    return nodes if alone else ()


def with_answer(view: GraphView, answer: bool) -> ModelProto | None:
    """Return the model for one answer of its flag, with the branches that run then in its main graph.

    None where the model has no flag, or where a stored tensor would get another name.
    """
    choices = {node: node.bodies[BRANCHES[answer]] for node in flag_choices(view)}
    if not choices:
        return None
    made = decided(view, {}, choices, {})
    return made.model if keeps_stored_names(made.names) else None
